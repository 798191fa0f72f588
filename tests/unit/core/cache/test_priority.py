import random

import pytest

from sidecard.core.cache.entry import Entry, Terms
from sidecard.core.cache.priority import MAX_PRIORITY, MIN_PRIORITY, Priorities
from sidecard_client.protocol.wire import Usage


def entry(dollars: float | None = None, seconds: float = 0.0, size: int = 700) -> Entry:
    """Return an entry of about 1,000 bytes."""
    usage = Usage(cost_dollars=dollars)
    return Entry("", b"v" * size, 0.0, seconds, Terms("scope", 300.0, 0.0, "default", usage))


def learn(priorities: Priorities, new: Entry) -> float:
    """Add a new entry; return its priority."""
    return priorities.learn(new, new.charge)


def test_equal_entries_have_priority_one() -> None:
    """Then hits alone decide."""
    priorities = Priorities()
    assert {learn(priorities, entry(0.02, 3.0)) for _ in range(100)} == {1.0}


def test_priority_is_per_byte() -> None:
    """The same cost in half the bytes has twice the priority."""
    priorities = Priorities()
    learn(priorities, entry(0.02))
    assert priorities.of(entry(0.02, size=200)) == 2.0
    assert priorities.of(entry(0.06)) == pytest.approx(3.0)


def test_each_currency_has_its_own_scale() -> None:
    """The usual local call, the usual expensive one and the usual put have equal priority."""
    priorities = Priorities()
    for _ in range(10):
        learn(priorities, entry(dollars=0.02, seconds=9.0))
        learn(priorities, entry(seconds=2.0))
        learn(priorities, entry())

    assert priorities.of(entry(dollars=0.02)) == priorities.of(entry(seconds=2.0)) == priorities.of(entry()) == 1.0
    assert priorities.of(entry(seconds=9.0)) == pytest.approx(4.5)


def test_a_free_call_counts_its_seconds() -> None:
    """A cost of 0 dollars is no cost."""
    priorities = Priorities()
    learn(priorities, entry(seconds=2.0))
    assert priorities.of(entry(dollars=0.0, seconds=4.0)) == 2.0


def test_the_scale_is_the_median_of_new_entries() -> None:
    """Of costs over six orders of magnitude, after a first one that is far off."""
    chance = random.Random(1)
    priorities = Priorities()
    learn(priorities, entry(1e6))
    costs = [chance.lognormvariate(-5, 2) for _ in range(5000)]
    for cost in costs:
        learn(priorities, entry(cost))

    above = sum(priorities.of(entry(cost)) > 1 for cost in costs)
    assert 0.4 < above / len(costs) < 0.6


def test_false_reports_by_one_in_ten_hardly_move_the_scale() -> None:
    """The effect depends on the number of false reports, not on their size."""
    priorities = Priorities()
    for number in range(5000):
        learn(priorities, entry(1e9 if number % 10 == 0 else 0.01 * (1 + number % 7)))

    assert 0.5 < priorities.of(entry(0.04)) < 1.5
    assert priorities.of(entry(1e9)) == MAX_PRIORITY
    assert priorities.of(entry(1e-12)) == MIN_PRIORITY


def test_the_scale_recovers_from_a_series_of_false_reports() -> None:
    """Each moves the scale by one step; a few hundred usual entries move it back."""
    priorities = Priorities()
    for number in range(1500):
        learn(priorities, entry(1e9 if 500 <= number < 600 else 0.01 * (1 + number % 7)))
        if number == 600:
            assert MIN_PRIORITY < priorities.of(entry(1.0)) < MAX_PRIORITY

    assert 0.5 < priorities.of(entry(0.04)) < 2.0
