"""Ratios of sidecard to itself: waiters against hits, and hits with and without the daemon's metrics and typed values."""

import threading
from contextlib import ExitStack
from datetime import date
from decimal import Decimal
from statistics import median
from time import monotonic, perf_counter, sleep
from typing import Any

import pydantic

from sidecard.cli.bench.hosts import ASYNC_WORKER, NO_VIEW, Hosts, WorkerProcess, perform_together
from sidecard.cli.bench.load import VALUE, Order, answer_async
from sidecard.cli.bench.parts import Part
from sidecard.cli.bench.rows import Effort, Row, compare
from sidecard.cli.query import query
from sidecard.errors import SidecardError
from sidecard_client import Client
from sidecard_client.keys.naming import name_of
from sidecard_client.protocol import wire
from tests.bench.command import run_parts

WAITERS = 1000
WAITING_PROCESSES = 8
GATHER_SECONDS = 30.0


def waiters(hosts: Hosts, effort: Effort) -> list[Row]:
    """Compare delivering one call's answer to a thousand waiters with a thousand hits."""
    workers = hosts.workers(WAITING_PROCESSES, ASYNC_WORKER, "socket")
    share = WAITERS // WAITING_PROCESSES
    delivered, hit = [], []
    calls = 0
    for number in range(effort.rounds):
        flight = _HeldFlight(hosts.sockets["socket"], f"What does everybody want to know in round {number}?")
        upstream_calls, seconds = flight.run(workers, share)
        calls = max(calls, upstream_calls)
        delivered.append(seconds)
        order = Order("burst", "socket", count=share, concurrent=share)
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

    def run(self, workers: list[WorkerProcess], share: int) -> tuple[int, float]:
        """Return the number of upstream calls, and the seconds from the holder's answer to the last waiter's."""
        holder = threading.Thread(target=self._hold)
        holder.start()
        try:
            self._leased.wait(GATHER_SECONDS)
            for worker in workers:
                worker.order(Order("join", "socket", count=share, prompt=self._prompt))

            self._wait_for_waiters(share * len(workers))
        finally:
            self._go.set()
            holder.join()

        results = [worker.result() for worker in workers]
        upstream_calls = self._calls + sum(result.upstream_calls for result in results)
        return upstream_calls, max(result.ended_at for result in results) - self._completed_at

    def _hold(self) -> None:
        with Client(self._path, on_unavailable="raise") as client:
            client.call(self._answer, self._prompt, name=name_of(answer_async))

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


def daemon_metrics(hosts: Hosts, effort: Effort) -> list[Row]:
    """Compare a hit of a daemon with metrics with one of a daemon without them."""
    flags = "--no-state", *NO_VIEW, "--set", "cache.ttl_seconds=86400", "--set"
    times: dict[str, list[float]] = {"true": [], "false": []}
    with ExitStack() as stack:
        clients = {}
        for enabled in times:
            path, _ = hosts.processes.start_daemon(f"metrics-{enabled}", *flags, f"metrics.enabled={enabled}")
            clients[enabled] = stack.enter_context(Client(path))
            clients[enabled].call(str, "question", name="answer")

        for _ in range(effort.rounds):
            seconds: dict[str, list[float]] = {enabled: [] for enabled in times}
            # Interleaved call by call: the difference is smaller than the effect of a second of other load.
            for _ in range(effort.calls):
                for enabled, client in clients.items():
                    began_at = perf_counter()
                    client.call(str, "question", name="answer")
                    seconds[enabled].append(perf_counter() - began_at)

            for enabled, round_seconds in seconds.items():
                times[enabled].append(median(round_seconds))

    what = "hit with the daemon's metrics enabled, against disabled"
    return [compare(what, 1.05, times["true"], times["false"], ("enabled", "disabled"))]


class Invoice(pydantic.BaseModel):
    """Ten fields, as an LLM fills them."""

    number: int
    customer: str
    street: str
    city: str
    issued: date
    total: Decimal
    currency: str
    paid: bool
    lines: list[str]
    note: str | None


INVOICE = Invoice(
    number=7,
    customer="Ada Lovelace",
    street="12 St James's Square",
    city="London",
    issued=date(2026, 1, 2),
    total=Decimal("12.50"),
    currency="GBP",
    paid=True,
    lines=["engine", "card"],
    note=None,
)


def extract(_: str) -> Invoice:
    """Return a model."""
    return INVOICE


def extract_plain(_: str) -> dict[str, Any]:
    """Return the same as a dict."""
    plain: dict[str, Any] = INVOICE.model_dump(mode="json")
    return plain


def typed_values(hosts: Hosts, effort: Effort) -> list[Row]:
    """Compare a hit whose value is a model with one whose value is a dict of the same content."""
    times: dict[Any, list[float]] = {extract: [], extract_plain: []}
    with Client(hosts.sockets["socket"]) as client:
        for function in times:
            client.call(function, "text")

        for _ in range(effort.rounds):
            seconds: dict[Any, list[float]] = {function: [] for function in times}
            # Interleaved call by call, as above.
            for _ in range(effort.calls):
                for function, round_seconds in seconds.items():
                    began_at = perf_counter()
                    client.call(function, "text")
                    round_seconds.append(perf_counter() - began_at)

            for function, round_seconds in seconds.items():
                times[function].append(median(round_seconds))

    what = "hit of a pydantic model of ten fields, against a dict"
    return [compare(what, 1.5, times[extract], times[extract_plain], ("model", "dict"))]


if __name__ == "__main__":
    run_parts(
        "own_ratios",
        "Compares waiters with hits, and hits with and without the daemon's metrics and typed values.",
        Part(waiters),
        Part(daemon_metrics, "one cpu"),
        Part(typed_values, "one cpu"),
    )
