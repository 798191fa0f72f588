"""The blocking client's streams: execute the commands of `call.streams` and `call.leading` in the caller's thread.

Another caller's stream is followed in the caller's thread. This client's own call begins there too, and goes on in a thread of its
own once another caller waits for it (`held_streams`)::

    caller's thread: piece -> to the daemon -> use it -> next piece ...
                                                 another caller waits
    own thread:                                           piece -> to the daemon -> keep it -> next piece ...
    caller's thread:                                                                   take it -> use it -> take the next ...
"""

from collections.abc import Callable, Generator, Iterable, Iterator
from time import monotonic, sleep
from types import TracebackType
from typing import Any, ClassVar, Generic, Self, cast
from weakref import proxy

from sidecard_client._sync.calls import Execution
from sidecard_client._sync.connector import Connector
from sidecard_client._sync.heartbeat import StreamWatcher
from sidecard_client._sync.held_streams import HeldStream
from sidecard_client.call.call import UNKEYED, Call, T, keyed
from sidecard_client.call.commands import (
    Ask,
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
)
from sidecard_client.call.leading import others_wait
from sidecard_client.call.streams import END, Leading, Provenance, follow, no_pieces, replayed
from sidecard_client.protocol import wire
from sidecard_client.protocol.errors import SidecardError


class Stream(Provenance, Generic[T]):
    """Iterates over the pieces of an answer, wherever they come from. Begins with the first piece.

    For one thread at a time. As a context manager, it is closed at the end of the block; so is a stream without references, some
    time later.
    """

    def __init__(self, connector: Connector, call: Call) -> None:
        self._connector = connector
        self._call = call
        self._execution = StreamExecution(connector)
        self._conversation: Generator[Command, Any, Leading | None] | None = None
        self._held: HeldStream | None = None
        self._follows = False  # True: a thread executes the conversation, so it cannot be resumed
        self._closed = False

    def __repr__(self) -> str:
        """Show the source."""
        return f"<Stream from {self.source or 'nowhere yet'}{', ended' if self._closed else ''}>"

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> T:
        """Return the next piece. Raises what `Client.stream` documents."""
        if self._closed:
            raise StopIteration

        pace_seconds = self._call.options.pace_seconds
        if pace_seconds:
            sleep(self.pause_seconds(pace_seconds, monotonic()))

        try:
            piece = self._next()
        except BaseException as error:
            if self._closed and isinstance(error, SidecardError):  # another thread has closed it meanwhile
                piece = END
            else:
                self.close()
                raise

        if piece is END:
            self.close()
            raise StopIteration

        return cast("T", piece)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def __del__(self) -> None:
        # Takes no lock, since this may run at any point of any thread.
        held = getattr(self, "_held", None)
        if held is not None and held.orphan():
            return

        # The daemon sees the connection end: it withdraws the begin, or elects a waiter.
        execution = getattr(self, "_execution", None)
        if execution is not None and execution.connection is not None:
            self._connector.throw_away(execution.connection)

    def close(self) -> None:
        """End the stream. If this client makes the call and other callers wait for it, a thread finishes it for them."""
        was_closed, self._closed = self._closed, True
        held = self._held
        if held is not None:
            held.leave()
            self.not_stored = held.facts.not_stored
        elif was_closed:
            return
        elif self._follows:
            self._execution.interrupt()
        else:
            self._execution.unfollow()
            self._execution.abandon()

    def _next(self) -> Any:
        if self._held is not None:
            return self._held.take()

        if self._conversation is None:
            if self._call.key is UNKEYED:
                self._call = keyed(self._call, self._connector.normal_forms(self._call.options.task))

            # Not this object itself, which its conversation must not keep alive.
            self._conversation = follow(self._call, proxy(self), self._connector.place)

        self._follows = True
        try:
            step = self._execution.run(self._conversation)
        finally:
            self._follows = False

        if isinstance(step, Give):
            return step.piece

        if step is None or self._closed:
            self._execution.abandon()
            return END

        facts = Provenance()
        facts.waited_seconds = self.waited_seconds
        self._held = held = HeldStream(self._execution, step, facts)
        piece = held.first()
        self.adopt(facts)
        return piece


