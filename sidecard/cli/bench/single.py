"""One client: the time of a hit and of a miss, and the effect of idle peers.

Where a hit's 26 us go, warm: 11 us kernel (two wake-ups, four system calls), 2 us event loop, 4 us daemon (decode 0.4, engine 1.3,
encode 0.3, the rest moves bytes), 8 us client (key 1.7, request and reply 1.2, the rest is policy and bookkeeping). After sleep,
caches are cold and the Python parts take up to twice that. A miss is two such round trips plus 20 us of engine for lease, flight,
backend, ledger and entry, spread over some sixty small functions; breakers, limits and ledger take 8 us of them.
"""

import resource
import socket
from collections.abc import Iterator
from contextlib import contextmanager

from sidecard.cli.bench.hosts import WORKER, Hosts
from sidecard.cli.bench.load import Order
from sidecard.cli.bench.rows import Effort, Row, compare

IDLE_PEERS = 1000
SPARE_DESCRIPTORS = 100


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
        compare("miss (begin, complete) against a hit", 2.2, times["misses"], hits, ("miss", "hit"), fault),
    ]


def idle_peers(hosts: Hosts, effort: Effort) -> list[Row]:
    """Compare hits with and without many idle connections."""
    what = f"hit at {IDLE_PEERS:,} idle peers against 1"
    missing = _raise_descriptor_limit(IDLE_PEERS + SPARE_DESCRIPTORS)
    if missing:
        return [Row(what, 1.2, missing=missing)]

    (worker,) = hosts.workers(1, WORKER, "sidecard")
    order = Order("single", count=effort.calls)
    alone, among_many = [], []
    for _ in range(effort.rounds):
        alone.append(worker.perform(order).seconds)
        with _idle_connections(hosts.sockets["sidecard"]):
            among_many.append(worker.perform(order).seconds)

    return [compare(what, 1.2, among_many, alone, ("among_many", "alone"))]


@contextmanager
def _idle_connections(path: str) -> Iterator[None]:
    """Hold connections that the daemon has accepted: each has received a reply."""
    peers = []
    try:
        for _ in range(IDLE_PEERS):
            peer = socket.socket(socket.AF_UNIX)
            peers.append(peer)
            peer.connect(path)
            peer.sendall(b'{"op":"ping"}\n')
            peer.recv(4096)

        yield
    finally:
        for peer in peers:
            peer.close()


def _raise_descriptor_limit(count: int) -> str:
    """Raise this process's limit of descriptors; return what is missing if the host forbids it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < count:
        return f"{count} descriptors (ulimit -Hn says {hard})"

    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, count), hard))
    return ""
