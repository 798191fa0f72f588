"""Execute the commands of a batch's conversation, awaiting. The decisions are in `sidecard_client.batches.conversation`."""

import sys
from collections.abc import Callable, Coroutine
from time import monotonic
from typing import Any, ClassVar

import anyio

from sidecard_client._async.calls import AsyncExecution, AsyncInterpreter, perform
from sidecard_client._async.checkpoints import checkpoint_if_due
from sidecard_client._async.connector import AsyncConnector
from sidecard_client._async.reply_futures import Inbox
from sidecard_client.batches import commands as batch_commands
from sidecard_client.batches.batch import InputBatch
from sidecard_client.batches.conversation import BatchConversation, Replies
from sidecard_client.call import commands
from sidecard_client.call.commands import Raised, Returned
from sidecard_client.call.conversation import finished, is_tracing
from sidecard_client.call.outcome import Outcome
from sidecard_client.protocol.connection import ConnectionEnded, ConnectionLost


async def run_batch(
    connector: AsyncConnector, interpreter: AsyncInterpreter, batch: InputBatch, *, trace: bool = True
) -> list[Outcome[Any]]:
    """Return the outcome of each input. Raises what `AsyncClient.call_each` does."""
    if trace and "opentelemetry.trace" in sys.modules and is_tracing():
        from sidecard_client.batches.spans import traced_batch  # noqa: PLC0415 - for apps that trace

        with traced_batch(batch) as span:
            outcomes = await run_batch(connector, interpreter, batch, trace=False)
            if span is not None:
                span.finish(outcomes)

            return outcomes

    views = connector.views
    conversation = BatchConversation(batch, interpreter.flights, connector.place, views.hit, views.saw_hit)
    execution = AsyncBatchExecution(connector)
    try:
        answered: list[Outcome[Any]] = finished(await execution.run(conversation.run()))
    finally:
        execution.discard()

    return answered


class AsyncBatchExecution(AsyncExecution):
    """The conversation of one batch, and the connection that it uses for all of its inputs."""

    _inbox: Inbox
    _again = False

    def discard(self) -> None:
        """Withdraw the requests that have no last reply."""
        connection, self.connection = self.connection, None
        if connection is not None:
            connection.discard(self._inbox)

    def _send_all(self, command: batch_commands.SendAll) -> list[int] | ConnectionLost:
        if self.connection is None and not command.requests:
            return []  # what the reports are about ended with the connection

        self._again = command.again
        try:
            if self.connection is None:
                self.connection = self._connector.connection()
                self._inbox = self.connection.new_inbox()

            return self.connection.submit(command.reports, command.requests, self._inbox)
        except ConnectionLost as lost:
            return self._lose(lost)

    async def _receive(self, command: batch_commands.Receive) -> Replies:
        connection = self.connection
        if connection is None:
            return ConnectionEnded("the connection was given back")

        if command.wait != "nothing":
            with anyio.move_on_after(None if command.late_at is None else command.late_at - monotonic()):
                await self._inbox.wait()

        # Replies that arrived before the loss are returned first.
        return self._inbox.take() or (self._lose(connection.lost()) if self._inbox.lost else [])

    def _lose(self, lost: ConnectionLost) -> ConnectionLost:
        self.discard()
        self._connector.may_ask_again(lost, again=self._again)
        return lost.with_traceback(None)

    async def _let_others_run(self, _: batch_commands.LetOthersRun) -> None:
        await checkpoint_if_due()

    async def _run_each(self, command: batch_commands.RunEach) -> Returned | Raised:
        held = [] if self.connection is None else [(self.connection, lease) for lease in command.leases]
        for connection, lease in held:
            connection.hold(lease)

        try:
            return Returned(await perform(command.function, command.call))
        except BaseException as error:  # noqa: BLE001 - the conversation decides about it
            return Raised(error)
        finally:
            for connection, lease in held:
                connection.release(lease)

    handlers: ClassVar[dict[type, Callable[[Any, Any], Any]]] = {batch_commands.SendAll: _send_all}
    waiting_handlers: ClassVar[dict[type, Callable[[Any, Any], Coroutine[Any, Any, Any]]]] = {
        batch_commands.Receive: _receive,
        batch_commands.LetOthersRun: _let_others_run,
        batch_commands.RunEach: _run_each,
        commands.WaitLocal: AsyncExecution.waiting_handlers[commands.WaitLocal],
    }
