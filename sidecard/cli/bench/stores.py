"""What a hit costs that memory has no room for: read from disk, and from Redis.

A hit read from Redis is two round trips in a row, one of them redis-py's 31 us: beside those, and the hit's 24 us, 12 us are
the engine's (flight, entry), some 15 the script's and the connection's, the rest is three more processes that wake up with
cold caches.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from statistics import median
from time import perf_counter

from sidecard.cli.bench.hosts import Hosts
from sidecard.cli.bench.rows import Effort, Row, ratio_of
from sidecard_client import Client

_VALUE = "x" * 1024


def stores(hosts: Hosts, effort: Effort) -> list[Row]:
    """Compare a hit read from each store with a hit in memory, and with redis-py's own GET."""
    rounds = [[f"{number}-{call:060x}" for call in range(effort.calls)] for number in range(effort.rounds)]
    disk_times, memory_times = [], []
    with _reader(hosts, "disk", f"sqlite:{hosts.children.directory}/store.db", rounds) as disk:
        for keys in rounds:
            disk_times.append(_median_of(disk.get, keys))
            # They are in memory now.
            memory_times.append(_median_of(disk.get, keys))

    figures = {"disk_seconds": median(disk_times), "memory_seconds": median(memory_times)}
    from_disk = Row(
        "hit read from disk, against one in memory", 3.0, ratio_of(disk_times, memory_times), figures=figures
    )
    what = "hit read from Redis, against redis-py's GET"
    if hosts.redis_missing:
        return [from_disk, Row(what, 2.0, missing=hosts.redis_missing)]

    import redis  # noqa: PLC0415 - the bench goes without it where it is missing

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

    figures = {"sidecard_seconds": median(redis_times), "redis_seconds": median(get_times)}
    return [from_disk, Row(what, 2.0, ratio_of(redis_times, get_times), figures=figures)]


@contextmanager
def _reader(hosts: Hosts, name: str, url: str, rounds: list[list[str]]) -> Iterator[Client]:
    """Store what is to be read, by a daemon that ends then; start another, which has nothing of it in memory."""
    flags = (
        "--set",
        f"store.url={url}",
        "--set",
        "cache.ttl_seconds=86400",
        "--set",
        "store.write_window_seconds=0.01",
    )
    path, filler = hosts.children.start_daemon(f"{name}-filler", *flags)
    with Client(path) as client:
        for keys in rounds:
            for key in keys:
                client.put(key, _VALUE)

    filler.terminate()
    filler.wait()
    path, process = hosts.children.start_daemon(name, *flags)
    with Client(path) as client:
        hosts.children.wait_until(process, lambda: client.stats().store == "up")
        yield client


def _median_of(read: Callable[[str], object], keys: list[str]) -> float:
    times = []
    for key in keys:
        began_at = perf_counter()
        read(key)
        times.append(perf_counter() - began_at)

    return median(times)
