"""Deadlines as data. The driver sleeps; this module only orders the deadlines."""

from heapq import heapify, heappop, heappush
from math import inf
from typing import Generic, TypeVar

T = TypeVar("T")

_SLACK = 64
"""Tolerated dead heap entries before a rebuild, so that small tables never rebuild."""


class Timers(Generic[T]):
    """One deadline per item.

    A cleared or replaced deadline stays in the heap as a dead entry until it is popped, or until dead entries outnumber
    live ones: 100,000 waiters that join and leave within their two minutes must not leave 100,000 entries behind.
    """

    def __init__(self) -> None:
        self.no_earlier_than = inf
        """Lower bound of all deadlines; exact after `next_deadline`."""
        self._heap: list[tuple[float, int, T]] = []
        self._live: dict[T, int] = {}
        self._sequence = 0

    def __len__(self) -> int:
        return len(self._live)

    def set(self, item: T, deadline: float) -> None:
        """Make ``item`` due at ``deadline``, instead of any deadline set before."""
        self._sequence = sequence = self._sequence + 1
        self._live[item] = sequence
        heappush(self._heap, (deadline, sequence, item))
        self.no_earlier_than = min(self.no_earlier_than, deadline)

        if len(self._heap) > 2 * len(self._live) + _SLACK:
            self._heap = [entry for entry in self._heap if self._live.get(entry[2]) == entry[1]]
            heapify(self._heap)

    def clear(self, item: T) -> None:
        """Remove an item's deadline, if it has one."""
        self._live.pop(item, None)

    def next_deadline(self) -> float | None:
        """Return the earliest deadline; None if there is none."""
        heap = self._heap
        while heap and self._live.get(heap[0][2]) != heap[0][1]:
            heappop(heap)

        self.no_earlier_than = heap[0][0] if heap else inf
        return heap[0][0] if heap else None

    def pop_due(self, now: float) -> T | None:
        """Remove and return the item with the earliest deadline, if that is at or before ``now``."""
        deadline = self.next_deadline()
        if deadline is None or deadline > now:
            return None

        item = heappop(self._heap)[2]
        del self._live[item]
        return item
