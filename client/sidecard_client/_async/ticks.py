"""Time limits of a connection, in ticks of an eighth of a second at most.

Ticks pass while callers wait or leases are held. Each notes the next request id: a request whose id is older than one timeout
of ticks, and that has no reply, is overdue. Ticks are counted and not measured: if user code blocks the event loop for
seconds, that is one tick, and what has arrived meanwhile is read before the next one.
"""

from collections import deque
from math import ceil
from typing import NamedTuple

MIN_TICKS_PER_TIMEOUT = 4
MAX_TICK_SECONDS = 0.125
"""Leases must be renewed in time, however long a client's timeout is."""


class Wait(NamedTuple):
    """A request that waits for at most ``wait_seconds`` from ``since``; ``begin_id`` is canceled after that."""

    since: float
    wait_seconds: float
    begin_id: int


class Ticks:
    """The ticks of one connection. ``heard`` is the number of the tick of the last received bytes."""

    __slots__ = ("_ids", "_silent_ticks", "heard", "number", "seconds")

    def __init__(self, timeout_seconds: float) -> None:
        ticks = max(MIN_TICKS_PER_TIMEOUT, ceil(timeout_seconds / MAX_TICK_SECONDS))
        self.seconds = timeout_seconds / ticks
        # One more than the timeout has, because the last reply may have arrived at any moment of its tick.
        self._silent_ticks = ticks + 1
        self._ids = deque([0] * ticks, ticks)  # the next id at each of the last ticks
        self.number = 0
        self.heard = 0

    def first_in_time(self) -> int:
        """Return the id of the oldest request that is not overdue."""
        return self._ids[0]

    def is_silent(self) -> bool:
        """Return whether nothing was received for one timeout."""
        return self.number - self.heard >= self._silent_ticks

    def end(self, next_id: int) -> None:
        """End a tick."""
        self._ids.append(next_id)
