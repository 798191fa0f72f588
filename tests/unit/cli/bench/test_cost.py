"""What the bench of cost asks, and what it compares with."""

from sidecard.cli.bench import cost as bench_cost
from sidecard.cli.bench.cost import DOLLARS_A_CALL, Way
from sidecard.cli.bench.cost_worker import Ask


def test_workload_is_the_same_each_time_and_another_with_another_seed() -> None:
    """Figures of two runs can be compared."""
    assert bench_cost.workload() == bench_cost.workload()
    assert bench_cost.workload() != bench_cost.workload(seed=2)


def test_least_is_one_remote_call_for_each_different_hard_prompt() -> None:
    """Repeats are free, and so is what the local model can do."""
    asks = [Ask("a", hard=True), Ask("b", hard=False), Ask("a", hard=True), Ask("c", hard=True), Ask("b", hard=False)]
    way = bench_cost.least(asks)
    assert (way.cloud_calls, way.local_calls, way.dollars) == (2, 1, 2 * DOLLARS_A_CALL)


def test_table_compares_with_the_first_and_with_the_least() -> None:
    """Both ratios, and no time where none was measured."""
    ways = [Way("dear", 8.0, 8, 0, 0.25, 0.5), Way("ours", 4.0, 4, 4, 0.125, 0.5), Way("least", 2.0, 2, 6)]
    rows = [row.split() for row in bench_cost.draw(ways).split("\n")]
    assert rows[2] == ["ours", "$4.00", "0.50x", "2.00x", "4", "4", "125", "ms", "500", "ms"]
    assert rows[3][-2:] == ["-", "-"]
