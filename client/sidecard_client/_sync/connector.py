"""The connections of a blocking client: which one a request takes, and whether the daemon is asked at all.

Every failure leaves as a `connection.ConnectionLost`, having been told to `availability` where it says something about the daemon.
"""

import os
import threading
from collections.abc import Callable
from time import monotonic
from typing import Any

from sidecard_client._sync.connection import BlockingConnection
from sidecard_client._sync.heartbeat import Heartbeat
from sidecard_client.call.availability import Availability
from sidecard_client.call.call import Call, remaining_seconds
from sidecard_client.keys.normal_form import NormalForm
from sidecard_client.keys.task_forms import TaskForms
from sidecard_client.protocol import wire
from sidecard_client.protocol.connection import ConnectionEnded, ConnectionLost, DaemonUnresponsive, InvalidReply
from sidecard_client.protocol.socket_path import find_socket

MAX_IDLE_CONNECTIONS = 128
"""Connections kept for later. A process with more threads than that opens more and closes them again."""

LATE_SECONDS = 1.0
"""How long the daemon's own `wire.Timeout` is waited for, beyond the caller's ``wait``."""

_FINAL = frozenset({wire.Chunk, *wire.FINAL_REPLIES_OF_BEGIN})
"""What a wait ends in. After a `wire.Chunk` there is another one."""


