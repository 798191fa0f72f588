"""Measure the effect of many entries, many peers and churn on time and memory."""

import random
import re
import resource
import socket
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

from msgspec import Raw

from sidecard.cli.bench.hosts import NO_VIEW, WORKER, Hosts, WorkerProcess
from sidecard.cli.bench.load import VALUE, Order
from sidecard.cli.bench.parts import Part
from sidecard.cli.bench.rows import Effort, Row, compare
from sidecard.cli.processes import end
from sidecard.errors import SidecardError
from sidecard_client.keys.fingerprint import fingerprint
from sidecard_client.protocol import wire
from sidecard_client.protocol.frames import FrameBuffer, frame
from tests.bench.command import run_parts

FEW = 1000
MANY = 1_000_000
MEASURED_ENTRIES = 100_000
WARM_UP_ENTRIES = 2000
BATCH = 256
"""Number of entries sent before their replies are read."""

CHURN_LIMIT_BYTES = 64 * 1024 * 1024
CHURN_ROUNDS = 30
"""How often the cache limit is written in total."""

MEBIBYTE = 1024 * 1024
IDLE_PEERS = 1000
SPARE_DESCRIPTORS = 100


def memory(hosts: Hosts, _: Effort) -> list[Row]:
    """Measure the memory of an entry beyond its key and value."""
    path, process = hosts.processes.start_daemon("memory", "--set", "cache.max_bytes=16GiB")
    value = wire.pack(VALUE)
    put_entries(path, _entries("warm", WARM_UP_ENTRIES, value))
    before = resident_bytes(process.pid)
    put_entries(path, _entries("more", MEASURED_ENTRIES, value))
    grown = (resident_bytes(process.pid) - before) / MEASURED_ENTRIES
    end(process)

    charged = len(_key("more", 0)) + len(value)
    figures = {"entries_count": MEASURED_ENTRIES, "grown_bytes": grown, "key_and_value_bytes": charged}
    return [Row("memory per entry beyond key and value", 300, grown - charged, unit="bytes", figures=figures)]


def many_entries(hosts: Hosts, effort: Effort) -> list[Row]:
    """Compare a hit with a million entries with one with a thousand."""
    flags = (*NO_VIEW, "--set", "cache.max_bytes=16GiB", "--set", "cache.ttl_seconds=86400")
    workers = {}
    for name, count in (("few", FEW), ("many", MANY)):
        path, _ = hosts.processes.start_daemon(name, *flags)
        put_entries(path, _entries("other", count, wire.pack(VALUE[:64])))
        workers[name] = WorkerProcess(hosts.processes, WORKER, {"socket": path})
        workers[name].result()

    times: dict[str, list[float]] = {name: [] for name in workers}
    for _ in range(effort.rounds):
        for name, worker in workers.items():
            times[name].append(worker.perform(Order("single", "socket", effort.calls)).seconds)

    return [compare(f"hit at {MANY:,} entries against {FEW:,}", 1.2, times["many"], times["few"], ("many", "few"))]


def idle_peers(hosts: Hosts, effort: Effort) -> list[Row]:
    """Compare hits with and without many idle connections."""
    what = f"hit at {IDLE_PEERS:,} idle peers against 1"
    missing = _raise_descriptor_limit(IDLE_PEERS + SPARE_DESCRIPTORS)
    if missing:
        return [Row(what, 1.2, missing=missing)]

    (worker,) = hosts.workers(1, WORKER, "socket")
    order = Order("single", "socket", effort.calls)
    alone, among_many = [], []
    for _ in range(effort.rounds):
        alone.append(worker.perform(order).seconds)
        with _idle_connections(hosts.sockets["socket"]):
            among_many.append(worker.perform(order).seconds)

    return [compare(what, 1.2, among_many, alone, ("among_many", "alone"))]


def churn(hosts: Hosts, _: Effort) -> list[Row]:
    """Measure the resident size while values of all sizes are written, many times the cache limit in total."""
    path, process = hosts.processes.start_daemon("churn", "--set", f"cache.max_bytes={CHURN_LIMIT_BYTES}")
    sizes = random.Random(1)
    written, number, most = 0, 0, 0
    while written < CHURN_ROUNDS * CHURN_LIMIT_BYTES:
        values = [wire.pack("v" * int(sizes.lognormvariate(7, 1.2))) for _ in range(BATCH)]
        put_entries(path, ((_key("churn", number + offset), value) for offset, value in enumerate(values)))
        number += len(values)
        written += sum(map(len, values))
        most = max(most, resident_bytes(process.pid))

    end(process)
    target = 1.25 * CHURN_LIMIT_BYTES + 40 * MEBIBYTE
    figures = {"limit_bytes": CHURN_LIMIT_BYTES, "written_bytes": written}
    return [Row("resident size under churn", target, most, unit="bytes", figures=figures)]


def resident_bytes(pid: int) -> int:
    """Return the resident set size of a process. Raises `SidecardError` if it has ended."""
    found = re.search(r"^VmRSS:\s*(\d+) kB$", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    if found is None:
        raise SidecardError(f"cannot read the resident size of process {pid}: it has ended")

    return 1024 * int(found[1])


def _key(group: str, number: int) -> str:
    return fingerprint("general", None, "bench", (group, number), {}, ())


def _entries(group: str, count: int, value: bytes) -> Iterator[tuple[str, bytes]]:
    return ((_key(group, number), value) for number in range(count))


def put_entries(path: str, entries: Iterable[tuple[str, bytes]], tags: tuple[str, ...] = ()) -> None:
    """Store entries, with ``tags``, over one connection, in pipelined batches."""
    entries = iter(entries)
    replies = FrameBuffer()
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(path)
        while batch := list(islice(entries, BATCH)):
            requests = (
                wire.Put(key=key, value=Raw(value), tags=tags, id=number) for number, (key, value) in enumerate(batch)
            )
            connection.sendall(b"".join(frame(wire.pack(request)) for request in requests))
            received: list[Any] = []
            while len(received) < len(batch):
                received += map(wire.unpack_reply, replies.feed(connection.recv(65536)))

            refused = [reply for reply in received if not isinstance(reply, wire.Stored) or not reply.stored]
            if refused:
                raise SidecardError(f"the daemon did not store an entry: {refused[0]}")


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


if __name__ == "__main__":
    run_parts(
        "scale",
        "Measures the effect of many entries, many peers and churn on time and memory.",
        Part(idle_peers, "one cpu"),
        Part(memory),
        Part(many_entries, "one cpu"),
        Part(churn),
    )
