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


class Bucket(Struct, gc=False, eq=False):
    """The entries that expire within one second. Their order has no meaning."""

    entries: EntryQueue
    dead: int = 0
    position: int = 0
    """The next place to be examined for a dead entry."""

    def compact(self) -> None:
        """Drop some dead entries, if more than half are dead."""
        entries = self.entries
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
            elif entries[self.position].alive:
                entries.append(last)
            else:
                entries[self.position] = last
                self.dead -= 1


class ExpiryWheel:
    """Entries by the second at whose end they have certainly expired."""

    def __init__(self) -> None:
        self.buckets: dict[int, Bucket] = {}
        self.heap: list[int] = []
        self.no_expiry_before = inf
        """Lower bound of `next_second`, which makes it exact."""

    def add(self, entry: Entry) -> None:
        """Add an entry."""
        second = _second(entry)
        bucket = self.buckets.get(second)
        if bucket is None:
            bucket = self.buckets[second] = Bucket(EntryQueue())
            heappush(self.heap, second)
            self.no_expiry_before = min(self.no_expiry_before, second)
            if len(self.heap) > 2 * len(self.buckets) + _SLACK:
                self.heap = sorted(self.buckets)

        bucket.entries.append(entry)

    def discard(self, entry: Entry) -> None:
        """Account for an entry that died before its time. Its bucket drops it later."""
        second = _second(entry)
        bucket = self.buckets[second]
        bucket.dead += 1
        bucket.compact()
        # Peers choose lifetimes freely, so an empty bucket must not wait for its second.
        if not bucket.entries:
            del self.buckets[second]

    def next_second(self) -> int | None:
        """Return when the next entry will have expired; None if there is none."""
        heap = self.heap
        while heap and heap[0] not in self.buckets:
            heappop(heap)

        self.no_expiry_before = heap[0] if heap else inf
        return heap[0] if heap else None

    def expired(self, now: float, steps: int) -> Iterator[Entry]:
        """Take out and yield expired live entries; end after ``steps`` entries, dead ones included."""
        while steps > 0 and (second := self.next_second()) is not None and second <= now:
            bucket = self.buckets[second]
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
