"""The host's retry budget."""

import pytest

from sidecard.core.backends.retry_budget import RetryBudget
from sidecard.core.settings import EngineSettings, LiveSettings, RetrySettings


def budget(jitter: float = 0.5, **settings: float) -> RetryBudget:
    """Return a budget with a fixed jitter."""
    return RetryBudget(LiveSettings(EngineSettings(retries=RetrySettings(**settings))), lambda: jitter)


def withdrawn(retries: RetryBudget, now: float) -> int:
    """Withdraw until the budget is empty; return how many retries there were."""
    count = 0
    while retries.withdraw(now):
        count += 1

    return count


def test_the_floor_needs_no_calls() -> None:
    """Ten retries a second over ten seconds."""
    assert withdrawn(budget(), 0.0) == 100


def test_each_call_adds_its_share() -> None:
    """A fifth of the calls, in addition to the floor."""
    retries = budget(floor_per_second=1.0)
    for _ in range(50):
        retries.deposit(0.0)

    assert withdrawn(retries, 0.0) == 10 + 10


def test_without_share_and_floor_there_are_no_retries() -> None:
    """An operator may forbid retries."""
    retries = budget(share=0.0, floor_per_second=0.0)
    retries.deposit(0.0)

    assert not retries.withdraw(0.0)


def test_a_fraction_of_a_retry_is_not_granted() -> None:
    """Four calls at a fifth are not yet one retry; five are."""
    retries = budget(floor_per_second=0.0)
    for _ in range(4):
        retries.deposit(0.0)

    assert not retries.withdraw(0.0)
    retries.deposit(0.0)
    assert retries.withdraw(0.0)
    assert not retries.withdraw(0.0)


def test_the_window_slides() -> None:
    """Calls and retries count for ten seconds, to the second."""
    retries = budget(floor_per_second=0.0, share=1.0)
    for _ in range(3):
        retries.deposit(0.5)

    assert retries.withdraw(0.9)
    assert withdrawn(retries, 5.0) == 2
    retries.deposit(6.0)
    assert withdrawn(retries, 9.9) == 1
    retries.deposit(10.0)
    assert withdrawn(retries, 10.0) == 0, "the three calls have left, the retries of second 5 have not"
    assert withdrawn(retries, 15.0) == 1


def test_a_pause_resets_the_budget() -> None:
    """After an hour it is as at the start."""
    retries = budget(floor_per_second=1.0)
    withdrawn(retries, 0.0)

    assert withdrawn(retries, 3600.0) == 10


@pytest.mark.parametrize(
    ("number", "longest"), [(1, 0.5), (2, 1.0), (3, 2.0), (4, 4.0), (5, 8.0), (6, 8.0), (10_000, 8.0)]
)
def test_the_backoff_doubles_up_to_its_maximum_with_jitter(number: int, longest: float) -> None:
    """Workers that failed together do not retry together."""
    assert budget(jitter=0.0).backoff_seconds(number) == longest / 2
    assert budget(jitter=0.999999).backoff_seconds(number) == pytest.approx(longest)
