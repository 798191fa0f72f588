"""Sharing within one process while no daemon answers: the law of flights in small.

A `LocalFlight` exists while a caller of this process runs its function, under a lease or without one, so that a
caller that loses the daemon joins the running call. Waiters get the answer at its end; nothing is cached.

Thread-safe. `LocalWaiter.event` is set once, from the thread that ends the flight, after `LocalWaiter.end`.
"""

import threading
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from msgspec import Struct, field

from sidecard_client.protocol.errors import UnshareableValue
from sidecard_client.protocol.wire import FailureKind
from sidecard_client.values.codec import ValueCodec
from sidecard_client.values.packing import pack_value

MAX_ELECTIONS = 2
"""How often a failed call passes to the next waiter: the daemon's ``[flights] max_elections``."""

LocalKey = tuple[str, str]
"""Namespace and key."""


class Wakeup(Protocol):
    """What a waiter waits for: `threading.Event` or `anyio.Event`."""

    def set(self) -> object:
        """Wake the waiter."""


class Answered(Struct, frozen=True):
    """The call succeeded. Each waiter unpacks its own copy of ``packed``, like the daemon's waiters."""

    packed: bytes


class Elected(Struct, frozen=True):
    """The call failed in a way that may pass, and this waiter makes it next."""


class LocalFailure(Struct, frozen=True):
    """The call failed for all waiters."""

    kind: FailureKind
    message: str
    detail: bytes = b""
    """Packed, like `Answered.packed`; empty if there is none."""


class Released(Struct, frozen=True):
    """The answer cannot be shared: every waiter makes its own call, all at the same time."""


LocalEnd = Answered | Elected | LocalFailure | Released


class LocalFlight(Struct, eq=False):
    """One running call of this process. Only `LocalFlights` changes its fields."""

    key: LocalKey
    elections: int = 0
    over: bool = False
    waiters: "deque[LocalWaiter]" = field(default_factory=deque)

    def __repr__(self) -> str:
        """Show the counts; keys are long and meaningless to people."""
        return f"<LocalFlight {len(self.waiters)} waiting, {self.elections} elections>"


class LocalWaiter:
    """A caller that waits for a flight. ``end`` is None until the end is known; then ``event`` is set."""

    __slots__ = ("end", "event", "flight")

    def __init__(self, flight: LocalFlight, event: Any) -> None:
        self.flight = flight
        self.event = event
        self.end: LocalEnd | None = None


class LocalFlights:
    """The running calls of one client, by namespace and key. ``new_event`` makes what waiters wait for."""

    def __init__(self, new_event: Callable[[], Wakeup]) -> None:
        self._new_event = new_event
        self._lock = threading.Lock()  # guards _flights and the fields of every flight and waiter
        self._flights: dict[LocalKey, LocalFlight] = {}

    def __len__(self) -> int:
        """Count the running calls."""
        return len(self._flights)

    def lead(self, key: LocalKey) -> LocalFlight | None:
        """Announce a call that this caller makes in any case. None if another call of the key is running."""
        flight = LocalFlight(key)
        # Atomic, so that a miss needs no lock for it.
        return flight if self._flights.setdefault(key, flight) is flight else None

    def enter(self, key: LocalKey) -> LocalFlight | LocalWaiter:
        """Join the running call of ``key`` (returns a `LocalWaiter`) or become its leader (a `LocalFlight`)."""
        with self._lock:
            flight = self._flights.get(key)
            if flight is None:
                flight = self._flights[key] = LocalFlight(key)
                return flight

            waiter = LocalWaiter(flight, self._new_event())
            flight.waiters.append(waiter)
            return waiter

    def wake_together(self, waiters: Sequence[LocalWaiter]) -> None:
        """Let the caller of all ``waiters`` wait for the first of them. It checks each ``end`` before it waits.

        1. this sets a waiter's event; 2. another thread sets its ``end``; 3. that thread sets the event of 1. Or, if 2 comes
        before 1, the caller finds the end.
        """
        event = self._new_event()
        for waiter in waiters:
            waiter.event = event

    def succeed(self, flight: LocalFlight, value: Any, codec: ValueCodec | None = None) -> None:
        """End a flight with its leader's value. A value that cannot be shared releases the waiters."""
        waiters = self._close(flight)
        if not waiters:
            return

        end: LocalEnd
        try:
            end = Answered(bytes(pack_value(value, codec)))
        except UnshareableValue:
            end = Released()

        _end_all(waiters, end)

    def fail(self, flight: LocalFlight, kind: FailureKind, message: str, detail: bytes = b"") -> None:
        """End the leader's turn: elect the next waiter, or fail or release all, depending on ``kind``."""
        if kind in ("transient", "cancelled") and self._elect(flight):
            return

        _end_all(self._close(flight), Released() if kind == "ignored" else LocalFailure(kind, message, detail))

    def reject(self, flight: LocalFlight) -> None:
        """End the turn of a leader whose answer is invalid: elect the next waiter, or release all."""
        if not self._elect(flight):
            _end_all(self._close(flight), Released())

    def _elect(self, flight: LocalFlight) -> bool:
        with self._lock:
            if not flight.waiters or flight.elections >= MAX_ELECTIONS:
                return False

            flight.elections += 1
            elected = flight.waiters.popleft()
            elected.end = Elected()

        elected.event.set()
        return True

    def drop(self, flight: LocalFlight, turn: int) -> None:
        """End the turn of an interrupted leader. Does nothing if its turn has ended.

        ``turn`` is the flight's ``elections`` when the leader began.
        """
        with self._lock:
            over = flight.elections != turn or flight.over

        if not over:
            self.fail(flight, "cancelled", "the caller was interrupted")

    def leave(self, waiter: LocalWaiter) -> None:
        """Remove a waiter whose caller stops waiting.

        1. The leader fails and this waiter is elected; 2. its caller is canceled before it has seen that;
        3. the turn passes to the next waiter, or no caller would lead.
        """
        with self._lock:
            # Neither waiting nor ended: another thread is about to set an end that no waiter will read.
            if waiter in waiter.flight.waiters:
                waiter.flight.waiters.remove(waiter)
                return

        if isinstance(waiter.end, Elected):
            self.fail(waiter.flight, "cancelled", "the waiting caller stopped")

    def forget(self, namespace: str | None, key: str | None = None) -> None:
        """Let later callers of removed keys make another call; the running calls serve the waiters that they have.

        1. a call runs; 2. its key is deleted, and the daemon acknowledges that; 3. the daemon is lost; 4. another caller
        of this process must not join the call of 1. None means all; an operator's ``UID:NAME`` counts as all namespaces.
        """
        anywhere = namespace is None or ":" in namespace
        with self._lock:
            for known in list(self._flights):
                if (anywhere or known[0] == namespace) and key in (None, known[1]):
                    del self._flights[known]

    def _close(self, flight: LocalFlight) -> deque[LocalWaiter]:
        with self._lock:
            if self._flights.get(flight.key) is flight:
                del self._flights[flight.key]

            flight.over = True
            waiters, flight.waiters = flight.waiters, deque()
            return waiters


def _end_all(waiters: deque[LocalWaiter], end: LocalEnd) -> None:
    for waiter in waiters:
        waiter.end = end
        waiter.event.set()
