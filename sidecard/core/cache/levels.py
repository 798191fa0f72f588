"""Entries ordered by when they are due to leave, without a number per entry and without sorting.

The idea of CAMP (Ghandeharizadeh et al., "CAMP: a cost adaptive multi-queue eviction policy for key-value stores",
Middleware 2014): priorities are rounded to a few levels. Within a level, entries are due in the order of insertion, so one
queue per level suffices and the next victim is at the head of one of them. New here: entries that are due within a
sixteenth of a level's value share one number, that of their `Batch`, so an entry needs none of its own.
"""

from collections import deque
from collections.abc import Callable, Iterator
from math import log2

from sidecard.core.cache.containers import EntryQueue, queue_of
from sidecard.core.cache.entry import LEVELS, Entry

LEVELS_PER_DOUBLING = 3
"""Each level's value is 26 % above the previous one's. Measured: two levels a doubling lose nothing noticeable, and CAMP's
authors lost nothing with one."""

_LEVEL_OF_ONE = 27
"""The level of the value 1. The lowest and highest values, 1/512 and 4096, exceed what priorities and hits reach."""

_VALUES = tuple(2 ** ((level - _LEVEL_OF_ONE) / LEVELS_PER_DOUBLING) for level in range(LEVELS))

_GRAIN = 1 / 16
"""How far apart entries of one batch may be due, as a share of their level's value."""

_SLACK = 64
"""Dead entries, beyond half the live ones, that a level may hold before they are dropped."""

_REBUILD_ENTRIES = 4096
"""A level of up to so many entries drops its dead ones at once, which takes 0.2 ms. A larger one is walked in steps."""

Left = tuple[Entry, float]
"""An entry that has left its level, and the instant at which it was due."""


def level_of(value: float) -> int:
    """Return the level nearest to a value."""
    return min(LEVELS - 1, max(0, round(LEVELS_PER_DOUBLING * log2(value)) + _LEVEL_OF_ONE))


class Batch:
    """Entries of one level that are due together."""

    __slots__ = ("due", "entries", "walked")

    def __init__(self, due: float) -> None:
        self.due = due
        self.entries = EntryQueue()
        self.walked: EntryQueue | None = None
        """The batch's first entries: those that a walk in progress has passed and kept."""

    def queues(self) -> tuple[EntryQueue, ...]:
        """Return the entries in their order, in one or two parts."""
        return (self.entries,) if self.walked is None else (self.walked, self.entries)


class Level:
    """A FIFO with tombstones: an entry removed from the middle stays, dead, until it reaches the head."""

    __slots__ = ("alive", "batches", "dead", "value")

    def __init__(self, value: float) -> None:
        self.value = value
        self.batches: deque[Batch] = deque()
        self.alive = 0
        self.dead = 0

    def add(self, entry: Entry, due: float) -> None:
        """Add an entry that is due at ``due``, or at most a sixteenth of the level's value earlier."""
        batches = self.batches
        if not batches or due > batches[-1].due + _GRAIN * self.value:
            batches.append(Batch(due))
            batch = batches[-1]
        elif due >= batches[-1].due:
            batch = batches[-1]
        else:
            batch = self._insert_batch(due)

        batch.entries.append(entry)
        self.alive += 1

    def pop(self) -> Entry:
        """Remove and return the first live entry."""
        self._clear_head()
        self.alive -= 1
        batch = self.batches[0]
        entry = (batch.walked or batch.entries).popleft()
        self._clear_head()
        return entry

    def count_dead(self) -> bool:
        """Account for an entry that died; return whether so many are dead that the level should be walked.

        Most expire in order and are dropped at the head immediately, others in bulk.
        """
        self.alive -= 1
        self.dead += 1
        self._clear_head()
        if self.dead <= self.alive // 2 + _SLACK:
            return False

        if self.alive + self.dead > _REBUILD_ENTRIES:
            return True

        for batch in self.batches:
            batch.entries = queue_of(entry for queue in batch.queues() for entry in queue if entry.alive)
            batch.walked = None if batch.walked is None else EntryQueue()

        self.batches = deque(batch for batch in self.batches if batch.entries)
        self.dead = 0
        return False

    def walk(self, leaves: Callable[[Entry], bool]) -> Iterator[Left | None]:
        """Pass each entry once, in order, drop the dead ones, and yield those for which ``leaves`` is true.

        A yielded entry, with the instant at which it is due, has left the level. None is yielded for an entry that stays or
        was dead. Between two steps, entries may be added, may die and may be popped.
        """
        for batch in list(self.batches):
            batch.walked = EntryQueue()
            while batch.entries:
                entry = batch.entries.popleft()
                if not entry.alive:
                    self.dead -= 1
                    yield None
                elif leaves(entry):
                    self.alive -= 1
                    yield entry, batch.due
                else:
                    batch.walked.append(entry)
                    yield None

            batch.entries, batch.walked = batch.walked, None

        self._clear_head()

    def _insert_batch(self, due: float) -> Batch:
        """Return the batch for an entry that is due before the last batch: one that moves between partitions."""
        place = next(place for place, batch in enumerate([*self.batches, None]) if batch is None or batch.due > due)
        if place and due <= self.batches[place - 1].due + _GRAIN * self.value:
            return self.batches[place - 1]

        batch = Batch(due)
        self.batches.insert(place, batch)
        return batch

    def _clear_head(self) -> None:
        batches = self.batches
        while batches:
            batch = batches[0]
            if batch.walked is not None:
                self.dead -= batch.walked.drop_dead()
                if batch.walked:
                    return

            entries = batch.entries
            self.dead -= entries.drop_dead()
            if entries.start < entries.end:
                return

            batches.popleft()


class Partition:
    """Entries among which a victim is chosen. ``inflation`` is what evictions within this partition alone added to L."""

    def __init__(self) -> None:
        self.levels: dict[int, Level] = {}
        self.inflation = 0.0

    def push(self, entry: Entry, inflation: float) -> None:
        """Add an entry to its level."""
        number = entry.level
        level = self.levels.get(number) or self.at(number)
        level.add(entry, self.inflation + inflation + level.value)

    def at(self, number: int) -> Level:
        """Return a level, creating it if it is empty."""
        level = self.levels.get(number)
        if level is None:
            level = self.levels[number] = Level(_VALUES[number])

        return level

    def next_due(self) -> tuple[float, int]:
        """Return when the next victim is due, and its level. The partition must not be empty."""
        return min((level.batches[0].due, number) for number, level in self.levels.items())

    def pop(self, number: int) -> Entry:
        """Remove and return the head of a level."""
        level = self.levels[number]
        entry = level.pop()
        self._drop_empty(level, number)
        return entry

    def count_dead(self, number: int) -> bool:
        """Account for an entry of a level that died; return whether the level should be walked."""
        level = self.levels[number]
        needs_walk = level.count_dead()
        self._drop_empty(level, number)
        return needs_walk and level.alive > 0

    def walk(self, leaves: Callable[[Entry], bool]) -> Iterator[Left | None]:
        """Walk all levels, as `Level.walk` does."""
        for number, level in list(self.levels.items()):
            for left in level.walk(leaves):
                self._drop_empty(level, number)
                yield left

    def _drop_empty(self, level: Level, number: int) -> None:
        if not level.alive and self.levels.get(number) is level:
            del self.levels[number]
