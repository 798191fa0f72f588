"""Exponential back-off: doubling, its bound, its jitter."""

from sidecard_client.protocol.backoff import Backoff, backoff_seconds


def test_backoff_seconds_double_up_to_the_maximum() -> None:
    """Each failure doubles the delay until the maximum, however many follow."""
    assert [backoff_seconds(failures, 0.5, 3.0) for failures in (1, 2, 3, 4, 10_000)] == [0.5, 1.0, 2.0, 3.0, 3.0]


def test_failed_sets_the_instant_of_the_next_try() -> None:
    """The delay is returned for those that sleep, and kept as an instant for those that compare."""
    backoff = Backoff(1.0, 8.0)
    assert backoff.remaining_seconds(0.0) < 0
    assert backoff.failed(10.0) == 1.0
    assert backoff.failed(20.0) == 2.0
    assert backoff.retry_at == 22.0
    assert backoff.remaining_seconds(21.5) == 0.5
    assert repr(backoff) == "<Backoff failures=2 retry_at=22>"


def test_reset_makes_the_next_try_due_immediately() -> None:
    """After a success the next outage starts with the first delay again."""
    backoff = Backoff(1.0, 8.0)
    backoff.failed(10.0)
    backoff.failed(11.0)
    backoff.reset()
    assert backoff.failures == 0
    assert backoff.remaining_seconds(0.0) < 0
    assert backoff.failed(20.0) == 1.0


def test_jitter_shortens_a_delay_by_at_most_its_share() -> None:
    """A delay lies between the share that is left and the whole of it."""
    drawn = [0.0]
    backoff = Backoff(4.0, 64.0, jitter=lambda: drawn[0], jitter_share=0.25)
    assert backoff.failed(0.0) == 4.0
    drawn[0] = 1.0
    assert backoff.failed(0.0) == 6.0


def test_extra_seconds_are_added_in_full() -> None:
    """A server's Retry-After is the least delay: jitter must not shorten it."""
    backoff = Backoff(4.0, 64.0, jitter=lambda: 1.0, jitter_share=0.5)
    assert backoff.failed(100.0, extra_seconds=30.0) == 32.0
    assert backoff.retry_at == 132.0
