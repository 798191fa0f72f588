"""The async client's way to the daemon: one connection, made and remade as `availability` allows, from one event loop."""

import logging
import os
import random
from asyncio import _get_running_loop
from collections.abc import Awaitable, Callable, Coroutine
from threading import get_ident
from time import monotonic
from typing import Any, TypeVar

import anyio
from anyio.abc import TaskGroup
from msgspec.structs import replace

from sidecard_client._async.connection import AsyncConnection
from sidecard_client.call.availability import Availability
from sidecard_client.keys.normal_form import NormalForm
from sidecard_client.keys.task_forms import TaskForms
from sidecard_client.protocol.connection import ConnectionLost
from sidecard_client.protocol.socket_path import find_socket
from sidecard_client.protocol.wire import AnyReply, AnyRequest, Explain

Answered = TypeVar("Answered")

_log = logging.getLogger("sidecard_client")


class AsyncConnector:
    """The connection to ``path`` (found at each connection where it is None); usable between `open` and `close`."""

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

    def __repr__(self) -> str:
        """Show what is known of the daemon, and the connection."""
        return f"<AsyncConnector {self._availability!r} {self._connection!r}>"

    @property
    def place(self) -> str:
        """Name the socket for a message: its path, or what is wrong with it."""
        try:
            return self._path()
        except ValueError as error:
            return str(error)

    def _path(self) -> str:
        return self._given_path or find_socket()

    def open(self, tasks: TaskGroup) -> None:
        """Belong to the running event loop; connections are served in ``tasks``."""
        self._tasks = tasks
        self._thread = get_ident()
        self._process = os.getpid()
        # Trio has no asyncio loop: None here, and None again in `connection`.
        self._loop = _get_running_loop()

    async def close(self) -> None:
        """End the connection after what callers have already said is sent; whoever still waits gets `RuntimeError`."""
        self.closed = True
        connection = self._connection
        if connection is not None:
            try:
                with anyio.move_on_after(self._timeout_seconds, shield=True):
                    await connection.drain()
            finally:
                # No shield holds against asyncio's own cancellation.
                connection.end("the client was closed")

    def connection(self) -> AsyncConnection:
        """Return the connection, connecting where there is none.

        Raises `ConnectionLost` where the daemon is not worth asking now, and `RuntimeError` in a wrong place.
        """
        if get_ident() != self._thread or _get_running_loop() is not self._loop:
            self._complain()

        connection = self._connection
        if connection is not None and connection.proven:
            return connection

        return self._admitted()

    async def ask(self, request: AnyRequest) -> AnyReply:
        """Send a request and return its last reply; once more on a new connection where the old one had ended.

        Raises `ConnectionLost` and `RuntimeError`.
        """
        connection = self.connection()
        try:
            return await connection.ask(replace(request, id=connection.next_id()))
        except ConnectionLost as lost:
            connection = self.instead_of(connection, lost)

        return await self.ask_again(connection, replace(request, id=connection.next_id()))

    async def normal_forms(self, task: str) -> tuple[NormalForm, ...]:
        """Return the normal forms of a task, as the daemon has them now, or had them when it was last heard."""
        forms = self._forms.current(task, monotonic())
        if forms is not None:
            return forms

        try:
            reply = await self.ask(Explain(task=task))
        except ConnectionLost:
            return self._forms.last(task)

        return self._forms.learn(task, reply, monotonic())

    async def ask_again(
        self, connection: AsyncConnection, request: AnyRequest, wait_seconds: float | None = None
    ) -> AnyReply:
        """Make the second and last attempt. Raises `ConnectionLost` and `RuntimeError`."""
        return await self.again(connection, connection.ask(request, wait_seconds))

    async def again(self, connection: AsyncConnection, asking: Awaitable[Answered]) -> Answered:
        """Await the second and last attempt, on ``connection``. Raises `ConnectionLost` and `RuntimeError`."""
        try:
            return await asking
        except ConnectionLost as lost:
            if self.closed:
                self._complain()

            if connection.gone:
                self._failed(lost.reason)

            raise

    def start(self, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Let ``work`` run in a task of the client's, which ends with it."""
        tasks = self._tasks
        assert tasks is not None  # noqa: S101 - who has a connection is open; for the type checker
        tasks.start_soon(work, name="sidecard call")

    def instead_of(self, connection: AsyncConnection, lost: ConnectionLost) -> AsyncConnection:
        """Return the connection to ask once more, where ``connection`` has ended without the daemon hanging.

        The daemon was restarted, or has closed an idle connection: what it granted to the old one is void,
        so asking again is safe. Raises ``lost`` otherwise, and `RuntimeError` where this client was closed meanwhile.
        """
        if self.closed:
            self._complain()

        if not connection.gone:
            raise lost

        return self.connection()

    def _admitted(self) -> AsyncConnection:
        if self.closed or self._tasks is None or os.getpid() != self._process:
            self._complain()

        # While a probe is out its connection is nobody else's: a hanging daemon costs one caller its time, not all.
        if not self._availability.admit(monotonic()):
            raise ConnectionLost(self._reason)

        connection = self._connection
        if connection is None or connection.reason is not None:
            try:
                connection = AsyncConnection(
                    self._path(), self._timeout_seconds, proved=self._proved, ended=self._ended
                )
            except (ConnectionLost, ValueError) as error:
                self._failed(str(error))
                raise ConnectionLost(str(error)) from None

            self._connection = connection
            tasks = self._tasks
            assert tasks is not None  # noqa: S101 - checked above; for the type checker
            tasks.start_soon(connection.run, name="sidecard connection")

        return connection

    def _proved(self) -> None:
        if self._availability.succeeded():
            _log.info("sidecard answers again")

    def _ended(self, connection: AsyncConnection) -> None:
        # That a connection ended says nothing yet: the next attempt to connect tells whether the daemon has.
        if not connection.gone and not self.closed:
            self._failed(connection.reason or "")

    def _failed(self, reason: str) -> None:
        self._reason = reason
        if self._availability.failed(monotonic()):
            _log.warning("sidecard is unreachable (%s); calls are made without it", reason)

    def _complain(self) -> None:
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
