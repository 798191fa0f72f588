import random

import pytest

from sidecard.core.cache.entry import Entry, Terms
from sidecard.core.cache.priority import MAX_PRIORITY, MIN_PRIORITY, Priorities
from sidecard_client.protocol.wire import Usage


def entry(dollars: float | None = None, seconds: float = 0.0, size: int = 700) -> Entry:
    """Return an entry of 1,000 bytes, or so."""
    usage = Usage(cost_dollars=dollars)
    return Entry("", b"v" * size, 0.0, seconds, Terms("scope", 300.0, 0.0, "default", usage))


def test_equal_entries_are_worth_exactly_one() -> None:
    """Then hits alone decide."""
    worth = Priorities()
    assert {worth.learn(entry(0.02, 3.0)) for _ in range(100)} == {1.0}


def test_worth_is_by_bytes() -> None:
    """The same cost in half the bytes is twice the worth."""
    worth = Priorities()
    worth.learn(entry(0.02))
    assert worth.of(entry(0.02, size=200)) == 2.0
    assert worth.of(entry(0.06)) == pytest.approx(3.0)


def test_currencies_have_scales_of_their_own() -> None:
    """The usual local call weighs as much as the usual dear one, and as what somebody just put."""
    worth = Priorities()
    for _ in range(10):
        worth.learn(entry(dollars=0.02, seconds=9.0))
        worth.learn(entry(seconds=2.0))
        worth.learn(entry())

    assert worth.of(entry(dollars=0.02)) == worth.of(entry(seconds=2.0)) == worth.of(entry()) == 1.0
    assert worth.of(entry(seconds=9.0)) == pytest.approx(4.5)


def test_dollars_of_nothing_are_not_known() -> None:
    """A free call is worth the time that it took."""
    worth = Priorities()
    worth.learn(entry(seconds=2.0))
    assert worth.of(entry(dollars=0.0, seconds=4.0)) == 2.0


def test_the_scale_is_the_median_of_what_came() -> None:
    """Of costs over six orders of magnitude, after a first that is far off."""
    chance = random.Random(1)
    worth = Priorities()
    worth.learn(entry(1e6))
    costs = [chance.lognormvariate(-5, 2) for _ in range(5000)]
    for cost in costs:
        worth.learn(entry(cost))

    above = sum(worth.of(entry(cost)) > 1 for cost in costs)
    assert 0.4 < above / len(costs) < 0.6


def test_one_in_ten_who_lies_does_not_move_the_scale_far() -> None:
    """By how much depends on how many lie, not on what they say."""
    worth = Priorities()
    for number in range(5000):
        worth.learn(entry(1e9 if number % 10 == 0 else 0.01 * (1 + number % 7)))

    assert 0.5 < worth.of(entry(0.04)) < 1.5
    assert worth.of(entry(1e9)) == MAX_PRIORITY
    assert worth.of(entry(1e-12)) == MIN_PRIORITY


def test_a_flood_of_lies_passes() -> None:
    """It moves the scale by steps; a few hundred usual newcomers move it back."""
    worth = Priorities()
    for number in range(1500):
        worth.learn(entry(1e9 if 500 <= number < 600 else 0.01 * (1 + number % 7)))
        if number == 600:
            assert MIN_PRIORITY < worth.of(entry(1.0)) < MAX_PRIORITY

    assert 0.5 < worth.of(entry(0.04)) < 2.0
