"""The daemon by itself: its start, and what entries cost it."""

import random
import re
import socket
import subprocess
import sys
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

from msgspec import Raw

from sidecard.cli.bench.hosts import WORKER, Hosts
from sidecard.cli.bench.load import VALUE, Order
from sidecard.cli.bench.rows import Effort, Row, ratio_of
from sidecard.cli.children import end
from sidecard.errors import SidecardError
from sidecard_client.keys.fingerprint import fingerprint
from sidecard_client.protocol import wire
from sidecard_client.protocol.frames import FrameBuffer, frame

FEW = 1000
MANY = 1_000_000
WARM_UP_ENTRIES = 2000
BATCH = 256
"""Entries that are sent before their replies are read."""

CHURN_LIMIT_BYTES = 64 * 1024 * 1024
CHURN_ROUNDS = 30
"""How many times the limit is written."""

MEBIBYTE = 1024 * 1024


def starts(hosts: Hosts, effort: Effort) -> list[Row]:
    """Compare the time until a new daemon answers with that of an interpreter that does nothing."""
    daemon, interpreter = [], []
    for number in range(effort.starts):
        began = perf_counter()
        _, process = hosts.children.start_daemon(f"start-{number}")
        daemon.append(perf_counter() - began)
        end(process)
        began = perf_counter()
        subprocess.run([sys.executable, "-c", "pass"], check=True)
        interpreter.append(perf_counter() - began)

    figures = {"daemon_seconds": median(daemon), "interpreter_seconds": median(interpreter)}
    return [Row("import and start, against `python -c pass`", 10.0, ratio_of(daemon, interpreter), figures=figures)]


def memory(hosts: Hosts, effort: Effort) -> list[Row]:
    """Measure what an entry costs beyond its key and value."""
    entries = MANY if effort.full else effort.entries
    path, process = hosts.children.start_daemon("memory", "--set", "cache.max_bytes=16GiB")
    value = wire.pack(VALUE)
    _put(path, _entries("warm", WARM_UP_ENTRIES, value))
    before = resident_bytes(process.pid)
    _put(path, _entries("more", entries, value))
    grown = (resident_bytes(process.pid) - before) / entries
    end(process)

    key = _key("more", 0)
    figures = {"entries_count": entries, "grown_bytes": grown, "key_and_value_bytes": len(key) + len(value)}
    return [
        Row("memory per entry beyond key and value", 300, grown - len(key) - len(value), unit="bytes", figures=figures)
    ]


def many_entries(hosts: Hosts, effort: Effort) -> list[Row]:
    """Compare a hit among a million entries with one among a thousand."""
    workers = {}
    for name, count in (("few", FEW), ("many", MANY)):
        path, _ = hosts.children.start_daemon(
            name, "--set", "cache.max_bytes=16GiB", "--set", "cache.ttl_seconds=86400"
        )
        _put(path, _entries("other", count, wire.pack(VALUE[:64])))
        hosts.sockets["sidecard"], kept = path, hosts.sockets["sidecard"]
        (workers[name],) = hosts.workers(1, WORKER, "sidecard")
        hosts.sockets["sidecard"] = kept

    times: dict[str, list[float]] = {name: [] for name in workers}
    for _ in range(effort.rounds):
        for name, worker in workers.items():
            times[name].append(worker.does(Order("single", count=effort.calls)).seconds)

    figures = {f"{name}_seconds": median(seconds) for name, seconds in times.items()}
    return [
        Row(f"hit at {MANY:,} entries against {FEW:,}", 1.2, ratio_of(times["many"], times["few"]), figures=figures)
    ]


def churn(hosts: Hosts, effort: Effort) -> list[Row]:  # noqa: ARG001 - as its siblings
    """Write many times what the cache may hold, in values of all sizes, and see how large the daemon gets."""
    path, process = hosts.children.start_daemon("churn", "--set", f"cache.max_bytes={CHURN_LIMIT_BYTES}")
    sizes = random.Random(1)  # noqa: S311 - sizes, the same in each run
    written, number, most = 0, 0, 0
    while written < CHURN_ROUNDS * CHURN_LIMIT_BYTES:
        values = [wire.pack("v" * int(sizes.lognormvariate(7, 1.2))) for _ in range(BATCH)]
        _put(path, ((_key("churn", number + offset), value) for offset, value in enumerate(values)))
        number += len(values)
        written += sum(map(len, values))
        most = max(most, resident_bytes(process.pid))

    end(process)
    target = 1.25 * CHURN_LIMIT_BYTES + 40 * MEBIBYTE
    figures = {"limit_bytes": CHURN_LIMIT_BYTES, "written_bytes": written}
    return [Row("resident size under churn", target, most, unit="bytes", figures=figures)]


def resident_bytes(pid: int) -> int:
    """Return the resident size of a process, as the kernel counts it."""
    found = re.search(r"^VmRSS:\s*(\d+) kB$", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    if found is None:
        raise SidecardError(f"Process {pid} has no resident size: it has ended.")

    return 1024 * int(found[1])


def _key(room: str, number: int) -> str:
    return fingerprint("general", None, "bench", (room, number), {}, ())


def _entries(room: str, count: int, value: bytes) -> Iterator[tuple[str, bytes]]:
    return ((_key(room, number), value) for number in range(count))


def _put(path: str, entries: Iterable[tuple[str, bytes]]) -> None:
    """Store entries over one connection, many before their replies are read."""
    entries = iter(entries)
    replies = FrameBuffer()
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(path)
        while batch := list(islice(entries, BATCH)):
            requests = (wire.Put(key=key, value=Raw(value), id=number) for number, (key, value) in enumerate(batch))
            connection.sendall(b"".join(frame(wire.pack(request)) for request in requests))
            received: list[Any] = []
            while len(received) < len(batch):
                received += map(wire.unpack_reply, replies.feed(connection.recv(65536)))

            refused = [reply for reply in received if not isinstance(reply, wire.Stored) or not reply.stored]
            if refused:
                raise SidecardError(f"The daemon did not store an entry: {refused[0]}")
