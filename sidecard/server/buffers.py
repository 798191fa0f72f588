"""What all connections together hold in memory: replies that nobody has read, and messages that have come in part.

Each connection has bounds of its own, which a peer with thousands of connections multiplies. Beyond `Buffers.max_bytes` those
are closed that hold most, of the uid that holds most, until the rest fits. Precedent: Redis' ``maxmemory-clients``.
A client that is closed makes its calls without the daemon.

A large value that many wait for is one object, to which all their frames refer (`sidecard.server.large_replies`): it counts once.
"""

from collections import Counter
from collections.abc import Hashable
from typing import Final, Generic, TypeVar

COUNTED_BYTES: Final = 64 * 1024
"""What a connection holds below this is not counted: looking at it would cost every hit."""

T = TypeVar("T", bound=Hashable)


class _Lent:
    """A value to which the frames of ``borrowers`` refer."""

    __slots__ = ("borrowers", "value")

    def __init__(self, value: memoryview) -> None:
        self.value = value
        self.borrowers = 0


class Buffers(Generic[T]):
    """What connections hold, as far as it is more than `COUNTED_BYTES` each."""

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        """May be changed at any time."""
        self.bytes = 0
        self._held: dict[T, tuple[int, int]] = {}
        """Uid and bytes, without what was lent."""
        self._of_uid: Counter[int] = Counter()
        self._lent: dict[int, _Lent] = {}
        """By the identity of the object that has the bytes, which lives as long as it is lent."""
        self._borrowed: dict[T, list[int]] = {}

    def hold(self, line: T, uid: int, count: int) -> list[T]:
        """Take note of what a connection holds now; return those that are to be closed, where that is too much for all."""
        if count <= COUNTED_BYTES and line not in self._held and self.bytes <= self.max_bytes:
            # Nearly always: it held nothing that counts, and does not now.
            return []

        count -= self._borrowed_bytes(line)
        self._set(line, uid, count if count > COUNTED_BYTES else 0)
        victims: list[T] = []
        while self.bytes > self.max_bytes:
            victims.append(self._largest())
            self.release(victims[-1])

        return victims

    def lend(self, line: T, value: memoryview) -> None:
        """A frame that the connection has not sent yet refers to a value."""
        place = id(value.obj)
        lent = self._lent.get(place)
        if lent is None:
            lent = self._lent[place] = _Lent(value)
            self.bytes += len(value)

        lent.borrowers += 1
        self._borrowed.setdefault(line, []).append(place)

    def take_back(self, line: T) -> None:
        """All that the connection was to send has left."""
        for place in self._borrowed.pop(line, ()):
            lent = self._lent[place]
            lent.borrowers -= 1
            if not lent.borrowers:
                self.bytes -= len(lent.value)
                del self._lent[place]

    def release(self, line: T) -> None:
        """A connection holds nothing any more."""
        self.take_back(line)
        if line in self._held:
            self._set(line, self._held[line][0], 0)

    def _set(self, line: T, uid: int, count: int) -> None:
        growth = count - self._held.pop(line, (uid, 0))[1]
        if count:
            self._held[line] = uid, count

        self.bytes += growth
        self._of_uid[uid] += growth
        if not self._of_uid[uid]:
            del self._of_uid[uid]

    def _borrowed_bytes(self, line: T) -> int:
        return sum(len(self._lent[place].value) for place in self._borrowed.get(line, ()))

    def _largest(self) -> T:
        if not self._of_uid:
            # There is nothing but values that were lent: whoever borrows most.
            return max(self._borrowed, key=self._borrowed_bytes)

        greedy = max(self._of_uid, key=self._of_uid.__getitem__)
        lines = (line for line, (uid, _) in self._held.items() if uid == greedy)
        return max(lines, key=lambda line: self._held[line][1])
