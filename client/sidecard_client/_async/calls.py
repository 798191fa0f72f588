"""Execute the commands of a call's conversation, awaiting. The decisions are in `conversation`."""

import inspect
import sys
from collections.abc import Callable, Coroutine, Generator
from time import monotonic
from typing import Any, ClassVar

import anyio
from anyio import to_thread

from sidecard_client._async.checkpoints import checkpoint, is_due
from sidecard_client._async.connection import AsyncConnection
from sidecard_client._async.connector import AsyncConnector
from sidecard_client._async.event_loops import LoopEvent
from sidecard_client.call import commands
from sidecard_client.call.call import UNKEYED, Call, keyed
from sidecard_client.call.commands import FinalReply, Raised, Returned
from sidecard_client.call.conversation import converse, finished, is_tracing
from sidecard_client.call.local_flights import LocalFlights
from sidecard_client.call.outcome import Outcome, hit_outcome
from sidecard_client.protocol import wire
from sidecard_client.protocol.connection import ConnectionEnded, ConnectionLost
from sidecard_client.protocol.wire import AnyReply

MAX_BACKLOG_BYTES = 1024 * 1024
"""Unsent bytes of a stream beyond which the call goes on unshared: a caller does not wait for a daemon that does not read."""


class AsyncInterpreter:
    """Makes the calls of one client."""

    def __init__(self, connector: AsyncConnector) -> None:
        self._connector = connector
        self.flights = LocalFlights(LoopEvent)

    def forget(self, namespace: str | None, key: str | None = None) -> None:
        """Do not let later calls join running calls of keys that were removed."""
        self.flights.forget(namespace, key)

    async def run(self, call: Call, *, trace: bool = True) -> Outcome[Any]:
        """Return the call's outcome, wherever its value comes from. Raises what `AsyncClient.call` does."""
        connector = self._connector
        if call.key is UNKEYED:
            call = keyed(call, await connector.normal_forms(call.options.task))

        if trace and "opentelemetry.trace" in sys.modules and is_tracing():
            return await self._run_traced(call)

        views, started, stored = connector.views, monotonic(), None
        if views.attached:
            if is_due(started):
                await checkpoint()

            stored = views.hit(call)
            if stored is not None:
                hit = hit_outcome(call, stored, 0.0)
                if hit is not None:
                    return hit

        execution = AsyncExecution(connector)
        reply = await execution.begin(commands.BeginCall(call)) if stored is None else stored
        if stored is None and type(reply) is wire.Hit:
            now = monotonic()
            if now >= views.ask_at.get(call.options.namespace, 0.0):
                views.saw_hit(call.options.namespace)

            hit = hit_outcome(call, reply, now - started)
            if hit is not None:
                return hit

        outcome: Outcome[Any] = finished(
            await execution.run(
                converse(call, self.flights, connector.place, started, reply, refused=type(reply) is wire.Hit)
            )
        )
        return outcome

    async def _run_traced(self, call: Call) -> Outcome[Any]:
        from sidecard_client.metrics.tracing import traced  # noqa: PLC0415 - for apps that trace

        with traced(call) as span:
            outcome = await self.run(call, trace=False)
            if span is not None:
                span.set_outcome(outcome)

            return outcome


