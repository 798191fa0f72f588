"""The HTTP listener for people and scrapers: uvicorn inside the daemon's own loop, within bounds.

Everything a client may cost is bounded here: connections, headers, bodies, patience.
uvicorn has no patience for a client that says nothing before its first request, or that reads no answer; `_Connection` has.
"""

import asyncio
import logging
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import anyio
import uvicorn
from anyio.abc import TaskStatus
from msgspec import Struct
from uvicorn.protocols.http.h11_impl import H11Protocol

from sidecard.observe.history import STEP_SECONDS
from sidecard.observe.http.app import App, Ask
from sidecard.observe.http.guard import Guard, Hosts

MAX_CONNECTIONS = 64
"""Those beyond are answered 503, and from twice as many on closed at once. A browser opens six, a scraper one."""

MAX_HEAD_BYTES = 16 * 1024
"""Of a request's line and headers. Precedents: nginx 4 times 8 KiB, Apache 8 KiB a line, Go 1 MiB."""

PATIENCE_SECONDS = 20.0
"""A connection on which no answer has been completed for so long is cut. Above the keep-alive time, and any scrape's."""

KEEP_ALIVE_SECONDS = 5
"""Of a connection with nothing to do. uvicorn's own default; the dashboard asks every 2 s."""

STOP_SECONDS = 1.0
"""How long answers in progress may take when the listener stops."""

Say = Callable[..., None]
"""Writes a log line: ``say(level, event, **fields)``."""


class HttpSettings(Struct, frozen=True):
    """``allow_hosts`` are the names that a request may ask for, besides ``localhost``, addresses and the host's own name."""

    allow_hosts: tuple[str, ...] = ()


class HttpListener:
    """Serves HTTP on a socket that is listening already, TCP or Unix; closes it at the end, removes no file.

    ``ask`` asks the daemon (`sidecard.observe.http.app.Ask`); ``say`` writes a log line.
    """

    def __init__(self, settings: HttpSettings, listening: socket.socket, ask: Ask, say: Say) -> None:
        self._listening = listening
        self._say = say
        self._app = App(ask)
        local = listening.family == socket.AF_UNIX
        hosts = None if local else Hosts((socket.gethostname(), *settings.allow_hosts))
        self._server = _Server(_uvicorn_config(Guard(self._app.asgi, hosts)))

    async def run(self, *, task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        """Serve until cancelled, then let answers in progress end, for at most `STOP_SECONDS`.

        To be started by ``await task_group.start(listener.run)``, which returns once requests are accepted.
        """
        with _telling(self._say):
            try:
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(self._observe)
                    self._server.on_started = task_status.started
                    await self._server.serve([self._listening])
            finally:
                await self._server.stop(self._listening)

    async def _observe(self) -> None:
        while True:
            try:
                self._app.observe()
            except Exception as fault:  # noqa: BLE001 - a curve with a gap is no reason to end the daemon
                self._say("error", "http history failed", exc_info=fault)

            await anyio.sleep(STEP_SECONDS)


class _Server(uvicorn.Server):
    """uvicorn without its own signals, which are the daemon's, and with one wake-up a second where it has ten."""

    on_started: Callable[[], None]

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def main_loop(self) -> None:
        # The first tick makes the headers that every answer has.
        await self.on_tick(0)
        self.on_started()
        while True:
            await anyio.sleep(1.0)
            await self.on_tick(0)

    async def stop(self, listening: socket.socket) -> None:
        """Accept no more, let answers in progress end, and cut those that take longer than `STOP_SECONDS`."""
        if not self.started:
            listening.close()
            return

        with anyio.move_on_after(STOP_SECONDS, shield=True):
            await self.shutdown([listening])

        for connection in list(self.server_state.connections):
            connection.transport.abort()

        for task in list(self.server_state.tasks):
            task.cancel()


class _Connection(H11Protocol):
    """uvicorn's connection, with a bound on their number and on how long one may go without completing an answer."""

    _patience: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn has it
        super().connection_made(transport)
        self._be_patient()
        if len(self.connections) > 2 * MAX_CONNECTIONS:
            transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._patience is not None:
            self._patience.cancel()

        super().connection_lost(exc)

    def on_response_complete(self) -> None:
        if not self.transport.is_closing():
            self._be_patient()

        super().on_response_complete()

    def _unsupported_upgrade_warning(self) -> None:
        # An offer (curl --http2 makes one) that may be left alone; uvicorn would log advice on what to install.
        pass

    def _be_patient(self) -> None:
        if self._patience is not None:
            self._patience.cancel()

        # Not closed: that would wait for what the client does not read.
        self._patience = self.loop.call_later(PATIENCE_SECONDS, self.transport.abort)


class _Telling(logging.Handler):
    """Tells the daemon's log what uvicorn's would be told."""

    def __init__(self, say: Say) -> None:
        super().__init__(logging.WARNING)
        self._say = say

    def emit(self, record: logging.LogRecord) -> None:
        fault = record.exc_info[1] if record.exc_info else None
        fields = {} if fault is None else {"exc_info": fault}
        level = "error" if record.levelno >= logging.ERROR else "warning"
        self._say(level, "http listener", reason=record.getMessage().strip(), **fields)


@contextmanager
def _telling(say: Say) -> Iterator[None]:
    logger = logging.getLogger("uvicorn.error")
    handler = _Telling(say)
    propagated, logger.propagate = logger.propagate, False
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.propagate = propagated


def _uvicorn_config(app: Guard) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        interface="asgi3",
        http=_Connection,
        ws="none",
        loop="none",
        lifespan="off",
        # Said, where the environment could say otherwise: WEB_CONCURRENCY is meant for other servers.
        workers=1,
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        limit_concurrency=MAX_CONNECTIONS,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        h11_max_incomplete_event_size=MAX_HEAD_BYTES,
    )
