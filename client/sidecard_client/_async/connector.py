"""The connections of an async client, one for each event loop, and whether the daemon is asked at all."""

import logging
import random
import threading
from collections.abc import Callable
from time import monotonic
from weakref import WeakMethod, finalize, ref

import anyio
from msgspec.structs import replace

from sidecard_client._async.checkpoints import checkpoint_if_due
from sidecard_client._async.connection import AsyncConnection
from sidecard_client._async.event_loops import Work, event_loop_of, running, runs_here
from sidecard_client._sync.connection import BlockingConnection
from sidecard_client.call.availability import Availability
from sidecard_client.keys.normal_form import NormalForm
from sidecard_client.keys.task_forms import TaskForms
from sidecard_client.protocol.connection import ConnectionEnded, ConnectionLost, NotConnected
from sidecard_client.protocol.socket_path import find_socket, path_for_message
from sidecard_client.protocol.wire import AnyReply, AnyRequest, Explain, Get, Hit
from sidecard_client.view.views import ClientViews

_log = logging.getLogger("sidecard_client")

Connections = dict[int, "ref[AsyncConnection]"]
"""Connections by the ``id`` of what identifies their event loop. Only the loop refers to its connection."""


class AsyncConnector:
    """The connections to ``path`` (None: each new connection finds it). For any number of event loops and threads."""

    def __init__(self, path: str | None, timeout_seconds: float) -> None:
        self._given_path = path
        self._timeout_seconds = timeout_seconds
        self._dropped: finalize[..., AsyncConnector] | None = None
        self._connections: Connections = {}
        self.views = ClientViews(lambda: BlockingConnection(path or find_socket(), timeout_seconds))
        self._start()

    def leave_to_parent(self) -> None:
        """Restart without connections in the child of a fork."""
        for connection in _living(self._connections):
            connection.abandon()

        self.views.leave_to_parent()
        self._start()

    def _start(self) -> None:
        self._lock = threading.Lock()  # guards _availability, _reason and _connections
        self._availability = Availability(random.random, probe_seconds=2 * self._timeout_seconds)
        self._reason = ""
        self._forms = TaskForms()
        self._connections = {}
        if self._dropped is not None:
            self._dropped.detach()

        self._dropped = finalize(self, _end_all, self._connections)
        self._dropped.atexit = False

    def __repr__(self) -> str:
        """Show the daemon's availability and the connections."""
        return f"<AsyncConnector {self._availability!r} {_living(self._connections)!r}>"

    def place(self) -> str:
        """Return the socket's path for a message, or the problem with it."""
        return path_for_message(self._given_path)

    def _path(self) -> str:
        return self._given_path or find_socket()

    def connection(self) -> AsyncConnection:
        """Return the connection of the running event loop, and connect if there is none.

        Raises `NotConnected` if the daemon must not be asked now, or cannot be.
        """
        place = running()
        reference = self._connections.get(id(place))
        connection = None if reference is None else reference()
        if connection is not None and connection.proven and connection.place is place:
            return connection

        return self._admitted(place, connection)

    async def close(self) -> None:
        """End all connections, this loop's once its requests are sent. Callers that wait continue without the daemon."""
        own = None
        for connection in _living(self._connections):
            if runs_here(connection.place):
                own = connection
            else:
                connection.end_from_elsewhere("the client was closed")

        if own is not None:
            try:
                with anyio.move_on_after(self._timeout_seconds, shield=True):
                    await own.drain()
            finally:
                # No shield holds against asyncio's own cancellation.
                own.end("the client was closed", by="client")

    async def ask(self, request: AnyRequest) -> AnyReply:
        """Return the reply to a request outside of calls. A view may answer a `Get`.

        The request is sent once more if the connection has ended. Raises `ConnectionLost`.
        """
        if not isinstance(request, Get):
            return await self._ask(request)

        if self.views.attached:
            await checkpoint_if_due()
            stored = self.views.entry(request)
            if stored is not None:
                return stored

        reply = await self._ask(request)
        if isinstance(reply, Hit):
            self.views.saw_hit(request.namespace)

        return reply

    async def _ask(self, request: AnyRequest) -> AnyReply:
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

        Only if the daemon has ended the connection: it was restarted or closed an idle connection, and what it granted over
        it is void. If the second connection ends too, the daemon counts as unreachable.
        """
        ended = isinstance(lost, ConnectionEnded)
        if ended and again:
            self._failed(lost.reason)

        return ended and not again

    def start(self, work: Work) -> None:
        """Run ``work`` in a task of the running event loop, with the caller's context."""

        async def logged() -> None:
            try:
                await work()
            except Exception:  # noqa: BLE001 - trio would end all of its tasks
                _log.exception("a stream's task failed")

        event_loop_of(running()).start(logged)

    def _admitted(self, place: object, connection: AsyncConnection | None) -> AsyncConnection:
        # While a probe is out, only its caller uses the connection: a hanging daemon costs one caller its time, not all.
        with self._lock:
            admitted = self._availability.admit(monotonic())

        if not admitted:
            raise NotConnected(self._reason)

        if connection is None or connection.reason is not None or connection.place is not place:
            connection = self._connect(place)

        return connection

    def _connect(self, place: object) -> AsyncConnection:
        # A connection must not keep a connector alive whose client was dropped without being closed.
        proved, ended = _weakly(self._proved), _weakly(self._ended)
        try:
            loop = event_loop_of(place)
            connection = AsyncConnection(self._path(), self._timeout_seconds, loop, proved=proved, ended=ended)
        except (ConnectionLost, ValueError) as error:
            self._failed(str(error))
            raise NotConnected(str(error)) from None
        except RuntimeError as error:
            raise NotConnected(f"the event loop is ending: {error}") from None

        with self._lock:
            for number, reference in list(self._connections.items()):
                if reference() is None:
                    del self._connections[number]

            self._connections[id(place)] = ref(connection)

        return connection

    def _proved(self) -> None:
        with self._lock:
            was_down = self._availability.succeeded()

        if was_down:
            _log.info("sidecard answers again")

    def _ended(self, connection: AsyncConnection) -> None:
        # A connection that the daemon ends proves nothing: the next attempt to connect shows whether the daemon has ended.
        if connection.ended_by == "fault":
            self._failed(connection.reason or "")

    def _failed(self, reason: str) -> None:
        with self._lock:
            was_up = self._availability.failed(monotonic())
            self._reason = reason

        if was_up:
            _log.warning("sidecard is unreachable (%s); calls are made without it", reason)


def _living(connections: Connections) -> list[AsyncConnection]:
    found = [reference() for reference in list(connections.values())]
    return [connection for connection in found if connection is not None and connection.reason is None]


def _end_all(connections: Connections) -> None:
    """End the connections of a client that was dropped without being closed. The garbage collector calls this, in any thread."""
    for connection in _living(connections):
        connection.end_from_elsewhere("the client was dropped without being closed")


def _weakly(method: Callable[..., object]) -> Callable[..., object]:
    """Return a function that calls a bound method as long as its object is alive."""
    reference = WeakMethod(method)

    def call(*arguments: object) -> None:
        alive = reference()
        if alive is not None:
            alive(*arguments)

    return call
