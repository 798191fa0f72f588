"""The cost of metrics: an increment, and a scrape of many workers."""

import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from time import perf_counter

import msgspec

from sidecard.cli.bench.hosts import Hosts
from sidecard.cli.bench.rows import Effort, Row, compare
from sidecard_client import Client
from sidecard_client.protocol import wire

WORKERS = 64
SERIES = 20
"""Counters of each worker, and as many histograms."""

INCREMENTS = 200
"""Increments per call of `Effort`: an increment is that much faster than a call."""

_PEER = "sidecard.cli.bench.processes.metrics_peer"


def metrics(hosts: Hosts, effort: Effort) -> list[Row]:
    """Compare with prometheus_client and its multiprocess mode."""
    return [*_increments(hosts, effort), _scrape(hosts, effort)]


def per_increment(increment: Callable[[], object], count: int) -> float:
    """Return the seconds that one of ``count`` increments takes."""
    began_at = perf_counter()
    for _ in range(count):
        increment()

    return (perf_counter() - began_at) / count


def _increments(hosts: Hosts, effort: Effort) -> list[Row]:
    import prometheus_client  # noqa: PLC0415 - only this part needs it

    theirs = prometheus_client.Counter("bench", "", registry=prometheus_client.CollectorRegistry()).inc
    count = effort.calls * INCREMENTS
    times: dict[str, list[float]] = {"sidecard": [], "prometheus": [], "multiprocess": []}
    with _multiprocess(hosts) as peer, Client(hosts.sockets["sidecard"]) as client:
        ours = client.counter("bench").inc
        for _ in range(effort.rounds):
            times["sidecard"].append(per_increment(ours, count))
            times["prometheus"].append(per_increment(theirs, count))
            times["multiprocess"].append(peer(f"increment {count}"))

    return [
        compare(f"increment, against {what}", 1.0, times["sidecard"], times[side], ("sidecard", side))
        for side, what in (("prometheus", "prometheus_client's"), ("multiprocess", "its multiprocess mode's"))
    ]


def _scrape(hosts: Hosts, effort: Effort) -> Row:
    from sidecard.observe import exposition  # noqa: PLC0415 - as above

    ours, theirs = [], []
    with ExitStack() as stack:
        path, _ = hosts.processes.start_daemon("scraped", "--no-state")
        for worker in range(WORKERS):
            client = stack.enter_context(Client(path))
            for number in range(SERIES):
                client.counter(f"bench_{number}").inc(worker)
                client.histogram(f"bench_seconds_{number}").observe(0.1)

            client.flush_metrics(5.0)

        peer = stack.enter_context(_multiprocess(hosts))
        scraper = stack.enter_context(Client(path))
        for _ in range(effort.rounds):
            began_at = perf_counter()
            reply = scraper._ask(wire.GetMetrics())  # noqa: SLF001 - the client has no public method for it
            assert isinstance(reply, wire.Metrics)  # noqa: S101 - the only reply to it
            exposition.TEXT.text(reply.families)
            ours.append(perf_counter() - began_at)
            theirs.append(peer("scrape"))

    what = f"scrape of {WORKERS} workers, against multiprocess mode"
    return compare(what, 1.0, ours, theirs, ("sidecard", "multiprocess"))


@contextmanager
def _multiprocess(hosts: Hosts) -> Iterator[Callable[[str], float]]:
    """Start a process in multiprocess mode; yield a function that sends it an order and returns the seconds it took."""
    directory = hosts.processes.directory / "multiprocess"
    directory.mkdir(exist_ok=True)
    command = (sys.executable, "-m", _PEER, str(directory), str(WORKERS), str(SERIES))
    process = hosts.processes.start(*command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    orders, results = process.stdin, process.stdout
    assert orders is not None  # noqa: S101 - it is a pipe
    assert results is not None  # noqa: S101 - it is a pipe

    def perform(order: str) -> float:
        orders.write(f"{order}\n".encode())
        orders.flush()
        return float(msgspec.json.decode(results.readline(), type=float))

    yield perform
    orders.close()
    process.wait()
