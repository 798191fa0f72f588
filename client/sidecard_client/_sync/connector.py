"""The connections of a blocking client: which one a request uses, and whether the daemon is asked at all.

Every failure is a `ConnectionLost`. Those that show the daemon to be unreachable are reported to `availability`.
"""

import os
import threading
from collections.abc import Callable
from functools import partial
from time import monotonic
from typing import Any
from weakref import WeakMethod, finalize

from sidecard_client._sync.connection import BlockingConnection
from sidecard_client._sync.heartbeat import Heartbeat
from sidecard_client.batches.commands import Wait
from sidecard_client.call.availability import Availability
from sidecard_client.keys.normal_form import NormalForm
from sidecard_client.keys.task_forms import TaskForms
from sidecard_client.protocol import wire
from sidecard_client.protocol.connection import (
    LATE_SECONDS,
    ConnectionEnded,
    ConnectionLost,
    DaemonUnresponsive,
    InvalidReply,
    NotConnected,
)
from sidecard_client.protocol.socket_path import find_socket, path_for_message
from sidecard_client.view.views import ClientViews

MAX_IDLE_CONNECTIONS = 128
"""Connections kept for later. A process with more threads opens more, and closes them again."""


class Connector:
    """Connections to ``path`` (None: each new connection finds it). Thread-safe.

    A connection that `first_reply` returns belongs to its caller until `give_back` or `throw_away`.
    """

    def __init__(self, path: str | None, timeout_seconds: float) -> None:
        self.closed = False
        self._given_path = path
        self._timeout_seconds = timeout_seconds
        self._dropped: finalize[..., Connector] | None = None
        self.views = ClientViews(lambda: BlockingConnection(path or find_socket(), timeout_seconds))
        self._reset()

    def _reset(self) -> None:
        self._lock = threading.Lock()  # guards _availability and _reason
        self._availability = Availability(_jitter, probe_seconds=2 * self._timeout_seconds)
        self._reason = ""
        self._forms = TaskForms()
        self._idle: list[BlockingConnection] = []  # last in, first out; append and pop are atomic
        self._open: set[BlockingConnection] = set()  # in use or idle; add and discard are atomic
        # The heartbeat's thread must not keep a connector alive whose client was dropped without `close`.
        found = WeakMethod(self._found_unresponsive)

        def found_unresponsive() -> None:
            method = found()
            if method is not None:
                method()

        self.heartbeat = Heartbeat(self._timeout_seconds, found_unresponsive)
        if self._dropped is not None:
            self._dropped.detach()

        self._dropped = finalize(self, _end_unused, self._open, self.heartbeat)
        self._dropped.atexit = False

    def __repr__(self) -> str:
        """Show the daemon's availability and the connections."""
        return f"<Connector {self._availability!r} {len(self._open)} open, {len(self._idle)} idle>"

    def place(self) -> str:
        """Return the socket's path for a message, or the problem with it."""
        return path_for_message(self._given_path)

    def _path(self) -> str:
        return self._given_path or find_socket()

    def first_reply(self, make: Callable[[int], wire.AnyRequest]) -> tuple[BlockingConnection, Any]:
        """Send the request that ``make`` builds for an id; return the first reply and its connection.

        An idle connection may have ended (the daemon was restarted). Then the request is sent once more, on a new one:
        what the daemon granted over the old one is void. Raises `ConnectionLost` and `RuntimeError`.
        """
        if not self._availability.up:
            self._admit()

        try:
            connection = self._idle.pop()
        except IndexError:
            connection, is_new = self._connect(), True
        else:
            is_new = False

        while True:
            try:
                reply = connection.exchange(make(connection.protocol.next_id))
            except ConnectionEnded as error:
                self.throw_away(connection)
                if is_new:
                    raise self._failed(error) from None

                self._drop_idle()  # they have ended too
                connection, is_new = self._connect(), True
                continue
            except BaseException as error:
                # An interruption too: a late reply must not be the next request's.
                self.throw_away(connection)
                if isinstance(error, ConnectionLost):
                    raise self._failed(error) from None

                raise

            if not self._availability.up:
                self._succeeded()

            return connection, reply

    def ask(self, request: wire.AnyRequest) -> Any:
        """Return the reply to a request outside of calls. A view may answer a `Get`. Raises as `first_reply`."""
        if isinstance(request, wire.Get) and (stored := self.views.entry(request)) is not None:
            return stored

        connection, reply = self.first_reply(lambda _: request)
        self.give_back(connection)
        if isinstance(request, wire.Get) and isinstance(reply, wire.Hit):
            self.views.saw_hit(request.namespace)

        return reply

    def normal_forms(self, task: str) -> tuple[NormalForm, ...]:
        """Return the normal forms of a task, as the daemon has them now, or as it last reported them."""
        forms = self._forms.current(task, monotonic())
        if forms is not None:
            return forms

        try:
            reply = self.ask(wire.Explain(task=task))
        except ConnectionLost:
            return self._forms.last(task)

        return self._forms.learn(task, reply, monotonic())

    def exchange(
        self, connection: BlockingConnection, request: wire.AnyRequest, wait_seconds: float | None = None
    ) -> wire.AnyReply | ConnectionLost:
        """Return the final reply to a holder's ``request``, or the `ConnectionLost`, since a lost report fails no call."""
        started = monotonic()
        try:
            reply = connection.exchange(request)
        except ConnectionLost as error:
            connection.usable = False
            return self._failed(error) if isinstance(error, DaemonUnresponsive) else error
        except BaseException:
            connection.usable = False  # interrupted: the next reply would not be the next request's
            raise

        return reply if type(reply) is not wire.Pending else self.wait(connection, reply.id, wait_seconds, started)

    def wait(
        self, connection: BlockingConnection, request_id: int, wait_seconds: float | None, started: float
    ) -> wire.AnyReply | ConnectionLost:
        """Return the next reply to a pending request, or `ConnectionLost`. The heartbeat watches the daemon meanwhile.

        `ConnectionEnded`: the daemon has ended and may be asked again. `DaemonUnresponsive`: it hangs. After either, and
        after an interruption, the connection is thrown away.
        """
        self.heartbeat.heard_at = monotonic()
        try:
            reply = connection.received(request_id)  # most chunks of a stored answer arrive together
            if reply is None:
                reply = self._wait_watched(connection, request_id, wait_seconds, started)

        except InvalidReply as error:
            self.throw_away(connection)
            return self._failed(error)
        except ConnectionLost as error:
            self.throw_away(connection)
            return DaemonUnresponsive(self._reason) if connection.abandoned else error
        except BaseException:
            self.throw_away(connection)
            raise

        self.heartbeat.heard_at = monotonic()
        return reply

    def _wait_watched(
        self, connection: BlockingConnection, request_id: int, wait_seconds: float | None, started: float
    ) -> wire.AnyReply:
        late_at = None if wait_seconds is None else started + wait_seconds + self._timeout_seconds + LATE_SECONDS
        reply: wire.AnyReply | None = self._watched(
            connection, partial(connection.receive_or_beat, request_id), late_at
        )
        if reply is not None:
            return reply

        connection.usable = False  # the reply may still arrive
        return wire.Timeout(id=request_id, waited_seconds=monotonic() - started)

    def _watched(self, connection: BlockingConnection, receive: Callable[[], Any], late_at: float | None) -> Any:
        """Call ``receive`` until it returns something; return None after ``late_at``. Raises `ConnectionLost`."""
        try:
            # Within the `try`: an interruption after `watch` must not leave the connection watched.
            if not self.heartbeat.watch(connection):
                raise DaemonUnresponsive("no thread could be started to watch the daemon")

            while True:
                try:
                    received = receive()
                except DaemonUnresponsive:
                    received = None  # the socket's own time limit, which does not apply here: the heartbeat decides

                if received:
                    return received

                if late_at is not None and monotonic() > late_at:
                    return None

        finally:
            self.heartbeat.unwatch(connection)

    def lend(self, *, again: bool) -> BlockingConnection:
        """Return a connection for several requests at the same time, until `give_back` or `throw_away`.

        ``again``: the last one has ended, and so have those that are idle. Raises `ConnectionLost` and `RuntimeError`.
        """
        if not self._availability.up:
            self._admit()

        if again:
            self._drop_idle()

        try:
            return self._idle.pop()
        except IndexError:
            return self._connect()

    def receive(
        self, connection: BlockingConnection, wait: Wait, late_at: float | None
    ) -> list[wire.AnyReply] | ConnectionLost:
        """Return the replies that have arrived on a lent connection, as `Receive` describes. After a loss it is thrown away."""
        try:
            if wait == "pending":
                replies = self._watched(connection, connection.receive_all, late_at) or []
            else:
                replies = connection.receive_all(block=wait == "reply")
        except ConnectionLost as error:
            self.throw_away(connection)
            if connection.abandoned:
                return DaemonUnresponsive(self._reason)

            return error if isinstance(error, ConnectionEnded) else self._failed(error)

        self.heartbeat.heard_at = monotonic()
        if replies and not self._availability.up:
            self._succeeded()

        return replies

    def send(self, connection: BlockingConnection, request: wire.AnyRequest) -> bool:
        """Send a request without waiting for a reply. Returns False if the connection is useless from now on."""
        try:
            connection.send(request)
        except ConnectionLost as error:
            connection.usable = False
            if isinstance(error, DaemonUnresponsive):
                self._failed(error)

        return connection.usable

    def cancel(self, connection: BlockingConnection, target: int) -> bool:
        """Cancel a followed stream. Returns False if the connection is useless from now on."""
        try:
            connection.cancel(target)
        except ConnectionLost:
            connection.usable = False

        return connection.usable

    def give_back(self, connection: BlockingConnection) -> None:
        """Keep ``connection`` for the next request, if it can serve one."""
        if (
            connection.usable
            and not connection.abandoned
            and not self.closed
            and len(self._idle) < MAX_IDLE_CONNECTIONS
        ):
            self._idle.append(connection)
            if self.closed:  # 1. checked above; 2. close() dropped the idle ones; 3. this one was appended
                self._drop_idle()
        else:
            self.throw_away(connection)

    def throw_away(self, connection: BlockingConnection) -> None:
        """Close ``connection``. The daemon voids its waits and its lease."""
        self._open.discard(connection)
        connection.end()

    def close(self) -> None:
        """Close idle connections, and report the hits from views. Connections in use are closed when they are given back."""
        self.closed = True
        self._drop_idle()
        self.heartbeat.close()
        self.views.close()

    def leave_to_parent(self) -> None:
        """Restart in the child of a fork: with no connection, no thread and new locks.

        The child's copies are closed but not shut down, since they are the parent's connections too. If they stayed open,
        the daemon would not notice the parent's death.
        """
        for connection in self._open:
            connection.close()

        self.views.leave_to_parent()
        self._reset()

    def _connect(self) -> BlockingConnection:
        if self.closed:
            raise RuntimeError("This client is closed: make a new one.")

        try:
            connection = BlockingConnection(self._path(), self._timeout_seconds)
        except ValueError as error:
            raise self._failed(NotConnected(str(error))) from None
        except ConnectionLost as error:
            raise self._failed(error) from None

        self._open.add(connection)
        return connection

    def _drop_idle(self) -> None:
        while True:
            try:
                self.throw_away(self._idle.pop())
            except IndexError:
                return

    def _found_unresponsive(self) -> None:
        self._failed(DaemonUnresponsive("the daemon does not answer"))

    def _admit(self) -> None:
        with self._lock:
            admitted = self._availability.admit(monotonic())

        if not admitted:
            raise NotConnected(self._reason)

    def _failed(self, error: ConnectionLost) -> ConnectionLost:
        """Record that the daemon cannot be reached, log it once, and return ``error``."""
        with self._lock:
            was_up = self._availability.failed(monotonic())
            self._reason = str(error)

        if was_up:
            _log("warning", "sidecard is unreachable (%s); calls are made without it", error)

        return error

    def _succeeded(self) -> None:
        with self._lock:
            was_down = self._availability.succeeded()

        if was_down:
            _log("info", "sidecard answers again")


def _end_unused(connections: set[BlockingConnection], heartbeat: Heartbeat) -> None:
    """Close what belonged to a connector that no client, call or stream uses any more."""
    heartbeat.abandon()
    for connection in list(connections):
        connection.end()


def _jitter() -> float:
    """Return a number in [0, 1), from the kernel: a parent and its forks must not probe in step."""
    return int.from_bytes(os.urandom(2), "big") / 65536


def _log(level: str, message: str, *args: object) -> None:
    import logging  # noqa: PLC0415 - most programs never need this line, and all would pay for the import

    getattr(logging.getLogger("sidecard_client"), level)(message, *args)
