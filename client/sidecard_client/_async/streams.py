"""The async client's streams: execute the commands of `call.streams`.

Another caller's stream is followed in the caller's task. This client's own call runs in a task of its own, so that it
can go on for waiters when its caller is canceled. It is at most one piece ahead of its caller::

    call's task:     piece -> to the daemon -> hand over -- wait until taken --> next piece ...
    caller's task:                             take -----> use it ------------> wait for the next
"""

from collections.abc import AsyncIterable, AsyncIterator, Callable, Generator, Iterable, Iterator
from contextlib import suppress
from inspect import isasyncgenfunction, isawaitable, iscoroutinefunction
from time import monotonic
from types import TracebackType
from typing import Any, ClassVar, Generic, Self, cast

import anyio
from anyio import to_thread

from sidecard_client._async.calls import AsyncExecution
from sidecard_client._async.connection import AsyncConnection
from sidecard_client._async.connector import AsyncConnector
from sidecard_client._async.event_loops import running, runs_here
from sidecard_client._async.reply_futures import ReplyQueue
from sidecard_client.call.call import UNKEYED, Call, T, keyed
from sidecard_client.call.commands import Command, FinalReply, Give, NextReply, Open, Pull, Raised, Returned
from sidecard_client.call.conversation import finished
from sidecard_client.call.leading import lead, others_wait
from sidecard_client.call.streams import END, Leading, Provenance, follow, no_pieces
from sidecard_client.call.warn import beside_caller, place_of_caller
from sidecard_client.protocol import wire
from sidecard_client.protocol.connection import ConnectionLost
from sidecard_client.protocol.wire import AnyReply

ORPHAN_SECONDS = 1.0
"""How often a task that waits for its caller checks that the caller still exists."""

CLOSE_SECONDS = 1.0
"""How long a function's generator may take to close."""


class AsyncStream(Provenance, Generic[T]):
    """Iterates over the pieces of an answer, wherever they come from. Begins with the first piece.

    For one task at a time. As an asynchronous context manager it is closed at the end of the block. Without a block, call
    ``await stream.aclose()`` if you stop before its end.
    """

    def __init__(self, connector: AsyncConnector, call: Call) -> None:
        self._connector = connector
        self._call = call
        self._execution = _StreamExecution(connector)
        self._conversation: Generator[Command, Any, Leading | None] | None = None
        self._upstream: _Upstream | None = None
        self._closed = False

    def __repr__(self) -> str:
        """Show the source."""
        return f"<AsyncStream from {self.source or 'nowhere yet'}{', ended' if self._closed else ''}>"

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> T:
        """Return the next piece. Raises what `AsyncClient.stream` documents."""
        if self._closed:
            raise StopAsyncIteration

        pace_seconds = self._call.options.pace_seconds
        if pace_seconds:
            await anyio.sleep(self.pause_seconds(pace_seconds, monotonic()))

        try:
            piece = await self._next()
        except BaseException:
            self._leave()
            raise

        if piece is END:
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
        # This may run in another thread, or when the loop is closed. The task checks it within `ORPHAN_SECONDS`.
        upstream = getattr(self, "_upstream", None)
        if upstream is not None:
            upstream.orphaned = True

    async def aclose(self) -> None:
        """End the stream. If this client makes the call and other callers wait for it, a task finishes it for them."""
        upstream = self._upstream
        self._leave()
        if upstream is not None and not upstream.orphaned:
            with anyio.CancelScope(shield=True):
                await upstream.settled.wait()

    def _leave(self) -> None:
        self._closed = True
        self._execution.unfollow()
        upstream, self._upstream = self._upstream, None
        if upstream is not None:
            upstream.leave()

    async def _next(self) -> Any:
        upstream = self._upstream
        if upstream is not None:
            piece = await upstream.take()
            if piece is END:
                self.not_stored = upstream.facts.not_stored

            return piece

        if self._conversation is None:
            if self._call.key is UNKEYED:
                self._call = keyed(self._call, await self._connector.normal_forms(self._call.options.task))

            self._conversation = follow(self._call, self, self._connector.place)

        step = await self._execution.run(self._conversation)
        if isinstance(step, Give):
            return step.piece

        if step is None:
            return END

        facts = Provenance()  # not this object, which the task must not keep alive: see `__del__`
        facts.waited_seconds = self.waited_seconds
        self._upstream = upstream = _Upstream(self._connector, self._execution, step, facts)
        self._connector.start(upstream.run)
        piece = await upstream.take()
        self.adopt(facts)
        return piece


