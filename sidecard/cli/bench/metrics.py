"""What measuring costs: an increment, a scrape of many workers, and the daemon's own metrics on the way of a hit."""

import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from statistics import median
from time import perf_counter

import msgspec

from sidecard.cli.bench.hosts import Hosts
from sidecard.cli.bench.rows import Effort, Row, ratio_of
from sidecard_client import Client
from sidecard_client.protocol import wire

WORKERS = 64
SERIES = 20
"""Counters of each worker, beside as many histograms."""

INCREMENTS = 200
"""For each call that `Effort` asks for: they take so much less time."""

_PEER = "sidecard.cli.bench.metrics_peer"


def metrics(hosts: Hosts, effort: Effort) -> list[Row]:
    """Compare with prometheus_client and its multiprocess mode, and a hit with one of a daemon that does not measure."""
    return [*_increments(hosts, effort), _scrape(hosts, effort), _hits(hosts, effort)]


def per_increment(increment: Callable[[], object], count: int) -> float:
    """Return the seconds that one of ``count`` increments takes."""
    began_at = perf_counter()
    for _ in range(count):
        increment()

    return (perf_counter() - began_at) / count


def _increments(hosts: Hosts, effort: Effort) -> list[Row]:
    import prometheus_client  # noqa: PLC0415 - of `sidecard bench`, this part alone needs it

    theirs = prometheus_client.Counter("bench", "", registry=prometheus_client.CollectorRegistry()).inc
    count = effort.calls * INCREMENTS
    times: dict[str, list[float]] = {"sidecard": [], "prometheus": [], "multiprocess": []}
    with _multiprocess(hosts) as peer, Client(hosts.sockets["sidecard"]) as client:
        ours = client.counter("bench").inc
        for _ in range(effort.rounds):
            times["sidecard"].append(per_increment(ours, count))
            times["prometheus"].append(per_increment(theirs, count))
            times["multiprocess"].append(peer(f"increment {count}"))

    figures = {f"{side}_seconds": median(seconds) for side, seconds in times.items()}
    return [
        Row(
            f"increment, against {what}",
            1.0,
            ratio_of(times["sidecard"], times[side]),
            figures={name: figures[name] for name in ("sidecard_seconds", f"{side}_seconds")},
        )
        for side, what in (("prometheus", "prometheus_client's"), ("multiprocess", "its multiprocess mode's"))
    ]


def _scrape(hosts: Hosts, effort: Effort) -> Row:
    from sidecard.observe import exposition  # noqa: PLC0415 - as above

    ours, theirs = [], []
    with ExitStack() as stack:
        path, _ = hosts.children.start_daemon("scraped", "--no-state")
        for worker in range(WORKERS):
            client = stack.enter_context(Client(path))
            for number in range(SERIES):
                client.counter(f"bench_{number}").inc(worker)
                client.histogram(f"bench_seconds_{number}").observe(0.1)

            client.flush_metrics(5.0)

        peer = stack.enter_context(_multiprocess(hosts))
        asker = stack.enter_context(Client(path))
        for _ in range(effort.rounds):
            began_at = perf_counter()
            told = asker._ask(wire.GetMetrics())  # noqa: SLF001 - as the other commands ask
            assert isinstance(told, wire.Metrics)  # noqa: S101 - nothing else answers it
            exposition.text(told.families)
            ours.append(perf_counter() - began_at)
            theirs.append(peer("scrape"))

    figures = {"sidecard_seconds": median(ours), "multiprocess_seconds": median(theirs)}
    return Row(f"scrape of {WORKERS} workers, against multiprocess mode", 1.0, ratio_of(ours, theirs), figures=figures)


def _hits(hosts: Hosts, effort: Effort) -> Row:
    flags = "--no-state", "--set", "cache.ttl_seconds=86400", "--set"
    times: dict[str, list[float]] = {"true": [], "false": []}
    with ExitStack() as stack:
        clients = {}
        for enabled in times:
            path, _ = hosts.children.start_daemon(f"metrics-{enabled}", *flags, f"metrics.enabled={enabled}")
            clients[enabled] = stack.enter_context(Client(path))
            clients[enabled].call(str, "question", name="answer")

        for _ in range(effort.rounds):
            seconds: dict[str, list[float]] = {enabled: [] for enabled in times}
            # In turn, call by call: the difference is less than what a second of another's work makes.
            for _ in range(effort.calls):
                for enabled, client in clients.items():
                    began_at = perf_counter()
                    client.call(str, "question", name="answer")
                    seconds[enabled].append(perf_counter() - began_at)

            for enabled, of_round in seconds.items():
                times[enabled].append(median(of_round))

    figures = {"measured_seconds": median(times["true"]), "unmeasured_seconds": median(times["false"])}
    return Row(
        "hit of a daemon that measures, against one that does not", 1.05, ratio_of(*times.values()), figures=figures
    )


@contextmanager
def _multiprocess(hosts: Hosts) -> Iterator[Callable[[str], float]]:
    """Start a process in multiprocess mode; yield what gives it an order, and returns its seconds."""
    directory = hosts.children.directory / "multiprocess"
    directory.mkdir(exist_ok=True)
    process = hosts.children.start(
        sys.executable,
        "-m",
        _PEER,
        str(directory),
        str(WORKERS),
        str(SERIES),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    orders, results = process.stdin, process.stdout
    assert orders is not None  # noqa: S101 - it was made with both
    assert results is not None  # noqa: S101 - as above

    def ask(order: str) -> float:
        orders.write(f"{order}\n".encode())
        orders.flush()
        return float(msgspec.json.decode(results.readline(), type=float))

    yield ask
    orders.close()
    process.wait()
