"""The ratios of the design, measured by the code of ``sidecard bench``; ``pytest -m bench -n 0 -s`` shows the table."""

from collections.abc import Callable

import pytest

from sidecard.cli.bench import compression as bench_compression
from sidecard.cli.bench import cost as bench_cost
from sidecard.cli.bench import crowd as bench_crowd
from sidecard.cli.bench import daemon as bench_daemon
from sidecard.cli.bench import metrics as bench_metrics
from sidecard.cli.bench import single as bench_single
from sidecard.cli.bench import stores as bench_stores
from sidecard.cli.bench.command import hosts_of
from sidecard.cli.bench.hosts import Hosts
from sidecard.cli.bench.rows import Effort, Row, draw

Part = Callable[[Hosts, Effort], list[Row]]

pytestmark = pytest.mark.timeout(600)


def check(part: Part, effort: Effort) -> None:
    """Measure, show, and fail where a target is missed; skip where nothing could be measured."""
    with hosts_of(part) as hosts:
        rows = part(hosts, effort)

    print(f"\n{draw(rows)}")
    missed = [row.what for row in rows if row.verdict == "missed"]
    assert not missed, draw(rows)
    unmeasured = [row.missing for row in rows if row.verdict == "not measured"]
    if unmeasured:
        pytest.skip(f"not measured: {unmeasured[0]}")


@pytest.mark.bench
@pytest.mark.parametrize(
    "part",
    [
        bench_single.hits_and_misses,
        bench_crowd.rates,
        bench_crowd.waiters,
        bench_single.idle_peers,
        bench_stores.stores,
        bench_metrics.metrics,
        bench_compression.compression,
        bench_daemon.memory,
        bench_daemon.starts,
    ],
    ids=lambda part: part.__name__,
)
def test_ratios_are_met(part: Part) -> None:
    """Those that take seconds."""
    check(part, Effort())


@pytest.mark.bench
@pytest.mark.parametrize("part", [bench_daemon.many_entries, bench_daemon.churn], ids=lambda part: part.__name__)
def test_ratios_of_large_caches_are_met(part: Part) -> None:
    """A million entries, and endless churn."""
    check(part, Effort(full=True))


@pytest.mark.bench
def test_mixed_workload_costs_what_it_must_and_no_more() -> None:
    """With easy calls that wait for the local model, the least that the workload allows; else less than a third."""
    ways = bench_cost.measure(bench_cost.workload())
    print(f"\n{bench_cost.draw(ways)}")
    remote, overflowing, waiting, least = (way.dollars for way in ways)
    assert waiting == least
    assert overflowing < remote / 3
