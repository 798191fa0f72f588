"""The demo's workload: equal in each run, with repeats and bursts."""

from collections import Counter

import pytest

from sidecard.cli.demo.workload import BURST_EVERY, MAX_PAUSE_SECONDS, QUESTIONS, turns


def test_turns_are_the_same_in_each_run() -> None:
    """A seed determines the workload."""
    assert turns(4, 15) == turns(4, 15)
    assert turns(4, 15, seed=1) != turns(4, 15, seed=2)


@pytest.mark.parametrize(("workers", "questions"), [(1, 1), (4, 15), (3, 40)])
def test_turns_have_the_requested_size(workers: int, questions: int) -> None:
    """Each worker gets the requested number of known questions."""
    plans = turns(workers, questions)

    assert [len(plan) for plan in plans] == [questions] * workers
    assert {turn.question for plan in plans for turn in plan} <= set(QUESTIONS)


def test_bursts_ask_one_question_at_the_same_turn_of_all_workers() -> None:
    """Every fourth turn is the same question for all workers; other turns do not wait."""
    for position, row in enumerate(zip(*turns(4, 15), strict=True)):
        burst = position % BURST_EVERY == 0
        assert [turn.burst for turn in row] == [burst] * 4
        assert not burst or len({turn.question for turn in row}) == 1


def test_bursts_ask_new_questions() -> None:
    """A known question would be answered by the cache instead of being shared."""
    plans = turns(4, 15)
    for position in range(0, 15, BURST_EVERY):
        before = {turn.question for plan in plans for turn in plan[:position]}
        assert plans[0][position].question not in before


def test_questions_repeat_as_in_real_traffic() -> None:
    """The default workload asks all questions, the first far more often than the median one."""
    asked = Counter(turn.question for plan in turns(4, 15) for turn in plan)

    assert asked.total() == 60
    assert set(asked) == set(QUESTIONS)
    assert asked[QUESTIONS[0]] >= 3 * sorted(asked.values())[len(asked) // 2]


def test_pauses_are_short_and_not_in_bursts() -> None:
    """A burst starts when all workers wait for it; other turns have a short pause."""
    for turn in (turn for plan in turns(4, 15) for turn in plan):
        assert 0 <= turn.pause_seconds <= MAX_PAUSE_SECONDS
        assert not (turn.burst and turn.pause_seconds)
