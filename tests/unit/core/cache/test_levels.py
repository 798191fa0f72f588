import pytest

from sidecard.core.cache.entry import LEVELS, Entry, Terms
from sidecard.core.cache.eviction import PROBATION
from sidecard.core.cache.levels import LEVELS_PER_DOUBLING, Partition, level_of
from sidecard.core.cache.priority import MAX_PRIORITY, MIN_PRIORITY

TERMS = Terms("scope", 300.0, 0.0, "default")


def at(level: int, name: str = "key") -> Entry:
    """Return an entry of a level."""
    entry = Entry(name, b"", 0.0, 1.0, TERMS)
    entry.set_level(0, level)
    return entry


def test_level_of_rises_with_the_value() -> None:
    """A doubled value is `LEVELS_PER_DOUBLING` levels higher."""
    assert level_of(2.0) - level_of(1.0) == LEVELS_PER_DOUBLING
    assert level_of(1.0) - level_of(0.25) == 2 * LEVELS_PER_DOUBLING


@pytest.mark.parametrize("value", [1e-30, PROBATION * MIN_PRIORITY, 14 * MAX_PRIORITY, 1e30])
def test_every_value_has_a_level(value: float) -> None:
    """Possible values are within the levels; values beyond are clamped to the ends."""
    assert 0 <= level_of(value) < LEVELS
    possible = PROBATION * MIN_PRIORITY <= value <= 14 * MAX_PRIORITY
    assert (0 < level_of(value) < LEVELS - 1) == possible


def test_the_first_due_is_found_among_all_levels() -> None:
    """An old entry of high value is due before a new one of low value."""
    partition = Partition()
    partition.push(at(level_of(4.0), "valuable"), 0.0)
    partition.push(at(level_of(1.0), "late"), 10.0)
    due, number = partition.next_due()
    assert due == pytest.approx(4.0, rel=0.2)
    assert partition.pop(number).key == "valuable"
    assert partition.pop(partition.next_due()[1]).key == "late"
    assert not partition.levels


def test_entries_that_are_due_together_share_a_batch() -> None:
    """They leave in order, due at most a sixteenth of their value early."""
    partition = Partition()
    number = level_of(1.0)
    for position in range(100):
        partition.push(at(number, str(position)), position / 100)

    assert 10 < len(partition.levels[number].batches) < 20
    dues = []
    for position in range(100):
        due, _ = partition.next_due()
        assert position / 100 - 1 / 16 <= due - 1.0 <= position / 100 + 1e-9
        dues.append(due)
        assert partition.pop(number).key == str(position)

    assert dues == sorted(dues)
