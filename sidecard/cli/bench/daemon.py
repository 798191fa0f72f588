"""The daemon itself: its start time, and the memory and time costs of entries."""

import random
import re
import socket
import subprocess
import sys
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from time import perf_counter
from typing import Any

from msgspec import Raw

from sidecard.cli.bench.hosts import WORKER, Hosts
from sidecard.cli.bench.load import VALUE, Order
from sidecard.cli.bench.rows import Effort, Row, compare
from sidecard.cli.processes import end
from sidecard.errors import SidecardError
from sidecard_client.keys.fingerprint import fingerprint
from sidecard_client.protocol import wire
from sidecard_client.protocol.frames import FrameBuffer, frame

FEW = 1000
MANY = 1_000_000
WARM_UP_ENTRIES = 2000
BATCH = 256
"""Number of entries sent before their replies are read."""

CHURN_LIMIT_BYTES = 64 * 1024 * 1024
CHURN_ROUNDS = 30
"""How often the cache limit is written in total."""

MEBIBYTE = 1024 * 1024


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


def memory(hosts: Hosts, effort: Effort) -> list[Row]:
    """Measure the memory of an entry beyond its key and value."""
    entries = MANY if effort.full else effort.entries
    path, process = hosts.processes.start_daemon("memory", "--set", "cache.max_bytes=16GiB")
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
    """Compare a hit with a million entries with one with a thousand."""
    workers = {}
    for name, count in (("few", FEW), ("many", MANY)):
        path, _ = hosts.processes.start_daemon(
            name, "--set", "cache.max_bytes=16GiB", "--set", "cache.ttl_seconds=86400"
        )
        _put(path, _entries("other", count, wire.pack(VALUE[:64])))
        hosts.sockets["sidecard"], kept = path, hosts.sockets["sidecard"]
        (workers[name],) = hosts.workers(1, WORKER, "sidecard")
        hosts.sockets["sidecard"] = kept

    times: dict[str, list[float]] = {name: [] for name in workers}
    for _ in range(effort.rounds):
        for name, worker in workers.items():
            times[name].append(worker.perform(Order("single", count=effort.calls)).seconds)

    return [compare(f"hit at {MANY:,} entries against {FEW:,}", 1.2, times["many"], times["few"], ("many", "few"))]


def churn(hosts: Hosts, effort: Effort) -> list[Row]:  # noqa: ARG001 - the signature of a part
    """Measure the resident size while values of all sizes are written, many times the cache limit in total."""
    path, process = hosts.processes.start_daemon("churn", "--set", f"cache.max_bytes={CHURN_LIMIT_BYTES}")
    sizes = random.Random(1)  # noqa: S311 - equal sizes in each run
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
    """Return the resident set size of a process. Raises `SidecardError` if it has ended."""
    found = re.search(r"^VmRSS:\s*(\d+) kB$", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    if found is None:
        raise SidecardError(f"cannot read the resident size of process {pid}: it has ended")

    return 1024 * int(found[1])


def _key(group: str, number: int) -> str:
    return fingerprint("general", None, "bench", (group, number), {}, ())


def _entries(group: str, count: int, value: bytes) -> Iterator[tuple[str, bytes]]:
    return ((_key(group, number), value) for number in range(count))


def _put(path: str, entries: Iterable[tuple[str, bytes]]) -> None:
    """Store entries over one connection, in pipelined batches."""
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
                raise SidecardError(f"the daemon did not store an entry: {refused[0]}")
