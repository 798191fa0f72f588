"""The async client's streams: execute the commands of `call.streams` and `call.leading`.

Another caller's stream is followed in the caller's task. This client's own call runs in a task of its own, so that it
can go on for waiters when its caller is canceled (`held_streams`). It is at most one piece ahead of its caller, unless another
caller waits for the answer::

    call's task:     piece -> to the daemon -> hand over -- wait until taken --> next piece ...
    caller's task:                             take -----> use it ------------> wait for the next
"""

import threading
from collections.abc import AsyncIterable, AsyncIterator, Callable, Generator, Iterable, Iterator
from contextlib import suppress
from inspect import isasyncgenfunction, isawaitable, iscoroutinefunction
from time import monotonic
from types import TracebackType
from typing import Any, ClassVar, Generic, Self, cast
from weakref import proxy

import anyio
from anyio import to_thread

from sidecard_client._async.calls import AsyncExecution
from sidecard_client._async.checkpoints import checkpoint_if_due
from sidecard_client._async.connection import AsyncConnection
from sidecard_client._async.connector import AsyncConnector
from sidecard_client._async.held_streams import AsyncHeldStream, RunningCall
from sidecard_client._async.reply_futures import ReplyQueue
from sidecard_client.call.call import UNKEYED, Call, T, keyed
from sidecard_client.call.commands import (
    BeginCall,
    Command,
    FinalReply,
    Give,
    Hold,
    NextReply,
    Open,
    Pull,
    Raised,
    Returned,
    Run,
)
from sidecard_client.call.streams import END, Leading, Provenance, follow, no_pieces, replayed
from sidecard_client.protocol import wire
from sidecard_client.protocol.wire import AnyReply

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
        self._execution = AsyncStreamExecution(connector)
        self._conversation: Generator[Command, Any, Leading | None] | None = None
        self._held: AsyncHeldStream | None = None
        self._ending: AsyncHeldStream | None = None
        """The function after this stream has left it, until it ends."""
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
        # This may run at any point of any thread, and when the loop is closed.
        held = getattr(self, "_held", None)
        if held is not None:
            held.leave_from_elsewhere()
        elif hasattr(self, "_execution"):
            self._execution.unfollow_from_elsewhere()

    async def aclose(self) -> None:
        """End the stream. If this client makes the call and other callers wait for it, a task finishes it for them."""
        self._leave()
        # Perhaps left before, by a reader that was canceled.
        held, self._ending = self._ending, None
        if held is not None and held.leave():
            with anyio.CancelScope(shield=True):
                await held.settled.wait()

            self.not_stored = held.facts.not_stored

    def _leave(self) -> None:
        """End the caller's part."""
        self._closed = True
        self._execution.unfollow()
        held, self._held = self._held, None
        if held is not None:
            self.not_stored = held.facts.not_stored
            self._ending = held
            held.leave()

    async def _next(self) -> Any:
        if self._held is not None:
            return await self._held.take()

        if self._conversation is None:
            if self._call.key is UNKEYED:
                self._call = keyed(self._call, await self._connector.normal_forms(self._call.options.task))

            # Not this object itself, which its conversation must not keep alive.
            self._conversation = follow(self._call, proxy(self), self._connector.place)

        step = await self._execution.run(self._conversation)
        if isinstance(step, Give):
            return step.piece

        if step is None:
            return END

        facts = Provenance()  # as above
        facts.waited_seconds = self.waited_seconds
        self._held = held = AsyncHeldStream(self._execution, step, facts)
        self._connector.start(held.run)
        piece = await held.take()
        self.adopt(facts)
        return piece