class _Upstream:
    """The function of one stream, which runs in a task of its own."""

    def __init__(
        self, connector: AsyncConnector, execution: "_StreamExecution", leading: Leading, facts: Provenance
    ) -> None:
        self._connector = connector
        self._execution = execution
        self.facts = facts
        self._attempts = leading.attempts
        self._conversation = lead(leading, facts)
        self._scope = anyio.CancelScope()
        self._place = running()
        self._caller = place_of_caller()
        self._taken = anyio.Event()
        self._given = anyio.Event()
        self._piece: Any = None
        self._error: BaseException | None = None
        self._left = False
        self.orphaned = False
        """No reference to its stream is left."""
        self.settled = anyio.Event()
        """The call has ended, or goes on for waiters after its caller has left."""

    # The caller's side ------------------------------------------------------------------------------------------------

    async def take(self) -> Any:
        """Return the next piece, or `END`. Raises what the function does."""
        await self._given.wait()
        if self._error is not None:
            raise self._error

        self._given = anyio.Event()
        self._taken.set()
        return self._piece

    def leave(self) -> None:
        """End the caller's part: go on only if other callers wait for the call."""
        if self._left:
            return

        if not runs_here(self._place):
            # The garbage collector ends the caller, or another event loop does: the task finds out by itself.
            self.orphaned = True
            return

        self._left = True
        self._taken.set()
        connection = self._execution.connection
        if self._attempts.lease is None or connection is None or connection.reason is not None:
            self._scope.cancel()
        else:
            self._connector.start(self._ask_whether_others_wait)

    async def _ask_whether_others_wait(self) -> None:
        connection, lease, reply = self._execution.connection, self._attempts.lease, None
        if connection is not None and lease is not None:
            with suppress(ConnectionLost):
                reply = await connection.ask(wire.Renew(lease=lease.lease))

        if reply is not None and others_wait(reply):
            self.settled.set()
        else:
            self._scope.cancel()

    # The task's side --------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Run the function, and hand its pieces over to the caller."""
        beside_caller.set(self._caller)
        try:
            with self._scope:
                try:
                    await self._hand_over_all()
                except Exception as error:  # noqa: BLE001 - raised in the caller
                    self._give(END, error)
                finally:
                    await self._execution.close_source()
        except BaseException as error:
            # Not an `Exception`: raised in the caller too, as if the function ran in the caller's own task.
            self._give(END, error)
            if isinstance(error, anyio.get_cancelled_exc_class()):
                raise
        finally:
            if self._attempts.lease is not None:  # the task itself was dropped
                self._execution.abandon()

            self.settled.set()

    async def _hand_over_all(self) -> None:
        step = await self._execution.run(self._conversation)
        while isinstance(step, Give):
            self._taken = anyio.Event()
            self._give(step.piece)
            await self._until_taken()
            step = await self._execution.run(self._conversation, True)  # noqa: FBT003 - the result of `Give`

        try:
            finished(step)
        finally:
            del step  # an error refers to this frame, which must not refer to it

        self._give(END)

    def _give(self, piece: Any, error: BaseException | None = None) -> None:
        self._piece = piece
        self._error = error
        self._given.set()

    async def _until_taken(self) -> None:
        while not (self._left or self._taken.is_set()):
            with anyio.move_on_after(ORPHAN_SECONDS):
                await self._taken.wait()

            if self.orphaned and not self._left:
                self._left = True
                await self._ask_whether_others_wait()

        if self._left:
            await self.settled.wait()


class _StreamExecution(AsyncExecution):
    """One stream's conversation, its connection, and the function's iterator."""

    _queue: ReplyQueue | None = None
    _source: Any = None
    _pieces: AsyncIterator[Any]

    def unfollow(self) -> None:
        """Cancel a followed stream that has not ended."""
        queue, self._queue = self._queue, None
        if queue is not None and self.connection is not None:
            self.connection.unfollow(self.begin_id)

    async def close_source(self) -> None:
        """Close the function's stream."""
        close = getattr(self._source, "aclose", None) or getattr(self._source, "close", None)
        if close is None:
            return

        with anyio.move_on_after(CLOSE_SECONDS, shield=True), suppress(Exception):
            closing = close()
            if isawaitable(closing):
                await closing

    async def ask(self, connection: AsyncConnection, request: wire.Begin) -> AnyReply:
        """Begin, and follow the stream if the reply is its first chunk."""
        self.unfollow()  # a stream of another type
        reply, queue = await connection.follow(request, request.wait_seconds)
        self._queue = queue if isinstance(reply, wire.Chunk) else None
        return reply

    async def _next_reply(self, _: NextReply) -> FinalReply:
        connection, queue = self.connection, self._queue
        assert connection is not None  # noqa: S101 - both are there from the first piece to the last
        assert queue is not None  # noqa: S101 - as above; for the type checker
        reply = await queue.get()
        if not isinstance(reply, wire.Chunk):
            self._queue = None

        return connection.lost() if reply is None else reply

    async def _open(self, command: Open) -> Returned | Raised:
        self.hold(command)
        try:
            self._source = source = await _pieces_of(command.function, command.call)
            self._pieces = aiter(source) if isinstance(source, AsyncIterable) else _in_threads(iter(source))
            return Returned(await anext(self._pieces, END))
        except BaseException as error:  # noqa: BLE001 - the conversation decides about it
            self.release()
            return Raised(error)

    async def _pull(self, _: Pull) -> Returned | Raised:
        try:
            return Returned(await anext(self._pieces, END))
        except BaseException as error:  # noqa: BLE001 - the conversation decides about it
            return Raised(error)

    waiting_handlers: ClassVar = {**AsyncExecution.waiting_handlers, NextReply: _next_reply, Open: _open, Pull: _pull}


async def _pieces_of(function: Callable[..., Any], call: Call) -> AsyncIterable[Any] | Iterable[Any]:
    """Call the function: in a thread if it is a plain one, because it may block."""
    if isasyncgenfunction(function):
        pieces = function(*call.args, **call.kwargs)
    elif iscoroutinefunction(function) or iscoroutinefunction(type(function).__call__):
        pieces = await function(*call.args, **call.kwargs)
    else:
        # In a tuple, because trio mistakes a coroutine returned from a thread for an error.
        (pieces,) = await to_thread.run_sync(lambda: (function(*call.args, **call.kwargs),))
        if isawaitable(pieces):
            pieces = await pieces

    if not isinstance(pieces, AsyncIterable | Iterable):
        raise no_pieces(function, pieces)

    return pieces


async def _in_threads(pieces: Iterator[Any]) -> AsyncIterator[Any]:
    while (piece := await to_thread.run_sync(next, pieces, END)) is not END:
        yield piece
