"""Run the HTTP listener: uvicorn in the daemon's own event loop, with bounded resources and in turns.

Connections, headers, bodies and times are bounded (`sidecard.observe.http.connection`), and so are requests in progress
(`sidecard.observe.http.request_limits`).
"""

import logging
import socket
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial

import anyio
import uvicorn
from anyio.abc import TaskStatus

from sidecard.observe.history import STEP_SECONDS
from sidecard.observe.http.app import App, Query
from sidecard.observe.http.connection import HttpConnections, TurnProtocol
from sidecard.observe.http.guard import Guard, HostNames
from sidecard.observe.http.request_limits import RequestLimits
from sidecard.observe.http.scrapes import Scrapes, Sources
from sidecard.observe.http.turns import HttpTurns, Scheduler

MAX_HEAD_BYTES = 16 * 1024
"""Limit of a request's line and headers. Precedents: nginx 4 times 8 KiB, Apache 8 KiB a line, Go 1 MiB."""

KEEP_ALIVE_SECONDS = 5
"""For idle connections. uvicorn's own default; the dashboard sends a request every 2 s."""

STOP_SECONDS = 1.0
"""How long responses in progress may take when the listener stops."""


class HttpListener:
    """Serves HTTP on a listening socket, TCP or Unix, and closes it at the end; removes no file.

    ``allow_hosts`` are host names that requests may use, besides ``localhost``, addresses and this host's own name.
    ``query`` queries the engine, and ``sources`` yields its metrics; ``log`` writes a log line. Requests are served in turns of
    ``scheduler``, those over TCP as ``tcp_uid``.
    """

    def __init__(
        self,
        allow_hosts: Iterable[str],
        listening: socket.socket,
        query: Query,
        log: Callable[..., None],
        *,
        sources: Sources,
        scheduler: Scheduler,
        tcp_uid: int,
    ) -> None:
        self._listening = listening
        self._log = log
        turns = HttpTurns(scheduler)
        self._app = App(query, Scrapes(sources, scheduler), turns)
        local = listening.family == socket.AF_UNIX
        hosts = None if local else HostNames((socket.gethostname(), *allow_hosts))
        app = RequestLimits(Guard(self._app.asgi, hosts), turns)
        connection = partial(TurnProtocol, scheduler=scheduler, table=HttpConnections(), tcp_uid=tcp_uid)
        self._server = _Server(_uvicorn_config(app, connection))

    async def run(self, *, task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        """Serve until canceled, then let responses in progress end, for at most `STOP_SECONDS`.

        Start it by ``await task_group.start(listener.run)``, which returns once requests are accepted.
        """
        with _uvicorn_log_to(self._log):
            try:
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(self._record_history)
                    self._server.on_started = task_status.started
                    await self._server.serve([self._listening])
            finally:
                await self._server.stop(self._listening)

    async def _record_history(self) -> None:
        while True:
            try:
                self._app.record_step()
            except Exception as fault:  # noqa: BLE001 - a gap in a chart must not end the daemon
                self._log("error", "http history failed", exc_info=fault)

            await anyio.sleep(STEP_SECONDS)


class _Server(uvicorn.Server):
    """uvicorn without its signal handlers, which the daemon has, and with one wake-up per second instead of ten."""

    on_started: Callable[[], None]

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def main_loop(self) -> None:
        # The first tick creates the default headers of every response.
        await self.on_tick(0)
        self.on_started()
        while True:
            await anyio.sleep(1.0)
            await self.on_tick(0)

    async def stop(self, listening: socket.socket) -> None:
        """Stop accepting, let responses in progress end, and abort those that take longer than `STOP_SECONDS`."""
        if not self.started:
            listening.close()
            return

        with anyio.move_on_after(STOP_SECONDS, shield=True):
            await self.shutdown([listening])

        for connection in list(self.server_state.connections):
            connection.transport.abort()

        for task in list(self.server_state.tasks):
            task.cancel()


class _LogForwarder(logging.Handler):
    """Writes uvicorn's log records to the daemon's log."""

    def __init__(self, log: Callable[..., None]) -> None:
        super().__init__(logging.WARNING)
        self._log = log

    def emit(self, record: logging.LogRecord) -> None:
        fault = record.exc_info[1] if record.exc_info else None
        fields = {} if fault is None else {"exc_info": fault}
        level = "error" if record.levelno >= logging.ERROR else "warning"
        self._log(level, "http listener", reason=record.getMessage().strip(), **fields)


@contextmanager
def _uvicorn_log_to(log: Callable[..., None]) -> Iterator[None]:
    logger = logging.getLogger("uvicorn.error")
    handler = _LogForwarder(log)
    propagated, logger.propagate = logger.propagate, False
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.propagate = propagated


def _uvicorn_config(app: RequestLimits, connection: Callable[..., TurnProtocol]) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        interface="asgi3",
        http=connection,  # type: ignore[arg-type]  # it is only called
        ws="none",
        loop="none",
        lifespan="off",
        # Explicit, because the environment variable WEB_CONCURRENCY may be set for other servers.
        workers=1,
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        h11_max_incomplete_event_size=MAX_HEAD_BYTES,
    )
