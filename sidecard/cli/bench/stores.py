"""Hits on a memory miss: read from disk, and from Redis.

A hit read from Redis takes two consecutive round trips, one of which is redis-py's 31 us. Beside that, the hit takes 24 us, the
engine 12 us (flight, entry), script and connection about 15 us, and the rest is three more processes that wake up with cold
caches.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from statistics import median
from time import perf_counter

from sidecard.cli.bench.hosts import NO_VIEW, Hosts
from sidecard.cli.bench.rows import Effort, Row, compare
from sidecard_client import Client

_VALUE = "x" * 1024


def stores(hosts: Hosts, effort: Effort) -> list[Row]:
    """Compare a hit read from disk with one in memory, and a hit read from Redis with redis-py's GET."""
    rounds = [[f"{number}-{call:060x}" for call in range(effort.calls)] for number in range(effort.rounds)]
    disk_times, memory_times = [], []
    with _reader(hosts, "disk", f"sqlite:{hosts.processes.directory}/store.db", rounds) as disk:
        for keys in rounds:
            disk_times.append(_median_of(disk.get, keys))
            # The first reads have loaded the entries into memory.
            memory_times.append(_median_of(disk.get, keys))

    from_disk = compare("hit read from disk, against one in memory", 3.0, disk_times, memory_times, ("disk", "memory"))
    what = "hit read from Redis, against redis-py's GET"
    if "redis" not in hosts.sockets:
        return [from_disk, Row(what, 2.0, missing=hosts.missing["redis"])]

    import redis  # noqa: PLC0415 - optional

    server = hosts.sockets["redis"]
    redis_times, get_times = [], []
    with (
        _reader(hosts, "shared", f"unix://{server}", rounds) as shared,
        redis.Redis(unix_socket_path=server) as client,
    ):
        for keys in rounds:
            for key in keys:
                client.set(key, _VALUE)

            redis_times.append(_median_of(shared.get, keys))
            get_times.append(_median_of(client.get, keys))

    return [from_disk, compare(what, 2.0, redis_times, get_times, ("sidecard", "redis"))]


@contextmanager
def _reader(hosts: Hosts, name: str, url: str, rounds: list[list[str]]) -> Iterator[Client]:
    """Fill the store with one daemon, and yield a client of a second one, whose memory is empty."""
    settings = (f"store.url={url}", "cache.ttl_seconds=86400", "store.write_window_seconds=0.01")
    flags = [*NO_VIEW, *(f"--set={setting}" for setting in settings)]
    path, filler = hosts.processes.start_daemon(f"{name}-filler", *flags)
    with Client(path) as client:
        for keys in rounds:
            for key in keys:
                client.put(key, _VALUE)

    filler.terminate()
    filler.wait()
    path, process = hosts.processes.start_daemon(name, *flags)
    with Client(path) as client:
        hosts.processes.wait_until(process, lambda: client.stats().store == "up")
        yield client


def _median_of(read: Callable[[str], object], keys: list[str]) -> float:
    times = []
    for key in keys:
        began_at = perf_counter()
        read(key)
        times.append(perf_counter() - began_at)

    return median(times)
