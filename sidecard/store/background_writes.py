"""The common part of the writes of all stores: pending changes, callers that wait for removals, counters."""

import asyncio

from sidecard.core.effects import StoreRemove
from sidecard.core.events import Removed, StoreAnswered, StoreGauges, Unavailable
from sidecard.store.base import StoreChange, StoreReporter
from sidecard.store.pending_writes import PendingWrites

PENDING_MAX_BYTES = 64 * 1024 * 1024
"""Maximum size of changes that wait while the store takes none."""


class BackgroundWrites:
    """Pending changes of one store. ``changed`` wakes the task that writes them."""

    def __init__(self, reporter: StoreReporter) -> None:
        self.pending = PendingWrites(PENDING_MAX_BYTES)
        self.changed = asyncio.Event()
        self.reporter = reporter
        self.written = self.refused = self.evicted = self.given_up = 0
        self.entries, self.bytes = 0, 0
        """Entries and bytes of the whole store, if it counts them."""
        self._removals: dict[int, tuple[int, float]] = {}
        """Tickets of removals and purges whose callers wait: see `expect_removal`."""
        reporter.measure = self.measure

    def expect_removal(self, ticket: int, unwritten: int = 0, since: float = 0.0) -> None:
        """Answer a removal once it is done. ``unwritten``: entries it removed that were still waiting to be written."""
        self._removals[ticket] = unwritten, since

    def unwritten(self, ticket: int) -> int:
        """Return how many entries a removal removed that were still waiting to be written."""
        return self._removals.get(ticket, (0, 0.0))[0]

    def answer_removal(self, ticket: int, answer: Removed | Unavailable) -> None:
        """Answer a removal whose caller still waits."""
        if self._removals.pop(ticket, None) is not None:
            self.reporter.notify(StoreAnswered(ticket, answer))

    def give_up_removals(self, until: float = float("inf")) -> None:
        """Answer `Unavailable` to all removals requested up to ``until``. They are done later."""
        for ticket in [ticket for ticket, (_, since) in self._removals.items() if since <= until]:
            self.answer_removal(ticket, Unavailable())

    def measure(self) -> None:
        """Report the gauges."""
        pending = self.pending
        self.reporter.gauges(
            StoreGauges(
                store_entries=self.entries,
                store_bytes=self.bytes,
                store_pending=len(pending),
                store_pending_bytes=pending.bytes,
                store_written=self.written,
                store_dropped=pending.dropped + self.given_up,
                store_refused=self.refused,
                store_evicted=self.evicted,
                store_faults=self.reporter.faults,
            )
        )

    def _add(self, change: StoreChange) -> StoreAnswered | None:
        """Add a change; return the answer to the removal that it makes unnecessary, if any."""
        replaced = self.pending.add(change)
        if not isinstance(replaced, StoreRemove) or self._removals.pop(replaced.ticket, None) is None:
            return None

        return StoreAnswered(replaced.ticket, Unavailable())
