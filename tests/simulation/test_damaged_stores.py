"""Randomly damaged stores, spools and ledgers: a daemon starts on each, and never serves what was not stored.

After Redis' ``corrupt-dump-fuzzer``. Each failure names its seed.
"""

import random
from collections.abc import Callable

import pytest

from tests.fuzz.file_targets import VALUES, store_file, whole_store

SEEDS = range(12)
STORES_PER_SEED = 12


def _bits(dice: random.Random, size: int) -> list[tuple[int, int]]:
    """Change some bytes anywhere."""
    return [(dice.randrange(size), dice.randrange(256)) for _ in range(dice.choice((1, 1, 3, 30)))]


def _sector(dice: random.Random, size: int) -> list[tuple[int, int]]:
    """Replace a sector by zeros, or by noise."""
    start = dice.randrange(size // 512) * 512
    noise = dice.random() < 0.5
    return [(start + at, dice.randrange(256) if noise else 0) for at in range(512)]


@pytest.mark.parametrize("damage", [_bits, _sector])
@pytest.mark.parametrize("seed", SEEDS)
def test_store_with_random_damage_serves_only_stored_values(
    seed: int, damage: Callable[[random.Random, int], list[tuple[int, int]]]
) -> None:
    """A damaged store serves stored values or nothing."""
    dice = random.Random(seed)
    size = len(whole_store())
    for _ in range(STORES_PER_SEED):
        places = damage(dice, size)
        store_file(b"".join(place.to_bytes(4, "big") + bytes((byte,)) for place, byte in places))


def test_store_with_a_damaged_value_serves_all_other_values() -> None:
    """A value whose bytes have changed is not served, though SQLite finds no fault with the file."""
    whole = whole_store()
    for key, value in VALUES.items():
        place = whole.index(value[-200:])
        store_file((place + 100).to_bytes(4, "big") + b"\xff")
        assert whole.count(value[-200:]) == 1, key