class AsyncExecution:
    """One conversation, and the connection that it uses.

    ``handlers`` execute commands without waiting, ``waiting_handlers`` those that wait. `run` returns a command of another
    class to its caller.
    """

    def __init__(self, connector: AsyncConnector) -> None:
        self._connector = connector
        self._held: wire.Lease | None = None
        self.connection: AsyncConnection | None = None
        self.begin_id = 0

    async def run(self, conversation: Generator[Any, Any, Any], result: Any = None) -> Any:
        """Resume with ``result`` and execute commands, up to one without a handler, or the conversation's result.

        Raises what the conversation raises.
        """
        handlers, waiting_handlers = self.handlers, self.waiting_handlers
        resume: Callable[[Any], Any] = conversation.send
        while True:
            try:
                while True:
                    command = resume(result)
                    resume = conversation.send
                    kind = command.__class__
                    if kind in handlers:
                        result = handlers[kind](self, command)
                    elif kind in waiting_handlers:
                        result = await waiting_handlers[kind](self, command)
                    else:
                        return command

            except StopIteration as end:
                return end.value
            except BaseException as error:
                if error is result:  # the conversation has ended with it
                    result = None  # the error refers to this frame, which must not refer to it
                    raise

                # A cancellation: the conversation returns what is held, without waiting, and raises it again.
                resume, result = conversation.throw, error

    async def begin(self, command: commands.BeginCall) -> FinalReply:
        """Send a begin and wait for the final reply."""
        try:
            connection = self._connector.connection()
        except ConnectionLost as lost:
            return lost.with_traceback(None)

        request = command.call.begin(connection.protocol.next_id, command.wait_seconds)
        self.connection, self.begin_id = connection, request.id
        try:
            return await self.ask(connection, request)
        except ConnectionLost as lost:
            self._connector.may_ask_again(lost, again=command.again)
            return lost.with_traceback(None)

    def ask(self, connection: AsyncConnection, request: wire.Begin) -> Coroutine[Any, Any, AnyReply]:
        """Send ``request`` and return the final reply. Raises `ConnectionLost`."""
        return connection.ask(request, request.wait_seconds)

    async def _ask(self, command: commands.Ask) -> FinalReply:
        if self.connection is None:
            return ConnectionEnded("the connection was given back")

        try:
            return await self.connection.ask(command.message, command.wait_seconds, self.begin_id)
        except ConnectionLost as lost:
            return lost

    def _send(self, command: commands.Send) -> bool:
        if self.connection is None:
            return False

        self.connection.send(command.message)
        return self.connection.backlog_bytes <= MAX_BACKLOG_BYTES

    def hold(self, command: commands.Hold | commands.Run | commands.Open) -> None:
        """Renew the lease of ``command`` until `release`."""
        self._held = lease = command.lease
        if lease is not None and self.connection is not None:
            self.connection.hold(lease)

    def release(self, _: object = None) -> None:
        """Stop renewing."""
        held, self._held = self._held, None
        if held is not None and self.connection is not None:
            self.connection.release(held)

    def abandon(self, _: object = None) -> None:
        """Void the begin, and a lease that the daemon granted for it."""
        self.release()
        if self.connection is not None:
            self.connection.send(wire.Cancel(target=self.begin_id))

    async def _run(self, command: commands.Run) -> Returned | Raised:
        self.hold(command)
        try:
            return Returned(await perform(command.function, command.call))
        except BaseException as error:  # noqa: BLE001 - the conversation decides about it
            return Raised(error)
        finally:
            self.release()

    async def _wait_local(self, command: commands.WaitLocal) -> None:
        with anyio.move_on_after(command.seconds):
            await command.waiter.event.wait()

    async def _embed(self, command: commands.Embed) -> Call:
        from sidecard_client.call.embedding import embedded_by_async  # noqa: PLC0415 - for apps that embed

        return await embedded_by_async(command.call, to_thread.run_sync)

    handlers: ClassVar[dict[type, Callable[[Any, Any], Any]]] = {
        commands.Send: _send,
        commands.Hold: hold,
        commands.Release: release,
        commands.Abandon: abandon,
    }
    waiting_handlers: ClassVar[dict[type, Callable[[Any, Any], Coroutine[Any, Any, Any]]]] = {
        commands.BeginCall: begin,
        commands.Ask: _ask,
        commands.Run: _run,
        commands.WaitLocal: _wait_local,
        commands.Embed: _embed,
    }


async def perform(function: Callable[..., Any], call: Call) -> Any:
    """Await an async function; run a plain one in a thread, because it may block."""
    if inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(type(function).__call__):
        return await function(*call.args, **call.kwargs)

    # In a tuple, because trio mistakes a coroutine returned from a thread for an error.
    (result,) = await to_thread.run_sync(lambda: (function(*call.args, **call.kwargs),))
    return await result if inspect.isawaitable(result) else result
