"""What is claimed of eviction, measured by the code of ``sidecard bench --eviction``; ``-s`` shows the table."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from sidecard.cli import bench_eviction as bench
from sidecard.cli import bench_eviction_traces as traces
from sidecard.cli.bench_eviction_traces import Workload

TRACES = Path("shared/data")
"""Public traces, where somebody has put them beside the project, or above."""

pytestmark = [pytest.mark.bench, pytest.mark.timeout(3600)]


def check(workloads: Sequence[Workload]) -> None:
    """Measure, show, and fail where a library is better by more than is tolerated."""
    found = bench.measure(workloads, bench.peers())
    print(f"\n{bench.draw(found)}")
    assert bench.missed(found) == []


def test_eviction_is_best_on_a_power_law() -> None:
    """As many hits as the best library, and more dollars saved than any."""
    check([traces.made()])


@pytest.mark.parametrize("name", ["mooncake_conversation.jsonl.gz", "cloudphysics_io.csv.gz"])
def test_eviction_is_best_on_public_traces(name: str) -> None:
    """The same, of chats and of a disk."""
    above = Path(__file__).parents[2].parents
    path = next((place / TRACES / name for place in above if (place / TRACES / name).exists()), None)
    if path is None:
        pytest.skip(f"there is no {TRACES}/{name} beside the project")

    check(traces.read(path))
