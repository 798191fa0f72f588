"""Which entries expire next: by whole seconds, so that entries need not be sorted."""

from collections.abc import Iterator
from heapq import heappop, heappush
from math import inf

from msgspec import Struct

from sidecard.core.cache.containers import EntryQueue
from sidecard.core.cache.entry import Entry

COMPACTION_STEPS = 8
"""Places examined for each entry that dies while half of a bucket is dead: so it never has many more dead than live ones."""

_SLACK = 64
"""Seconds without entries that the heap may hold before it is rebuilt."""

_EXACT_SECONDS = 4096
"""Entries that live shorter are removed in the second in which they expire."""

_REBUILD_STEPS = 4
"""Seconds that move into the new heap with each entry that is added or dies."""

_MAX_POPS = 1000
"""Seconds without entries that are dropped at a time: a purge may leave a million of them."""


class Bucket(Struct, gc=False, eq=False):
    """The entries that expire within one second. Their order has no meaning."""

    entries: EntryQueue
    dead: int = 0
    position: int = 0
    """The next place to be examined for a dead entry."""
    heap_number: int = 0
    """Number of the heap to which the bucket's second was added last."""

    def compact(self) -> None:
        """Drop some dead entries, as more than half are dead; first those at the start, because most leave in their order."""
        entries = self.entries
        # No more than are counted: of a batch of a purge, all are dead before the first one is discarded.
        dropped = entries.drop_dead(min(COMPACTION_STEPS, self.dead))
        self.dead -= dropped
        self.position = max(0, self.position - dropped)
        for _ in range(COMPACTION_STEPS):
            if 2 * self.dead <= len(entries):
                return

            self.position = (self.position or len(entries)) - 1
            last = entries.pop()
            if self.position >= len(entries):
                # The last place itself, or one that no longer exists.
                self.position = len(entries)
                if last.alive:
                    entries.append(last)
                else:
                    self.dead -= 1
            elif entries.replace_dead(self.position, last):
                self.dead -= 1
            else:
                entries.append(last)


class ExpiryWheel:
    """Entries by the second at whose end they have certainly expired."""

    def __init__(self) -> None:
        self.buckets: dict[int, Bucket] = {}
        self.heap: list[int] = []
        """The seconds of the buckets. It also holds seconds whose bucket is gone, and may hold one twice."""
        self._old_heap: list[int] = []
        """What is left of the previous heap: its seconds move to the new one, in steps, without those that have no bucket."""
        self._heap_number = 0
        self.no_expiry_before = inf
        """Lower bound of `next_second`, which makes it exact."""

    def add(self, entry: Entry) -> None:
        """Add an entry."""
        second = _second(entry)
        bucket = self.buckets.get(second)
        if bucket is None:
            bucket = self.buckets[second] = Bucket(EntryQueue(), heap_number=self._heap_number)
            heappush(self.heap, second)
            self.no_expiry_before = min(self.no_expiry_before, second)
            self._rebuild()

        bucket.entries.append(entry)

    def discard(self, entry: Entry) -> None:
        """Account for an entry that died before its time. Its bucket drops it later."""
        second = _second(entry)
        bucket = self.buckets[second]
        bucket.dead += 1
        entries = bucket.entries
        if 2 * bucket.dead > entries.end - entries.start:
            bucket.compact()

        # Peers choose lifetimes freely, so an empty bucket must not wait for its second.
        if entries.start == entries.end:
            del self.buckets[second]
            self._rebuild()

    def next_second(self) -> int | None:
        """Return when the next entry will have expired, or sooner if very many have died; None if there is none."""
        seconds = []
        for heap in (self.heap, self._old_heap):
            for _ in range(_MAX_POPS):
                if not heap or heap[0] in self.buckets:
                    break

                heappop(heap)

            seconds += heap[:1]

        second = min(seconds, default=None)
        self.no_expiry_before = inf if second is None else second
        return second

    def _rebuild(self) -> None:
        """Begin a new heap if most of the present one's seconds have no bucket, or move some of the old one's to it."""
        if not self._old_heap:
            if len(self.heap) <= 2 * len(self.buckets) + _SLACK:
                return

            self.heap, self._old_heap = [], self.heap
            self._heap_number += 1

        old = self._old_heap
        for _ in range(min(_REBUILD_STEPS, len(old))):
            second = old.pop()  # a leaf: the rest is still a heap
            bucket = self.buckets.get(second)
            if bucket is not None and bucket.heap_number != self._heap_number:
                bucket.heap_number = self._heap_number
                heappush(self.heap, second)

    def expired(self, now: float, steps: int) -> Iterator[Entry]:
        """Take out and yield expired live entries; end after ``steps`` entries, dead ones included."""
        while steps > 0 and (second := self.next_second()) is not None and second <= now:
            bucket = self.buckets.get(second)
            if bucket is None:
                return

            while bucket.entries and steps > 0:
                steps -= 1
                entry = bucket.entries.pop()
                if entry.alive:
                    yield entry
                else:
                    bucket.dead -= 1

            if not bucket.entries:
                del self.buckets[second]


def _second(entry: Entry) -> int:
    """Return the first whole second at which the entry has certainly expired: a rounded one if it lives long.

    Peers choose lifetimes freely, so a million entries might have a million seconds. Lifetimes above `_EXACT_SECONDS` are
    rounded up by at most one part in 2048, which leaves some ten thousand seconds.
    """
    lifetime = entry.terms.lifetime_seconds
    second = int(entry.stored_at + lifetime) + 1
    if lifetime < _EXACT_SECONDS:
        return second

    grain = 1 << int(lifetime).bit_length() - _EXACT_SECONDS.bit_length() + 1
    return -(-second // grain) * grain
