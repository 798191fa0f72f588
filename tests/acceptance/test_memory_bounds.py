"""Floods of one uid that make a daemon hold as much as it can: its memory stays within its bounds, and others get leases."""

import contextlib
import resource
import select
import socket
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from time import monotonic
from typing import Any

import pytest
from msgspec import Raw

from sidecard_client.protocol import wire
from sidecard_client.protocol.frames import frame
from tests.daemons import Daemon, ask
from tests.hostile import ALICE, MALLORY, Wire, being, needs_root, resident_bytes

pytestmark = [needs_root, pytest.mark.slow]

MIB = 1024 * 1024
BOUNDS = {"cache.max_bytes": 24, "limits.max_buffered_bytes": 32, "limits.max_memory_bytes": 16}
"""Small ones, so that what no bound covers is seen."""

ALLOWANCE = 40 * MIB
CONNECTIONS = 2000

Start = Callable[..., Daemon]


def _ready(one: socket.socket, event: int, seconds: float = 0.0) -> bool:
    poller = select.poll()  # unlike `select`, with thousands of descriptors
    poller.register(one, event)
    return bool(poller.poll(seconds * 1000))


class Flood:
    """Connections of one uid that send without end and read only what they must."""

    def __init__(self, path: str, uid: int = MALLORY) -> None:
        self._path = path
        self._uid = uid
        self.connections: list[socket.socket] = []

    def open(self, count: int) -> list[socket.socket]:
        """Open connections."""
        opened = []
        with being(self._uid):
            for _ in range(count):
                one = socket.socket(socket.AF_UNIX)
                one.connect(self._path)
                one.setblocking(False)
                opened.append(one)

        self.connections += opened
        return opened

    def lease(self, key: str | None, **fields: Any) -> Wire:
        """Return a connection that holds the lease ``name``."""
        holder = Wire(self._path, self._uid)
        reply = holder.asks(wire.Begin(key, id=1, **fields))
        assert isinstance(reply, wire.Lease)
        holder.lease = reply.lease  # type: ignore[attr-defined]  # for the test alone
        return holder

    def send(self, one: socket.socket, requests: Iterable[Any], *, reads: bool = True) -> None:
        """Send requests (or their fields) in one piece, if the daemon takes them."""
        data = b"".join(frame(request if isinstance(request, bytes) else wire.pack(request)) for request in requests)
        self.send_bytes(one, data, reads=reads)

    def send_bytes(self, one: socket.socket, data: bytes, *, reads: bool = True) -> None:
        """Send bytes, if the daemon takes them."""
        with contextlib.suppress(OSError):
            view, until = memoryview(data), monotonic() + 2.0
            while view and monotonic() < until:
                if _ready(one, select.POLLOUT, 0.05):
                    view = view[one.send(view[: 256 * 1024], socket.MSG_DONTWAIT) :]

                if reads:
                    self.discard(one)

    def discard(self, one: socket.socket) -> None:
        """Read what has arrived."""
        with contextlib.suppress(OSError):
            while _ready(one, select.POLLIN) and one.recv(1 << 20):
                pass

    def close(self) -> None:
        """End all connections."""
        for one in self.connections:
            one.close()


def _vectors(flood: Flood, numbers: list[int], **fields: Any) -> Iterator[None]:
    holder = flood.lease("hot", **{"task": "alike"} if fields else {})
    request = {"op": "begin", "key": "hot", "vector": numbers, "group": "g"} | fields
    connections = flood.open(16)
    for start in range(0, 1024, 64):
        for one in connections:
            flood.send(one, (request | {"id": number} for number in range(start, start + 64)))

        yield

    holder.close()


def vectors_that_are_packed(flood: Flood) -> Iterator[None]:
    """Waiting begins with vectors of small integers, for similar answers."""
    yield from _vectors(flood, [at % 100 + 1 for at in range(4096)], task="alike")


def vectors_of_no_use(flood: Flood) -> Iterator[None]:
    """Waiting begins with vectors, of a task without similar answers."""
    yield from _vectors(flood, [1] * 4096)


