"""The bench of prefix affinity: its workloads, its plan, its targets, its table and its picture."""

from itertools import pairwise

import pytest

from tests.bench.prefixes import picture, report
from tests.bench.prefixes.harness import Plan, Run
from tests.bench.prefixes.report import Best
from tests.bench.prefixes.ways import AFFINITY, ALONE, ARRIVAL, DEFAULT_LIMIT, GROUPED, WAYS
from tests.bench.prefixes.workloads import Workload, workloads

WORKLOADS = workloads()
PREFIXES, LONG, DOCUMENTS, CHATS, UNSHARED = WORKLOADS


def test_workloads_depend_on_nothing_but_their_length() -> None:
    """Two runs measure the same prompts."""
    assert workloads() == WORKLOADS
    assert workloads(100) != WORKLOADS


def test_workloads_have_the_shape_of_their_descriptions() -> None:
    """Calls, shared prefixes and lengths."""
    assert [one.calls for one in WORKLOADS] == [30, 30, 24, 80, 24]
    assert sorted(script.group for script in PREFIXES.scripts) == [group for group in range(6) for _ in range(5)]
    assert {len(script.system.split()) for script in PREFIXES.scripts} == {900}
    assert {script.system for script in PREFIXES.scripts} == {script.system for script in LONG.scripts}
    assert {script.answer_tokens for script in LONG.scripts} == {64}
    assert len({script.system for script in DOCUMENTS.scripts}) == 1
    assert len({script.system for script in UNSHARED.scripts}) == UNSHARED.calls


@pytest.mark.parametrize("workload", WORKLOADS, ids=lambda workload: workload.name)
def test_no_two_calls_are_equal(workload: Workload) -> None:
    """Equal calls would be shared, and measure something else."""
    assert len({(script.system, script.turns) for script in workload.scripts}) == len(workload.scripts)


def test_sorting_puts_calls_of_a_prefix_together() -> None:
    """Each prefix is one run of calls; the arrival order has more."""
    groups = [script.group for script in GROUPED.scripts(PREFIXES)]
    assert sum(one != other for one, other in pairwise(groups)) == 5
    arrived = [script.group for script in ALONE.scripts(PREFIXES)]
    assert sum(one != other for one, other in pairwise(arrived)) > 15


def test_ways_of_targets_are_measured_in_each_round_and_the_others_once() -> None:
    """The others after the first round, some only with long prefixes; the orders of ways and workloads turn."""
    first, others, second = Plan(WORKLOADS, WAYS, rounds=2, seconds=60).passes()
    repeated = {*(way.name for way in ARRIVAL.values()), AFFINITY.name}
    assert {way.name for _, way in first} == {way.name for _, way in second} == repeated
    assert {way.name for workload, way in others if workload is PREFIXES} == {way.name for way in WAYS} - repeated
    assert [way for workload, way in others if workload in (CHATS, UNSHARED)] == [ALONE, ALONE]
    assert [workload for workload, _ in second[:: len(second) // 5]] == WORKLOADS[::-1]
    assert first[0][1] == ARRIVAL[1] != second[0][1]


def best(workload: Workload, way: str, seconds: float, processed: int = 1000) -> Best:
    """Return a result."""
    return Best(workload.name, way, seconds, seconds / 2, processed, 1000, 1)


def test_targets_compare_with_arrival_order() -> None:
    """The best static limit, arrival at the highest limit, and the tokens."""
    results = [
        best(PREFIXES, ARRIVAL[1].name, 18.0),
        best(PREFIXES, ARRIVAL[4].name, 30.0, 12_000),
        best(PREFIXES, AFFINITY.name, 19.0, 6_000),
        best(UNSHARED, ARRIVAL[DEFAULT_LIMIT].name, 10.0),
        best(UNSHARED, AFFINITY.name, 11.0),
    ]
    found = list(report.targets(results, WORKLOADS))
    assert [(round(one.measured, 3), one.met) for one in found] == [
        (1.056, True), (1.579, True), (0.5, True), (1.1, False)
    ]  # fmt: skip


def test_best_has_the_least_time_and_the_mean_of_the_tokens() -> None:
    """Other work on the machine only adds time."""
    runs = [Run("w", "a", seconds, seconds, tokens, 20, 5) for seconds, tokens in ((3.0, 8), (2.0, 12), (4.0, 10))]
    (found,) = report.best_of(runs)
    assert (found.seconds, found.processed_tokens, found.runs) == (2.0, 10, 3)
    assert found.cached_share == pytest.approx(2 / 3)


def test_table_and_picture_show_every_result() -> None:
    """With names escaped."""
    results = [
        best(PREFIXES, ARRIVAL[4].name, 30.0, 12_000),
        best(PREFIXES, AFFINITY.name, 19.0, 6_000),
        best(CHATS, "<a>", 1.0),
    ]
    text = report.draw(results, [PREFIXES, CHATS])
    assert [line.split()[-9:-5] for line in text.splitlines()[1:3]] == [
        ["30.0", "s", "1.58x", "12,000"],
        ["19.0", "s", "1.00x", "6,000"],
    ]
    goals = report.draw_targets(list(report.targets(results, [PREFIXES, CHATS])))
    assert [line.split()[-1] for line in goals.splitlines()[1:]] == ["met", "met", "met"]
    drawn = picture.draw(results)
    assert drawn.count("<rect") == 1 + 2 * len(results)
    assert "&lt;a&gt;" in drawn
