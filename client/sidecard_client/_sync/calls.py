"""Execute the commands of a call's conversation, blocking. The decisions are in `conversation`."""

import sys
import threading
from collections.abc import Generator
from time import monotonic
from typing import Any

from sidecard_client._sync.connection import BlockingConnection
from sidecard_client._sync.connector import Connector
from sidecard_client.call import conversation as commands
from sidecard_client.call.call import UNKEYED, Call, keyed
from sidecard_client.call.conversation import Command, Give, GoOn, Raised, Returned, converse, finished, is_tracing
from sidecard_client.call.local_flights import LocalFlights
from sidecard_client.call.outcome import Outcome, hit_outcome
from sidecard_client.protocol import wire
from sidecard_client.protocol.connection import ConnectionLost


class Interpreter:
    """Makes the calls of one client. Thread-safe."""

    def __init__(self, connector: Connector) -> None:
        self._connector = connector
        self._flights = LocalFlights(threading.Event)

    def run(self, call: Call, *, trace: bool = True) -> Outcome[Any]:
        """Return the call's outcome, wherever its value comes from. Raises what `Client.call` does."""
        connector = self._connector
        if call.key is UNKEYED:
            call = keyed(call, connector.normal_forms(call.options.task))

        if trace and "opentelemetry.trace" in sys.modules and is_tracing():
            return self._run_traced(call)

        started = monotonic()
        connection = None
        try:
            connection, reply = connector.first_reply(call.begin)
        except ConnectionLost as lost:
            reply = lost.with_traceback(None)  # which refers to this frame, and that to it
        else:
            if type(reply) is wire.Hit:
                connector.heartbeat.heard_at = now = monotonic()
                connector.give_back(connection)
                return hit_outcome(reply, now - started)

        execution = Execution(connector, connection)
        if connection is not None:
            reply = connector.final_reply(connection, reply, call.options.wait_seconds, started)

        outcome: Outcome[Any] = finished(execution.run(converse(call, self._flights, connector.place, started, reply)))
        return outcome

    def _run_traced(self, call: Call) -> Outcome[Any]:
        from sidecard_client.metrics.tracing import traced  # noqa: PLC0415 - for apps that trace

        with traced(call) as span:
            outcome = self.run(call, trace=False)
            if span is not None:
                span.set_outcome(outcome)

            return outcome


class Execution:
    """One conversation, and the connection that it uses."""

    def __init__(self, connector: Connector, connection: BlockingConnection | None = None) -> None:
        self._connector = connector
        self.connection = connection

    def run(self, conversation: Generator[Command, Any, Any], result: Any = None) -> Any:
        """Resume with ``result`` and execute commands, up to `Give` or `GoOn` or the conversation's result.

        Raises what the conversation raises.
        """
        resume = conversation.send
        while True:
            try:
                while True:
                    command = resume(result)
                    if isinstance(command, Give | GoOn):
                        return command

                    resume, result = conversation.send, self.execute(command)
            except StopIteration as end:
                self.give_back()
                return end.value
            except BaseException as error:
                if error is result:  # the conversation has ended with it
                    result = None  # the error refers to this frame, which must not refer to it
                    self.give_back()
                    raise

                # An interruption, wherever it comes: the conversation gives back what is held, and raises it again.
                resume, result = conversation.throw, error

    def execute(self, command: Command) -> Any:  # noqa: C901 - one case for each command
        """Execute ``command`` and return its result."""
        connector, connection = self._connector, self.connection
        match command:
            case commands.Run():
                try:
                    return Returned(command.function(*command.call.args, **command.call.kwargs))
                except BaseException as error:  # noqa: BLE001 - the conversation decides about it
                    return Raised(error)
            case commands.Begin():
                return self._begin(command)
            case commands.WaitLocal():
                return command.waiter.event.wait(command.seconds)
            case commands.Embed():
                from sidecard_client.call.embedding import embedded  # noqa: PLC0415 - for apps that embed

                return embedded(command.call)
            case _ if connection is None:
                return None
            case commands.Ask():
                return connector.exchange(connection, command.message, command.wait_seconds)
            case commands.Send():
                return connector.send(connection, command.message)
            case commands.Hold():
                connector.heartbeat.hold(connection, command.lease.lease, command.lease.expires_in_seconds)
            case commands.Release():
                connector.heartbeat.release(connection)
            case commands.Abandon():
                connector.heartbeat.release(connection)
                connector.throw_away(connection)
                self.connection = None
            case _:
                raise AssertionError(f"{type(command).__name__} is a stream's command")

        return None

    def _begin(self, command: commands.Begin) -> Any:
        self.give_back()
        call, wait_seconds, started = command.call, command.wait_seconds, monotonic()
        try:
            connection, reply = self._connector.first_reply(lambda request_id: call.begin(request_id, wait_seconds))
        except ConnectionLost as lost:
            return lost

        self.connection = connection
        if wait_seconds is None:
            wait_seconds = call.options.wait_seconds

        return self._connector.final_reply(connection, reply, wait_seconds, started)

    def give_back(self) -> None:
        """Return the connection to the client."""
        connection, self.connection = self.connection, None
        if connection is not None:
            self._connector.give_back(connection)
