"""What is claimed of eviction, measured by the code of ``sidecard bench --eviction``; ``-s`` shows the table.

``EVICTION_TRACES=DIRECTORY`` has the public traces measured that are there, which takes many minutes.
"""

import os
from collections.abc import Sequence
from pathlib import Path

import pytest

from sidecard.cli.bench import eviction as bench
from sidecard.cli.bench import eviction_traces as traces
from sidecard.cli.bench.eviction_traces import Workload

pytestmark = pytest.mark.bench


def check(workloads: Sequence[Workload]) -> None:
    """Measure, show, and fail where a library is better by more than is tolerated."""
    found = bench.measure(workloads, bench.peers())
    print(f"\n{bench.draw(found)}")
    assert bench.missed(found) == []


@pytest.mark.timeout(300)
def test_eviction_is_best_on_a_power_law() -> None:
    """As many hits as the best library, and more dollars saved than any."""
    check([traces.made()])


@pytest.mark.timeout(3600)
@pytest.mark.parametrize("name", ["mooncake_conversation.jsonl.gz", "cloudphysics_io.csv.gz"])
def test_eviction_is_best_on_public_traces(name: str) -> None:
    """The same, of chats and of a disk."""
    directory = os.environ.get("EVICTION_TRACES")
    if directory is None:
        pytest.skip("EVICTION_TRACES names no directory of traces")

    check(traces.read(Path(directory) / name))
