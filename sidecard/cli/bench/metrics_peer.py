"""What `sidecard.cli.bench.metrics` compares with: prometheus_client in multiprocess mode.

``bench_metrics_peer DIRECTORY WORKERS SERIES``: on standard input it gets ``increment COUNT`` and ``scrape``, and answers seconds.
"""

import os
import sys
from time import perf_counter

from sidecard.cli.bench.metrics import per_increment


def main(directory: str, workers: int, series: int) -> None:
    """Serve orders."""
    os.environ["PROMETHEUS_MULTIPROC_DIR"] = directory
    # The mode is chosen when this is imported.
    import prometheus_client  # noqa: PLC0415 - see above

    counter = prometheus_client.Counter("bench", "")
    counters = [prometheus_client.Counter(f"bench_{number}", "") for number in range(series)]
    histograms = [prometheus_client.Histogram(f"bench_seconds_{number}", "") for number in range(series)]
    for worker in range(workers):
        # Each worker's files stay, as those of living ones do; nothing else of it is looked at.
        pid = os.fork()
        if not pid:
            for one in counters:
                one.inc(worker)

            for another in histograms:
                another.observe(0.1)

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
