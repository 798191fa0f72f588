"""One client: the time of a miss, and of the daemon's start.

Where the 26 us of a hit over the socket go, warm: 11 us kernel (two wake-ups, four system calls), 2 us event loop, 4 us daemon (decode 0.4, engine 1.3,
encode 0.3, the rest moves bytes), 8 us client (key 1.7, request and reply 1.2, the rest is policy and bookkeeping). After sleep,
caches are cold and the Python parts take up to twice that. A miss is two such round trips plus 20 us of engine for lease, flight,
backend, ledger and entry, spread over some ninety small functions: a third of it for breakers, limits and ledgers.
"""

import subprocess
import sys
from time import perf_counter

from sidecard.cli.bench.hosts import WORKER, Hosts
from sidecard.cli.bench.load import Order
from sidecard.cli.bench.rows import Effort, Row, compare
from sidecard.cli.processes import end


def misses(hosts: Hosts, effort: Effort) -> list[Row]:
    """Compare a miss with a hit over the socket."""
    (worker,) = hosts.workers(1, WORKER, "socket")
    hits, missed = [], []
    unexpected = 0
    for _ in range(effort.rounds):
        hit = worker.perform(Order("single", "socket", effort.calls))
        miss = worker.perform(Order("misses", "socket", effort.calls))
        hits.append(hit.seconds)
        missed.append(miss.seconds)
        unexpected += hit.upstream_calls + abs(miss.upstream_calls - effort.calls)

    fault = f"{unexpected} calls were a miss instead of a hit, or the reverse" if unexpected else ""
    what = "miss (begin, complete) against a hit over the socket"
    return [compare(what, 3.0, missed, hits, ("miss", "hit"), fault)]


def starts(hosts: Hosts, effort: Effort) -> list[Row]:
    """Compare the time until a new daemon answers with that of an empty interpreter."""
    daemon, interpreter = [], []
    for number in range(effort.starts):
        began = perf_counter()
        _, process = hosts.processes.start_daemon(f"start-{number}")
        daemon.append(perf_counter() - began)
        end(process)
        began = perf_counter()
        subprocess.run([sys.executable, "-c", "pass"], check=True)
        interpreter.append(perf_counter() - began)

    names = ("daemon", "interpreter")
    return [compare("import and start, against `python -c pass`", 8.0, daemon, interpreter, names)]
