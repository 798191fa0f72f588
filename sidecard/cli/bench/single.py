"""One client: the time of a hit, of a miss, and of the daemon's start.

Where a hit's 26 us go, warm: 11 us kernel (two wake-ups, four system calls), 2 us event loop, 4 us daemon (decode 0.4, engine 1.3,
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


def hits_and_misses(hosts: Hosts, effort: Effort) -> list[Row]:
    """Compare a hit with redis-py and with the echo, and a miss with a hit."""
    sides = [side for side in ("sidecard", "redis", "echo") if side in hosts.sockets]
    (worker,) = hosts.workers(1, WORKER, *sides)
    times: dict[str, list[float]] = {side: [] for side in (*sides, "misses")}
    unexpected = 0
    for _ in range(effort.rounds):
        for side in sides:
            result = worker.perform(Order("single", side, effort.calls))
            times[side].append(result.seconds)
            unexpected += result.upstream_calls

        result = worker.perform(Order("misses", count=effort.calls))
        times["misses"].append(result.seconds)
        unexpected += abs(result.upstream_calls - effort.calls)

    fault = f"{unexpected} calls were a miss instead of a hit, or the reverse" if unexpected else ""
    hits, what = times["sidecard"], "hit, one client, against redis-py"
    return [
        compare(what, 0.5, hits, times["redis"], ("hit", "redis"), fault)
        if "redis" in times
        else Row(what, 0.5, missing=hosts.redis_missing, fault=fault),
        compare("hit, one client, against a bare echo", 2.0, hits, times["echo"], ("hit", "echo"), fault),
        compare("miss (begin, complete) against a hit", 3.5, times["misses"], hits, ("miss", "hit"), fault),
    ]


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
