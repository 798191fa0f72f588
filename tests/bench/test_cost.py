"""The cost of a mixed workload; ``pytest -m bench -n 0 -s tests/bench/test_cost.py`` shows the table."""

import pytest

from tests.bench.cost import comparison


@pytest.mark.bench
@pytest.mark.timeout(600)
def test_mixed_workload_costs_the_minimum() -> None:
    """If easy calls wait for the local model, the cost is the minimum; otherwise less than a third of always remote."""
    costs = comparison.measure(comparison.workload())
    print(f"\n{comparison.draw(costs)}")
    remote, overflowing, waiting, minimum = (cost.dollars for cost in costs)
    assert waiting == minimum
    assert overflowing < remote / 3
