"""One client at a time: the time of a hit and of a miss, and what idle peers add to it.

Where a hit's 26 us go, warm: 11 are the kernel's (two wake-ups, four system calls), 2 the event loop's, 4 the daemon's
Python (decode 0.4, engine 1.3, encode 0.3, the rest is moving bytes), 8 the client's (key 1.7, request and reply 1.2, policy
and bookkeeping the rest). Woken from sleep, caches are cold and the Python parts cost up to twice that.
A miss is two such round trips, and adds the tables of lease, flight, backend, books and entry: 20 us of engine, spread over
some sixty small functions; breakers, limits and books are 8 us of them.
"""

import resource
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from statistics import median

from sidecard.cli.bench.hosts import WORKER, Hosts
from sidecard.cli.bench.load import Order
from sidecard.cli.bench.rows import Effort, Row, ratio_of

IDLE_PEERS = 1000
SPARE_DESCRIPTORS = 100


def hits_and_misses(hosts: Hosts, effort: Effort) -> list[Row]:
    """Compare a hit with redis-py's and with the echo's round trip, and a miss with a hit."""
    sides = [side for side in ("sidecard", "redis", "echo") if side in hosts.sockets]
    (worker,) = hosts.workers(1, WORKER, *sides)
    times: dict[str, list[float]] = {side: [] for side in (*sides, "misses")}
    unexpected = 0
    for _ in range(effort.rounds):
        for side in sides:
            result = worker.does(Order("single", side, effort.calls))
            times[side].append(result.seconds)
            unexpected += result.upstream_calls

        result = worker.does(Order("misses", count=effort.calls))
        times["misses"].append(result.seconds)
        unexpected += abs(result.upstream_calls - effort.calls)

    fault = f"{unexpected} calls were not what they were to be: hits or misses" if unexpected else ""
    figures = {f"{side}_seconds": median(seconds) for side, seconds in times.items()}
    hit = {"hit_seconds": figures["sidecard_seconds"]}
    against_redis = Row("hit, one client, against redis-py", 0.5, missing=hosts.redis_missing, fault=fault)
    if "redis" in times:
        against_redis = Row(
            against_redis.what,
            against_redis.target,
            ratio_of(times["sidecard"], times["redis"]),
            figures=hit | {"redis_seconds": figures["redis_seconds"]},
            fault=fault,
        )

    return [
        against_redis,
        Row(
            "hit, one client, against a bare echo",
            2.0,
            ratio_of(times["sidecard"], times["echo"]),
            figures=hit | {"echo_seconds": figures["echo_seconds"]},
            fault=fault,
        ),
        Row(
            "miss (begin, complete) against a hit",
            2.2,
            ratio_of(times["misses"], times["sidecard"]),
            figures=hit | {"miss_seconds": figures["misses_seconds"]},
            fault=fault,
        ),
    ]


def idle_peers(hosts: Hosts, effort: Effort) -> list[Row]:
    """Compare a hit while many other peers are connected with a hit while none is."""
    what = f"hit at {IDLE_PEERS:,} idle peers against 1"
    missing = _allow_descriptors(IDLE_PEERS + SPARE_DESCRIPTORS)
    if missing:
        return [Row(what, 1.2, missing=missing)]

    (worker,) = hosts.workers(1, WORKER, "sidecard")
    order = Order("single", count=effort.calls)
    alone, among_many = [], []
    for _ in range(effort.rounds):
        alone.append(worker.does(order).seconds)
        with _idle(hosts.sockets["sidecard"]):
            among_many.append(worker.does(order).seconds)

    figures = {"alone_seconds": median(alone), "among_many_seconds": median(among_many)}
    return [Row(what, 1.2, ratio_of(among_many, alone), figures=figures)]


@contextmanager
def _idle(path: str) -> Iterator[None]:
    """Hold connections that the daemon has taken: each has had an answer."""
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


def _allow_descriptors(count: int) -> str:
    """Raise this process's own limit; return what is missing where the host does not allow it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < count:
        return f"{count} descriptors (ulimit -Hn says {hard})"

    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, count), hard))
    return ""
