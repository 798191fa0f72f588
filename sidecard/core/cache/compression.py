"""Large values, kept smaller: which of them, and how they are served.

A compressed value is 4 bytes of its own size, big-endian, and what the codec has made of it. That an entry's is one is a bit
of `Entry.state`, that a record's is one a field of `Record`: a store writes it down as a version, so that who does not know
of compression takes it for a miss.

======================  ===================================================================================================
value                   what is kept
======================  ===================================================================================================
below ``min_bytes``     itself
above `MAX_BYTES`       itself: the loop that serves would stand still for too long
saves too little        itself (`MIN_SAVED_SHARE`): embeddings, and what is compressed already
any other               compressed; the entry is charged, and judged too large, by that
======================  ===================================================================================================

The entries that are there when the setting changes stay as they are. Records of a store are taken as they come, in either
form, and kept in the one that holds here.
"""

from typing import Protocol

from msgspec import Raw

from sidecard.core.cache.entry import COMPRESSED, SIZE_BYTES, Entry, size_before
from sidecard.core.cache.memory import MemoryCache
from sidecard_client.protocol.wire import MAX_FRAME_BYTES

MAX_BYTES = 256 * 1024
"""Of a value that is compressed: 1.1 to 2.0 ms once, and 0.3 to 0.6 ms for each time that it is expanded (zstd, level 1)."""

MIN_SAVED_SHARE = 1 / 8
"""What compressing must save of a value, or each hit would pay for little. Precedent: ZFS keeps a block as it is below 12.5 %.
English text saves 55 to 70 %, JSON and code 60 to 70 %, an embedding's floats 3 to 9 %."""

RECENT_SHARE = 1 / 32
"""Of the cache's budget, and beside it, for values that were expanded lately: what is asked for again and again is expanded once.
8 MiB of the default, which is 500 answers of 16 KiB."""


class Codec(Protocol):
    """What makes values smaller. Pure: what it returns depends on its arguments alone."""

    def compress(self, value: bytes) -> bytes:
        """Make a value smaller, if it can be."""
        ...

    def decompress(self, data: memoryview, size: int) -> bytes:
        """Return the value, which has ``size`` bytes. Raises `ValueError` where ``data`` is damaged, never takes more room."""
        ...


def expanded(codec: Codec, data: bytes) -> bytes | None:
    """Return the value of what a store has; None where that is damaged, or larger than any value may be."""
    if len(data) <= SIZE_BYTES or not 0 < size_before(data) <= MAX_FRAME_BYTES:
        return None

    try:
        return codec.decompress(memoryview(data)[SIZE_BYTES:], size_before(data))
    except ValueError:
        return None


class Compression:
    """Compresses and expands."""

    def __init__(self, codec: Codec | None, cache: MemoryCache) -> None:
        self._codec = codec
        self._cache = cache
        self._recent: dict[bytes, Raw] = {}
        """By what was expanded: the same bytes are the same value, whatever became of their entry."""
        self._recent_size = 0

    def compressed(self, value: bytes, min_bytes: int) -> bytes | None:
        """Return what is to be kept in place of a value; None where that is the value itself. ``min_bytes`` 0 is never."""
        if not min_bytes or self._codec is None or not min_bytes <= len(value) <= MAX_BYTES:
            return None

        data = self._codec.compress(value)
        if SIZE_BYTES + len(data) > len(value) * (1 - MIN_SAVED_SHARE):
            return None

        return len(value).to_bytes(SIZE_BYTES, "big") + data

    def expanded(self, data: bytes) -> bytes | None:
        """See `expanded`; None too where there is no codec."""
        return None if self._codec is None else expanded(self._codec, data)

    def answer(self, entry: Entry) -> Raw:
        """Return an entry's value as it is sent."""
        data = entry.value
        if not entry.state & COMPRESSED:
            return Raw(data)

        answer = self._recent.get(data)
        if answer is None:
            assert self._codec is not None  # noqa: S101 - for the type checker: nothing is compressed without one
            answer = Raw(self._codec.decompress(memoryview(data)[SIZE_BYTES:], entry.answer_bytes))
            self._remember(data, answer, entry.answer_bytes)

        return answer

    def _remember(self, data: bytes, answer: Raw, size: int) -> None:
        """Keep a value for who asks next."""
        limit = self._cache.budget * RECENT_SHARE
        if size > limit:
            return

        self._recent[data] = answer
        self._recent_size += size
        # The oldest leave, asked for or not: to expand one again now and then costs less than to keep them in order of use.
        while self._recent_size > limit:
            oldest = next(iter(self._recent))
            del self._recent[oldest]
            self._recent_size -= size_before(oldest)
