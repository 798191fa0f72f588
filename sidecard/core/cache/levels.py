"""Entries ordered by when they are due to leave, without a number per entry and without sorting.

The idea of CAMP (Ghandeharizadeh et al., "CAMP: a cost adaptive multi-queue eviction policy for key-value stores",
Middleware 2014): priorities are rounded to a few levels. Within a level, entries are due in the order of insertion, so one
queue per level suffices and the next victim is at the head of one of them. New here: entries that are due within a
sixteenth of a level's value share one number, that of their `_Batch`, so an entry needs none of its own.
"""

from collections import deque
from math import log2

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
"""Dead entries, beyond half the live ones, that a level may hold before it is rebuilt."""


def level_of(value: float) -> int:
    """Return the level nearest to a value."""
    return min(LEVELS - 1, max(0, round(LEVELS_PER_DOUBLING * log2(value)) + _LEVEL_OF_ONE))


class _Batch:
    """Entries of one level that are due together."""

    __slots__ = ("due", "entries")

    def __init__(self, due: float) -> None:
        self.due = due
        self.entries: deque[Entry] = deque()


class _Level:
    """A FIFO with tombstones: an entry removed from the middle stays, dead, until it reaches the head."""

    __slots__ = ("alive", "batches", "dead", "value")

    def __init__(self, value: float) -> None:
        self.value = value
        self.batches: deque[_Batch] = deque()
        self.alive = 0
        self.dead = 0

    def add(self, entry: Entry, due: float) -> None:
        batches = self.batches
        if not batches or due > batches[-1].due + _GRAIN * self.value:
            batches.append(_Batch(due))

        batches[-1].entries.append(entry)
        self.alive += 1

    def pop(self) -> Entry:
        self._clear_head()
        self.alive -= 1
        entry = self.batches[0].entries.popleft()
        self._clear_head()
        return entry

    def count_dead(self) -> None:
        """Account for an entry that died. Most expire in order and are dropped at the head immediately, others in bulk."""
        self.alive -= 1
        self.dead += 1
        self._clear_head()
        if self.dead > self.alive // 2 + _SLACK:
            for batch in self.batches:
                batch.entries = deque(entry for entry in batch.entries if entry.alive)

            self.batches = deque(batch for batch in self.batches if batch.entries)
            self.dead = 0

    def _clear_head(self) -> None:
        batches = self.batches
        while batches:
            entries = batches[0].entries
            while entries and not entries[0].alive:
                entries.popleft()
                self.dead -= 1

            if entries:
                return

            batches.popleft()


class Partition:
    """Entries among which a victim is chosen. ``inflation`` is what evictions within this partition alone added to L."""

    def __init__(self) -> None:
        self.levels: dict[int, _Level] = {}
        self.inflation = 0.0

    def push(self, entry: Entry, inflation: float) -> None:
        """Add an entry to its level."""
        number = entry.level
        level = self.levels.get(number) or self.at(number)
        level.add(entry, self.inflation + inflation + level.value)

    def at(self, number: int) -> _Level:
        """Return a level, creating it if it is empty."""
        level = self.levels.get(number)
        if level is None:
            level = self.levels[number] = _Level(_VALUES[number])

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

    def count_dead(self, number: int) -> None:
        """Account for an entry of a level that died."""
        level = self.levels[number]
        level.count_dead()
        self._drop_empty(level, number)

    def _drop_empty(self, level: _Level, number: int) -> None:
        if not level.alive:
            del self.levels[number]
