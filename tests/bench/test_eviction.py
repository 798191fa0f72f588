"""Eviction is at least as good as the libraries'; ``pytest -m bench -n 0 -s tests/bench/test_eviction.py`` shows the tables.

``EVICTION_TRACES=DIRECTORY`` adds public traces, which take many minutes.
"""

import os
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.bench.eviction import comparison, traces
from tests.bench.eviction.traces import Workload

pytestmark = pytest.mark.bench


def check(workloads: Sequence[Workload]) -> None:
    """Measure, print the tables, and fail if a library is better by more than the tolerance."""
    results = comparison.measure(workloads, comparison.all_policies())
    print(f"\n{comparison.draw(results)}")
    assert comparison.missed(results) == []


@pytest.mark.timeout(300)
def test_eviction_is_best_on_a_power_law() -> None:
    """Eviction gets as many hits as the best library, and saves more dollars than any."""
    check([traces.generate()])


@pytest.mark.timeout(3600)
@pytest.mark.parametrize("name", ["mooncake_conversation.jsonl.gz", "cloudphysics_io.csv.gz"])
def test_eviction_is_best_on_public_traces(name: str) -> None:
    """The same holds for traces of chats and of a disk."""
    directory = os.environ.get("EVICTION_TRACES")
    if directory is None:
        pytest.skip("EVICTION_TRACES names no directory of traces")

    check(traces.read(Path(directory) / name))