def vectors_as_json(flood: Flood) -> Iterator[None]:
    """Waiting begins with vectors, as JSON lines."""
    holder = flood.lease("hot", task="alike")
    numbers = ",".join(["1"] * 4096)
    for one in flood.open(16):
        lines = (
            f'{{"op":"begin","key":"hot","task":"alike","group":"g","id":{number},"vector":[{numbers}]}}\n'
            for number in range(512)
        )
        flood.send_bytes(one, "".join(lines).encode())
        yield

    holder.close()


def long_keys(flood: Flood) -> Iterator[None]:
    """Leases of keys of 1,024 characters of four bytes, in namespaces of their own."""
    for one in flood.open(16):
        for start in range(0, 2048, 64):
            numbers = range(start, start + 64)
            flood.send(
                one,
                (
                    wire.Begin(f"{one.fileno()} {number} ".ljust(1024, "\N{GRINNING FACE}"), id=number)
                    for number in numbers
                ),
            )

        yield


def many_names(flood: Flood) -> Iterator[None]:
    """Leases of calls without a key with 16 backends, a task and a trace of 128 characters each."""
    names = tuple(f"{number} ".ljust(128, "\N{GRINNING FACE}") for number in range(16))
    for one in flood.open(16):
        for start in range(0, 2048, 64):
            begins = [
                wire.Begin(None, id=number, backends=names, task=names[0], trace="t" * 128)
                for number in range(start, start + 64)
            ]
            flood.send(one, begins)

        yield


def chunks_of_one_byte(flood: Flood) -> Iterator[None]:
    """Streams of single bytes that never end."""
    holders = [flood.lease(f"stream {number}", stream=True) for number in range(32)]
    for _ in range(20):
        for holder in holders:
            append = frame(wire.pack(wire.Append(holder.lease, Raw(b"\x01"))))  # type: ignore[attr-defined]
            flood.send_bytes(holder.socket, append * 1000)

        yield


def large_streams_with_slow_readers(flood: Flood) -> Iterator[None]:
    """Streams of large chunks, each with readers that do not read."""
    holders = [flood.lease(f"stream {number}", stream=True) for number in range(16)]
    for one in flood.open(64):
        flood.send(one, [wire.Begin(f"stream {number}", id=number, stream=True) for number in range(16)], reads=False)

    chunk = Raw(wire.pack("x" * 100_000))
    for _ in range(100):
        for holder in holders:
            flood.send(holder.socket, [wire.Append(holder.lease, chunk)])  # type: ignore[attr-defined]

        yield


def small_replies_unread(flood: Flood) -> Iterator[None]:
    """Replies of less than 64 KiB beyond the kernel's buffer that nobody reads, on many connections."""
    one = flood.open(1)[0]
    flood.send(one, [wire.Put("value", Raw(wire.pack("x" * 60_000)))])
    for number, each in enumerate(flood.open(CONNECTIONS)):
        flood.send(each, [wire.Get("value", id=at) for at in range(6)], reads=False)
        if not number % 100:
            yield


def small_halves(flood: Flood) -> Iterator[None]:
    """Frames of which 60,000 bytes arrive and the rest never does, on many connections."""
    for number, one in enumerate(flood.open(CONNECTIONS)):
        flood.send_bytes(one, MIB.to_bytes(4, "big") + b"x" * 60_000)
        if not number % 100:
            yield


