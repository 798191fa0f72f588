"""Compression by zstd."""

import random

import pytest

from sidecard.adapters.zstd import Zstd
from sidecard_client.protocol import wire

TEXT = b"The capital of France is Paris, and the capital of Spain is Madrid. " * 50


def test_compression_is_reversible() -> None:
    """And makes text smaller."""
    data = Zstd().compress(TEXT)
    assert len(data) < len(TEXT) / 10
    value = Zstd().decompress(memoryview(data), len(TEXT))
    assert (type(value), value) == (bytes, TEXT)


@pytest.mark.parametrize("size", [0, 1, len(TEXT) - 1, len(TEXT) + 1, 10 * len(TEXT)])
def test_decompress_with_a_wrong_size_raises(size: int) -> None:
    """A smaller buffer is not exceeded, and a larger one is not padded."""
    data = Zstd().compress(TEXT)
    with pytest.raises(ValueError, match="compressed value"):
        Zstd().decompress(memoryview(data), size)


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: data[:0],
        lambda data: data[:-1],
        lambda data: data[1:],
        lambda data: data + b"x",
        lambda data: data + data,
        lambda data: b"\x00" * len(data),
        lambda data: data[:4] + bytes(byte ^ 0xFF for byte in data[4:]),
    ],
)
def test_decompress_of_damaged_data_raises(damage: object) -> None:
    """Cut off, extended, or altered."""
    assert callable(damage)
    with pytest.raises(ValueError, match="compressed value"):
        Zstd().decompress(memoryview(damage(Zstd().compress(TEXT))), len(TEXT))


def test_floats_hardly_compress() -> None:
    """Therefore values that save too little are kept as they are."""
    chance = random.Random(1)
    floats = wire.pack([chance.gauss(0.0, 0.05) for _ in range(1000)])
    assert len(Zstd().compress(floats)) > 0.9 * len(floats)
