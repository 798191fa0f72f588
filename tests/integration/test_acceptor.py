"""The acceptor with real sockets, on both event loops: crowds, exhausted descriptors, replaced sockets."""

import asyncio
import errno
import os
import resource
import socket
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import uvloop

from sidecard.config.schema import LimitSettings
from sidecard.core.events import Peer
from sidecard.server import listener
from sidecard.server.acceptor import Acceptor
from sidecard.server.connections import AdmissionDenied, ConnectionTable
from sidecard.server.scheduler import FairScheduler

Steps = Callable[["Served"], Any]


class Echo(asyncio.Protocol):
    """In place of a peer's connection: joins the table, and replies with what it receives."""

    has_view = False

    def __init__(self, served: "Served", admission: Peer | AdmissionDenied) -> None:
        self.served, self.admission = served, admission

    def connection_made(self, transport: Any) -> None:
        """Join, or close."""
        self.transport = transport
        if isinstance(self.admission, Peer):
            self.served.table.join(self, self.admission)
        else:
            transport.close()

    def data_received(self, data: bytes) -> None:
        """Reply."""
        self.transport.write(data)

    def connection_lost(self, _: Exception | None) -> None:
        """Leave."""
        if isinstance(self.admission, Peer):
            self.served.table.remove(self)
        else:
            self.served.table.withdraw(self.admission)

    def close(self) -> None:
        """End it."""
        self.transport.close()

    abort = end_output = close


class Served:
    """An acceptor on a real loop and a real socket."""

    def __init__(self, path: str, limits: LimitSettings) -> None:
        self.path = path
        loop = asyncio.get_running_loop()
        self.table = ConnectionTable(
            limits, lambda *_: True, on_denied=lambda *_: None, on_closed=lambda *_: None, limited=Counter()
        )
        self.exhausted = 0
        self.logged: list[str] = []
        make: Any = lambda admission, _: Echo(self, admission)  # noqa: E731 - in place of a peer's connection
        self.acceptor = Acceptor(
            loop,
            FairScheduler(loop, time.monotonic),
            self.table,
            make,
            log=lambda _, event, **__: self.logged.append(event),
            on_exhausted=self._count,
        )
        self.listening = listener.bind(path, 0o600, None)
        self.acceptor.listen(self.listening.socket)

    def _count(self) -> None:
        self.exhausted += 1


@pytest.fixture(params=[asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest, socket_path: str) -> Callable[..., None]:
    """Run steps beside an acceptor."""

    def run_steps(steps: Steps, limits: LimitSettings | None = None) -> None:
        async def main() -> None:
            served = Served(socket_path, limits or LimitSettings())
            try:
                async with asyncio.timeout(30):
                    await steps(served)
            finally:
                served.acceptor.stop()
                served.listening.close()

            assert served.logged == []

        with asyncio.Runner(loop_factory=request.param) as runner:
            runner.run(main())

    return run_steps


@contextmanager
def connected(path: str) -> Iterator[socket.socket]:
    """Connect, without waiting for the acceptor."""
    with socket.socket(socket.AF_UNIX) as one:
        one.setblocking(False)
        one.connect(path)
        yield one


async def echo(one: socket.socket) -> bytes:
    """Send something and return the reply; empty if the connection was closed."""
    loop = asyncio.get_running_loop()
    try:
        await loop.sock_sendall(one, b"x")
        return await loop.sock_recv(one, 10)
    except OSError as error:
        if error.errno not in {errno.EPIPE, errno.ECONNRESET}:
            raise

        return b""


def test_connections_are_served_and_forgotten(run: Callable[..., None]) -> None:
    """Also many at the same time, and those that end before they are accepted."""

    async def steps(served: Served) -> None:
        for _ in range(300):
            with connected(served.path):
                pass

        crowd = [connected(served.path) for _ in range(200)]
        sockets = [one.__enter__() for one in crowd]
        assert [await echo(one) for one in sockets] == [b"x"] * 200
        assert len(served.table) == 200
        for one in crowd:
            one.__exit__(None, None, None)

        while len(served.table):  # noqa: ASYNC110 - the table reports only the end of all
            await asyncio.sleep(0.001)

    run(steps)


def test_connections_above_the_limit_are_closed(run: Callable[..., None]) -> None:
    """Later ones are served once others have left."""

    async def steps(served: Served) -> None:
        with connected(served.path) as first, connected(served.path) as second:
            assert await echo(first) == b"x"
            assert await echo(second) == b"x"
            for _ in range(40):
                with connected(served.path) as third:
                    assert await echo(third) == b""

        with connected(served.path) as again:
            assert await echo(again) == b"x"

    run(steps, LimitSettings(max_peers=2))


def test_without_descriptors_connections_are_closed_without_delay(run: Callable[..., None]) -> None:
    """The loop rests meanwhile, and serves as soon as descriptors are free."""

    async def steps(served: Served) -> None:
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        with connected(served.path) as first:
            assert await echo(first) == b"x"
            waiting = [socket.socket(socket.AF_UNIX) for _ in range(20)]
            for one in waiting:
                one.setblocking(False)

            resource.setrlimit(resource.RLIMIT_NOFILE, (highest_descriptor() + 1, hard))
            holes = fill_descriptors()
            try:
                for one in waiting:
                    one.connect(served.path)

                assert [await echo(one) for one in waiting] == [b""] * 20
                began_cpu = time.process_time()
                await asyncio.sleep(0.3)
                assert time.process_time() - began_cpu < 0.1
                assert await echo(first) == b"x"
            finally:
                resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
                for descriptor in holes:
                    os.close(descriptor)

            assert served.exhausted == 20
            for one in waiting:
                one.close()

            with connected(served.path) as late:
                assert await echo(late) == b"x"

    run(steps)


def highest_descriptor() -> int:
    """Return the greatest number in use."""
    return max(int(name) for name in os.listdir("/proc/self/fd"))  # noqa: PTH208 - names are numbers


def fill_descriptors() -> list[int]:
    """Use every descriptor that is left."""
    filled = []
    try:
        while True:
            filled.append(os.open(os.devnull, os.O_RDONLY))
    except OSError as error:
        if error.errno != errno.EMFILE:
            raise

    return filled


def test_a_replaced_socket_is_served_and_connections_stay(run: Callable[..., None]) -> None:
    """As after its file was removed."""

    async def steps(served: Served) -> None:
        with connected(served.path) as first:
            assert await echo(first) == b"x"
            before = served.listening.socket
            Path(served.path).unlink()
            served.listening.bind(0o600, None)
            served.acceptor.listen(served.listening.socket)
            served.acceptor.close(before)
            with connected(served.path) as second:
                assert await echo(second) == b"x"
                assert await echo(first) == b"x"

    run(steps)


def test_a_stopped_acceptor_leaves_open_connections(run: Callable[..., None]) -> None:
    """New ones are refused."""

    async def steps(served: Served) -> None:
        with connected(served.path) as first:
            assert await echo(first) == b"x"
            served.acceptor.stop()
            assert await echo(first) == b"x"
            with pytest.raises(ConnectionRefusedError), connected(served.path):
                pass

    run(steps)
