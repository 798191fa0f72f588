"""Who is next: first come, first served within a line, the lines of a group in turn, and the groups in turn.

Each process has its line, so that one that asks for a thousand permits at once delays another's first by one turn and not
by a thousand; and each uid is a group, so that one with a thousand processes delays another's no more. Precedent: fair queueing as in nginx's and Kubernetes' request queues.
"""

from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator
from typing import Any, Generic, TypeVar

T = TypeVar("T", bound=Hashable)


class FairQueue(Generic[T]):
    """A queue of queues of queues. An item is in it at most once. Without ``group_of`` all lines are of one group."""

    def __init__(self, group_of: Callable[[Any], Hashable] = lambda _: None) -> None:
        self._group_of = group_of
        self._groups: OrderedDict[Hashable, OrderedDict[Hashable, OrderedDict[T, None]]] = OrderedDict()
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[T]:
        return iter([item for lines in self._groups.values() for line in lines.values() for item in line])

    def push(self, line: Hashable, item: T) -> None:
        """Let ``item`` stand in at the end of a line."""
        lines = self._groups.setdefault(self._group_of(line), OrderedDict())
        lines.setdefault(line, OrderedDict())[item] = None
        self._count += 1

    def of_group(self, line: Hashable) -> int:
        """Return how many stand in the lines of a line's group."""
        return sum(map(len, self._groups.get(self._group_of(line), {}).values()))

    def first(self) -> T:
        """Return who is next. Raises `StopIteration` where nobody is."""
        return next(iter(next(iter(next(iter(self._groups.values())).values()))))

    def remove(self, line: Hashable, item: T) -> None:
        """Take ``item`` out, wherever it stands; its line keeps its turn."""
        group = self._group_of(line)
        lines = self._groups[group]
        del lines[line][item]
        self._count -= 1
        if not lines[line]:
            del lines[line]

        if not lines:
            del self._groups[group]

    def serve(self, line: Hashable, item: T) -> None:
        """Take ``item`` out because it got what it stood in for; its line goes behind the others, and so does its group."""
        self.remove(line, item)
        group = self._group_of(line)
        lines = self._groups.get(group)
        if lines is None:
            return

        self._groups.move_to_end(group)
        if line in lines:
            lines.move_to_end(line)
