"""Peers that send partial messages, never read, flood, or exhaust descriptors: bounded, while others are served."""

import resource
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Thread

import pytest
from msgspec import Raw

from sidecard.cli.bench.hosts import cpu_seconds
from sidecard_client import Client
from sidecard_client.protocol import wire
from sidecard_client.protocol.frames import frame
from tests.daemons import Daemon, ask, poll
from tests.hostile import Wire, limited, resident_bytes

MIB = 1024 * 1024

Start = Callable[..., Daemon]


def raw(count: int) -> Raw:
    """Return a value of some bytes."""
    return Raw(wire.pack(b"x" * count))


def test_a_peer_that_sends_single_bytes_is_closed(daemon: Start) -> None:
    """However a message begins and continues, in either encoding."""
    path = daemon("--set", "limits.message_seconds=0.5").socket
    beginnings = b"\x00", b"\x00\x00\x10", b"\x00\x00\x10\x00\x82\xa2op", b'{"op":"pi', b" ", b'{"op":"ping"}\n{"op'
    slow = {beginning: Wire(path) for beginning in beginnings}
    for beginning, one in slow.items():
        one.socket.sendall(beginning)

    def closed() -> bool:
        for beginning, one in list(slow.items()):
            try:
                one.socket.sendall(b"\x01" if beginning[0] < 2 else b" ")
            except (BrokenPipeError, ConnectionResetError):
                del slow[beginning]
            else:
                if one.is_closed():
                    del slow[beginning]

        return not slow

    poll(closed, "some are still connected")
    assert limited(path) == {"message_seconds": len(beginnings)}


def test_incomplete_messages_of_many_peers_share_one_limit(daemon: Start) -> None:
    """A hundred times 2 MiB exceed 32 MiB; a small request is served meanwhile."""
    running = daemon("--set", "limits.max_buffered_bytes=32MiB")
    path = running.socket
    before = resident_bytes(running.pid)
    polite, slow = Wire(path), [Wire(path) for _ in range(100)]
    half = (4 * MIB).to_bytes(4, "big") + b"x" * (2 * MIB)
    for one in slow:
        try:
            one.socket.sendall(half)
        except (BrokenPipeError, ConnectionResetError):
            continue

        assert polite.asks(wire.Ping(id=1)).id == 1

    poll(lambda: sum(one.is_closed() for one in slow) >= 84, "too many are left")
    assert limited(path)["max_buffered_bytes"] >= 84
    assert resident_bytes(running.pid, peak=True) - before < 32 * MIB + 48 * MIB
    for one in slow:
        one.close()

    poll(lambda: ask(path, {"op": "stats"})["peers"] == 2, "closed peers are still there")


def test_unread_replies_of_many_peers_share_one_limit(daemon: Start) -> None:
    """Most of 40 peers are closed; a peer that reads gets its reply."""
    running = daemon("--set", "limits.max_buffered_bytes=64MiB")
    path = running.socket
    reader = Wire(path)
    value = raw(15 * MIB)
    assert reader.asks(wire.Put("large", value, id=1)).stored
    before = resident_bytes(running.pid)
    stuck = [Wire(path) for _ in range(40)]
    for one in stuck:
        one.sends(wire.Get("large", id=1))
        assert ask(path, {"op": "ping"})["type"] == "pong"

    assert limited(path)["max_buffered_bytes"] >= 36
    # What is on its way to be closed, and copies under construction.
    assert resident_bytes(running.pid, peak=True) - before < 64 * MIB + 64 * MIB
    assert isinstance(reader.asks(wire.Get("large", id=2)), wire.Hit)


def test_one_large_answer_for_many_waiters_is_in_memory_once(daemon: Start) -> None:
    """All of them are sent it together, before any can read."""
    running = daemon()
    path = running.socket
    holder, waiters = Wire(path), [Wire(path) for _ in range(60)]
    lease = holder.asks(wire.Begin("k", id=1)).lease
    for one in waiters:
        assert one.asks(wire.Begin("k", id=1)) == wire.Pending(1)

    before = resident_bytes(running.pid)
    value = raw(8 * MIB)
    assert holder.asks(wire.Complete(lease, value, id=2)).stored
    for one in waiters:
        (shared,) = one.receives()
        assert isinstance(shared, wire.Shared)
        assert len(shared.value) == 8 * MIB

    assert limited(path) == {}
    assert resident_bytes(running.pid, peak=True) - before < 100 * MIB


