"""Where publications are in a view: a ring of records, and an index of slots.

The *ring* overwrites the oldest records: a new one follows the latest, and a gap is left at the end of the arena if it does not
fit there. So records never move, and space is reused as late as possible.

The *index* consists of buckets of four slots, chosen by the key's digest. A publication gets the lowest free slot of its bucket,
or that of the bucket's oldest publication. After `ViewSpace.clear` the file still has the old slots. The lowest free slot
precedes any old slot of the same key, so a reader finds the new one first.
"""

from collections import OrderedDict
from collections.abc import Sequence

from msgspec import Struct

from sidecard.core.cache.view.publication import Publication
from sidecard_client.protocol.view import BUCKET_SLOTS, UNIT_BYTES, bucket_of, slot_offset, slots_for, units_for

MAX_ARENA_SHARE = 1 / 4
"""Maximum share of the arena for one record: a larger one would withdraw too many others."""


class RecordPlace(Struct, frozen=True):
    """Where a record goes, and the publications that must be withdrawn before."""

    slot: int
    offset: int
    overwritten: Sequence[Publication] = ()
    """Publications whose bytes it takes, or in the gap before it; oldest first."""
    replaced: Publication | None = None
    """The publication whose slot it takes."""

    @property
    def victims(self) -> Sequence[Publication]:
        """All publications that must be withdrawn."""
        return self.overwritten if self.replaced is None else [*self.overwritten, self.replaced]


class ViewSpace:
    """The slots and the arena of a view of ``size`` bytes."""

    def __init__(self, size: int) -> None:
        self.slot_count = slots_for(size)
        self.by_key: OrderedDict[str, Publication] = OrderedDict()
        """All publications, oldest first: the order of the ring, beginning behind its latest record."""
        self._start = slot_offset(self.slot_count)
        self._end = size // UNIT_BYTES * UNIT_BYTES
        self._head = self._start
        """Where the next record goes."""
        self._slots: list[Publication | None] = [None] * self.slot_count
        self._used_bytes = 0
        self.max_record_bytes = int((self._end - self._start) * MAX_ARENA_SHARE)

    @property
    def is_crowded(self) -> bool:
        """Whether publications take more than half of the arena."""
        return 2 * self._used_bytes > self._end - self._start

    def find(self, digest: bytes, length: int) -> RecordPlace:
        """Return where a record of at most ``max_record_bytes`` goes."""
        offset, overwritten = self._overwritten(units_for(length) * UNIT_BYTES)
        bucket = bucket_of(digest, self.slot_count)
        oldest: Publication | None = None
        for slot in range(bucket, bucket + BUCKET_SLOTS):
            used_by = self._slots[slot]
            if used_by is None or used_by in overwritten:
                return RecordPlace(slot, offset, overwritten)

            if oldest is None or used_by.number < oldest.number:
                oldest = used_by

        assert oldest is not None  # noqa: S101 - for the type checker: a bucket has slots
        return RecordPlace(oldest.slot, offset, overwritten, oldest)

    def _overwritten(self, size: int) -> tuple[int, list[Publication]]:
        """Return where the next ``size`` bytes begin, and the publications there or in the gap before them."""
        head = begin = self._head
        wraps = head + size > self._end
        if wraps:
            begin = self._start

        overwritten: list[Publication] = []
        for publication in self.by_key.values():
            # Oldest first: those of the last round behind the head, then those of this round before it.
            if not (begin <= publication.offset < begin + size or (wraps and publication.offset >= head)):
                break

            overwritten.append(publication)

        return begin, overwritten

    def add(self, publication: Publication) -> None:
        """Add a publication at its place, from which its victims have been removed."""
        self.by_key[publication.key] = publication
        self._slots[publication.slot] = publication
        self._used_bytes += publication.length
        self._head = publication.offset + units_for(publication.length) * UNIT_BYTES

    def remove(self, publication: Publication) -> None:
        """Remove a publication."""
        del self.by_key[publication.key]
        self._used_bytes -= publication.length
        self._slots[publication.slot] = None

    def clear(self) -> OrderedDict[str, Publication]:
        """Remove all publications, and return them by key, oldest first."""
        publications, self.by_key = self.by_key, OrderedDict()
        self._slots = [None] * self.slot_count
        self._head = self._start
        self._used_bytes = 0
        return publications
