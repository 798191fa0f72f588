"""Descriptors, connections and memory that run out, and a target of pushes that hangs up. See `tests.acceptance.fault_index`."""

import contextlib
import os
import resource
import socket
import socketserver
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest

from sidecard.cli.bench.hosts import cpu_seconds
from sidecard_client.protocol import wire
from tests.acceptance.test_serve import Wire, is_served
from tests.daemons import poll, until
from tests.faults import (
    PATIENT,
    Injected,
    Scene,
    clients_and_shapes,
    judge,
    resident_bytes,
    whole,
)
from tests.integration.test_push import FINE, IMPORT, Pusher
from tests.push_servers import ChosenTarget

pytestmark = pytest.mark.timeout(120)

CONNECTIONS = 10_000


@pytest.mark.slow
@clients_and_shapes()
def test_daemon_without_descriptors_serves_its_peers_and_recovers(
    kind: str, shape: str, scenes: Callable[..., Scene], injected: Injected
) -> None:
    """When `accept` fails with EMFILE, the daemon serves its peers without spinning, logs it once, and recovers."""
    scene = scenes()
    daemon = scene.daemon
    apps = scene.apps(kind, shape, processes=2)
    with contextlib.ExitStack() as lines:
        before = lines.enter_context(Wire(daemon.socket))
        assert is_served(before)
        scene.waits(1)
        soft, hard = resource.prlimit(daemon.pid, resource.RLIMIT_NOFILE)
        resource.prlimit(daemon.pid, resource.RLIMIT_NOFILE, (highest_descriptor(daemon.pid) + 1, hard))
        # Numbers below that are free are taken by the first of these.
        while is_served(lines.enter_context(Wire(daemon.socket))):
            pass

        began_at, began_cpu = time.monotonic(), cpu_seconds(daemon.pid)
        refused = 0
        for _ in range(100):
            with Wire(daemon.socket) as late:
                refused += not is_served(late)

        alone = scene.apps(kind, shape)
        scene.wait_for("start", count=2)
        poll(lambda: any(line["event"] == "file descriptors exhausted" for line in daemon.log()), "nothing was said")
        busy = (cpu_seconds(daemon.pid) - began_cpu) / (time.monotonic() - began_at)
        assert is_served(before)
        resource.prlimit(daemon.pid, resource.RLIMIT_NOFILE, (soft, hard))

    scene.open("all")
    ends, own = apps.ends(), alone.ends()
    injected(refused + 1, callers=3, notified=len(judge(ends + own)))
    assert refused == 100
    assert busy < 0.5
    assert len({tuple(got.pieces) for got in ends}) == 1
    assert (own[0].source, whole(own[0])) == ("fallback", True)
    assert scene.apps(kind, shape).ends()[0].source == "cache"
    poll(lambda: bool(daemon.said("file descriptors available again")), "its end was not said")
    assert len(daemon.said("file descriptors exhausted")) == 1
    scene.calm("file descriptors exhausted")


def highest_descriptor(pid: int) -> int:
    """Return the greatest number in use."""
    return max(map(int, os.listdir(f"/proc/{pid}/fd")))  # noqa: PTH208 - links that may be gone when they are looked at


@pytest.mark.slow
@clients_and_shapes()
def test_ten_thousand_connections_are_admitted_up_to_the_limit_and_leave_nothing(
    kind: str, shape: str, scenes: Callable[..., Scene], injected: Injected
) -> None:
    """The daemon closes connections beyond its limit; their memory and descriptors are free again afterwards."""
    if resource.getrlimit(resource.RLIMIT_NOFILE)[1] < CONNECTIONS + 500:
        pytest.skip(f"this host allows fewer than {CONNECTIONS} descriptors")

    scene = scenes("--set=limits.max_peers=5000", "--set=limits.max_peers_per_uid=5000")
    apps = scene.apps(kind, shape, processes=2)
    scene.waits(1)
    before = resident_bytes(scene.daemon.pid)
    with contextlib.ExitStack() as lines:
        many = [lines.enter_context(patient(scene.daemon.socket)) for _ in range(CONNECTIONS)]
        served = sum(map(is_served, many))
        alone = scene.apps(kind, shape)
        scene.wait_for("start", count=2)
        scene.open("all")
        (own,) = alone.ends()
        ends = apps.ends()

    injected(CONNECTIONS, callers=3, notified=len(judge([*ends, own])))
    assert served == 5000 - 2
    assert own.source == "fallback"
    assert len({tuple(got.pieces) for got in ends}) == 1
    poll(lambda: is_admitted(scene.daemon.socket), "nobody is let in any more", seconds=60.0)
    scene.calm()
    # A connection takes about 3 KB. After its end, the allocator keeps some of that until the daemon lets it trim.
    poll(lambda: resident_bytes(scene.daemon.pid) - before < 5000 * 4096, "memory of connections is kept")
    assert 1 <= len(scene.daemon.said("peer denied")) <= CONNECTIONS - 5000 + 1


def patient(path: str) -> Wire:
    """Connect, also where more have than the kernel lets wait to be accepted."""
    lines: list[Wire] = []

    def connected() -> bool:
        with contextlib.suppress(BlockingIOError):
            lines.append(Wire(path))

        return bool(lines)

    poll(connected, "the daemon does not accept")
    return lines[0]


