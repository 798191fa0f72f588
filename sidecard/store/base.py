"""The interface between the daemon and its store, and how a store reports to the engine."""

from collections import Counter
from collections.abc import Callable
from operator import attrgetter
from typing import Protocol

from sidecard.core.effects import StoreEffect, StorePurge, StoreRemove, StoreWrite
from sidecard.core.events import StoreAnswered, StoreEvent, StoreGauges, StoreMeasured, StoreStateChanged
from sidecard.core.notes import Note
from sidecard_client.protocol.wire import Usage

StoreListener = Callable[[StoreEvent], None]
"""Receives a store's events, in the event loop's thread and never from within `Store.perform`."""

StoreChange = StoreWrite | StoreRemove | StorePurge
"""Effects that a store writes."""

terms_of: Callable[[object], tuple[float, float, float, str, Usage, tuple[str, ...]]] = attrgetter(
    "seconds", "ttl_seconds", "window_seconds", "backend", "usage", "tags"
)
"""Returns what a `Record` and its stored forms have in common, in the order of their fields."""


class Store(Protocol):
    """A durable second tier. Whatever happens to it, the daemon serves on: no method raises or waits for the store."""

    shared: bool
    """Whether other hosts use it too. It then grants claims and reports other hosts' changes."""

    def perform(self, effect: StoreEffect) -> StoreAnswered | None:
        """Start an effect; return its answer if that is known immediately.

        Every ticket is answered once, by this method or within a bounded time by a `StoreAnswered` event.
        """

    def note(self, note: Note) -> None:
        """Receive a note of the core, such as an opened breaker that other hosts should know of."""

    async def run(self, notify: StoreListener) -> None:
        """Serve until canceled. A store that cannot be opened is tried again and again."""

    async def close(self) -> None:
        """Write pending changes, within a bounded time, and disconnect. Call it after `run` has ended."""


class StoreReporter:
    """Reports to the engine. A state or gauges that did not change are reported once.

    ``log(level, event, **fields)`` writes a log line.
    """

    def __init__(self, log: Callable[..., None] = lambda *_, **__: None) -> None:
        self._log = log
        self._rejected: Counter[str] = Counter()
        self.notify: StoreListener = _ignore
        self.measure: Callable[[], None] = lambda: None
        """Reports the gauges; called after each change of the state."""
        self.faults = 0
        self._state: StoreStateChanged | None = None
        self._gauges: StoreGauges | None = None

    def invalid(self, reason: str, **fields: object) -> None:
        """Count data in the store that was rejected (`sidecard.store.validation`). Log each doubling of each reason's number."""
        self.faults += 1
        self._rejected[reason] += 1
        times = self._rejected[reason]
        if times & (times - 1) == 0:
            self._log("warning", "store data rejected", reason=reason, times=times, **fields)

        self.measure()

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


def _ignore(event: StoreEvent) -> None:
    """Receive events before `Store.run`: nothing has happened by then."""
