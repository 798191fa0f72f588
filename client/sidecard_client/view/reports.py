"""Hits from one view that are not yet reported to the daemon. Pure.

A hit costs its thread one ``append`` to a deque, which is atomic. The thread that reports adds up the hits::

    threads     calls.append((publication, now))     streams.append(...)     gets.append(...)
    reporter    collect: publication -> count, first and last time;  take: one `RecordHits`
"""

from collections import deque
from contextlib import suppress
from itertools import islice

from msgspec import Struct

from sidecard_client.protocol.wire import MAX_HIT_ITEMS, MAX_REPORTED_HITS, RecordHits

Booked = deque[tuple[int, float]]
"""Publications and times of hits."""


class HitSum(Struct, gc=False):
    """The number of hits on one publication, and the times of the first and the last."""

    count: int
    first_at: float
    last_at: float


HitSums = dict[int, HitSum]
"""By publication."""


class HitReports:
    """The hits of one view. `collect` and `take` are for one thread at a time, the deques for any number."""

    __slots__ = ("_calls", "_gets", "_streams", "calls", "gets", "streams")

    def __init__(self) -> None:
        self.calls: Booked = deque()
        self.streams: Booked = deque()
        self.gets: Booked = deque()
        self._calls: HitSums = {}
        self._streams: HitSums = {}
        self._gets: HitSums = {}

    def collect(self) -> None:
        """Add up the hits so far: afterwards, they take memory per publication, not per hit."""
        _add_up(self.calls, self._calls)
        _add_up(self.streams, self._streams)
        _add_up(self.gets, self._gets)

    def take(self, namespace: str) -> RecordHits | None:
        """Return collected hits as one message within its limits, and forget them; None if there are none."""
        room = _Room()
        calls, streams, gets = room.take(self._calls), room.take(self._streams), room.take(self._gets)
        if not (calls or streams or gets):
            return None

        return RecordHits(namespace=namespace, hits=calls, streams=streams, gets=gets)


class _Room:
    """How many items and hits one message can still hold."""

    def __init__(self) -> None:
        self._items = MAX_HIT_ITEMS
        self._hits = MAX_REPORTED_HITS

    def take(self, sums: HitSums) -> tuple[tuple[int, int, float, float], ...]:
        taken = []
        for publication in list(islice(sums, self._items)):
            hits = sums[publication]
            count = min(hits.count, self._hits)
            if not count:
                break

            self._hits -= count
            taken.append((publication, count, hits.first_at, hits.last_at))
            hits.count -= count  # what is left is for the next message
            if not hits.count:
                del sums[publication]

        self._items -= len(taken)
        return tuple(taken)


def _add_up(booked: Booked, sums: HitSums) -> None:
    # Runs for each hit, so it calls no function such as min().
    with suppress(IndexError):  # a thread has just taken its hit back (`Attachment.take_back`)
        for _ in range(len(booked)):  # only those present now: other threads keep appending
            publication, now = booked.popleft()
            known = sums.get(publication)
            if known is None:
                sums[publication] = HitSum(1, now, now)
                continue

            known.count += 1
            if now > known.last_at:
                known.last_at = now
            elif now < known.first_at:  # threads append in another order than they read the clock
                known.first_at = now
