"""The blocking client's streams: execute the commands of `call.streams` in the caller's thread."""

import threading
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import suppress
from time import monotonic, sleep
from types import TracebackType
from typing import Any, ClassVar, Generic, Self, cast

from sidecard_client._sync.calls import Execution
from sidecard_client._sync.connector import Connector
from sidecard_client.call.call import UNKEYED, Call, T, keyed
from sidecard_client.call.commands import (
    BeginCall,
    Command,
    FinalReply,
    Give,
    GoOn,
    NextReply,
    Open,
    Pull,
    Raised,
    Returned,
)
from sidecard_client.call.conversation import finished
from sidecard_client.call.leading import stream
from sidecard_client.call.streams import END, Provenance, no_pieces
from sidecard_client.protocol import wire


class Stream(Provenance, Generic[T]):
    """Iterates over the pieces of an answer, wherever they come from. Begins with the first piece.

    For one thread at a time. As a context manager, it is closed at the end of the block. A stream without references is
    closed too, but then its call is not finished for waiters.
    """

    def __init__(self, connector: Connector, call: Call) -> None:
        self._connector = connector
        self._call = call
        self._execution = _StreamExecution(connector)
        self._conversation: Generator[Command, Any, Raised | None] | None = None
        self._busy = False  # True: the conversation runs, so it cannot be resumed
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
            step = self._advance()
            if isinstance(step, Give):
                if self._closed:
                    self._end()

                return cast("T", step.piece)

            finished(step)
        except BaseException:
            step = None  # an error refers to this frame, which must not refer to it
            self._end()
            raise

        self._end()
        raise StopIteration

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def __del__(self) -> None:
        # Takes no lock, since this may run at any point of any thread. The daemon sees the connection end, and elects a
        # waiter.
        execution = getattr(self, "_execution", None)
        if execution is not None and execution.connection is not None:
            self._connector.throw_away(execution.connection)

    def close(self) -> None:
        """End the stream. If this client makes the call and other callers wait for it, a thread finishes it for them."""
        # Marked first: 1. an SDK closes its response, and a thread continues the call for waiters; 2. its `with` block
        # closes it again, and a second thread would resume the same generator.
        conversation, was_closed = self._conversation, self._closed
        self._closed = True
        if was_closed or conversation is None:
            return

        if self._execution.follows:
            self._execution.unfollow()
        elif self._busy:
            # By the function itself, or in another thread than the one that takes a piece, which ends the rest.
            if self._execution.calls_function:
                self._execution.end()

            return
        elif isinstance(self._execution.run(conversation, False), GoOn):  # noqa: FBT003 - the result of `Give`
            with suppress(RuntimeError):  # if no thread can be started, the call is not finished
                threading.Thread(target=self._finish, name="sidecard-stream", daemon=True).start()
                return

            self._execution.run(conversation, False)  # noqa: FBT003 - the result of `GoOn`

        self._end()

    def _finish(self) -> None:
        conversation = self._conversation
        # Its followers get the result; this process has no caller for it any more.
        with suppress(BaseException):
            if conversation is not None:
                self._execution.run(conversation, True)  # noqa: FBT003 - the result of `GoOn`

        self._end()

    def _advance(self) -> Any:
        result = None if self._conversation is None else True  # the result of `Give`
        if self._conversation is None:
            if self._call.key is UNKEYED:
                self._call = keyed(self._call, self._connector.normal_forms(self._call.options.task))

            self._conversation = stream(self._call, self, self._connector.place)

        self._busy = True
        try:
            return self._execution.run(self._conversation, result)
        finally:
            self._busy = False

    def _end(self) -> None:
        self._closed = True
        self._conversation = None
        self._execution.end()


class _StreamExecution(Execution):
    """One stream's conversation, its connection, and the function's iterator."""

    follows = False
    """The pieces are the daemon's, and more may come."""
    calls_function = False
    """The function runs, which does not use the connection."""
    _request_id = 0
    _wait_seconds: float | None = None
    _pieces: Iterator[Any] = iter(())
    _close_source: Callable[[], object] | None = None

    def begin(self, command: BeginCall) -> FinalReply:
        """Send a begin, and follow the stream if the reply is its first piece."""
        if self.follows:
            self.unfollow()  # a stream of another type

        reply = super().begin(command)
        if isinstance(reply, wire.Chunk):
            self.follows, self._request_id = True, reply.id
            self._wait_seconds = command.call.options.wait_seconds

        return reply

    def unfollow(self) -> None:
        """Withdraw the begin."""
        self.follows = False
        if self.connection is not None and self._connector.cancel(self.connection, self._request_id):
            self.give_back()

    def end(self) -> None:
        """Close the function's stream and the connection; void everything that is held."""
        self.abandon()
        close, self._close_source = self._close_source, None
        self._pieces = iter(())
        if close is not None:
            with suppress(ValueError):  # a generator that is running, because it closes its own stream
                close()

    def _next_reply(self, _: NextReply) -> FinalReply:
        connection = self.connection
        assert connection is not None  # noqa: S101 - it is there from the first piece to the last; for the type checker
        reply = self._connector.wait(connection, self._request_id, self._wait_seconds, monotonic())
        self.follows = isinstance(reply, wire.Chunk)
        return reply

    def _open(self, command: Open) -> Returned | Raised:
        self.hold(command)
        self.calls_function = True
        try:
            pieces = command.function(*command.call.args, **command.call.kwargs)
            if not isinstance(pieces, Iterable):
                raise no_pieces(command.function, pieces)

            self._close_source = getattr(pieces, "close", None)
            self._pieces = iter(pieces)
            return Returned(next(self._pieces, END))
        except BaseException as error:  # noqa: BLE001 - the conversation decides about it
            self.release()
            return Raised(error)
        finally:
            self.calls_function = False

    def _pull(self, _: Pull) -> Returned | Raised:
        self.calls_function = True
        try:
            return Returned(next(self._pieces, END))
        except BaseException as error:  # noqa: BLE001 - as above
            return Raised(error)
        finally:
            self.calls_function = False

    handlers: ClassVar = {**Execution.handlers, BeginCall: begin, NextReply: _next_reply, Open: _open, Pull: _pull}