def is_admitted(path: str) -> bool:
    """Return whether one more is served."""
    with Wire(path) as line:
        return is_served(line)


@clients_and_shapes()
def test_memory_full_of_streams_prevents_no_call(
    kind: str, shape: str, scenes: Callable[..., Scene], injected: Injected
) -> None:
    """Streams that do not fit beside those in flight are made unshared; none is cut, and the limit holds."""
    scene = scenes("--set=limits.max_memory_bytes=3500000", *PATIENT)
    piece = msgspec.Raw(msgspec.msgpack.encode(b"p" * 100_000))
    with contextlib.ExitStack() as stack:
        holders = [stack.enter_context(Wire(scene.daemon.socket)) for _ in range(8)]
        readers = [stack.enter_context(Wire(scene.daemon.socket)) for _ in range(8)]
        leases = []
        for number, (holder, reader) in enumerate(zip(holders, readers, strict=True)):
            granted = holder.ask(wire.Begin(str(number), id=1, stream=True))
            assert isinstance(granted, wire.Lease)
            leases.append(granted.lease)
            assert isinstance(reader.ask(wire.Begin(str(number), id=1, stream=True)), wire.Pending)
            holder.send(*(wire.Append(granted.lease, piece, id=2) for _ in range(3)))
            assert isinstance(holder.ask(wire.Ping(id=4)), wire.Pong)

        full = scene.stats()
        assert full["stream_bytes"] <= full["memory_by_kind"]["streams"] <= 3_500_000 * 3 / 8
        scene.open("all")
        ends = scene.apps(kind, shape, callers=4).ends()
        notified = judge(ends)
        for holder, lease in zip(holders, leases, strict=True):
            holder.ask(wire.Complete(lease, id=3))

        got = [list(replies(reader)) for reader in readers]

    injected(
        8,
        callers=len(ends) + len(readers),
        notified=len(notified) + sum(isinstance(all_[-1], wire.Failed) for all_ in got),
    )
    assert not notified
    for all_ in got:
        chunks = [reply for reply in all_ if isinstance(reply, wire.Chunk)]
        last = all_[-1]
        assert isinstance(last, wire.End | wire.Failed)
        assert len(chunks) == 3 if isinstance(last, wire.End) else last.kind == "ignored"

    assert any(isinstance(all_[-1], wire.End) for all_ in got)
    assert any(isinstance(all_[-1], wire.Failed) for all_ in got)
    assert scene.stats()["cache_bytes"] <= 1_000_000
    scene.calm()


def replies(line: Wire) -> Iterator[wire.AnyReply]:
    """Yield the replies to a begin until its end."""
    while True:
        reply = line.receive()
        assert reply is not None
        yield reply
        if not isinstance(reply, wire.Chunk):
            return


class HalfCloser:
    """A proxy that hangs up on its first clients, each at another moment: before, within and after their request."""

    def __init__(self, port: int, faults: int) -> None:
        self.faults = faults
        self.left = faults
        outer = self

        class Handler(socketserver.BaseRequestHandler):
            """Serves one connection."""

            def handle(self) -> None:
                """Pass on, or hang up."""
                if outer.left > 0:
                    outer.left -= 1
                    if outer.left % 3:
                        self.request.recv(10 if outer.left % 3 == 1 else 65536)

                    if outer.left % 2:
                        self.request.sendall(b"HTTP/1.1 20")

                    # The end of the sending side, not of the connection: a peer that waits for an answer must not wait forever.
                    self.request.shutdown(socket.SHUT_WR)
                    while self.request.recv(65536):
                        pass

                    return

                with socket.create_connection(("127.0.0.1", port)) as onward:
                    for source, sink in ((self.request, onward), (onward, self.request)):
                        threading.Thread(target=copy, args=(source, sink), daemon=True).start()

                    outer.done.wait(60)

        self.done = threading.Event()
        self._server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()

    def close(self) -> None:
        """End it."""
        self.done.set()
        self._server.shutdown()
        self._server.server_close()


def copy(source: socket.socket, sink: socket.socket) -> None:
    """Pass bytes on until there are no more."""
    with contextlib.suppress(OSError):
        while data := source.recv(65536):
            sink.sendall(data)


@pytest.mark.anyio
@pytest.mark.slow
async def test_push_target_that_hangs_up_receives_every_sample_later(tmp_path: Path, injected: Injected) -> None:
    """Samples that a push target did not acknowledge are sent again until it does."""
    target = ChosenTarget(lambda _: FINE)
    proxy = HalfCloser(target.port, faults=3)
    pusher = Pusher(proxy.url + IMPORT, tmp_path / "spool")
    try:
        async with pusher.running():
            await until(lambda: proxy.left == 0, seconds=60)
            await pusher.goes_on(3)
            await until(lambda: pusher.push.spool_bytes == 0, seconds=60)
    finally:
        proxy.close()
        target.close()

    injected(proxy.faults)
    assert pusher.dropped == 0
    assert sorted(target.values) == list(range(1, pusher.number + 1))
