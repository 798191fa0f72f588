"""Many clients: hits per second of several processes, and of many tasks."""

from collections.abc import Sequence
from statistics import median

from sidecard.cli.bench.hosts import ASYNC_WORKER, WORKER, Hosts, perform_together
from sidecard.cli.bench.load import Order
from sidecard.cli.bench.rows import Effort, Row, ratio_of

PROCESSES = 4
TASKS = 64


def rates(hosts: Hosts, effort: Effort) -> list[Row]:
    """Compare hits per second with redis-py: several blocking processes, and one process with many tasks."""
    sides = [side for side in ("sidecard", "redis") if side in hosts.sockets]
    return [_process_rates(hosts, effort, sides), _task_rates(hosts, effort, sides)]


def _process_rates(hosts: Hosts, effort: Effort, sides: Sequence[str]) -> Row:
    workers = hosts.workers(PROCESSES, WORKER, *sides)
    per_second: dict[str, list[float]] = {side: [] for side in sides}
    for _ in range(effort.rounds):
        for side in sides:
            results = perform_together(workers, Order("rate", side, seconds=effort.rate_seconds))
            per_second[side].append(sum(result.count / result.seconds for result in results))

    return _rate_row(f"hits per second, {PROCESSES} processes, against redis-py", 2.0, per_second, hosts)


def _task_rates(hosts: Hosts, effort: Effort, sides: Sequence[str]) -> Row:
    (worker,) = hosts.workers(1, ASYNC_WORKER, *sides)
    per_second: dict[str, list[float]] = {side: [] for side in sides}
    for _ in range(effort.rounds):
        for side in sides:
            result = worker.perform(Order("burst", side, 4 * effort.calls, TASKS))
            per_second[side].append(result.count / result.seconds)

    return _rate_row(f"hits per second, {TASKS} tasks, against redis.asyncio", 3.0, per_second, hosts)


def _rate_row(what: str, target: float, per_second: dict[str, list[float]], hosts: Hosts) -> Row:
    figures = {f"{side}_per_second": median(rates) for side, rates in per_second.items()}
    if "redis" not in per_second:
        return Row(what, target, at_least=True, figures=figures, missing=hosts.redis_missing)

    return Row(what, target, ratio_of(per_second["sidecard"], per_second["redis"]), at_least=True, figures=figures)