def requests_behind_unread_replies(flood: Flood) -> Iterator[None]:
    """Large messages, or many, that wait until their peer reads earlier replies."""
    one = flood.open(1)[0]
    flood.send(one, [wire.Put("value", Raw(wire.pack("x" * 1_100_000)))])
    vector = wire.pack({"op": "begin", "key": "k", "group": "g", "vector": [1] * 4096})
    for number, each in enumerate(flood.open(CONNECTIONS // 4)):
        last = wire.Put("other", Raw(wire.pack("x" * (5 * MIB if number % 2 else 1))))
        flood.send(each, [wire.Get("value"), *[vector] * 12, last], reads=False)
        if not number % 20:
            yield


def large_answers_of_many_waiters(flood: Flood) -> Iterator[None]:
    """Answers of 4 MiB whose waiters do not read."""
    waiters = flood.open(64)
    for number in range(20):
        holder = flood.lease(f"k{number}")
        for one in waiters:
            flood.send(one, [wire.Begin(f"k{number}", id=number)], reads=False)

        yield
        value = Raw(wire.pack("x" * 4 * MIB))
        flood.send(holder.socket, [wire.Complete(holder.lease, value, id=2, store=False)])  # type: ignore[attr-defined]
        yield


def failures_of_4096_characters(flood: Flood) -> Iterator[None]:
    """Remembered failures, with the longest message."""
    one = Wire(flood._path, MALLORY)
    for number in range(3000):
        lease = one.asks(wire.Begin(f"key {number}", id=1, task="alike"))
        if isinstance(lease, wire.Lease):
            one.asks(wire.Fail(lease.lease, "fatal", message="\N{GRINNING FACE}" * 4096, id=2))

        if not number % 100:
            yield


def entries_of_many_tags(flood: Flood) -> Iterator[None]:
    """Entries with 16 new tags, a new model and a long key each, and usages as large as numbers can be."""
    (one,) = flood.open(1)
    for start in range(0, 40_000, 100):
        flood.send(
            one,
            (
                {
                    "op": "put",
                    "key": f"{number} " + "k" * 500,
                    "value": number,
                    "task": f"task {number}",
                    "tags": [f"{number} {at} ".ljust(120, "t") for at in range(16)],
                }
                for number in range(start, start + 100)
            ),
        )
        if not start % 1000:
            yield


def metrics_of_long_labels(flood: Flood) -> Iterator[None]:
    """Series of the longest labels."""
    (one,) = flood.open(1)
    for start in range(0, 40_000, 20):
        flood.send(
            one,
            [
                {
                    "op": "record",
                    "metrics": [
                        {
                            "name": f"m{number}",
                            "kind": "histogram",
                            "value": 1.0,
                            "labels": {f"l{at}": f"{number}".ljust(250, "\N{GRINNING FACE}") for at in range(16)},
                        }
                        for number in range(start, start + 20)
                    ],
                }
            ],
        )
        if not start % 1000:
            yield


def silent_connections(flood: Flood) -> Iterator[None]:
    """As many connections as one uid may have, each with one lease and one wait."""
    for number, one in enumerate(flood.open(CONNECTIONS)):
        flood.send(one, [wire.Begin(f"own {number}", id=1), wire.Begin("shared", id=2)])
        if not number % 100:
            yield


FLOODS: list[Callable[[Flood], Iterator[None]]] = [
    vectors_that_are_packed,
    vectors_of_no_use,
    vectors_as_json,
    long_keys,
    many_names,
    chunks_of_one_byte,
    large_streams_with_slow_readers,
    small_replies_unread,
    small_halves,
    requests_behind_unread_replies,
    large_answers_of_many_waiters,
    failures_of_4096_characters,
    entries_of_many_tags,
    metrics_of_long_labels,
    silent_connections,
]


@pytest.fixture(autouse=True)
def _many_descriptors() -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 12_000), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.timeout(60)
@pytest.mark.parametrize("flood_of", FLOODS, ids=lambda flood: flood.__name__.replace("_", " "))
def test_a_flood_stays_within_the_bounds_of_memory(
    flood_of: Callable[[Flood], Iterator[None]], daemon: Start, socket_directory: Path, record_property: Any
) -> None:
    """And while it lasts, another uid gets a lease for each new key."""
    socket_directory.chmod(0o755)
    settings = [f"--set={name}={mebibytes}MiB" for name, mebibytes in BOUNDS.items()]
    settings += ["--set=socket.mode=0666", "--set=tasks.alike.similar=true", "--set=tasks.alike.failure_ttl_seconds=1h"]
    running = daemon(*settings)
    path = running.socket
    alice = Wire(path, ALICE)
    assert isinstance(alice.asks(wire.Begin("warm", id=1)), wire.Lease)
    before = resident_bytes(running.pid)
    flood = Flood(path)
    try:
        for step, _ in enumerate(flood_of(flood)):
            lease = alice.asks(wire.Begin(f"alice {step}", id=1))
            assert isinstance(lease, wire.Lease)
            alice.asks(wire.Fail(lease.lease, "cancelled", id=2))

        stats = ask(path, {"op": "stats"})
        grown = resident_bytes(running.pid, peak=True) - before
        record_property("grown_mib", round(grown / MIB))
        assert grown <= sum(BOUNDS.values()) * MIB + ALLOWANCE, f"{grown / MIB:.0f} MiB: {stats['memory_by_kind']}"
    finally:
        flood.close()
