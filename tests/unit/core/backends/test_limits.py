"""Minute limits, and the adaptive limit."""

import random

import pytest

from sidecard.core.backends.limits import INITIAL_LIMIT, WARM_UP_SAMPLES, AdaptiveLimit, MinuteLimit


def test_a_limit_of_0_always_has_room() -> None:
    """Nothing is counted."""
    limit = MinuteLimit(0.0)
    limit.spend(1e9, 5.0)

    assert limit.has_room(1e9, 5.0)
    assert limit.room_at(1e9, 5.0) == 5.0
    assert limit.untouched(5.0)


def test_spending_counts_for_a_minute() -> None:
    """What was spent in a second counts until 60 seconds after that second has ended."""
    limit = MinuteLimit(3)
    for at in (0.0, 0.9, 30.5):
        assert limit.has_room(1.0, at)
        limit.spend(1.0, at)

    assert not limit.has_room(1.0, 30.5)
    assert limit.room_at(1.0, 30.5) == 61.0
    assert not limit.has_room(1.0, 60.9)
    assert limit.has_room(2.0, 61.0)
    assert not limit.has_room(3.0, 61.0)
    assert limit.room_at(3.0, 61.0) == 91.0


def test_more_than_the_limit_never_has_room() -> None:
    """`room_at` then returns when nothing is spent."""
    limit = MinuteLimit(100)
    assert not limit.has_room(101.0, 0.0)
    assert limit.room_at(101.0, 0.0) == 0.0
    limit.spend(50.0, 0.0)

    assert limit.room_at(101.0, 5.0) == 61.0
    assert not limit.untouched(60.9)
    assert limit.untouched(61.0)


def test_no_minute_has_more_than_the_limit() -> None:
    """A token bucket would admit twice as much after a pause. A caller that waits until `room_at` finds room."""
    chance = random.Random(7)
    limit, now, spent = MinuteLimit(10), 0.0, list[tuple[float, float]]()
    for _ in range(3000):
        now += chance.choice([0.0, 0.1, 0.5, 3.0, 90.0])
        amount = chance.choice([1.0, 1.0, 4.0, 0.5])
        if not limit.has_room(amount, now):
            now = limit.room_at(amount, now)
            assert limit.has_room(amount, now)

        limit.spend(amount, now)
        spent.append((now, amount))
        assert sum(some for at, some in spent if at > now - 60) <= 10


def test_an_untouched_limit_has_no_rounding_error() -> None:
    """Sums of tenths return to exactly 0."""
    limit = MinuteLimit(1.0)
    for number in range(10):
        limit.spend(0.1, float(number))

    assert limit.has_room(1.0, 1000.0)


def sampled(limit: AdaptiveLimit, seconds: float, count: int, load: float = 1.0) -> int:
    """Add samples of so many seconds under load (1: as many in progress as the limit), and return the limit."""
    for _ in range(count):
        limit.sample(seconds, max(1, round(limit.limit * load)))

    return limit.limit


def test_the_limit_starts_low_and_never_above_the_maximum() -> None:
    """A local model has a few slots."""
    assert AdaptiveLimit(50).limit == INITIAL_LIMIT
    assert AdaptiveLimit(2).limit == 2


def test_the_limit_grows_while_latency_is_constant() -> None:
    """Up to the configured maximum."""
    limit = AdaptiveLimit(20)

    assert sampled(limit, 0.02, 300) == 20


def test_the_limit_falls_with_latency_and_recovers() -> None:
    """A backend that queues internally gets fewer calls at a time until it is fast again."""
    limit = AdaptiveLimit(20)
    sampled(limit, 0.02, 100)
    assert limit.limit == 20
    fallen = sampled(limit, 0.2, 20)
    assert fallen <= 10

    assert sampled(limit, 0.02, 300) == 20


def test_the_limit_stays_at_least_one() -> None:
    """Otherwise no call could find that the backend is fast again."""
    limit = AdaptiveLimit(20)
    sampled(limit, 0.001, WARM_UP_SAMPLES + 1)
    for number in range(60):
        limit.sample(0.01 * 1.5**number, limit.limit)
        assert limit.limit >= 1


def test_the_limit_settles_near_a_servers_slots() -> None:
    """A server with four slots queues the rest internally: the limit stays near four times the tolerance."""
    limit, chance = AdaptiveLimit(64), random.Random(3)
    seen = []
    for _ in range(600):
        in_progress = limit.limit
        limit.sample(0.02 * max(1.0, in_progress / 4) * chance.uniform(0.95, 1.05), in_progress)
        seen.append(limit.limit)

    assert min(seen[50:]) >= 3
    assert max(seen[50:300]) <= 32


def test_without_load_the_limit_stays() -> None:
    """One call at a time says nothing about how many the backend can take."""
    limit = AdaptiveLimit(20)
    limit.sample(0.02, 4)
    before = limit.limit
    for _ in range(500):
        limit.sample(0.02, 1)

    assert limit.limit == before


@pytest.mark.parametrize("seconds", [0.0, -1.0])
def test_a_sample_of_0_seconds_is_ignored(seconds: float) -> None:
    """The clock's resolution must not count as infinitely fast."""
    limit = AdaptiveLimit(20)
    sampled(limit, seconds, 100)

    assert limit.limit == INITIAL_LIMIT


def test_the_mean_of_the_first_samples_is_their_average() -> None:
    """Each of them counts as much as the others."""
    limit = AdaptiveLimit(20)
    for seconds in (0.5, 0.7, 0.9):
        limit.sample(seconds, 1)

    assert limit._mean == pytest.approx(0.7)
