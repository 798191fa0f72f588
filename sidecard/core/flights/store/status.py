"""The store's state, as the engine knows it."""

from itertools import count
from typing import Final

from msgspec import Struct

from sidecard.core.cache.entry import Entry
from sidecard.core.cache.policy import CachePolicy
from sidecard.core.cache.purges import CachePurge
from sidecard.core.effects import NO_TICKET, Effect, EmitNote
from sidecard.core.events import Peer, StoreGauges, StoreMeasured, StoreStateChanged
from sidecard.core.notes import StoreFailed, StoreRecovered
from sidecard.core.settings import StoreKind
from sidecard_client.protocol.wire import Delete, Purge, StoreState

PATIENCE_SECONDS: Final = 0.3
"""How long a get, a delete or a purge waits for the store: clients give up on a daemon that takes 0.5 s."""


class PendingRemoval(Struct, eq=False):
    """A delete or purge that waits for the store, for the end of its batches in memory, or for both."""

    ticket: int
    peer: Peer
    request: Delete | Purge
    removed: int = 0
    """Entries that a delete has removed from memory."""
    purge: CachePurge | None = None
    awaits_store: bool = True
    removed_by_store: int = 0

    @property
    def count(self) -> int:
        """How many entries are removed so far. The store had all entries that memory had, except those that it rejected."""
        return max(self.removed if self.purge is None else self.purge.count, self.removed_by_store)

    @property
    def in_progress(self) -> bool:
        """Memory still has entries to be removed; nobody sees them."""
        return self.purge is not None and not self.purge.done


class StoreStatus:
    """State and gauges of the store, and the numbers of the questions to it."""

    def __init__(self, kind: StoreKind, policy: CachePolicy) -> None:
        self.state: StoreState = "none" if kind == "none" else "up"
        self.answers = kind != "none"
        """There is a store that answers reads."""
        self.reason = ""
        self.gauges = StoreGauges()
        self.shared = kind == "shared"
        """Several hosts use the store: it grants claims."""
        self._policy = policy
        self._tickets = count(NO_TICKET + 1)

    @property
    def grants_claims(self) -> bool:
        """The store arbitrates between hosts now."""
        return self.shared and self.state == "up"

    def next_ticket(self) -> int:
        """Return the number of a new question to the store."""
        return next(self._tickets)

    def doubts(self, entry: Entry) -> bool:
        """Return whether the store should be read before this entry is served: invalidations of it may have been missed."""
        return entry.terms.trust_epoch != self._policy.trust_epoch and self.answers

    def changed(self, event: StoreStateChanged) -> list[Effect]:
        """Take a new state of the store; note it."""
        before, self.state, self.reason = self.state, event.state, event.reason
        self.answers = event.state != "down"
        if before == event.state:
            return []

        if event.state == "up":
            return [EmitNote(StoreRecovered(self.gauges.store_pending))]

        return [EmitNote(StoreFailed(event.state, event.reason))]

    def measured(self, event: StoreMeasured) -> list[Effect]:
        """Take new gauges of the store."""
        self.gauges = event.gauges
        return []

    def problems(self) -> list[str]:
        """Return the store's problems, as sentences."""
        if self.state == "down":
            text = f"The store is unusable: {self.reason} Entries in memory are served, and calls in flight are shared."
        elif self.state == "read_only":
            text = f"The store accepts no entries: {self.reason} Its present entries are served."
        else:
            return []

        pending = self.gauges.store_pending
        return [text, f"{pending} entries and removals wait to be written to the store."] if pending else [text]
