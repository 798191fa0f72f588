"""The peer of `sidecard.cli.bench.metrics`: prometheus_client in multiprocess mode.

``python -m sidecard.cli.bench.processes.metrics_peer DIRECTORY WORKERS SERIES`` reads ``increment COUNT`` and ``scrape`` from standard input and
replies with the seconds each took.
"""

import os
import sys
from time import perf_counter

from sidecard.cli.bench.metrics import per_increment


def main(directory: str, workers: int, series: int) -> None:
    """Perform orders."""
    os.environ["PROMETHEUS_MULTIPROC_DIR"] = directory
    # The import selects the mode.
    import prometheus_client  # noqa: PLC0415 - see above

    counter = prometheus_client.Counter("bench", "")
    counters = [prometheus_client.Counter(f"bench_{number}", "") for number in range(series)]
    histograms = [prometheus_client.Histogram(f"bench_seconds_{number}", "") for number in range(series)]
    for worker in range(workers):
        # The worker's files remain after it exits, like those of a live worker; nothing else of it is needed.
        pid = os.fork()
        if not pid:
            for counter_of_worker in counters:
                counter_of_worker.inc(worker)

            for histogram in histograms:
                histogram.observe(0.1)

            os._exit(0)

        os.waitpid(pid, 0)

    for line in sys.stdin:
        order, *count = line.split()
        print(per_increment(counter.inc, int(count[0])) if order == "increment" else _scrape(), flush=True)


def _scrape() -> float:
    from prometheus_client import CollectorRegistry, generate_latest, multiprocess  # noqa: PLC0415 - see `main`

    began_at = perf_counter()
    registry = CollectorRegistry()
    multiprocess.MultiProcessCollector(registry)  # type: ignore[no-untyped-call]  # it has no types
    generate_latest(registry)
    return perf_counter() - began_at


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:]))
