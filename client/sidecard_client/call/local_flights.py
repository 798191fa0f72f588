"""Sharing within one process, for when no daemon answers: the law of flights in small.

A `LocalFlight` is one running call of this process.
It exists while a caller runs its function, under a lease of the daemon or without one,
so that a caller who loses the daemon joins the call that is already running instead of making it again.
Answers are given to those who wait at the call's end and are then forgotten: nothing is cached here.

Thread-safe. Waiting itself is the shell's: a waiter brings a ``wake`` callable,
which is called once, from the thread that ended the flight, when `LocalWaiter.end` is set.
"""

import threading
from collections import deque
from collections.abc import Callable
from typing import Any

from msgspec import Struct

from sidecard_client.call.values import pack_value
from sidecard_client.protocol.errors import UnshareableValue
from sidecard_client.protocol.wire import FailureKind

MAX_ELECTIONS = 2
"""How often a failed call passes to the next waiter: the daemon's ``[flights] max_elections``."""

LocalKey = tuple[str, str]
"""Namespace and key."""


class Answered(Struct, frozen=True):
    """The call succeeded; every waiter unpacks its own copy of ``packed``, as the daemon's waiters do."""

    packed: bytes


class Elected(Struct, frozen=True):
    """The call failed in a way that may pass, and this waiter is the next to make it."""


class Broken(Struct, frozen=True):
    """The call failed for everyone who waited."""

    kind: FailureKind
    message: str


class Released(Struct, frozen=True):
    """The answer cannot be shared: every waiter makes its own call, all at once."""


LocalEnd = Answered | Elected | Broken | Released


class LocalFlight:
    """One running call of this process. Only `LocalFlights` changes its fields."""

    __slots__ = ("elections", "key", "waiters")

    def __init__(self, key: LocalKey) -> None:
        self.key = key
        self.elections = 0
        self.waiters: deque[LocalWaiter] = deque()

    def __repr__(self) -> str:
        """Show the counts; keys are long and say nothing to a reader."""
        return f"<LocalFlight {len(self.waiters)} waiting, {self.elections} elections>"


class LocalWaiter:
    """One caller who waits for a flight; ``end`` is None until its end is known."""

    __slots__ = ("end", "flight", "wake")

    def __init__(self, flight: LocalFlight, wake: Callable[[], object]) -> None:
        self.flight = flight
        self.wake = wake
        self.end: LocalEnd | None = None


class LocalFlights:
    """The running calls of one client, by namespace and key."""

    def __init__(self) -> None:
        self._lock = threading.Lock()  # guards _flights and the fields of every flight and waiter
        self._flights: dict[LocalKey, LocalFlight] = {}

    def __len__(self) -> int:
        """Count the running calls."""
        return len(self._flights)

    def lead(self, key: LocalKey) -> LocalFlight | None:
        """Announce a call that this caller makes in any case; None where another one of this key is running."""
        with self._lock:
            if key in self._flights:
                return None

            flight = self._flights[key] = LocalFlight(key)
            return flight

    def enter(self, key: LocalKey, wake: Callable[[], object]) -> LocalFlight | LocalWaiter:
        """Join the running call of ``key`` (a `LocalWaiter`) or become its leader (a `LocalFlight`)."""
        with self._lock:
            flight = self._flights.get(key)
            if flight is None:
                flight = self._flights[key] = LocalFlight(key)
                return flight

            waiter = LocalWaiter(flight, wake)
            flight.waiters.append(waiter)
            return waiter

    def succeed(self, flight: LocalFlight, value: Any) -> None:
        """End a flight with its leader's value; one that cannot be shared releases the waiters."""
        waiters = self._close(flight)
        if not waiters:
            return

        end: LocalEnd
        try:
            end = Answered(bytes(pack_value(value)))
        except UnshareableValue:
            end = Released()

        _tell(waiters, end)

    def fail(self, flight: LocalFlight, kind: FailureKind, message: str) -> None:
        """End its leader's turn: the next waiter leads, or all are failed or released, as ``kind`` says."""
        if kind in ("transient", "cancelled"):
            with self._lock:
                if flight.waiters and flight.elections < MAX_ELECTIONS:
                    flight.elections += 1
                    elected = flight.waiters.popleft()
                    elected.end = Elected()
                else:
                    elected = None

            if elected is not None:
                elected.wake()
                return

        _tell(self._close(flight), Released() if kind == "ignored" else Broken(kind, message))

    def drop(self, flight: LocalFlight, turn: int) -> None:
        """End the turn of a leader that was interrupted; does nothing where its turn has ended already.

        ``turn`` is the flight's ``elections`` when the leader began.
        """
        with self._lock:
            over = flight.elections != turn or self._flights.get(flight.key) is not flight

        if not over:
            self.fail(flight, "cancelled", "the caller was interrupted")

    def leave(self, waiter: LocalWaiter) -> None:
        """Take a waiter back whose caller stops waiting.

        1. The leader fails and this waiter is elected; 2. its caller, not yet having looked, is cancelled;
        3. the turn passes on, or nobody would ever lead.
        """
        with self._lock:
            # Neither waiting nor ended: another thread is about to tell it an end that nobody will read.
            if waiter in waiter.flight.waiters:
                waiter.flight.waiters.remove(waiter)
                return

        if isinstance(waiter.end, Elected):
            self.fail(waiter.flight, "cancelled", "the waiting caller stopped")

    def _close(self, flight: LocalFlight) -> deque[LocalWaiter]:
        with self._lock:
            if self._flights.get(flight.key) is flight:
                del self._flights[flight.key]

            waiters, flight.waiters = flight.waiters, deque()
            return waiters


def _tell(waiters: deque[LocalWaiter], end: LocalEnd) -> None:
    for waiter in waiters:
        waiter.end = end
        waiter.wake()
