"""What all connections together hold in memory: replies that nobody has read, and messages that have come in part.

Each connection has bounds of its own, which a peer with thousands of connections multiplies. Beyond `Buffers.max_bytes` those
are closed that hold most, of the uid that holds most, until the rest fits. Precedent: Redis' ``maxmemory-clients``.
A client that is closed makes its calls without the daemon.
"""

from collections import Counter
from collections.abc import Hashable
from typing import Final, Generic, TypeVar

COUNTED_BYTES: Final = 64 * 1024
"""What a connection holds below this is not counted: looking at it would cost every hit."""

T = TypeVar("T", bound=Hashable)


class Buffers(Generic[T]):
    """What connections hold, as far as it is more than `COUNTED_BYTES` each."""

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        """May be changed at any time."""
        self.bytes = 0
        self._held: dict[T, tuple[int, int]] = {}
        """Uid and bytes."""
        self._of_uid: Counter[int] = Counter()

    def __len__(self) -> int:
        return len(self._held)

    def hold(self, line: T, uid: int, count: int) -> list[T]:
        """Take note of what a connection holds now; return those that are to be closed, where that is too much for all."""
        self._set(line, uid, count if count > COUNTED_BYTES else 0)
        victims: list[T] = []
        while self.bytes > self.max_bytes:
            victims.append(self._largest())
            self.release(victims[-1])

        return victims

    def release(self, line: T) -> None:
        """A connection holds nothing any more."""
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

    def _largest(self) -> T:
        greedy = max(self._of_uid, key=self._of_uid.__getitem__)
        lines = (line for line, (uid, _) in self._held.items() if uid == greedy)
        return max(lines, key=lambda line: self._held[line][1])
