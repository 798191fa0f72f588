"""Execute the commands of a batch's conversation, blocking. The decisions are in `sidecard_client.batches.conversation`."""

import sys
from collections.abc import Callable
from typing import Any, ClassVar

from sidecard_client._sync.calls import Execution, Interpreter
from sidecard_client._sync.connector import Connector
from sidecard_client.batches import commands as batch_commands
from sidecard_client.batches.batch import InputBatch
from sidecard_client.batches.conversation import BatchConversation, Replies
from sidecard_client.call import commands
from sidecard_client.call.commands import Raised, Returned
from sidecard_client.call.conversation import finished, is_tracing
from sidecard_client.call.outcome import Outcome
from sidecard_client.protocol.connection import ConnectionEnded, ConnectionLost


def run_batch(
    connector: Connector, interpreter: Interpreter, batch: InputBatch, *, trace: bool = True
) -> list[Outcome[Any]]:
    """Return the outcome of each input. Raises what `Client.call_each` does."""
    if trace and "opentelemetry.trace" in sys.modules and is_tracing():
        from sidecard_client.batches.spans import traced_batch  # noqa: PLC0415 - for apps that trace

        with traced_batch(batch) as span:
            outcomes = run_batch(connector, interpreter, batch, trace=False)
            if span is not None:
                span.finish(outcomes)

            return outcomes

    views = connector.views
    conversation = BatchConversation(batch, interpreter.flights, connector.place, views.hit, views.saw_hit)
    answered: list[Outcome[Any]] = finished(BatchExecution(connector).run(conversation.run()))
    return answered


class BatchExecution(Execution):
    """The conversation of one batch, and the connection that it uses for all of its inputs."""

    def give_back(self) -> None:
        """Return the connection to the client, unless requests are open: closing it takes them back."""
        if self.connection is not None and len(self.connection.protocol):
            self.abandon()
        else:
            super().give_back()

    def _send_all(self, command: batch_commands.SendAll) -> list[int] | ConnectionLost:
        if self.connection is None:
            if not command.requests:
                return []  # what the reports are about ended with the connection

            try:
                self.connection = self._connector.lend(again=command.again)
            except ConnectionLost as lost:
                return lost.with_traceback(None)

        try:
            return self.connection.submit(command.reports, command.requests)
        except ConnectionLost as lost:
            self.abandon()
            return lost.with_traceback(None)

    def _receive(self, command: batch_commands.Receive) -> Replies:
        if self.connection is None:
            return ConnectionEnded("the connection was given back")

        replies = self._connector.receive(self.connection, command.wait, command.late_at)
        if isinstance(replies, ConnectionLost):
            self.connection = None
            replies.with_traceback(None)

        return replies

    def _let_others_run(self, _: batch_commands.LetOthersRun) -> None:
        """Do nothing: the interpreter switches threads by itself."""

    def _run_each(self, command: batch_commands.RunEach) -> Returned | Raised:
        connection, heartbeat = self.connection, self._connector.heartbeat
        if command.leases and connection is not None:
            heartbeat.hold(connection, *command.leases)

        try:
            return Returned(command.function(*command.call.args, **command.call.kwargs))
        except BaseException as error:  # noqa: BLE001 - the conversation decides about it
            return Raised(error)
        finally:
            if connection is not None:
                heartbeat.release(connection)

    handlers: ClassVar[dict[type, Callable[[Any, Any], Any]]] = {
        batch_commands.SendAll: _send_all,
        batch_commands.Receive: _receive,
        batch_commands.LetOthersRun: _let_others_run,
        batch_commands.RunEach: _run_each,
        commands.WaitLocal: Execution.handlers[commands.WaitLocal],
    }