class StreamExecution(Execution):
    """One stream's conversation, its connection, and the function's iterator."""

    idle_seconds = 0.0
    """How long the stream may stay unread while no other caller waits for it; 0 without a limit."""
    _follows = False
    """The pieces are the daemon's, and more may come."""
    _watcher: StreamWatcher | None = None
    _stored: Iterator[wire.Chunk | wire.End] | None = None
    """The remaining replies of an answer that was read from a view."""
    _request_id = 0
    _wait_seconds: float | None = None
    _pieces: Iterator[Any] = iter(())
    _close_source: Callable[[], object] | None = None

    # A followed stream ------------------------------------------------------------------------------------------------

    def begin(self, command: BeginCall) -> FinalReply:
        """Take the pieces from a view; else send a begin, and follow the stream if the reply is its first piece."""
        if self._follows:
            self.unfollow()  # a stream of another type

        views = self._connector.views
        stored = views.hit(command.call) if views.attached else None
        if stored is not None:
            self._stored = replayed(stored)
            return next(self._stored)

        self._stored = None
        reply = super().begin(command)
        if isinstance(reply, wire.Chunk):
            if reply.source == "cache":
                views.saw_hit(command.call.options.namespace)

            self._follows, self._request_id = True, reply.id
            self._wait_seconds = command.call.options.wait_seconds

        return reply

    def unfollow(self) -> None:
        """Withdraw the begin of a followed stream that has not ended."""
        follows, self._follows = self._follows, False
        if follows and self.connection is not None and self._connector.cancel(self.connection, self._request_id):
            self.give_back()

    def interrupt(self) -> None:
        """Wake the thread that waits for the next piece: its connection has ended."""
        connection = self.connection
        if connection is not None:
            connection.abandon()

    def _next_reply(self, _: NextReply) -> FinalReply:
        if self._stored is not None:
            return next(self._stored)

        connection = self.connection
        assert connection is not None  # noqa: S101 - it is there from the first piece to the last; for the type checker
        reply = self._connector.wait(connection, self._request_id, self._wait_seconds, monotonic())
        self._follows = isinstance(reply, wire.Chunk)
        return reply

    def concluded(self, result: Any) -> Any:
        """Return a conversation's result; keep the connection for the call that follows it, if one does."""
        return result if isinstance(result, Leading) else super().concluded(result)

    # A call of this process, which `HeldStream` drives ------------------------------------------------------------------

    def watch(self, watcher: StreamWatcher, command: Open) -> None:
        """Renew the lease of ``command`` until `release`; ``watcher`` hears of it whenever it is held."""
        self._watcher = watcher
        self.idle_seconds = 0.0 if command.lease is None else command.lease.idle_seconds
        self.hold(command)

    def hold(self, command: Hold | Open) -> None:
        """Renew the lease of ``command`` until `release`."""
        if command.lease is not None and self.connection is not None:
            self._connector.heartbeat.hold(self.connection, command.lease, watcher=self._watcher)

    def abandon(self, _: object = None) -> None:
        """Close the connection: the daemon voids the begin, and a lease that it granted."""
        super().abandon()
        self._watcher = None  # which refers to this object

    def others_wait(self, lease: wire.Lease) -> bool:
        """Return whether other callers wait for a held lease, which is held after this if they do."""
        self.release()
        waiting = others_wait(self._ask(Ask(wire.Renew(lease=lease.lease))))
        if waiting:
            self.hold(Hold(lease))

        return waiting

    def poke(self) -> bool:
        """Let the heartbeat look at the stream; False if it cannot. Takes no lock."""
        return self._watcher is not None and self._connector.heartbeat.poke()

    def call_function(self, command: Open | Pull) -> Returned | Raised:
        """Call the function, or take its next piece."""
        try:
            if isinstance(command, Open):
                pieces = command.function(*command.call.args, **command.call.kwargs)
                if not isinstance(pieces, Iterable):
                    raise no_pieces(command.function, pieces)

                self._close_source = getattr(pieces, "close", None)
                self._pieces = iter(pieces)

            return Returned(next(self._pieces, END))
        except BaseException as error:  # noqa: BLE001 - the conversation decides about it
            return Raised(error)

    def close_source(self) -> None:
        """Close the function's stream."""
        close, self._close_source = self._close_source, None
        self._pieces = iter(())
        if close is not None:
            close()

    handlers: ClassVar = {**Execution.handlers, BeginCall: begin, Hold: hold, NextReply: _next_reply}
