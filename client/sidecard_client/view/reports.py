"""Hits on one view that were not reported to the daemon yet. Pure.

A hit costs its thread one ``append`` to a deque, which is atomic. The thread that reports adds them up::

    threads     calls.append((publication, now))     streams.append(...)     gets.append(...)
    reporter    collect: publication -> count, first and last time;  take: one `RecordHits`
"""

from collections import deque
from contextlib import suppress
from itertools import islice

from sidecard_client.protocol.wire import MAX_HIT_ITEMS, MAX_REPORTED_HITS, RecordHits

Booked = deque[tuple[int, float]]
"""Publications and times of hits."""

HitSums = dict[int, tuple[int, float, float]]
"""By publication: how many hits, and the times of the first and the last."""


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
        """Add up the hits so far. From then on they take memory for each publication, not for each hit."""
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
    """What one message can still hold."""

    def __init__(self) -> None:
        self._items = MAX_HIT_ITEMS
        self._hits = MAX_REPORTED_HITS

    def take(self, sums: HitSums) -> tuple[tuple[int, int, float, float], ...]:
        taken = []
        for publication in list(islice(sums, self._items)):
            count, first_at, last_at = sums.pop(publication)
            if count > self._hits:
                sums[publication] = count - self._hits, first_at, last_at
                count = self._hits
                if not count:
                    break

            self._hits -= count
            taken.append((publication, count, first_at, last_at))

        self._items -= len(taken)
        return tuple(taken)


def _add_up(booked: Booked, sums: HitSums) -> None:
    with suppress(IndexError):  # a thread has taken its hit back meanwhile (`Attachment.take_back`)
        for _ in range(len(booked)):  # no more than there are now: other threads go on to append
            publication, now = booked.popleft()
            known = sums.get(publication)
            if known is None:
                sums[publication] = 1, now, now
            else:
                # Threads append in another order than they read the clock.
                count, first_at, last_at = known
                sums[publication] = count + 1, min(first_at, now), max(last_at, now)
