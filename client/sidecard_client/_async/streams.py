"""The async client's streams. What they have in common with the others is `streaming`'s.

The function of a stream that leads runs in a task of its own, so that it can go on for others when its caller is cancelled.
It is never more than one piece ahead of its caller::

    task (client's):   piece -> tell the daemon -> hand over -- wait until it is taken --> next piece ...
    caller:                                        take it ---> use it ----------------> wait for the next
"""

from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable, Iterator
from contextlib import suppress
from inspect import isasyncgenfunction, isawaitable, iscoroutinefunction
from time import monotonic
from types import TracebackType
from typing import Any, Final, Generic, Self, cast

import anyio
from anyio import to_thread

from sidecard_client._async.calls import embedded
from sidecard_client._async.connection import AsyncConnection, ReplyQueue
from sidecard_client._async.connector import AsyncConnector
from sidecard_client.call import call as calls
from sidecard_client.call.attempts import Attempts, leaves_a_lease
from sidecard_client.call.call import Call, Source, T
from sidecard_client.call.failures import fail, kind_of
from sidecard_client.call.streams import Facts, Telling, broken, lost, no_pieces
from sidecard_client.protocol import wire
from sidecard_client.protocol.connection import ConnectionLost
from sidecard_client.protocol.errors import ProtocolError, UnshareableValue

_END: Final[Any] = object()

ORPHAN_SECONDS = 1.0
"""How often a task that waits for its caller looks whether there is one."""

CLOSE_SECONDS = 1.0
"""How long a function's generator may take to close."""

MAX_BACKLOG_BYTES = 1024 * 1024
"""Pieces that a daemon which does not read leaves here. Beyond it the call goes on unshared, and nobody waits for the daemon."""


