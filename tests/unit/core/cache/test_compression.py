"""Which values are compressed, how recent ones are cached, and how damage is detected."""

import random

import pytest

from sidecard.adapters.zstd import Zstd
from sidecard.core.cache.compression import MAX_BYTES, MIN_SAVED_SHARE, RECENT_SHARE, Compression, decompress
from sidecard.core.cache.entry import COMPRESSED, SIZE_PREFIX_BYTES, Entry, Terms, original_size
from sidecard.core.cache.memory import MemoryCache
from sidecard_client.protocol.wire import MAX_FRAME_BYTES

TERMS = Terms("1000:default", 300.0, 60.0, "default")
TEXT = b"The capital of France is Paris, and the capital of Spain is Madrid. " * 100


class CountingZstd(Zstd):
    """Count decompressions."""

    def __init__(self) -> None:
        self.expanded = 0

    def decompress(self, data: memoryview, size: int) -> bytes:
        """Count, and decompress."""
        self.expanded += 1
        return super().decompress(data, size)


def noise(size: int) -> bytes:
    """Return incompressible bytes."""
    return random.Random(size).randbytes(size)


def compression(max_bytes: int = 64 * 1024 * 1024) -> tuple[Compression, CountingZstd]:
    """Return a compression and its codec."""
    codec = CountingZstd()
    return Compression(codec, MemoryCache(max_bytes)), codec


def kept(of: Compression, value: bytes) -> Entry:
    """Return an entry with a compressed value."""
    data = of.compress(value, 1)
    assert data is not None
    return Entry("key", data, 0.0, 1.0, TERMS, COMPRESSED)


@pytest.mark.parametrize(
    ("value", "min_bytes"),
    [
        (TEXT, 0),
        (TEXT, len(TEXT) + 1),
        (b"", 1),
        (b"\x01", 1),
        (noise(5000), 1),
        (b"x" * (MAX_BYTES + 1), 1),
    ],
)
def test_compress_of_small_huge_or_random_values_keeps_them(value: bytes, min_bytes: int) -> None:
    """They are kept as they are, and so is every value if ``min_bytes`` is 0."""
    assert compression()[0].compress(value, min_bytes) is None


@pytest.mark.parametrize("value", [TEXT, b"x" * MAX_BYTES])
def test_compress_prefixes_the_size_and_is_reversible(value: bytes) -> None:
    """At both ends of the sizes that are compressed."""
    of, codec = compression()
    data = of.compress(value, len(value))
    assert data is not None
    assert original_size(data) == len(value)
    assert len(data) <= len(value) * (1 - MIN_SAVED_SHARE)
    assert decompress(codec, data) == value
    assert of.decompress(data) == value


def test_compressing_must_save_an_eighth() -> None:
    """A value is compressed as soon as that saves an eighth of it."""
    of, _ = compression()
    just = [size for size in range(0, 4000, 10) if of.compress(noise(4000 - size) + b"x" * size, 1) is not None]
    assert 500 <= just[0] <= 540
    assert just == list(range(just[0], 4000, 10))
    for size in range(just[0] - 20, just[0] + 20):
        data = of.compress(noise(4000 - size) + b"x" * size, 1)
        assert data is None or len(data) <= 4000 * (1 - MIN_SAVED_SHARE)


def test_without_a_codec_nothing_is_compressed_or_decompressed() -> None:
    """A shared store may hold compressed records of a host that has a codec."""
    of = Compression(None, MemoryCache(1000))
    assert of.compress(TEXT, 1) is None
    data = compression()[0].compress(TEXT, 1)
    assert data is not None
    assert of.decompress(data) is None


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x00" * SIZE_PREFIX_BYTES,
        b"\x00" * 20,
        len(TEXT).to_bytes(SIZE_PREFIX_BYTES, "big") + Zstd().compress(TEXT)[:-1],
        (len(TEXT) - 1).to_bytes(SIZE_PREFIX_BYTES, "big") + Zstd().compress(TEXT),
        (len(TEXT) + 1).to_bytes(SIZE_PREFIX_BYTES, "big") + Zstd().compress(TEXT),
        (MAX_FRAME_BYTES + 1).to_bytes(SIZE_PREFIX_BYTES, "big") + Zstd().compress(b"\x00" * (MAX_FRAME_BYTES + 1)),
        b"\xff\xff\xff\xff" + Zstd().compress(TEXT),
        len(TEXT).to_bytes(SIZE_PREFIX_BYTES, "big") + Zstd().compress(b"\x00" * 50_000_000),
    ],
)
def test_decompress_of_damaged_records_and_bombs_returns_none(data: bytes) -> None:
    """No record gets more memory than its declared size, or than the largest value."""
    assert decompress(Zstd(), data) is None


def test_answer_of_a_compressed_entry_equals_the_original() -> None:
    """The answer and its size do not depend on compression."""
    of, _ = compression()
    for entry in (Entry("key", TEXT, 0.0, 1.0, TERMS), kept(of, TEXT)):
        assert bytes(of.answer(entry)) == TEXT
        assert entry.answer_bytes == len(TEXT)


def test_a_popular_value_is_decompressed_once() -> None:
    """Entries with equal values share it."""
    of, codec = compression()
    for _ in range(10):
        assert bytes(of.answer(kept(of, TEXT))) == TEXT

    assert codec.expanded == 1


def test_recent_answers_are_bounded() -> None:
    """The oldest answers are dropped, and an answer above the bound is not kept."""
    size = 20_000
    of, codec = compression(int(3.5 * size / RECENT_SHARE))
    entries = [kept(of, bytes([letter]) * size) for letter in b"abcd"]
    for entry in entries[:3] * 3:
        of.answer(entry)

    assert codec.expanded == 3
    of.answer(entries[3])
    of.answer(entries[1])
    assert codec.expanded == 4
    of.answer(entries[0])
    assert codec.expanded == 5
    assert of._recent_bytes == sum(len(memoryview(answer)) for answer in of._recent.values()) == 3 * size
    large = kept(of, b"x" * 5 * size)
    of.answer(large)
    of.answer(large)
    assert codec.expanded == 7
    assert len(of._recent) == 3


def test_recent_answers_shrink_with_the_cache() -> None:
    """The new bound applies at the next answer."""
    of, _ = compression(int(3.5 * 20_000 / RECENT_SHARE))
    for letter in b"abc":
        of.answer(kept(of, bytes([letter]) * 20_000))

    of._cache.resize(int(1.5 * 20_000 / RECENT_SHARE), 0.0)
    of.answer(kept(of, b"d" * 20_000))
    assert of._recent_bytes == 20_000
