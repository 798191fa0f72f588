"""The connection of an async client: opened and reopened as `availability` allows, for one event loop."""

import logging
import os
import random
from asyncio import AbstractEventLoop, _get_running_loop
from collections.abc import Callable, Coroutine
from contextlib import suppress
from threading import get_ident
from time import monotonic
from typing import Any
from weakref import WeakMethod, finalize

import anyio
from anyio.abc import TaskGroup
from msgspec.structs import replace

from sidecard_client._async.connection import AsyncConnection
from sidecard_client.call.availability import Availability
from sidecard_client.keys.normal_form import NormalForm
from sidecard_client.keys.task_forms import TaskForms
from sidecard_client.protocol.connection import ConnectionEnded, ConnectionLost, NotConnected
from sidecard_client.protocol.socket_path import find_socket, path_for_message
from sidecard_client.protocol.wire import AnyReply, AnyRequest, Explain

_log = logging.getLogger("sidecard_client")


class AsyncConnector:
    """The connection to ``path`` (None: each new connection finds it). Usable between `open` and `close`."""

    def __init__(self, path: str | None, timeout_seconds: float) -> None:
        self.closed = False
        self._given_path = path
        self._timeout_seconds = timeout_seconds
        self._availability = Availability(random.random, probe_seconds=2 * timeout_seconds)
        self._reason = ""
        self._forms = TaskForms()
        self._connection: AsyncConnection | None = None
        self._tasks: TaskGroup | None = None
        self._thread = 0
        self._process = 0
        self._loop: object = None
        self._call_soon: Callable[..., object] = _call_now
        self._dropped: finalize[..., AsyncConnector] | None = None

    def __repr__(self) -> str:
        """Show the daemon's availability and the connection."""
        return f"<AsyncConnector {self._availability!r} {self._connection!r}>"

    def place(self) -> str:
        """Return the socket's path for a message, or the problem with it."""
        return path_for_message(self._given_path)

    def _path(self) -> str:
        return self._given_path or find_socket()

    def open(self, tasks: TaskGroup) -> None:
        """Bind the connector to the running event loop. Connections are served in ``tasks``."""
        self._tasks = tasks
        self._thread = get_ident()
        self._process = os.getpid()
        # Trio has no asyncio loop: None here, and None again in `connection`.
        loop = self._loop = _get_running_loop()
        self._call_soon = _trio_call_soon() if loop is None else _asyncio_call_soon(loop)

    async def close(self) -> None:
        """End the connection once all requests are sent. Waiting callers get `RuntimeError`."""
        self.closed = True
        if self._dropped is not None:
            self._dropped.detach()

        connection = self._connection
        if connection is not None:
            try:
                with anyio.move_on_after(self._timeout_seconds, shield=True):
                    await connection.drain()
            finally:
                # No shield holds against asyncio's own cancellation.
                connection.end("the client was closed")

    def connection(self) -> AsyncConnection:
        """Return the connection, and connect if there is none.

        Raises `NotConnected` if the daemon must not be asked now, and `RuntimeError` in another thread or event loop.
        """
        if get_ident() != self._thread or _get_running_loop() is not self._loop:
            self._reject_use()

        connection = self._connection
        if connection is not None and connection.proven:
            return connection

        return self._admitted()

    async def ask(self, request: AnyRequest) -> AnyReply:
        """Send a request outside of calls and return its last reply; send it once more if the connection has ended.

        Raises `ConnectionLost` and `RuntimeError`.
        """
        for again in (False, True):
            connection = self.connection()
            try:
                return await connection.ask(replace(request, id=connection.protocol.next_id))
            except ConnectionLost as lost:
                if not self.may_ask_again(lost, again=again):
                    raise

        raise AssertionError("unreachable: nothing is asked a third time")

    async def normal_forms(self, task: str) -> tuple[NormalForm, ...]:
        """Return the normal forms of a task, as the daemon has them now, or as it last reported them."""
        forms = self._forms.current(task, monotonic())
        if forms is not None:
            return forms

        try:
            reply = await self.ask(Explain(task=task))
        except ConnectionLost:
            return self._forms.last(task)

        return self._forms.learn(task, reply, monotonic())

    def may_ask_again(self, lost: ConnectionLost, *, again: bool) -> bool:
        """Return whether a request may be sent once more; ``again`` if that was the second time.

        Only if the connection has ended: the daemon was restarted or closed an idle connection, and what the daemon granted
        over it is void. If the second connection ends too, the daemon counts as unreachable.
        Raises `RuntimeError` if this client was closed meanwhile.
        """
        if self.closed:
            self._reject_use()

        ended = isinstance(lost, ConnectionEnded)
        if ended and again:
            self._failed(lost.reason)

        return ended and not again

    def start(self, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Run ``work`` in a task of the client, which is canceled when the client is closed."""
        tasks = self._tasks
        assert tasks is not None  # noqa: S101 - a client with a connection is open; for the type checker
        tasks.start_soon(work, name="sidecard call")

    def _admitted(self) -> AsyncConnection:
        if self.closed or self._tasks is None or os.getpid() != self._process:
            self._reject_use()

        # While a probe is out, only its caller uses the connection: a hanging daemon costs one caller its time, not all.
        if not self._availability.admit(monotonic()):
            raise NotConnected(self._reason)

        connection = self._connection
        if connection is None or connection.reason is not None:
            try:
                # The connection's tasks must not keep a connector alive whose client was dropped without being closed.
                proved, ended = _weakly(self._proved), _weakly(self._ended)
                connection = AsyncConnection(self._path(), self._timeout_seconds, proved=proved, ended=ended)
            except (ConnectionLost, ValueError) as error:
                self._failed(str(error))
                raise NotConnected(str(error)) from None

            self._connection = connection
            if self._dropped is not None:
                self._dropped.detach()

            self._dropped = finalize(self, _end_dropped, connection, self._call_soon)
            self._dropped.atexit = False
            tasks = self._tasks
            assert tasks is not None  # noqa: S101 - checked above; for the type checker
            tasks.start_soon(connection.run, name="sidecard connection")

        return connection

    def _proved(self) -> None:
        if self._availability.succeeded():
            _log.info("sidecard answers again")

    def _ended(self, connection: AsyncConnection) -> None:
        # The end of a connection alone proves nothing: the next attempt to connect shows whether the daemon has ended.
        if not connection.ended_by_daemon and not self.closed:
            self._failed(connection.reason or "")

    def _failed(self, reason: str) -> None:
        self._reason = reason
        if self._availability.failed(monotonic()):
            _log.warning("sidecard is unreachable (%s); calls are made without it", reason)

    def _reject_use(self) -> None:
        if self.closed:
            raise RuntimeError("This client is closed: make a new one.")

        if self._tasks is None:
            raise RuntimeError("This client is not open: write `async with AsyncClient() as sidecard:`.")

        if os.getpid() != self._process:
            raise RuntimeError("This client was opened before a fork: the child process must make its own AsyncClient.")

        raise RuntimeError(
            "This client was opened in another event loop: make one AsyncClient for each event loop, "
            "or use Client, which any number of threads may share."
        )


def _weakly(method: Callable[..., object]) -> Callable[..., object]:
    """Return a function that calls a bound method as long as its object is alive."""
    reference = WeakMethod(method)

    def call(*arguments: object) -> None:
        alive = reference()
        if alive is not None:
            alive(*arguments)

    return call


def _end_dropped(connection: AsyncConnection, call_soon: Callable[..., object]) -> None:
    """End a connection in its event loop. The garbage collector calls this, in any thread."""
    with suppress(RuntimeError):  # the event loop has ended
        call_soon(connection.end, "the client was dropped without being closed")


def _call_now(function: Callable[..., object], *arguments: object) -> None:
    function(*arguments)


def _asyncio_call_soon(loop: AbstractEventLoop) -> Callable[..., object]:
    """Return a function that schedules another one, as a task: in a bare callback, anyio cannot tell which loop runs."""

    async def run(function: Callable[..., object], arguments: tuple[object, ...]) -> None:
        function(*arguments)

    def call_soon(function: Callable[..., object], *arguments: object) -> None:
        loop.call_soon_threadsafe(lambda: loop.create_task(run(function, arguments)))

    return call_soon


def _trio_call_soon() -> Callable[..., object]:
    import trio  # noqa: PLC0415 - imported, since it runs

    return trio.lowlevel.current_trio_token().run_sync_soon
