"""Many clients at a time: hits per second, and a thousand callers who wait for one answer."""

import threading
from collections.abc import Sequence
from statistics import median
from time import monotonic, sleep

from sidecard.cli.asking import ask
from sidecard.cli.bench.hosts import ASYNC_WORKER, WORKER, Hosts, Worker, together
from sidecard.cli.bench.load import VALUE, Order, Upstream
from sidecard.cli.bench.rows import Effort, Row, ratio_of
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
    """Compare hits per second with redis-py's: of blocking processes, and of one with many tasks."""
    sides = [side for side in ("sidecard", "redis") if side in hosts.sockets]
    return [_of_processes(hosts, effort, sides), _of_tasks(hosts, effort, sides)]


def _of_processes(hosts: Hosts, effort: Effort, sides: Sequence[str]) -> Row:
    workers = hosts.workers(PROCESSES, WORKER, *sides)
    per_second: dict[str, list[float]] = {side: [] for side in sides}
    for _ in range(effort.rounds):
        for side in sides:
            results = together(workers, Order("rate", side, seconds=effort.rate_seconds))
            per_second[side].append(sum(result.count / result.seconds for result in results))

    return _rate_row(f"hits per second, {PROCESSES} processes, against redis-py", 2.0, per_second, hosts)


def _of_tasks(hosts: Hosts, effort: Effort, sides: Sequence[str]) -> Row:
    (worker,) = hosts.workers(1, ASYNC_WORKER, *sides)
    per_second: dict[str, list[float]] = {side: [] for side in sides}
    for _ in range(effort.rounds):
        for side in sides:
            result = worker.does(Order("burst", side, 4 * effort.calls, TASKS))
            per_second[side].append(result.count / result.seconds)

    return _rate_row(f"hits per second, {TASKS} tasks, against redis.asyncio", 3.0, per_second, hosts)


def _rate_row(what: str, target: float, per_second: dict[str, list[float]], hosts: Hosts) -> Row:
    figures = {f"{side}_per_second": median(rates) for side, rates in per_second.items()}
    if "redis" not in per_second:
        return Row(what, target, at_least=True, figures=figures, missing=hosts.redis_missing)

    return Row(what, target, ratio_of(per_second["sidecard"], per_second["redis"]), at_least=True, figures=figures)


def waiters(hosts: Hosts, effort: Effort) -> list[Row]:
    """Let a thousand callers wait for one call; compare giving them its answer with giving them a hit each."""
    workers = hosts.workers(WAITING_PROCESSES, ASYNC_WORKER, "sidecard")
    share = WAITERS // WAITING_PROCESSES
    given, hit = [], []
    calls = 0
    for number in range(effort.rounds):
        flight = _Flight(hosts.sockets["sidecard"], f"What does everybody want to know in round {number}?")
        upstream_calls, seconds = flight.fly(workers, share)
        calls = max(calls, upstream_calls)
        given.append(seconds)
        order = Order("burst", count=share, concurrent=share)
        results = together(workers, order)
        hit.append(max(result.ended_at for result in results) - order.start_at)

    # Read with the row's own words: what is measured is a time, and the number of calls is a condition.
    fault = f"{calls} upstream calls for one key" if calls != 1 else ""
    figures = {"answers_seconds": median(given), "hits_seconds": median(hit), "upstream_calls": calls}
    what = f"{WAITERS:,} waiters in {WAITING_PROCESSES} processes, against as many hits"
    return [Row(what, 1.0, ratio_of(given, hit), figures=figures, fault=fault)]


class _Flight:
    """One call that everybody waits for, held by this process until all of them wait."""

    def __init__(self, path: str, prompt: str) -> None:
        self._path = path
        self._prompt = prompt
        self._calls = 0
        self._holding = threading.Event()
        self._go = threading.Event()
        self._completed_at = 0.0

    def fly(self, workers: list[Worker], share: int) -> tuple[int, float]:
        """Return the number of upstream calls, and the seconds from the holder's completing to the last answer."""
        holder = threading.Thread(target=self._hold)
        holder.start()
        try:
            self._holding.wait(GATHER_SECONDS)
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

    def _answer(self, prompt: str) -> str:  # noqa: ARG002 - the upstream's signature
        self._calls += 1
        self._holding.set()
        self._go.wait(GATHER_SECONDS)
        self._completed_at = monotonic()
        return VALUE

    def _wait_for_waiters(self, count: int) -> None:
        deadline = monotonic() + GATHER_SECONDS
        while (waiting := ask(self._path, wire.GetStats(id=1), wire.Stats).waiters) < count:
            if monotonic() > deadline:
                raise SidecardError(f"Only {waiting} of {count} callers came to wait within {GATHER_SECONDS:g} s.")

            sleep(0.01)