class AsyncStream(Facts, Generic[T]):
    """Iterates over the pieces of an answer, wherever they come from. Nothing happens before the first one is asked for.

    For one task at a time. As an asynchronous context manager it is closed at the end of the block, whatever happens in it;
    without one, say ``await stream.aclose()`` when you leave it before its end.
    """

    def __init__(self, connector: AsyncConnector, call: Call) -> None:
        self._connector = connector
        self._call = call
        self._step: Callable[[], Any] | None = self._begin_unkeyed if call.key is calls.UNKEYED else self._begin
        self._connection: AsyncConnection | None = None
        self._feed: ReplyQueue | None = None
        self._request_id = 0
        self._upstream: _Upstream | None = None

    def __repr__(self) -> str:
        """Show where it is from."""
        return f"<AsyncStream from {self.source or 'nowhere yet'}{'' if self._step else ', ended'}>"

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> T:
        """Return the next piece. Raises what `AsyncClient.stream` says."""
        step = self._step
        if step is None:
            raise StopAsyncIteration

        pace_seconds = self._call.options.pace_seconds
        if pace_seconds:
            await anyio.sleep(self.pause_seconds(pace_seconds, monotonic()))

        try:
            piece = await step()
        except BaseException:
            self._leave()
            raise

        if piece is _END:
            self._leave()
            raise StopAsyncIteration

        return cast("T", piece)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()

    def __del__(self) -> None:
        # This may run in another thread, or when the loop is closed. The task looks at it within `ORPHAN_SECONDS`.
        upstream = getattr(self, "_upstream", None)
        if upstream is not None:
            upstream.orphaned = True

    async def aclose(self) -> None:
        """Want no more of it. A call that runs here, and for which others wait, is finished for them."""
        upstream = self._upstream
        self._leave()
        if upstream is not None:
            with anyio.CancelScope(shield=True):
                await upstream.settled.wait()

    def _leave(self) -> None:
        self._step = None
        feed, self._feed = self._feed, None
        if feed is not None and self._connection is not None:
            self._connection.unfollow(self._request_id)

        upstream, self._upstream = self._upstream, None
        if upstream is not None:
            upstream.leave()

    async def _begin_unkeyed(self) -> Any:
        self._call = calls.keyed(self._call, await self._connector.normal_forms(self._call.options.task))
        return await self._begin()

    async def _begin(self) -> Any:
        call, started, connector = self._call, monotonic(), self._connector
        try:
            connection = connector.connection()
            request = call.begin(connection.next_id())
            try:
                reply, feed = await connection.follow(request, request.wait_seconds)
            except ConnectionLost as gone:
                connection = connector.instead_of(connection, gone)
                request = call.begin(connection.next_id(), calls.remaining_seconds(call, monotonic() - started))
                reply, feed = await connector.again(connection, connection.follow(request, request.wait_seconds))

        except ConnectionLost as gone:
            calls.may_run_here(call, gone.reason, connector.place)
            return await self._run(None, None, request_id=0, source="fallback")

        waited_seconds = monotonic() - started
        self._connection, self._request_id = connection, request.id
        match reply:
            case wire.Lease():
                self.waited_seconds = waited_seconds
                return await self._run(connection, reply, request.id, "upstream")
            case wire.Chunk():
                self._feed = feed
                self._step = self._follow
                self.began(reply, waited_seconds)
                return reply.chunk
            case wire.End():
                self.ended(reply, waited_seconds)
                return _END

        resolved = calls.resolve(call, reply, waited_seconds)
        if resolved is calls.OWN_CALL and call.key is None:
            return await self._run(None, None, request_id=0, source="upstream")

        if resolved is calls.OWN_CALL or resolved is calls.VECTOR_WANTED:
            self._call = calls.unshared(call) if resolved is calls.OWN_CALL else await embedded(call)
            return await self._begin()

        if resolved is calls.WITHOUT_DAEMON:
            calls.may_run_here(call, "it takes no more calls just now", connector.place)
            return await self._run(None, None, request_id=0, source="fallback")

        if isinstance(resolved, calls.Outcome):
            return await self._grow_old(resolved)

        raise ProtocolError(f"The daemon answered the begin of a stream by {type(reply).__name__}.")

    async def _follow(self) -> Any:
        feed, connection, started = self._feed, self._connection, monotonic()
        assert feed is not None  # noqa: S101 - both are there from the first piece to the last; for the type checker
        assert connection is not None  # noqa: S101 - as above
        reply = await feed.get()
        if isinstance(reply, wire.Chunk):
            return reply.chunk

        self._feed = None
        if reply is None:
            raise lost(connection.reason or "it did not answer in time")

        if isinstance(reply, wire.End):
            self.ended(reply, self.waited_seconds)
            return _END

        raise broken(reply, monotonic() - started)

    async def _grow_old(self, old: calls.Outcome[Any]) -> Any:
        """Go on with an older answer, since there is no other."""
        pieces = self.grew_old(old)

        async def step() -> Any:
            return next(pieces, _END)

        self._step = step
        return await step()

    async def _run(
        self, connection: AsyncConnection | None, lease: wire.Lease | None, request_id: int, source: Source
    ) -> Any:
        self._upstream = upstream = _Upstream(self._connector, self._call, connection, lease, request_id)
        self._connector.start(upstream.run)
        self._step = upstream.take
        try:
            piece = await upstream.take()
        except Exception as error:
            old = upstream.attempts.old_outcome(error, self.waited_seconds)
            if old is None:
                raise

            return await self._grow_old(old)

        self.source = "upstream" if upstream.leads else source
        self.backend = upstream.backend
        self.attempts = upstream.attempts.count
        return piece


