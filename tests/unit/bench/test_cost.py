"""The cost bench: its workload, its minimum, and its table."""

from tests.bench.cost import comparison
from tests.bench.cost.comparison import DOLLARS_PER_CALL, Cost
from tests.bench.cost.worker import Prompt


def test_workload_depends_only_on_the_seed() -> None:
    """Two runs measure the same workload."""
    assert comparison.workload() == comparison.workload()
    assert comparison.workload() != comparison.workload(seed=2)


def test_minimum_is_one_remote_call_per_distinct_hard_prompt() -> None:
    """Repeats and easy prompts are free."""
    prompts = [
        Prompt("a", hard=True),
        Prompt("b", hard=False),
        Prompt("a", hard=True),
        Prompt("c", hard=True),
        Prompt("b", hard=False),
    ]
    cost = comparison.minimum(prompts)
    assert (cost.cloud_calls, cost.local_calls, cost.dollars) == (2, 1, 2 * DOLLARS_PER_CALL)


def test_table_compares_with_the_first_and_the_last_row() -> None:
    """Each row has both ratios, and a dash for unmeasured times."""
    costs = [Cost("remote", 8.0, 8, 0, 0.25, 0.5), Cost("ours", 4.0, 4, 4, 0.125, 0.5), Cost("least", 2.0, 2, 6)]
    rows = [row.split() for row in comparison.draw(costs).split("\n")]
    assert rows[2] == ["ours", "$4.00", "0.50x", "2.00x", "4", "4", "125", "ms", "500", "ms"]
    assert rows[3][-2:] == ["-", "-"]
