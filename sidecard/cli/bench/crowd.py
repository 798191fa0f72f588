"""Many clients: hits per second of several processes, and of many tasks, and the daemon's share of the work."""

from collections.abc import Sequence
from statistics import median

from sidecard.cli.bench.hosts import ASYNC_WORKER, WORKER, Hosts, cpu_seconds, perform_together
from sidecard.cli.bench.load import Order
from sidecard.cli.bench.rows import Effort, Row, ratio_of

PROCESSES = 4
TASKS = 64
SIDES = ("sidecard", "socket", "redis")
MILLION = 1e6


def rates(hosts: Hosts, effort: Effort) -> list[Row]:
    """Compare hits per second with redis-py: several blocking processes, and one process with many tasks."""
    sides = [side for side in SIDES if side in hosts.sockets]
    return [*_process_rates(hosts, effort, sides), _task_rates(hosts, effort, sides)]


def _process_rates(hosts: Hosts, effort: Effort, sides: Sequence[str]) -> list[Row]:
    workers = hosts.workers(PROCESSES, WORKER, *sides)
    per_second: dict[str, list[float]] = {side: [] for side in sides}
    cpu_per_million = []
    hits, before = 0, hosts.view_hits()
    for _ in range(effort.rounds):
        for side in sides:
            used = cpu_seconds(hosts.daemon.pid)
            results = perform_together(workers, Order("rate", side, seconds=effort.rate_seconds))
            per_second[side].append(sum(result.count / result.seconds for result in results))
            if side == "sidecard":
                hosts.view_hits()  # waits until all hits are reported
                made = sum(result.count for result in results)
                cpu_per_million.append((cpu_seconds(hosts.daemon.pid) - used) / made * MILLION)
                hits += made

    fault = hosts.fault_of_views(before, hits)
    what = f"hits per second, {PROCESSES} processes, against redis-py"
    cpu = Row(
        "the daemon's processor time for a million hits from a view",
        1.0,
        median(cpu_per_million),
        unit="s",
        figures={"hits_count": hits},
        fault=fault,
    )
    return [_rate_row(what, 5.0, per_second, hosts, fault), cpu]


def _task_rates(hosts: Hosts, effort: Effort, sides: Sequence[str]) -> Row:
    (worker,) = hosts.workers(1, ASYNC_WORKER, *sides)
    per_second: dict[str, list[float]] = {side: [] for side in sides}
    hits, before = 0, hosts.view_hits()
    for _ in range(effort.rounds):
        for side in sides:
            result = worker.perform(Order("burst", side, 10 * effort.calls, TASKS))
            per_second[side].append(result.count / result.seconds)
            hits += result.count * (side == "sidecard")

    fault = hosts.fault_of_views(before, hits)
    return _rate_row(f"hits per second, {TASKS} tasks, against redis.asyncio", 15.0, per_second, hosts, fault)


def _rate_row(what: str, target: float, per_second: dict[str, list[float]], hosts: Hosts, fault: str) -> Row:
    names = {"sidecard": "view"}
    figures = {f"{names.get(side, side)}_per_second": median(rates) for side, rates in per_second.items()}
    if "redis" not in per_second:
        return Row(what, target, at_least=True, figures=figures, missing=hosts.missing["redis"], fault=fault)

    measured = ratio_of(per_second["sidecard"], per_second["redis"])
    return Row(what, target, measured, at_least=True, figures=figures, fault=fault)
