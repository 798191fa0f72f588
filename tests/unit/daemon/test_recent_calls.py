"""Calls of the last minutes that were rejected or failed."""

from collections import Counter

import pytest

from sidecard.core.counters import Counters
from sidecard.daemon.recent_calls import MIN_CALLS, SAMPLE_SECONDS, WINDOW_SECONDS, RecentCalls


class Calls:
    """Counters, a clock, and the problems seen from them."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.counters = Counters()
        self.leases = Counter[tuple[str, str]]()
        self.recent = RecentCalls(self.counters, self.leases, lambda: self.now)

    def reject(self, reason: str, number: int = 1) -> None:
        """Begin calls and reject them."""
        self.counters.begins += number
        name = f"rejected_{reason}"
        setattr(self.counters, name, getattr(self.counters, name) + number)

    def pass_seconds(self, seconds: float) -> None:
        """Let time pass, with samples."""
        for _ in range(round(seconds / SAMPLE_SECONDS)):
            self.now += SAMPLE_SECONDS
            self.recent.sample()


@pytest.fixture
def calls() -> Calls:
    """Return counters of a daemon that has just started."""
    return Calls()


def test_rejections_are_reported_with_their_reasons(calls: Calls) -> None:
    """Also before the first sample; most frequent first."""
    calls.reject("busy", 3)
    calls.reject("budget", 1395)
    calls.counters.begins += 27
    calls.now += 20
    assert calls.recent.rejections() == "Calls are rejected: 1,398 of 1,425 in the last 20 s (budget 1,395, busy 3)."


@pytest.mark.parametrize(("number", "begins"), [(MIN_CALLS - 1, 4), (MIN_CALLS, 100 * MIN_CALLS + 1)])
def test_few_rejections_are_no_problem(number: int, begins: int, calls: Calls) -> None:
    """Neither in number nor as a share."""
    calls.reject("saturated", number)
    calls.counters.begins = begins
    assert calls.recent.rejections() == ""
    calls.reject("saturated")
    assert calls.recent.rejections() != ""


@pytest.mark.parametrize("reason", ["not_cached", "draining"])
def test_rejections_that_were_asked_for_are_no_problem(reason: str, calls: Calls) -> None:
    """A caller that accepts stored answers only is rejected by its own choice."""
    calls.reject(reason, 1000)
    assert calls.recent.rejections() == ""


def test_rejections_are_forgotten_after_the_window(calls: Calls) -> None:
    """The window moves with the samples."""
    calls.pass_seconds(2 * WINDOW_SECONDS)
    calls.reject("budget", 30)
    calls.pass_seconds(WINDOW_SECONDS - SAMPLE_SECONDS)
    assert calls.recent.rejections() == "Calls are rejected: 30 of 30 in the last 5 minutes (budget 30)."
    calls.pass_seconds(2 * SAMPLE_SECONDS)
    assert calls.recent.rejections() == ""
    assert len(calls.recent._samples) < WINDOW_SECONDS / SAMPLE_SECONDS + 2


def test_a_backend_whose_calls_fail_is_named(calls: Calls) -> None:
    """Others are not, and outcomes that say nothing about the backend do not count."""
    calls.leases.update({("cloud", "fatal"): 6, ("cloud", "lost"): 2, ("cloud", "done"): 8, ("cloud", "ignored"): 90})
    calls.leases.update({("local", "transient"): 7, ("local", "done"): 8, ("idle", "cancelled"): 50})
    calls.now += 120
    assert (
        calls.recent.failures() == "Calls failed in the last 2 minutes: 8 of 16 of backend 'cloud' (fatal 6, lost 2)."
    )


def test_few_failures_are_no_problem(calls: Calls) -> None:
    """The bound is inclusive."""
    calls.leases["cloud", "expired"] = MIN_CALLS - 1
    assert calls.recent.failures() == ""
    calls.leases["cloud", "expired"] += 1
    assert calls.recent.failures() != ""
    calls.pass_seconds(2 * WINDOW_SECONDS)
    assert calls.recent.failures() == ""


def test_the_sentence_of_many_failing_backends_is_short(calls: Calls) -> None:
    """The worst come first."""
    calls.leases.update({(f"b{number}", "fatal"): 10 + number for number in range(6)})
    sentence = calls.recent.failures()
    assert sentence.index("'b5'") < sentence.index("'b2'")
    assert "'b1'" not in sentence
    assert sentence.endswith(", and those of 2 more backends.")