class Connector:
    """Connections to ``path`` (found at each connection where it is None). Thread-safe.

    A connection that `begin` or `first_reply` returns belongs to its caller until `give_back` or `throw_away`.
    """

    def __init__(self, path: str | None, timeout_seconds: float) -> None:
        self._given_path = path
        self._timeout_seconds = timeout_seconds
        self._closed = False
        self._start_over()

    def _start_over(self) -> None:
        self._lock = threading.Lock()  # guards _availability, _reason and _closed
        self._availability = Availability(_jitter, probe_seconds=2 * self._timeout_seconds)
        self._reason = ""
        self._forms = TaskForms()
        self._idle: list[BlockingConnection] = []  # last in, first out; append and pop are atomic
        self._open: set[BlockingConnection] = set()  # in use or idle; add and discard are atomic
        self.heartbeat = Heartbeat(self._timeout_seconds, self._hangs)

    def __repr__(self) -> str:
        """Show what is known of the daemon, and the connections."""
        return f"<Connector {self._availability!r} {len(self._open)} open, {len(self._idle)} idle>"

    @property
    def place(self) -> str:
        """Name the socket for a message: its path, or what is wrong with it."""
        try:
            return self._path()
        except ValueError as error:
            return str(error)

    def _path(self) -> str:
        return self._given_path or find_socket()

    def begin(self, call: Call, started: float) -> tuple[BlockingConnection, Any]:
        """Ask whether ``call`` must be made, wait if need be, and return the final reply."""
        connection, reply = self.first_reply(call.begin)
        if type(reply) is wire.Pending:
            try:
                return connection, self._wait(connection, call, reply.id, started)
            except ConnectionEnded:
                # The daemon has ended, and with it this wait: nothing is left of it, so asking again is safe.
                left = remaining_seconds(call, monotonic() - started)
                connection, reply = self.first_reply(lambda request_id: call.begin(request_id, left))
                if type(reply) is wire.Pending:
                    return connection, self._wait(connection, call, reply.id, started)

        if type(reply) not in _FINAL:
            self.throw_away(connection)
            raise self._failed(InvalidReply(f"a begin was answered by {type(reply).__name__}"))

        return connection, reply

    def first_reply(self, make: Callable[[int], Any]) -> tuple[BlockingConnection, Any]:
        """Send the request that ``make`` makes of an id, and return the first reply with its connection.

        A kept connection may have ended meanwhile (the daemon was restarted).
        Then the request is sent once more, on a new one: whatever the daemon granted to the old one is void.
        """
        if not self._availability.up:
            self._ask_for_admission()

        try:
            connection = self._idle.pop()
        except IndexError:
            pass
        else:
            try:
                return connection, self._exchange(connection, make)
            except ConnectionEnded:
                self._drop_idle()  # they have ended as well
            except ConnectionLost as error:
                raise self._failed(error) from None

        connection = self._connect()
        try:
            return connection, self._exchange(connection, make)
        except ConnectionLost as error:
            raise self._failed(error) from None

    def normal_forms(self, task: str) -> tuple[NormalForm, ...]:
        """Return the normal forms of a task, as the daemon has them now, or had them when it was last heard."""
        forms = self._forms.current(task, monotonic())
        if forms is not None:
            return forms

        try:
            connection, reply = self.first_reply(lambda request_id: wire.Explain(id=request_id, task=task))
        except ConnectionLost:
            return self._forms.last(task)

        self.give_back(connection)
        return self._forms.learn(task, reply, monotonic())

    def tell(self, connection: BlockingConnection, request: Any) -> Any | None:
        """Send what the daemon should know and return its answer, or None: a call never fails for want of telling."""
        try:
            return connection.exchange(request)
        except DaemonUnresponsive as error:
            connection.usable = False
            self._failed(error)
        except ConnectionLost:
            connection.usable = False

        return None

    def ask_next(self, connection: BlockingConnection, call: Call, request: wire.Fail) -> Any | None:
        """Tell a failure of ``call`` and return the final reply, or None where the daemon was lost before it.

        The reply may take as long as the one to a begin, and the wait for it has the same limits and the same watch.
        """
        started = monotonic()
        reply = self.tell(connection, request)
        if type(reply) is not wire.Pending:
            return reply

        self.heartbeat.heard = monotonic()
        try:
            return self._wait(connection, call, request.id, started)
        except ConnectionLost:
            return None

    def next_piece(self, connection: BlockingConnection, call: Call, request_id: int, started: float) -> Any:
        """Return what follows a piece of a stream. Raises `ConnectionLost`; the connection is thrown away then."""
        try:
            reply = connection.received(request_id)
        except ConnectionLost:
            self.throw_away(connection)
            raise

        # Most pieces of a stored answer come together: then nobody has to watch over a wait.
        return self._wait(connection, call, request_id, started) if reply is None else reply

    def send(self, connection: BlockingConnection, request: wire.Append) -> bool:
        """Send a piece of a stream; False where the daemon does not take it, and the connection is of no use any more."""
        try:
            connection.send(request)
        except ConnectionLost as error:
            if isinstance(error, DaemonUnresponsive):
                self._failed(error)

            return False

        return True

    def cancel(self, connection: BlockingConnection, target: int) -> bool:
        """Want no more of a stream; False where the connection is of no use any more."""
        try:
            connection.cancel(target)
        except ConnectionLost:
            connection.usable = False

        return connection.usable

    def give_back(self, connection: BlockingConnection) -> None:
        """Keep ``connection`` for the next request. It must have no answer outstanding."""
        if (
            connection.usable
            and not connection.abandoned
            and not self._closed
            and len(self._idle) < MAX_IDLE_CONNECTIONS
        ):
            self._idle.append(connection)
            if self._closed:  # 1. looked at; 2. close() dropped the idle ones; 3. this one was appended
                self._drop_idle()
        else:
            self.throw_away(connection)

    def throw_away(self, connection: BlockingConnection) -> None:
        """Close ``connection``; whatever it waited for or held is void."""
        self._open.discard(connection)
        connection.close()

    def close(self) -> None:
        """Close idle connections; those in use are closed when they are given back."""
        self._closed = True
        self._drop_idle()
        self.heartbeat.close()

    def leave_to_parent(self) -> None:
        """Begin anew in the child of a fork: with no connection, no thread and new locks.

        The child's copies are closed, not shut down: they are the parent's connections too.
        If they stayed open, the daemon would not see the parent's death.
        """
        for connection in self._open:
            connection.close()

        self._start_over()

    def _exchange(self, connection: BlockingConnection, make: Callable[[int], Any]) -> Any:
        try:
            reply = connection.exchange(make(connection.next_id()))
        except BaseException:
            # Also an interruption: an answer that comes later must not be the next request's.
            self.throw_away(connection)
            raise

        if not self._availability.up:
            self._succeeded()

        return reply

    def _connect(self) -> BlockingConnection:
        if self._closed:
            raise RuntimeError("This client is closed: make a new one.")

        try:
            connection = BlockingConnection(self._path(), self._timeout_seconds)
        except ValueError as error:
            raise self._failed(ConnectionEnded(str(error))) from None
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

    def _wait(self, connection: BlockingConnection, call: Call, request_id: int, started: float) -> Any:
        """Return the final reply to a request that is pending, while the heartbeat watches over the daemon.

        Raises `ConnectionEnded` where the daemon has ended and may be asked again, `DaemonUnresponsive` where it hangs.
        """
        try:
            if not self.heartbeat.watch(connection):
                raise DaemonUnresponsive("no thread could be started to watch over the wait")

            try:
                reply = self._wait_watched(connection, call, request_id, started)
            finally:
                self.heartbeat.unwatch(connection)
        except ConnectionEnded as error:
            self.throw_away(connection)
            if connection.abandoned:
                raise DaemonUnresponsive(self._reason) from error

            raise
        except BaseException:
            self.throw_away(connection)
            raise

        if type(reply) in _FINAL:
            return reply

        self.throw_away(connection)
        raise self._failed(InvalidReply(f"a wait ended in {type(reply).__name__}"))

    def _wait_watched(self, connection: BlockingConnection, call: Call, request_id: int, started: float) -> Any:
        wait_seconds = call.options.wait_seconds
        late = None if wait_seconds is None else started + wait_seconds + self._timeout_seconds + LATE_SECONDS
        while True:
            try:
                reply = connection.receive_or_beat(request_id)
            except DaemonUnresponsive:
                reply = None  # the socket's own time limit, which says nothing here: the heartbeat judges

            if reply is not None:
                return reply

            if late is not None and monotonic() > late:
                connection.usable = False  # the answer may still come
                return wire.Timeout(id=request_id, waited_seconds=monotonic() - started)

    def _hangs(self) -> None:
        self._failed(DaemonUnresponsive("the daemon does not answer"))

    def _ask_for_admission(self) -> None:
        with self._lock:
            admitted = self._availability.admit(monotonic())

        if not admitted:
            raise ConnectionEnded(self._reason)

    def _failed(self, error: ConnectionLost) -> ConnectionLost:
        """Take note that the daemon cannot be reached, say so once, and return ``error``."""
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


def _jitter() -> float:
    """Return a number in [0, 1): of the kernel, because a parent and its forks must not probe in step."""
    return int.from_bytes(os.urandom(2), "big") / 65536


def _log(level: str, message: str, *args: object) -> None:
    import logging  # noqa: PLC0415 - most programs never need this line, and all would pay for the import

    getattr(logging.getLogger("sidecard_client"), level)(message, *args)
