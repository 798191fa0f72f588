"""Compression of large values in memory.

A compressed value is 4 bytes with its original size, big-endian, followed by the codec's output. An entry marks it by a bit
of `Entry.state`, a record by a field of `Record`. A store writes the mark as a version, so that a reader that does not know
compression has a miss.

Only values of ``min_bytes`` to `MAX_BYTES` are compressed, and kept so if that saves `MIN_SAVED_SHARE`: embeddings and what is
compressed already save less. The compressed size is charged, and compared with the largest entry size.
Existing entries stay as they are when the setting changes. Records of a store are accepted in either form and converted to
the current one.
"""

from typing import Protocol

from msgspec import Raw

from sidecard.core.cache.entry import COMPRESSED, SIZE_PREFIX_BYTES, Entry, original_size
from sidecard.core.cache.memory import MemoryCache
from sidecard_client.protocol.wire import MAX_FRAME_BYTES

MAX_BYTES = 256 * 1024
"""Maximum size of a value that is compressed; larger ones would stall the serving loop. 1.1 to 2.0 ms once, and 0.3 to 0.6 ms per decompression (zstd, level 1)."""

MIN_SAVED_SHARE = 1 / 8
"""Share that compression must save, or each hit would pay for little. Precedent: ZFS keeps a block as it is below 12.5 %.
English text saves 55 to 70 %, JSON and code 60 to 70 %, an embedding's floats 3 to 9 %."""

RECENT_SHARE = 1 / 32
"""Budget for recently decompressed values, in addition to the cache's and as a share of it, so that a popular value is
decompressed once. 8 MiB by default, which is 500 answers of 16 KiB."""


class Codec(Protocol):
    """A compression algorithm. Pure: results depend on the arguments alone."""

    def compress(self, value: bytes) -> bytes:
        """Return the compressed value, which may be larger."""

    def decompress(self, data: memoryview, size: int) -> bytes:
        """Return the value of ``size`` bytes. Raises `ValueError` if ``data`` is damaged; never allocates more than that."""


def decompress(codec: Codec, data: bytes) -> bytes | None:
    """Return the value of a store's compressed record; None if it is damaged, or larger than any value may be."""
    if len(data) <= SIZE_PREFIX_BYTES or not 0 < original_size(data) <= MAX_FRAME_BYTES:
        return None

    try:
        return codec.decompress(memoryview(data)[SIZE_PREFIX_BYTES:], original_size(data))
    except ValueError:
        return None


class Compression:
    """Compress values and decompress answers, with a small cache of recent ones."""

    def __init__(self, codec: Codec | None, cache: MemoryCache) -> None:
        self._codec = codec
        self._cache = cache
        self._recent: dict[bytes, Raw] = {}
        """Decompressed by compressed value: equal bytes have equal values, whatever became of their entry."""
        self._recent_bytes = 0

    def compress(self, value: bytes, min_bytes: int) -> bytes | None:
        """Return the compressed value; None if the value is to be kept as it is. ``min_bytes`` 0 means never."""
        if not min_bytes or self._codec is None or not min_bytes <= len(value) <= MAX_BYTES:
            return None

        data = self._codec.compress(value)
        if SIZE_PREFIX_BYTES + len(data) > len(value) * (1 - MIN_SAVED_SHARE):
            return None

        return len(value).to_bytes(SIZE_PREFIX_BYTES, "big") + data

    def decompress(self, data: bytes) -> bytes | None:
        """Return the value of a store's compressed record; None if it is damaged or there is no codec."""
        return None if self._codec is None else decompress(self._codec, data)

    def answer(self, entry: Entry) -> Raw:
        """Return an entry's value as it is sent."""
        data = entry.value
        if not entry.state & COMPRESSED:
            return Raw(data)

        answer = self._recent.get(data)
        if answer is None:
            assert self._codec is not None  # noqa: S101 - for the type checker: nothing is compressed without one
            answer = Raw(self._codec.decompress(memoryview(data)[SIZE_PREFIX_BYTES:], entry.answer_bytes))
            self._remember(data, answer, entry.answer_bytes)

        return answer

    def _remember(self, data: bytes, answer: Raw, size: int) -> None:
        limit = self._cache.budget * RECENT_SHARE
        if size > limit:
            return

        self._recent[data] = answer
        self._recent_bytes += size
        # First in, first out: decompressing a popular value again now and then costs less than tracking the order of use.
        while self._recent_bytes > limit:
            oldest = next(iter(self._recent))
            del self._recent[oldest]
            self._recent_bytes -= original_size(oldest)
