"""Many clients: hits per second, and a thousand callers that wait for one answer."""

import threading
from collections.abc import Sequence
from statistics import median
from time import monotonic, sleep

from sidecard.cli.bench.hosts import ASYNC_WORKER, WORKER, Hosts, Worker, perform_together
from sidecard.cli.bench.load import VALUE, Order, Upstream
from sidecard.cli.bench.rows import Effort, Row, compare, ratio_of
from sidecard.cli.query import query
from sidecard.errors import SidecardError
from sidecard_client import Client
from sidecard_client.keys.naming import name_of
from sidecard_client.protocol import wire

PROCESSES = 4
TASKS = 64
WAITERS = 1000
WAITING_PROCESSES = 8
GATHER_SECONDS = 30.0


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


def waiters(hosts: Hosts, effort: Effort) -> list[Row]:
    """Compare delivering one call's answer to a thousand waiters with a thousand hits."""
    workers = hosts.workers(WAITING_PROCESSES, ASYNC_WORKER, "sidecard")
    share = WAITERS // WAITING_PROCESSES
    delivered, hit = [], []
    calls = 0
    for number in range(effort.rounds):
        flight = _HeldFlight(hosts.sockets["sidecard"], f"What does everybody want to know in round {number}?")
        upstream_calls, seconds = flight.run(workers, share)
        calls = max(calls, upstream_calls)
        delivered.append(seconds)
        order = Order("burst", count=share, concurrent=share)
        results = perform_together(workers, order)
        hit.append(max(result.ended_at for result in results) - order.start_at)

    fault = f"{calls} upstream calls for one key" if calls != 1 else ""
    what = f"{WAITERS:,} waiters in {WAITING_PROCESSES} processes, against as many hits"
    return [compare(what, 1.0, delivered, hit, ("answers", "hits"), fault)]


class _HeldFlight:
    """One flight whose lease this process holds until all callers wait for it."""

    def __init__(self, path: str, prompt: str) -> None:
        self._path = path
        self._prompt = prompt
        self._calls = 0
        self._leased = threading.Event()
        self._go = threading.Event()
        self._completed_at = 0.0

    def run(self, workers: list[Worker], share: int) -> tuple[int, float]:
        """Return the number of upstream calls, and the seconds from the holder's answer to the last waiter's."""
        holder = threading.Thread(target=self._hold)
        holder.start()
        try:
            self._leased.wait(GATHER_SECONDS)
            for worker in workers:
                worker.order(Order("join", count=share, prompt=self._prompt))

            self._wait_for_waiters(share * len(workers))
        finally:
            self._go.set()
            holder.join()

        results = [worker.result() for worker in workers]
        upstream_calls = self._calls + sum(result.upstream_calls for result in results)
        return upstream_calls, max(result.ended_at for result in results) - self._completed_at

    def _hold(self) -> None:
        with Client(self._path, on_unavailable="raise") as client:
            client.call(self._answer, self._prompt, name=name_of(Upstream().answer_async))

    def _answer(self, prompt: str) -> str:  # noqa: ARG002 - the signature of a model
        self._calls += 1
        self._leased.set()
        self._go.wait(GATHER_SECONDS)
        self._completed_at = monotonic()
        return VALUE

    def _wait_for_waiters(self, count: int) -> None:
        deadline = monotonic() + GATHER_SECONDS
        while (waiting := query(self._path, wire.GetStats(id=1), wire.Stats).waiters) < count:
            if monotonic() > deadline:
                raise SidecardError(f"only {waiting} of {count} callers are waiting after {GATHER_SECONDS:g} s")

            sleep(0.01)
