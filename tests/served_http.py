"""An HTTP listener in this process, in front of a real engine whose clock the test controls."""

import asyncio
import socket
import time
from collections.abc import Iterator
from concurrent.futures import wait
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from anyio.from_thread import start_blocking_portal

from sidecard.core.accounts.app_metrics import FamilySource
from sidecard.observe.http.address import TcpAddress, bind_tcp
from sidecard.observe.http.listener import HttpListener
from sidecard.server.scheduler import HTTP_UID, FairScheduler
from sidecard_client.protocol import wire
from tests.host import Host


class Served:
    """An engine served at ``url``. Access to ``host`` goes through `do`, into the serving thread."""

    def __init__(self, listening: socket.socket, allow_hosts: tuple[str, ...] = (), **engine: Any) -> None:
        self.host = Host(**engine)
        self.said: list[tuple[str, str, dict[str, Any]]] = []
        """The log's lines."""
        self.reply: wire.AnyReply | Exception | None = None
        """What every question is answered by, instead of the engine."""
        self.address = listening.getsockname()
        self.listener: HttpListener
        self._new_listener = partial(
            HttpListener, allow_hosts, listening, self._ask, self._say, sources=self._sources, tcp_uid=HTTP_UID
        )
        self._operator = self.host.peer(0, 0, operator=True)
        self._portal: Any = None
        self._running: Any = None

    @property
    def url(self) -> str:
        """The base URL, without a trailing slash."""
        host, port = self.address[:2]
        return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"

    @property
    def connections(self) -> int:
        """The number of open connections."""
        return len(self.listener._server.server_state.connections)

    def do(self, work: Any, *arguments: Any) -> Any:
        """Call a function in the serving thread."""
        return self._portal.call(work, *arguments)

    def passes(self, seconds: float) -> None:
        """Advance the engine's time, and record a step of the history."""

        def pass_time() -> None:
            self.host.passes(seconds)
            self.listener._app.record_step()

        self.do(pass_time)

    def connect(self) -> socket.socket:
        """Return an idle connection."""
        family = socket.AF_UNIX if isinstance(self.address, str) else socket.AF_INET
        connection = socket.socket(family)
        connection.settimeout(20)
        try:
            connection.connect(self.address)
        except OSError:
            connection.close()
            raise

        return connection

    @contextmanager
    def serving(self) -> Iterator[None]:
        """Serve, in a thread of its own."""
        with start_blocking_portal("asyncio") as self._portal:
            self.listener = self._portal.call(self._open)
            self._running, _ = self._portal.start_task(self.listener.run)
            try:
                yield
            finally:
                self.stop()

    def stop(self) -> None:
        """Cancel the listener, and wait until it has ended."""
        self._running.cancel()
        wait([self._running], timeout=20)
        assert self._running.cancelled()

    def _open(self) -> HttpListener:
        return self._new_listener(scheduler=FairScheduler(asyncio.get_running_loop(), time.monotonic))

    def _sources(self) -> Iterator[FamilySource]:
        if isinstance(self.reply, Exception):
            raise self.reply

        return self.host.engine.metrics_sources(self.host.now)[1]

    def _ask(self, request: wire.AnyRequest) -> wire.AnyReply:
        if isinstance(self.reply, Exception):
            raise self.reply

        if self.reply is not None:
            return self.reply

        self._operator.asks(request)
        (reply,) = self._operator.receives()
        return reply

    def _say(self, level: str, event: str, **fields: Any) -> None:
        self.said.append((level, event, fields))


@contextmanager
def served(*, allow_hosts: tuple[str, ...] = (), **engine: Any) -> Iterator[Served]:
    """Serve an engine with these settings on a port of loopback."""
    one = Served(bind_tcp(TcpAddress("127.0.0.1", 0)), allow_hosts, **engine)
    with one.serving():
        yield one


@contextmanager
def served_at(path: Path) -> Iterator[Served]:
    """Serve an engine on a Unix socket."""
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(str(path))
    listening.listen()
    listening.settimeout(0)
    one = Served(listening)
    with one.serving():
        yield one
