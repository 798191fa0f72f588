"""What a writer does to one small view, and what a read of it may return.

A plan is a list of events, as the daemon handles them: operations on the view, then the replies. A system call ends each event: what
its operations removed is acknowledged from there on. Keys are few and meet in two buckets; several share the first bytes of their
digests; the arena has room for a handful of records.
"""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from math import inf
from typing import NamedTuple

from sidecard.core.effects import Publish, RetireView, Withdraw, WithdrawAll
from sidecard_client.protocol import view as layout

VIEW = 1
SLOT_COUNT = 2 * layout.BUCKET_SLOTS
ARENA_OFFSET = layout.slot_offset(SLOT_COUNT)
TASK = "general"
STORED_AT = 1000.0
NOW = 1010.0
"""The time of every read."""

_RETIRED_SHARE = 0.2


def digests() -> list[bytes]:
    """Return the digests of the keys: of each pair, all but the last byte is the same, so both are in one bucket."""
    return [number.to_bytes(8, "little") + bytes(23) + bytes([last]) for number in range(1, 4) for last in (1, 2)]


@dataclass(eq=False)
class Publication:
    """One record, and when a read may still return it: until a removal is acknowledged."""

    number: int
    digest: bytes
    slot: int
    unit: int
    units: int
    expires_at: float
    record: bytes = field(repr=False)
    generation: int = 1
    acknowledged_at: float = inf
    """Stores before the system call after its removal."""

    @property
    def effect(self) -> Publish:
        """The effect that publishes it."""
        offset = ARENA_OFFSET + self.unit * layout.UNIT_BYTES
        return Publish(VIEW, self.slot, self.digest, offset, self.expires_at, self.generation, self.record)


Operation = Publish | Withdraw | WithdrawAll | RetireView


class Event(NamedTuple):
    """Operations, and what is removed once they are acknowledged."""

    operations: Sequence[Operation]
    removed: Sequence[Publication]
    late: Sequence[Operation] = ()
    """Operations after the replies: a bug."""


def record_of(number: int, size: int) -> bytes:
    """Return a record of a number; every field says which."""
    value = [number] * size
    return layout.encode_record(
        layout.ViewRecord(number, STORED_AT, float(number), number / 8, f"b{number}", TASK, {"model": number}, value)
    )


class Planner:
    """Plans at random, by the rules of the engine's allocator; ``reuses`` and ``late`` break one rule each.

    A ring: records are appended, and what they overwrite is withdrawn first. A full bucket withdraws its oldest slot. Of free slots,
    the first is used: readers use the first slot with their digest, and slots of earlier generations still have theirs.
    """

    def __init__(
        self, chance: random.Random, arena_units: int, *, reuses: bool = False, late: bool = False, sizes: int = 6
    ) -> None:
        self._chance = chance
        self._arena_units = arena_units
        self._reuses = reuses
        self._late = late
        self._sizes = sizes
        self._next_unit = 0
        self._numbers = 0
        self._generation = 1
        self.live: dict[int, Publication] = {}
        """By slot, the oldest first."""
        self.all: list[Publication] = []

    def events(self, count: int) -> Iterator[Event]:
        """Plan events; the view is sometimes retired at last."""
        for _ in range(count):
            yield self._event()

        if self._chance.random() < _RETIRED_SHARE:
            removed = list(self.live.values())
            self.live.clear()
            yield Event([RetireView(VIEW)], removed)

    def _event(self) -> Event:
        operations: list[Operation] = []
        removed: list[Publication] = []
        removals: list[Operation] = []
        what = self._chance.choices(["publish", "withdraw", "replace", "all"], [6, 2, 2, 1])[0]
        live = list(self.live.values())
        if what == "all":
            self._generation += 1
            removals.append(WithdrawAll(VIEW, self._generation))
            removed += live
            self.live.clear()
            self._next_unit = 0
        elif what == "publish" or not live:
            operations += self._publish(self._chance.choice(digests()), removed)
        else:
            one = self._chance.choice(live)
            removals.append(self._remove(one, removed))
            if what == "replace":
                operations += self._publish(one.digest, removed)

        if self._late:
            return Event(operations, removed, removals)

        return Event([*removals, *operations], removed)

    def _remove(self, publication: Publication, removed: list[Publication]) -> Withdraw:
        del self.live[publication.slot]
        removed.append(publication)
        return Withdraw(VIEW, (publication.slot,))

    def _publish(self, digest: bytes, removed: list[Publication]) -> Iterator[Operation]:
        for live in list(self.live.values()):
            if live.digest == digest:
                yield self._remove(live, removed)

        bucket = layout.bucket_of(digest, SLOT_COUNT)
        slots = range(bucket, bucket + layout.BUCKET_SLOTS)
        free = [slot for slot in slots if slot not in self.live]
        if not free:
            oldest = next(live for slot, live in self.live.items() if slot in slots)
            yield self._remove(oldest, removed)
            free = [oldest.slot]

        self._numbers += 1
        record = record_of(self._numbers, self._chance.randrange(self._sizes))
        units = layout.units_for(len(record))
        if self._next_unit + units > self._arena_units:
            self._next_unit = 0

        unit = self._next_unit
        self._next_unit += units
        for live in list(self.live.values()):
            if live.unit < unit + units and unit < live.unit + live.units:
                if self._reuses:
                    del self.live[live.slot]  # its slot stays
                    removed.append(live)
                else:
                    yield self._remove(live, removed)

        expires_at = self._chance.choice([NOW + 90.0, NOW + 90.0, NOW + 90.0, NOW - 1.0])
        made = Publication(self._numbers, digest, free[0], unit, units, expires_at, record, self._generation)
        self.live[made.slot] = made
        self.all.append(made)
        yield made.effect