class _Upstream:
    """The function of one stream, in a task of the client's."""

    def __init__(
        self,
        connector: AsyncConnector,
        call: Call,
        connection: AsyncConnection | None,
        lease: wire.Lease | None,
        begin_id: int,
    ) -> None:
        self._connector = connector
        self._call = call
        self._connection = connection
        self._lease = lease
        self._begin_id = begin_id
        self._telling: Telling | None = None
        self._scope = anyio.CancelScope()
        self._taken = anyio.Event()
        self._given = anyio.Event()
        self._piece: Any = None
        self._error: BaseException | None = None
        self._source: Any = None
        self._iterator: AsyncIterator[Any]
        self._left = False
        self.attempts = Attempts(call)
        self.backend = ""
        self.leads = lease is not None
        self.orphaned = False
        """Nobody refers to its stream any more."""
        self.settled = anyio.Event()
        """Its caller has left, and it goes on for others; or it has ended."""

    # The caller's side ------------------------------------------------------------------------------------------------

    async def take(self) -> Any:
        """Return the next piece, or `_END`. Raises what the function does."""
        await self._given.wait()
        if self._error is not None:
            raise self._error

        self._given = anyio.Event()
        self._taken.set()
        return self._piece

    def leave(self) -> None:
        """The caller wants no more: go on only if others wait for the call."""
        if self._left:
            return

        self._left = True
        self._taken.set()
        if self._lease is None or self._connection is None or self._connection.reason is not None:
            self._scope.cancel()
        else:
            self._connector.start(self._ask_whether_others_wait)

    async def _ask_whether_others_wait(self) -> None:
        connection, lease, reply = self._connection, self._lease, None
        if connection is not None and lease is not None:
            with suppress(ConnectionLost):
                reply = await connection.ask(wire.Renew(id=connection.next_id(), lease=lease.lease))

        if isinstance(reply, wire.Ok) and reply.waiters:
            self.settled.set()
        else:
            self._scope.cancel()

    # The task's side --------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Run the function, hand its pieces over, and tell the daemon."""
        try:
            with self._scope:
                try:
                    await self._hand_over_all()
                except Exception as error:  # noqa: BLE001 - the function's own, and its caller's to see
                    self._give(_END, error)
                finally:
                    await self._close_source()
        except BaseException as error:
            # Of another kind than an `Exception`: the caller's, as where the function runs in the caller's own task.
            closed = RuntimeError("This client is closed: make a new one.") if self._connector.closed else None
            self._give(_END, closed or error)
            if isinstance(error, anyio.get_cancelled_exc_class()):
                raise
        finally:
            self._give_back()
            self.settled.set()

    async def _hand_over_all(self) -> None:
        piece = await self._first()
        while True:
            await self._tell(piece)
            self._taken = anyio.Event()
            self._give(piece)
            if piece is _END:
                return

            await self._until_taken()
            try:
                piece = await self._next()
            except BaseException as error:
                self._failed(error)
                raise

    async def _first(self) -> Any:
        """Return the first piece, of one backend after the other if need be."""
        call, attempts, connection = self._call, self.attempts, self._connection
        while self._lease is not None and connection is not None:
            lease = self._lease
            connection.hold(lease)
            function = attempts.take(lease)
            self.backend = attempts.backend
            self._telling = Telling(call, lease)
            try:
                return await self._open(function)
            except BaseException as error:
                connection.release(lease.lease)
                kind = kind_of(error, call.options.classify)
                message = attempts.fail(connection.next_id(), lease, error, kind)
                if not message.next:
                    self._lease = None
                    connection.tell(message)
                    raise

                reply = await _ask_next(connection, call, self._begin_id, message)
                self._lease, verdict = None, attempts.verdict(message, reply)
                if verdict == "lease":
                    self._lease = cast("wire.Lease", reply)
                    continue

                if leaves_a_lease(reply):
                    connection.tell(wire.Cancel(target=self._begin_id))

                if verdict != "alone":
                    raise

        return await self._first_alone()

    async def _first_alone(self) -> Any:
        call, tried = self._call, self.attempts.tried
        for backend, function in calls.choices_here(call, tried):
            tried.add(backend)
            self.backend = backend
            try:
                return await self._open(function)
            except BaseException as error:
                if calls.another_here(call, tried, kind_of(error, call.options.classify)):
                    continue

                raise

        raise AssertionError("a call has a backend, and another one whenever `another_here` says so")

    async def _open(self, function: Callable[..., Any]) -> Any:
        self._source = source = await _pieces_of(function, self._call)
        self._iterator = aiter(source) if isinstance(source, AsyncIterable) else _in_threads(iter(source))
        return await self._next()

    async def _next(self) -> Any:
        return await anext(self._iterator, _END)

    async def _tell(self, piece: Any) -> None:
        connection, lease, telling = self._connection, self._lease, self._telling
        if connection is None or lease is None or telling is None:
            return

        if piece is _END:
            self._lease = None
            connection.release(lease.lease)
            with suppress(ConnectionLost):
                # Awaited, so that who has seen the end finds the answer there, in any process.
                if leaves_a_lease(await connection.ask(telling.complete(connection.next_id()))):
                    connection.tell(wire.Cancel(target=self._begin_id))

            return

        try:
            message = telling.append(connection.next_id(), piece)
        except UnshareableValue as error:
            self._lease = None
            connection.release(lease.lease)
            connection.tell(telling.refuse(connection.next_id(), error))
            calls.warn_unshareable(self._call.function_of(self.backend), error)
            return

        connection.tell(message)
        if connection.backlog_bytes > MAX_BACKLOG_BYTES:
            self._give_back()

    def _failed(self, error: BaseException) -> None:
        """The function has failed after its first piece."""
        connection, lease = self._connection, self._lease
        if connection is not None and lease is not None:
            self._lease = None
            connection.release(lease.lease)
            connection.tell(fail(connection.next_id(), lease.lease, error, kind_of(error, self._call.options.classify)))

    def _give(self, piece: Any, error: BaseException | None = None) -> None:
        self._piece = piece
        self._error = error
        self._given.set()

    async def _until_taken(self) -> None:
        while not (self._left or self._taken.is_set()):
            with anyio.move_on_after(ORPHAN_SECONDS):
                await self._taken.wait()

            if self.orphaned:
                self.leave()

        if self._left:
            await self.settled.wait()

    def _give_back(self) -> None:
        """Let the daemon have a lease back of which nothing more will come."""
        connection, lease = self._connection, self._lease
        self._lease = None
        if connection is not None and lease is not None:
            connection.release(lease.lease)
            connection.tell(wire.Cancel(target=self._begin_id))

    async def _close_source(self) -> None:
        close = getattr(self._source, "aclose", None) or getattr(self._source, "close", None)
        if close is None:
            return

        with anyio.move_on_after(CLOSE_SECONDS, shield=True), suppress(Exception):
            closing = close()
            if isawaitable(closing):
                await closing


async def _ask_next(connection: AsyncConnection, call: Call, begin_id: int, request: wire.Fail) -> wire.AnyReply | None:
    try:
        return await connection.ask(request, call.options.wait_seconds, begin_id)
    except ConnectionLost:
        return None


async def _pieces_of(function: Callable[..., Any], call: Call) -> AsyncIterable[Any] | Iterable[Any]:
    """Call the function: in a thread where it is a plain one, because nobody knows whether it blocks."""
    if isasyncgenfunction(function):
        pieces = function(*call.args, **call.kwargs)
    elif iscoroutinefunction(function) or iscoroutinefunction(type(function).__call__):
        pieces = await function(*call.args, **call.kwargs)
    else:
        # In a tuple, because trio takes a coroutine that comes out of a thread for a mistake.
        (pieces,) = await to_thread.run_sync(lambda: (function(*call.args, **call.kwargs),))
        if isawaitable(pieces):
            pieces = await pieces

    if not isinstance(pieces, AsyncIterable | Iterable):
        raise no_pieces(function, pieces)

    return pieces


async def _in_threads(pieces: Iterator[Any]) -> AsyncIterator[Any]:
    while (piece := await to_thread.run_sync(next, pieces, _END)) is not _END:
        yield piece