class AsyncStreamExecution(AsyncExecution):
    """One stream's conversation, its connection, and the function's iterator."""

    watcher: AsyncHeldStream | None = None
    """Notified of waiters and of the lease's loss while it is held."""
    running_call: RunningCall | None = None
    """Set while the function runs."""
    idle_seconds = 0.0
    """How long the stream may stay unread while no other caller waits for it; 0 without a limit."""
    _queue: ReplyQueue | None = None
    _stored: Iterator[wire.Chunk | wire.End] | None = None
    """The remaining replies of an answer that was read from a view."""
    _source: Any = None
    _pieces: AsyncIterator[Any]

    def unfollow(self) -> None:
        """Cancel a followed stream that has not ended."""
        queue, self._queue = self._queue, None
        if queue is not None and self.connection is not None:
            self.connection.unfollow(self.begin_id)

    def unfollow_from_elsewhere(self) -> None:
        """Do as `unfollow` in the connection's own event loop. The garbage collector calls this, in any thread."""
        if self._queue is not None and self.connection is not None:
            self.connection.unfollow_from_elsewhere(self.begin_id)

    def hold(self, command: Hold | Run | Open) -> None:
        """Renew the lease of ``command`` until `release`."""
        self._held = lease = command.lease
        if lease is not None and self.connection is not None:
            self.connection.hold(lease, self.watcher)

    async def close_source(self) -> None:
        """Close the function's stream."""
        source, self._source = self._source, None
        close = getattr(source, "aclose", None) or getattr(source, "close", None)
        if close is None:
            return

        with anyio.move_on_after(CLOSE_SECONDS, shield=True), suppress(Exception):
            closing = close()
            if isawaitable(closing):
                await closing

    async def begin(self, command: BeginCall) -> FinalReply:
        """Take the pieces from a view; else send a begin, and follow the stream if the reply is its first piece."""
        self._stored = None
        views = self._connector.views
        if views.attached:
            await checkpoint_if_due()
            stored = views.hit(command.call)
            if stored is not None:
                self.unfollow()  # a stream of another type
                self._stored = replayed(stored)
                return next(self._stored)

        reply = await super().begin(command)
        if isinstance(reply, wire.Chunk) and reply.source == "cache":
            views.saw_hit(command.call.options.namespace)

        return reply

    async def ask(self, connection: AsyncConnection, request: wire.Begin) -> AnyReply:
        """Begin, and follow the stream if the reply is its first chunk."""
        self.unfollow()  # a stream of another type
        reply, queue = await connection.follow(request, request.wait_seconds)
        self._queue = queue if isinstance(reply, wire.Chunk) else None
        return reply

    async def _next_reply(self, _: NextReply) -> FinalReply:
        if self._stored is not None:
            await checkpoint_if_due()
            return next(self._stored)

        connection, queue = self.connection, self._queue
        assert connection is not None  # noqa: S101 - both are there from the first piece to the last
        assert queue is not None  # noqa: S101 - as above; for the type checker
        reply = await queue.get()
        if not isinstance(reply, wire.Chunk):
            self._queue = None

        return connection.lost() if reply is None else reply

    async def _open(self, command: Open) -> Returned | Raised:
        lease = command.lease
        if lease is not None and self.watcher is not None:
            self.watcher.begin(lease)
            self.idle_seconds = lease.idle_seconds

        self.hold(command)
        self.running_call = RunningCall()
        try:
            source = await _pieces_of(command.function, command.call)
            self._source = source if isinstance(source, AsyncIterable) else PiecesOfThreads(source)
            self._pieces = aiter(self._source)
            return Returned(await anext(self._pieces, END))
        except BaseException as error:  # noqa: BLE001 - the conversation decides about it
            self.release()
            return Raised(error)
        finally:
            self.running_call = None

    async def _pull(self, command: Pull) -> Returned | Raised:
        self.running_call = RunningCall(command.complete)
        try:
            return Returned(await anext(self._pieces, END))
        except BaseException as error:  # noqa: BLE001 - the conversation decides about it
            return Raised(error)
        finally:
            self.running_call = None

    waiting_handlers: ClassVar = {
        **AsyncExecution.waiting_handlers,
        BeginCall: begin,
        NextReply: _next_reply,
        Open: _open,
        Pull: _pull,
    }


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


class PiecesOfThreads:
    """Iterates over blocking pieces, each taken in a worker thread. No thread closes them while another one takes a piece."""

    def __init__(self, source: Iterable[Any]) -> None:
        self._pieces = iter(source)
        self._close = getattr(source, "close", None)
        self._turn = threading.Lock()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Any:
        """Return the next piece. A caller that is canceled does not wait for it."""
        piece = await to_thread.run_sync(self._next, abandon_on_cancel=True)
        if piece is END:
            raise StopAsyncIteration

        return piece

    def _next(self) -> Any:
        with self._turn:
            return next(self._pieces, END)

    async def aclose(self) -> None:
        """Close the source, once no thread takes a piece. A caller that is canceled does not wait for it."""
        if self._close is not None:
            await to_thread.run_sync(self._close_in_turn, self._close, abandon_on_cancel=True)

    def _close_in_turn(self, close: Callable[[], object]) -> None:
        with self._turn:
            close()
