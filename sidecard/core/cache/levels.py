"""Entries sorted by when they are due to leave, without a number for each and without a sort.

The idea of CAMP (Ghandeharizadeh et al., "CAMP: a cost adaptive multi-queue eviction policy for key-value stores",
Middleware 2014): worths are rounded to a few levels, and within a level who came first is due first, so a queue for each
level does, and the next to leave is at the head of one of them. What is new here is that entries which are due within a
sixteenth of a level's span share one number, a `_Run`'s: so an entry needs none of its own.
"""

from collections import deque
from math import log2

from sidecard.core.cache.entry import LEVELS, Entry

LEVELS_PER_DOUBLING = 3
"""A level's value is 26 % above the one's below it. Measured: two to a doubling lose nothing that could be told, nor did CAMP's
authors lose anything by one."""

_ZERO = 27
"""The level of the value 1. The ends, 1/512 and 4096, are beyond what worths and hits come to."""

_VALUES = tuple(2 ** ((level - _ZERO) / LEVELS_PER_DOUBLING) for level in range(LEVELS))

_GRAIN = 1 / 16
"""What entries may be apart that are due together, of their level's value."""

_SLACK = 64
"""Dead entries that a level may hold beyond half its living ones before it is rebuilt."""


def level_of(value: float) -> int:
    """Return the level that is nearest to a value."""
    return min(LEVELS - 1, max(0, round(LEVELS_PER_DOUBLING * log2(value)) + _ZERO))


class _Run:
    """Entries of one level that are due together."""

    __slots__ = ("due", "entries")

    def __init__(self, due: float) -> None:
        self.due = due
        self.entries: deque[Entry] = deque()


class _Level:
    """A FIFO with tombstones: an entry that left from the middle stays, dead, until it reaches the head."""

    __slots__ = ("_value", "alive", "dead", "runs")

    def __init__(self, value: float) -> None:
        self._value = value
        self.runs: deque[_Run] = deque()
        self.alive = 0
        self.dead = 0

    def push(self, entry: Entry, inflation: float) -> None:
        self.add(entry, inflation + self._value)

    def add(self, entry: Entry, due: float) -> None:
        runs = self.runs
        if not runs or due > runs[-1].due + _GRAIN * self._value:
            runs.append(_Run(due))

        runs[-1].entries.append(entry)
        self.alive += 1

    def pop(self) -> Entry:
        self._clear_head()
        self.alive -= 1
        entry = self.runs[0].entries.popleft()
        self._clear_head()
        return entry

    def leave(self) -> None:
        """Learn that one of them is dead. Drop those at the head at once (most expire in the order they came), others in bulk."""
        self.alive -= 1
        self.dead += 1
        self._clear_head()
        if self.dead > self.alive // 2 + _SLACK:
            for run in self.runs:
                run.entries = deque(entry for entry in run.entries if entry.alive)

            self.runs = deque(run for run in self.runs if run.entries)
            self.dead = 0

    def _clear_head(self) -> None:
        runs = self.runs
        while runs:
            entries = runs[0].entries
            while entries and not entries[0].alive:
                entries.popleft()
                self.dead -= 1

            if entries:
                return

            runs.popleft()


class Partition:
    """Entries among which a victim is chosen. ``inflation`` is what was given up within this room alone."""

    def __init__(self) -> None:
        self.levels: dict[int, _Level] = {}
        self.inflation = 0.0

    def __len__(self) -> int:
        """Count the entries."""
        return sum(level.alive for level in self.levels.values())

    def push(self, entry: Entry, inflation: float) -> None:
        """Take an entry into its level."""
        self.at(entry.level).push(entry, self.inflation + inflation)

    def at(self, number: int) -> _Level:
        """Return a level, new where it had no entry."""
        level = self.levels.get(number)
        if level is None:
            level = self.levels[number] = _Level(_VALUES[number])

        return level

    def next_due(self) -> tuple[float, int]:
        """Return when who leaves next is due, and its level. There must be somebody."""
        return min((level.runs[0].due, number) for number, level in self.levels.items())

    def pop(self, number: int) -> Entry:
        """Take the head of a level out."""
        level = self.levels[number]
        entry = level.pop()
        self._close(level, number)
        return entry

    def leave(self, number: int) -> None:
        """Learn that an entry of a level is dead."""
        level = self.levels[number]
        level.leave()
        self._close(level, number)

    def _close(self, level: _Level, number: int) -> None:
        if not level.alive:
            del self.levels[number]
