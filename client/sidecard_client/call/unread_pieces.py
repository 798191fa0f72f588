"""The pieces of a stream that its function has produced and its caller has not taken yet. Pure; not thread-safe."""

from collections import deque
from sys import getsizeof
from typing import Any, Final

MAX_UNREAD_BYTES: Final = 64 * 1024 * 1024
"""How much is kept for a caller that reads more slowly than others do. Beyond it the stream is no longer shared."""

PIECE_OVERHEAD_BYTES: Final = 100
"""What a piece costs beside its contents: streams consist of small pieces."""

MAX_PARTS: Final = 10_000
"""How many parts of a piece are measured: a piece that contains itself has an end too."""


class UnreadPieces:
    """A queue that knows how many bytes it has."""

    __slots__ = ("_bytes", "_pieces")

    def __init__(self) -> None:
        self._pieces: deque[tuple[Any, int]] = deque()
        self._bytes = 0

    def __len__(self) -> int:
        """Count the pieces."""
        return len(self._pieces)

    @property
    def full(self) -> bool:
        """The limit is reached: the caller of `put` should stop adding pieces."""
        return self._bytes > MAX_UNREAD_BYTES

    def put(self, piece: Any) -> None:
        """Add a piece."""
        size = _size_of(piece) + PIECE_OVERHEAD_BYTES
        self._pieces.append((piece, size))
        self._bytes += size

    def take(self) -> Any:
        """Return the oldest piece. There must be one."""
        piece, size = self._pieces.popleft()
        self._bytes -= size
        return piece

    def clear(self) -> None:
        """Drop all pieces."""
        self._pieces.clear()
        self._bytes = 0


def _size_of(value: Any) -> int:
    """Return about how many bytes a value occupies, with what containers of plain values contain."""
    size, rest, seen = 0, [value], 0
    while rest and seen < MAX_PARTS:
        one = rest.pop()
        seen += 1
        size += getsizeof(one, 0)
        if isinstance(one, dict):
            rest += one.values()
        elif isinstance(one, list | tuple | set | frozenset):
            rest += one

    return size
