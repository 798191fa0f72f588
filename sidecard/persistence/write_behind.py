"""The write-behind queue: items that are still to be written, oldest first, bounded in number and bytes.

`take` starts a batch. Then either `done` forgets the batch, or `give_back` puts it first again.
The owner decides what a full queue means: `has_room` before an append drops the newest, `drop_oldest` after it the oldest.
"""

from collections.abc import Callable, Hashable
from itertools import islice
from typing import Generic, TypeVar

T = TypeVar("T")


class WriteBehindQueue(Generic[T]):
    """Items by name. A newer item replaces the waiting item of its name and goes to the end.

    ``size_of`` returns an item's bytes. ``max_items`` and ``max_bytes`` bound what waits and what is being written together.
    """

    def __init__(
        self, size_of: Callable[[T], int], *, max_bytes: float = float("inf"), max_items: float = float("inf")
    ) -> None:
        self.max_bytes = max_bytes
        self.max_items = max_items
        self.bytes = 0
        """Size of all items, including the batch that is being written."""
        self._size_of = size_of
        self._waiting: dict[Hashable, T] = {}
        self._taken: dict[Hashable, T] = {}
        self._appended = 0

    def __len__(self) -> int:
        return len(self._waiting) + len(self._taken)

    @property
    def taken(self) -> list[T]:
        """The batch that is being written."""
        return list(self._taken.values())

    @property
    def waiting(self) -> list[tuple[Hashable, T]]:
        """The items that are in no batch, by name, the oldest first."""
        return list(self._waiting.items())

    def has_room(self, size_bytes: int) -> bool:
        """Return whether an item of that size fits."""
        return len(self) < self.max_items and self.bytes + size_bytes <= self.max_bytes

    def append(self, item: T) -> Hashable:
        """Add an item that replaces none; return its name."""
        self._appended += 1
        self.put(self._appended, item)
        return self._appended

    def put(self, name: Hashable, item: T) -> T | None:
        """Add an item; return the waiting one that it replaces."""
        older = self._waiting.pop(name, None)
        if older is not None:
            self.bytes -= self._size_of(older)

        self._waiting[name] = item
        self.bytes += self._size_of(item)
        return older

    def take(self, max_items: int, max_bytes: float = float("inf")) -> list[T]:
        """Start a batch of the oldest items, at least one if there is any. The batch before it must have ended."""
        batch_bytes = 0
        for name, item in list(islice(self._waiting.items(), max_items)):
            batch_bytes += self._size_of(item)
            if self._taken and batch_bytes > max_bytes:
                break

            self._taken[name] = self._waiting.pop(name)

        return self.taken

    def done(self) -> None:
        """Forget the batch: it is written."""
        for name, item in self._taken.items():
            self._forget(name, item)

        self._taken.clear()

    def give_back(self) -> None:
        """Put the batch first again: it could not be written. An item with a newer one of its name is forgotten."""
        newer, self._waiting = self._waiting, {}
        taken, self._taken = self._taken, {}
        for name, item in taken.items():
            if name in newer:
                self._forget(name, item)
            else:
                self._waiting[name] = item

        self._waiting |= newer

    def discard(self, name: Hashable) -> None:
        """Remove an item, in a batch or not; do nothing if it has been removed already."""
        for items in (self._waiting, self._taken):
            if name in items:
                self._forget(name, items.pop(name))

    def drop_oldest(self) -> T | None:
        """Remove and return the oldest item that is in no batch; None if there is none."""
        name = next(iter(self._waiting), None)
        if name is None:
            return None

        item = self._waiting.pop(name)
        self._forget(name, item)
        return item

    def _forget(self, name: Hashable, item: T) -> None:  # noqa: ARG002 - for queues that keep more about a name
        self.bytes -= self._size_of(item)
