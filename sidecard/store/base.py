"""The interface between the daemon and its store, and how a store reports to the engine."""

from collections.abc import Callable
from typing import Protocol

from sidecard.core.effects import StoreEffect, StorePurge, StoreRemove, StoreWrite
from sidecard.core.events import (
    Removed,
    StoreAnswered,
    StoreEvent,
    StoreGauges,
    StoreMeasured,
    StoreStateChanged,
    Unavailable,
)

StoreListener = Callable[[StoreEvent], None]
"""Receives a store's events, in the event loop's thread and never from within `Store.perform`."""

StoreChange = StoreWrite | StoreRemove | StorePurge
"""What a store writes."""

UNANSWERED = 0
"""The ticket of a removal whose caller waits no longer, or never did."""


class Store(Protocol):
    """A durable second tier. Whatever happens to it, the daemon serves on: no method raises or waits for the store."""

    shared: bool
    """Whether other hosts use it too. It then grants claims and reports other hosts' changes."""

    def perform(self, effect: StoreEffect) -> StoreAnswered | None:
        """Start an effect; return its answer where that is known at once.

        Every ticket is answered once, by this method or within a bounded time by a `StoreAnswered` event.
        """

    async def run(self, notify: StoreListener) -> None:
        """Serve until cancelled. A store that cannot be opened is tried again and again."""

    async def close(self) -> None:
        """Write pending changes, within a bounded time, and disconnect. Call it after `run` has ended."""


class StoreReporter:
    """Reports to the engine. A state or gauges that did not change are reported once."""

    def __init__(self) -> None:
        self.notify: StoreListener = _ignore
        self.measure: Callable[[], None] = lambda: None
        """Reports the gauges; called after each change of the state."""
        self.faults = 0
        self._state: StoreStateChanged | None = None
        self._gauges: StoreGauges | None = None

    def state(self, state: StoreStateChanged) -> None:
        """Report a state."""
        if state != self._state:
            self._state = state
            self.notify(state)
            self.measure()

    def gauges(self, gauges: StoreGauges) -> None:
        """Report gauges."""
        if gauges != self._gauges:
            self._gauges = gauges
            self.notify(StoreMeasured(gauges))


class OpenRemovals:
    """Removals and purges whose callers wait, by ticket. Each is answered once."""

    def __init__(self, reporter: StoreReporter) -> None:
        self._reporter = reporter
        self._open: dict[int, tuple[int, float]] = {}

    def add(self, ticket: int, unwritten: int = 0, since: float = 0.0) -> None:
        """Wait for a removal. ``unwritten`` is how many entries it removed before they reached the store."""
        self._open[ticket] = unwritten, since

    def unwritten(self, ticket: int) -> int:
        """Return how many entries a removal removed before they reached the store."""
        return self._open.get(ticket, (0, 0.0))[0]

    def replaced(self, older: StoreChange | None) -> StoreAnswered | None:
        """Return the answer to a removal that a newer change of its key replaced: it is no longer done by itself."""
        if not isinstance(older, StoreRemove) or self._open.pop(older.ticket, None) is None:
            return None

        return StoreAnswered(older.ticket, Unavailable())

    def answer(self, ticket: int, answer: Removed | Unavailable) -> None:
        """Answer a ticket, if it is still open."""
        if self._open.pop(ticket, None) is not None:
            self._reporter.notify(StoreAnswered(ticket, answer))

    def give_up(self, until: float = float("inf")) -> None:
        """Answer `Unavailable` to all removals added up to that instant. They are done later."""
        for ticket in [ticket for ticket, (_, since) in self._open.items() if since <= until]:
            self.answer(ticket, Unavailable())


def _ignore(event: StoreEvent) -> None:
    """Receive events before `Store.run`: nothing has happened by then."""
