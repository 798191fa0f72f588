"""The blocking client's streams. What they have in common with the others is `streaming`'s."""

import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from time import monotonic, sleep
from types import TracebackType
from typing import Any, Final, Generic, Self, cast

from sidecard_client._sync.connection import APPEND_ID, BlockingConnection
from sidecard_client._sync.connector import Connector
from sidecard_client.call import call as calls
from sidecard_client.call.attempts import Attempts, leaves_a_lease
from sidecard_client.call.call import Call, Source, T
from sidecard_client.call.failures import fail, kind_of
from sidecard_client.call.streams import Facts, Telling, broken, lost, no_pieces
from sidecard_client.protocol import wire
from sidecard_client.protocol.connection import ConnectionLost
from sidecard_client.protocol.errors import ProtocolError, UnshareableValue

_END: Final[Any] = object()


class Stream(Facts, Generic[T]):
    """Iterates over the pieces of an answer, wherever they come from. Nothing happens before the first one is asked for.

    For one thread at a time. As a context manager it is closed at the end of the block, whatever happens in it; so is one
    that is no longer referred to, but then nobody finishes the call for others.
    """

    def __init__(self, connector: Connector, call: Call) -> None:
        self._connector = connector
        self._call = call
        self._step: Callable[[], Any] | None = self._begin_unkeyed if call.key is calls.UNKEYED else self._begin
        self._connection: BlockingConnection | None = None
        self._request_id = 0
        self._pieces: Iterator[Any] = iter(())
        self._close_source: Callable[[], object] | None = None
        self._lease: wire.Lease | None = None
        self._telling: Telling | None = None
        self._attempts = Attempts(call)

    def __repr__(self) -> str:
        """Show where it is from."""
        return f"<Stream from {self.source or 'nowhere yet'}{'' if self._step else ', ended'}>"

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> T:
        """Return the next piece. Raises what `Client.stream` says."""
        step = self._step
        if step is None:
            raise StopIteration

        pace_seconds = self._call.options.pace_seconds
        if pace_seconds:
            sleep(self.pause_seconds(pace_seconds, monotonic()))

        try:
            piece = step()
        except BaseException:
            self._drop()
            raise

        if piece is _END:
            self._drop()
            raise StopIteration

        return cast("T", piece)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def __del__(self) -> None:
        # No lock may be taken here, since this may run anywhere. The daemon sees the connection's end and passes the call on.
        connection = getattr(self, "_connection", None)
        if connection is not None:
            self._connector.throw_away(connection)

    def close(self) -> None:
        """Want no more of it. A call that runs here, and for which others wait, is finished for them by a thread."""
        # From here on the step is this method's: 1. an SDK closes its response, and a thread goes on for others; 2. its
        # `with` block closes it once more, and a second thread would ask the same generator.
        step, self._step = self._step, None
        if step is None:
            return

        connection, lease = self._connection, self._lease
        if connection is None or lease is None:
            if connection is not None and self._connector.cancel(connection, self._request_id):
                self._give_back()

            self._drop()
            return

        self._connector.heartbeat.release(connection)
        reply = self._connector.tell(connection, wire.Renew(id=connection.next_id(), lease=lease.lease))
        if isinstance(reply, wire.Ok) and reply.waiters:
            self._connector.heartbeat.hold(connection, lease.lease, lease.expires_in_seconds)
            with suppress(RuntimeError):  # no thread can be started: then nobody finishes it
                threading.Thread(target=self._finish, args=(step,), name="sidecard-stream", daemon=True).start()
                return

        message = wire.Fail(
            lease.lease, "cancelled", "the caller wanted no more of its stream", id=connection.next_id()
        )
        self._tell_end(message)
        self._drop()

    def _finish(self, step: Callable[[], Any]) -> None:
        # Its followers are told how it ends; here is nobody who could be.
        with suppress(BaseException):
            while step() is not _END:
                pass

        self._drop()

    # Steps: each returns a piece, or `_END` ---------------------------------------------------------------------------

    def _begin_unkeyed(self) -> Any:
        self._call = calls.keyed(self._call, self._connector.normal_forms(self._call.options.task))
        return self._begin()

    def _begin(self) -> Any:
        call, started = self._call, monotonic()
        try:
            connection, reply = self._connector.begin(call, started)
        except ConnectionLost as error:
            return self._go_alone("fallback", str(error))

        now = self._connector.heartbeat.heard = monotonic()
        self._connection = connection
        waited_seconds = now - started
        match reply:
            case wire.Lease():
                self.waited_seconds = waited_seconds
                return self._lead(connection, reply)
            case wire.Chunk():
                self._request_id = reply.id
                self._step = self._follow
                self.began(reply, waited_seconds)
                return reply.chunk
            case wire.End():
                self.ended(reply, waited_seconds)
                return self._give_back()

        self._give_back()
        resolved = calls.resolve(call, reply, waited_seconds)
        if resolved is calls.VECTOR_WANTED:
            from sidecard_client.call.embedding import embedded  # noqa: PLC0415 - for those who embed

            return self._begin_as(embedded(call))

        if resolved is calls.OWN_CALL:
            if call.key is None:
                return self._go_alone("upstream")

            return self._begin_as(calls.unshared(call))

        if resolved is calls.WITHOUT_DAEMON:
            return self._go_alone("fallback", "it takes no more calls just now")

        if isinstance(resolved, calls.Outcome):
            return self._grow_old(resolved)

        raise ProtocolError(f"The daemon answered the begin of a stream by {type(reply).__name__}.")

    def _begin_as(self, call: Call) -> Any:
        self._call = call
        self._attempts = Attempts(call)
        return self._begin()

    def _grow_old(self, old: calls.Outcome[Any]) -> Any:
        """Go on with an older answer, since there is no other."""
        pieces = self.grew_old(old)
        self._step = lambda: next(pieces, _END)
        return self._step()

    def _follow(self) -> Any:
        started = monotonic()
        connection = self._connection
        assert connection is not None  # noqa: S101 - it is there from the first piece to the last; for the type checker
        try:
            reply = self._connector.next_piece(connection, self._call, self._request_id, started)
        except ConnectionLost as error:
            raise lost(str(error)) from None

        self._connector.heartbeat.heard = monotonic()
        if isinstance(reply, wire.Chunk):
            return reply.chunk

        self._give_back()
        if isinstance(reply, wire.End):
            self.ended(reply, self.waited_seconds)
            return _END

        raise broken(reply, monotonic() - started)

    def _lead(self, connection: BlockingConnection, lease: wire.Lease) -> Any:
        try:
            return self._make(connection, lease)
        except Exception as error:
            old = self._attempts.old_outcome(error, self.waited_seconds)
            if old is None:
                raise

            return self._grow_old(old)

    def _make(self, connection: BlockingConnection, lease: wire.Lease) -> Any:
        """Make the call up to its first piece, on one backend after the other if need be."""
        call, attempts = self._call, self._attempts
        while True:
            connection.leading = True
            self._lease = lease
            self._connector.heartbeat.hold(connection, lease.lease, lease.expires_in_seconds)
            function = attempts.take(lease)
            self._telling = Telling(call, lease)
            try:
                piece = self._first_of(function)
            except BaseException as error:
                self._connector.heartbeat.release(connection)
                kind = kind_of(error, call.options.classify)
                message = attempts.fail(connection.next_id(), lease, error, kind)
                self._lease = self._telling = None
                if not message.next:
                    self._tell_end(message)
                    raise

                reply = self._connector.ask_next(connection, call, message)
                connection.leading = leaves_a_lease(reply)
                verdict = attempts.verdict(message, reply)
                if verdict == "lease":
                    lease = cast("wire.Lease", reply)
                    continue

                self._give_back()
                if verdict == "alone":
                    return self._go_alone("upstream")

                raise

            self.source = "upstream"
            self.backend = attempts.backend
            self.attempts = attempts.count
            self._step = self._lead_on
            return self._told(piece)

    def _lead_on(self) -> Any:
        try:
            piece = next(self._pieces, _END)
        except BaseException as error:
            connection, lease = self._connection, self._lease
            if connection is not None and lease is not None:
                self._connector.heartbeat.release(connection)
                kind = kind_of(error, self._call.options.classify)
                self._tell_end(fail(connection.next_id(), lease.lease, error, kind))

            raise

        return self._told(piece)

    def _told(self, piece: Any) -> Any:
        """Tell a piece, or the end, to the daemon; return it."""
        connection, lease, telling = self._connection, self._lease, self._telling
        if connection is None or lease is None or telling is None:
            return piece  # the daemon was lost, or what came before could not be shared

        if piece is _END:
            self._connector.heartbeat.release(connection)
            self._tell_end(telling.complete(connection.next_id()))
            return piece

        try:
            message = telling.append(APPEND_ID, piece)
        except UnshareableValue as error:
            self._connector.heartbeat.release(connection)
            self._tell_end(telling.refuse(connection.next_id(), error))
            calls.warn_unshareable(self._call.function_of(self._attempts.backend), error)
        else:
            if not self._connector.send(connection, message):
                self._drop_connection()

        return piece

    def _go_alone(self, source: Source, reason: str = "") -> Any:
        """Make the call without the daemon, up to its first piece, on one backend after the other."""
        call = self._call
        if source == "fallback":
            calls.may_run_here(call, reason, self._connector.place)

        tried = self._attempts.tried
        for backend, function in calls.choices_here(call, tried):
            tried.add(backend)
            try:
                piece = self._first_of(function)
            except BaseException as error:
                if calls.another_here(call, tried, kind_of(error, call.options.classify)):
                    continue

                raise

            self.source, self.backend = source, backend
            self._step = self._lead_on
            return piece

        raise AssertionError("a call has a backend, and another one whenever `another_here` says so")

    def _first_of(self, function: Callable[..., Any]) -> Any:
        pieces = function(*self._call.args, **self._call.kwargs)
        if not isinstance(pieces, Iterable):
            raise no_pieces(function, pieces)

        self._close_source = getattr(pieces, "close", None)
        self._pieces = iter(pieces)
        return next(self._pieces, _END)

    # What is left behind ----------------------------------------------------------------------------------------------

    def _tell_end(self, message: wire.Complete | wire.Fail) -> None:
        connection = self._connection
        if connection is not None:
            connection.leading = leaves_a_lease(self._connector.tell(connection, message))
            self._give_back()

    def _give_back(self) -> Any:
        connection, self._connection = self._connection, None
        self._lease = self._telling = None
        if connection is not None:
            if connection.leading:
                self._connector.throw_away(connection)
            else:
                self._connector.give_back(connection)

        return _END

    def _drop_connection(self) -> None:
        connection, self._connection = self._connection, None
        self._lease = self._telling = None
        if connection is not None:
            self._connector.heartbeat.release(connection)
            self._connector.throw_away(connection)

    def _drop(self) -> None:
        """End it here and now; what it held at the daemon is void."""
        self._step = None
        self._drop_connection()
        close, self._close_source = self._close_source, None
        self._pieces = iter(())
        if close is not None:
            with suppress(ValueError):  # a generator that is running, because this is its own doing
                close()
