"""Minute limits, and the limit that adapts."""

import random

import pytest

from sidecard.core.backends.limits import INITIAL_LIMIT, WARM_UP_SAMPLES, AdaptiveLimit, MinuteLimit


def test_no_limit_has_room_for_all() -> None:
    """0 is none, and nothing is counted."""
    limit = MinuteLimit(0.0)
    limit.spend(1e9, 5.0)

    assert limit.has_room(1e9, 5.0)
    assert limit.room_at(1e9, 5.0) == 5.0
    assert limit.untouched(5.0)


def test_a_minutes_share_is_spent_and_comes_back() -> None:
    """To the second: what was spent in a second counts until 60 seconds after that second has ended."""
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


def test_more_than_the_share_never_has_room() -> None:
    """But there is an instant from which nothing is spent."""
    limit = MinuteLimit(100)
    assert not limit.has_room(101.0, 0.0)
    assert limit.room_at(101.0, 0.0) == 0.0
    limit.spend(50.0, 0.0)

    assert limit.room_at(101.0, 5.0) == 61.0
    assert not limit.untouched(60.9)
    assert limit.untouched(61.0)


def test_never_more_than_the_share_within_any_minute() -> None:
    """A bucket that refills would let twice as much through after a pause; and whoever comes when told finds room."""
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


def test_an_untouched_limit_has_no_rounding_left() -> None:
    """Sums of tenths that come and go leave nothing behind."""
    limit = MinuteLimit(1.0)
    for number in range(10):
        limit.spend(0.1, float(number))

    assert limit.has_room(1.0, 1000.0)


def sampled(limit: AdaptiveLimit, seconds: float, count: int, load: float = 1.0) -> int:
    """Bring samples of so many seconds under load (1: as many in progress as the limit is), and return the limit."""
    for _ in range(count):
        limit.sample(seconds, max(1, round(limit.limit * load)))

    return limit.limit


def test_it_begins_low_and_never_above_its_most() -> None:
    """A local model has a few slots."""
    assert AdaptiveLimit(50).limit == INITIAL_LIMIT
    assert AdaptiveLimit(2).limit == 2


def test_it_grows_while_calls_take_as_long_as_ever() -> None:
    """Up to the most that was configured, and not beyond."""
    limit = AdaptiveLimit(20)

    assert sampled(limit, 0.02, 300) == 20


def test_it_falls_where_load_makes_each_token_slower_and_grows_back() -> None:
    """The backend queues inside: fewer at once. When it is fast again, so is the limit what it was."""
    limit = AdaptiveLimit(20)
    sampled(limit, 0.02, 100)
    assert limit.limit == 20
    fallen = sampled(limit, 0.2, 20)
    assert fallen <= 10

    assert sampled(limit, 0.02, 300) == 20


def test_it_stays_at_least_one() -> None:
    """However slow it gets, someone may call, or nobody would ever learn that it is fast again."""
    limit = AdaptiveLimit(20)
    sampled(limit, 0.001, WARM_UP_SAMPLES + 1)
    for number in range(60):
        limit.sample(0.01 * 1.5**number, limit.limit)
        assert limit.limit >= 1


def test_it_settles_where_a_server_of_four_slots_does_its_best() -> None:
    """A server that works on four and queues the rest inside: the limit stays near four times the tolerance."""
    limit, chance = AdaptiveLimit(64), random.Random(3)
    seen = []
    for _ in range(600):
        in_progress = limit.limit
        limit.sample(0.02 * max(1.0, in_progress / 4) * chance.uniform(0.95, 1.05), in_progress)
        seen.append(limit.limit)

    assert min(seen[50:]) >= 3
    assert max(seen[50:300]) <= 32


def test_without_load_it_does_not_move() -> None:
    """One call at a time says nothing of how many the backend takes."""
    limit = AdaptiveLimit(20)
    limit.sample(0.02, 4)
    before = limit.limit
    for _ in range(500):
        limit.sample(0.02, 1)

    assert limit.limit == before


@pytest.mark.parametrize("seconds", [0.0, -1.0])
def test_what_is_no_time_is_no_sample(seconds: float) -> None:
    """A clock's grain must not count as infinitely fast."""
    limit = AdaptiveLimit(20)
    sampled(limit, seconds, 100)

    assert limit.limit == INITIAL_LIMIT
