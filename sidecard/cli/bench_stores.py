"""What a hit costs that memory has no room for: read from disk, and from Redis."""

from collections.abc import Callable
from statistics import median
from time import perf_counter

from sidecard.cli.bench_hosts import Hosts
from sidecard.cli.bench_rows import Effort, Row, ratio_of
from sidecard_client import Client

MEMORY = "64KiB"
"""Of the daemons here: an entry that was read is driven out long before its turn comes again."""

_VALUE = "x" * 1024
_HOT = "hot"


def stores(hosts: Hosts, effort: Effort) -> list[Row]:
    """Compare a hit read from each store with a hit in memory, and with redis-py's own GET."""
    keys = [f"{number:064x}" for number in range(max(effort.calls, 300))]
    disk = _Side(hosts, "disk", f"sqlite:{hosts.children.directory}/store.db", keys)
    disk_times, memory_times = [], []
    for _ in range(effort.rounds):
        disk_times.append(disk.read(keys))
        memory_times.append(disk.read([_HOT] * len(keys)))

    disk.close()
    figures = {"disk_seconds": median(disk_times), "memory_seconds": median(memory_times)}
    from_disk = Row(
        "hit read from disk, against one in memory", 3.0, ratio_of(disk_times, memory_times), figures=figures
    )
    what = "hit read from Redis, against redis-py's GET"
    if hosts.redis_missing:
        return [from_disk, Row(what, 2.0, missing=hosts.redis_missing)]

    import redis  # noqa: PLC0415 - the bench goes without it where it is missing

    server = hosts.sockets["redis"]
    side = _Side(hosts, "shared", f"unix://{server}", keys)
    redis_times, get_times = [], []
    with redis.Redis(unix_socket_path=server) as client:
        for key in keys:
            client.set(f"bench:{key}", _VALUE)

        for _ in range(effort.rounds):
            redis_times.append(side.read(keys))
            get_times.append(_median_of(lambda key: client.get(f"bench:{key}"), keys))

    side.close()
    figures = {"sidecard_seconds": median(redis_times), "redis_seconds": median(get_times)}
    return [from_disk, Row(what, 2.0, ratio_of(redis_times, get_times), figures=figures)]


class _Side:
    """A daemon with little memory and a store that has everything."""

    def __init__(self, hosts: Hosts, name: str, url: str, keys: list[str]) -> None:
        flags = ("--set", f"store.url={url}", "--set", f"cache.max_bytes={MEMORY}", "--set", "cache.ttl_seconds=86400")
        path, process = hosts.children.start_daemon(name, *flags, "--set", "store.write_window_seconds=0.01")
        self._client = Client(path)
        for key in (*keys, _HOT):
            self._client.put(key, _VALUE)

        written = len(keys) + 1
        hosts.children.wait_until(process, lambda: self._client.stats().store_written >= written)

    def read(self, keys: list[str]) -> float:
        """Return the median time of reading each of ``keys``."""
        return _median_of(self._client.get, keys)

    def close(self) -> None:
        """Disconnect."""
        self._client.close()


def _median_of(read: Callable[[str], object], keys: list[str]) -> float:
    times = []
    for key in keys:
        began_at = perf_counter()
        read(key)
        times.append(perf_counter() - began_at)

    return median(times)
