"""Execute the commands of a call's conversation, awaiting. The decisions are in `conversation`."""

import inspect
import sys
from collections.abc import Callable, Coroutine, Generator
from time import monotonic
from typing import Any

import anyio
from anyio import to_thread

from sidecard_client._async.connection import AsyncConnection
from sidecard_client._async.connector import AsyncConnector
from sidecard_client.call import conversation as commands
from sidecard_client.call.call import UNKEYED, Call, keyed
from sidecard_client.call.conversation import (
    Command,
    FinalReply,
    Give,
    Raised,
    Returned,
    converse,
    finished,
    is_tracing,
)
from sidecard_client.call.local_flights import LocalFlights
from sidecard_client.call.outcome import Outcome, hit_outcome
from sidecard_client.protocol import wire
from sidecard_client.protocol.connection import ConnectionLost
from sidecard_client.protocol.wire import AnyReply

MAX_BACKLOG_BYTES = 1024 * 1024
"""Unsent pieces of a stream, beyond which the call goes on unshared: nobody waits for a daemon that does not read."""


class AsyncInterpreter:
    """Makes the calls of one client."""

    def __init__(self, connector: AsyncConnector) -> None:
        self._connector = connector
        self._flights = LocalFlights(anyio.Event)

    async def run(self, call: Call, *, trace: bool = True) -> Outcome[Any]:
        """Return the call's outcome, wherever its value comes from. Raises what `AsyncClient.call` does."""
        connector = self._connector
        if call.key is UNKEYED:
            call = keyed(call, await connector.normal_forms(call.options.task))

        if trace and "opentelemetry.trace" in sys.modules and is_tracing():
            return await self._run_traced(call)

        started = monotonic()
        execution = AsyncExecution(connector)
        reply = await execution.begin(call, None, again=False)
        if type(reply) is wire.Hit:
            return hit_outcome(reply, monotonic() - started)

        outcome: Outcome[Any] = finished(
            await execution.run(converse(call, self._flights, connector.place, started, reply))
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
    """One conversation, and the connection that it uses."""

    def __init__(self, connector: AsyncConnector) -> None:
        self._connector = connector
        self.connection: AsyncConnection | None = None
        self.begin_id = 0
        self._held: wire.Lease | None = None

    async def run(self, conversation: Generator[Command, Any, Any], result: Any = None) -> Any:
        """Resume with ``result`` and execute commands, up to `Give` or the conversation's result.

        Raises what the conversation raises.
        """
        resume: Callable[[Any], Command] = conversation.send
        while True:
            try:
                while True:
                    command = resume(result)
                    if isinstance(command, Give):
                        return command

                    resume, result = conversation.send, await self.execute(command)
            except StopIteration as end:
                return end.value
            except BaseException as error:
                if error is result:  # the conversation has ended with it
                    result = None  # the error refers to this frame, which must not refer to it
                    raise

                # A cancellation: the conversation gives back what is held, without waiting, and raises it again.
                resume, result = conversation.throw, error

    async def execute(self, command: Command) -> Any:  # noqa: C901, PLR0912 - one case for each command
        """Execute ``command`` and return its result."""
        connection = self.connection
        match command:
            case commands.Run():
                try:
                    return Returned(await _perform(command.function, command.call))
                except BaseException as error:  # noqa: BLE001 - the conversation decides about it
                    return Raised(error)
            case commands.Begin():
                return await self.begin(command.call, command.wait_seconds, again=command.again)
            case commands.WaitLocal():
                with anyio.move_on_after(command.seconds):
                    await command.waiter.event.wait()
            case commands.Embed():
                return await embedded(command.call)
            case _ if connection is None:
                return None
            case commands.Ask():
                try:
                    return await connection.ask(command.message, command.wait_seconds, self.begin_id)
                except ConnectionLost as lost:
                    return lost
            case commands.Send():
                connection.send(command.message)
                return connection.backlog_bytes <= MAX_BACKLOG_BYTES
            case commands.Hold():
                self._held = command.lease
                connection.hold(command.lease)
            case commands.Release():
                connection.release(command.lease)
            case commands.Abandon():
                self.abandon()
            case _:
                raise AssertionError(f"{type(command).__name__} is a stream's command")

        return None

    async def begin(self, call: Call, wait_seconds: float | None, *, again: bool) -> FinalReply:
        """Send a begin, and return the final reply or the `ConnectionLost`."""
        try:
            connection = self._connector.connection()
        except ConnectionLost as lost:
            return lost.with_traceback(None)

        request = call.begin(connection.protocol.next_id, wait_seconds)
        self.connection, self.begin_id = connection, request.id
        try:
            return await self.ask(connection, request)
        except ConnectionLost as lost:
            self._connector.may_ask_again(lost, again=again)
            return lost.with_traceback(None)

    def abandon(self) -> None:
        """Give back everything that the daemon granted."""
        if self.connection is not None:
            if self._held is not None:
                self.connection.release(self._held)

            self.connection.send(wire.Cancel(target=self.begin_id))

    def ask(self, connection: AsyncConnection, request: wire.Begin) -> Coroutine[Any, Any, AnyReply]:
        """Send ``request`` and return the final reply. Raises `ConnectionLost`."""
        return connection.ask(request, request.wait_seconds)


async def embedded(call: Call) -> Call:
    """Return the call with its vector, if it can be computed. A plain embedder runs in a thread."""
    from sidecard_client.call.embedding import embedded_by_async  # noqa: PLC0415 - for apps that embed

    return await embedded_by_async(call, to_thread.run_sync)


async def _perform(function: Callable[..., Any], call: Call) -> Any:
    """Await an async function; run a plain one in a thread, because it may block."""
    if inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(type(function).__call__):
        return await function(*call.args, **call.kwargs)

    # In a tuple, because trio mistakes a coroutine returned from a thread for an error.
    (result,) = await to_thread.run_sync(lambda: (function(*call.args, **call.kwargs),))
    return await result if inspect.isawaitable(result) else result