def test_a_daemon_without_descriptors_serves_open_connections_and_recovers(daemon: Start) -> None:
    """New connections are closed meanwhile, without a busy loop."""
    running = daemon("--no-state")
    path = running.socket
    there = Wire(path)
    there.asks(wire.Ping(id=1))
    used = 1 + max(int(entry.name) for entry in Path(f"/proc/{running.pid}/fd").iterdir())
    _, hard = resource.prlimit(running.pid, resource.RLIMIT_NOFILE)
    resource.prlimit(running.pid, resource.RLIMIT_NOFILE, (used + 3, hard))
    coming = [Wire(path) for _ in range(30)]
    for number in range(50):
        assert there.asks(wire.Ping(id=number)).id == number

    began, cpu = time.monotonic(), cpu_seconds(running.pid)
    poll(lambda: time.monotonic() - began > 0.5, "time stands still")
    assert cpu_seconds(running.pid) - cpu < 0.4, "it runs hot"
    resource.prlimit(running.pid, resource.RLIMIT_NOFILE, (hard, hard))
    for one in coming:
        one.close()

    def answers() -> bool:
        try:
            return ask(path, {"op": "ping"})["type"] == "pong"
        except (OSError, IndexError):
            return False

    poll(answers, "it does not accept any more")


def _send(connection: socket.socket, data: bytes) -> None:
    with suppress(OSError):
        while True:
            connection.sendall(data)


def _read(connection: socket.socket) -> None:
    with suppress(OSError):
        while connection.recv(1 << 20):
            pass


@contextmanager
def flooding(path: str, request: wire.Request, peers: int) -> Iterator[None]:
    """Let peers send one request repeatedly, and read the replies."""
    data = frame(wire.pack(request)) * 500
    sockets = [socket.socket(socket.AF_UNIX) for _ in range(peers)]
    threads = []
    for connection in sockets:
        connection.connect(path)
        threads.append(Thread(target=_send, args=(connection, data), daemon=True))
        threads.append(Thread(target=_read, args=(connection,), daemon=True))
        threads[-2].start()
        threads[-1].start()

    try:
        yield
    finally:
        for connection in sockets:
            connection.shutdown(socket.SHUT_RDWR)

        for thread in threads:
            thread.join(timeout=10)

        for connection in sockets:
            connection.close()


@pytest.mark.parametrize(
    "request_", [wire.Ping(id=1), wire.GetMetrics(id=1), wire.Begin("k", id=1)], ids=["ping", "metrics", "begin"]
)
def test_a_polite_peer_is_served_beside_many_that_flood(daemon: Start, request_: wire.Request) -> None:
    """Without turns, sixteen peers that read all metrics delayed it by seven seconds each time."""
    path = daemon().socket
    polite = Wire(path)
    polite.asks(wire.Put("k", raw(1024), id=1))
    with flooding(path, request_, 16):
        for number in range(10):
            assert polite.asks(wire.Ping(id=number)).id == number


def test_floods_of_names_use_bounded_memory(daemon: Start) -> None:
    """Peers choose tasks, backends, namespaces, tags and lifetimes."""
    running = daemon("--set", "cache.max_bytes=8MiB", "--no-state")
    path = running.socket
    mallory = Wire(path)
    before = resident_bytes(running.pid)
    for start in range(0, 8_000, 500):
        names = range(start, start + 500)
        mallory.sends(
            *(
                wire.Put(
                    "k", raw(10), namespace=f"n{number}", tags=(f"t{number}",), ttl_seconds=float(1000 + number), id=1
                )
                for number in names
            )
        )
        mallory.receives(500)
        mallory.sends(
            *(
                wire.Put(f"k{number}", raw(10), ttl_seconds=1000 + number / 7, namespace=f"m{number}", id=1)
                for number in names
            )
        )
        mallory.receives(500)
        mallory.sends(*(wire.Begin(None, task=f"t{number}", backends=(f"b{number}",), id=number) for number in names))
        leases = [reply.lease for reply in mallory.receives(500) if isinstance(reply, wire.Lease)]
        mallory.sends(*(wire.Complete(lease, raw(10), usage=wire.Usage(model=lease), id=2) for lease in leases))
        mallory.receives(len(leases))

    assert ask(path, {"op": "report"})["type"] == "report"
    grown = resident_bytes(running.pid) - before
    assert grown < 8 * MIB * 1.25 + 40 * MIB, f"grew by {grown / MIB:.0f} MiB"


def test_a_value_of_very_many_chunks_does_not_empty_the_cache(daemon: Start) -> None:
    """A replayed chunk costs a hundred times its share of the value."""
    running = daemon("--set", "cache.max_bytes=64MiB")
    path = running.socket
    with Client(path) as client:
        for number in range(100):
            client.put(f"mine {number}", "x" * 1000)

        mallory = Wire(path)
        before = resident_bytes(running.pid)
        many = 7 * MIB
        mallory.asks(wire.Put("many", Raw(b"\xdd" + many.to_bytes(4, "big") + b"\xc0" * many), id=1))
        mallory.sends(wire.Begin("many", id=2, stream=True))
        (first,) = mallory.receives()
        assert isinstance(first, wire.Rejected | wire.Chunk)
        assert all(client.get(f"mine {number}") is not None for number in range(100))
        assert resident_bytes(running.pid, peak=True) - before < 128 * MIB
