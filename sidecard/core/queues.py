"""Who is next: first come, first served within a line, and the lines in turn.

Each process has its line, so that one that asks for a thousand permits at once delays another's first by one turn and not
by a thousand. Precedent: fair queueing as in nginx's and Kubernetes' request queues.
"""

from collections import OrderedDict
from collections.abc import Hashable, Iterator
from typing import Generic, TypeVar

T = TypeVar("T", bound=Hashable)


class FairQueue(Generic[T]):
    """A queue of queues. An item is in it at most once."""

    def __init__(self) -> None:
        self._lines: OrderedDict[Hashable, OrderedDict[T, None]] = OrderedDict()
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[T]:
        return iter([item for line in self._lines.values() for item in line])

    def push(self, line: Hashable, item: T) -> None:
        """Let ``item`` stand in at the end of a line."""
        self._lines.setdefault(line, OrderedDict())[item] = None
        self._count += 1

    def first(self) -> T:
        """Return who is next. Raises `StopIteration` where nobody is."""
        return next(iter(next(iter(self._lines.values()))))

    def remove(self, line: Hashable, item: T) -> None:
        """Take ``item`` out, wherever it stands; its line keeps its turn."""
        items = self._lines[line]
        del items[item]
        self._count -= 1
        if not items:
            del self._lines[line]

    def serve(self, line: Hashable, item: T) -> None:
        """Take ``item`` out because it got what it stood in for; its line goes behind the others."""
        self.remove(line, item)
        if line in self._lines:
            self._lines.move_to_end(line)
