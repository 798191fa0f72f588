"""Execute the commands of a call's conversation, blocking. The decisions are in `conversation`."""

import sys
import threading
from collections.abc import Callable, Generator
from time import monotonic
from typing import Any, ClassVar

from sidecard_client._sync.connection import BlockingConnection
from sidecard_client._sync.connector import Connector
from sidecard_client.call import commands
from sidecard_client.call.call import UNKEYED, Call, keyed
from sidecard_client.call.commands import Raised, Returned
from sidecard_client.call.conversation import converse, finished, is_tracing
from sidecard_client.call.local_flights import LocalFlights
from sidecard_client.call.outcome import Outcome, hit_outcome
from sidecard_client.protocol import wire
from sidecard_client.protocol.connection import ConnectionEnded, ConnectionLost
from sidecard_client.protocol.errors import SidecardError


class Interpreter:
    """Makes the calls of one client. Thread-safe."""

    def __init__(self, connector: Connector) -> None:
        self._connector = connector
        self.flights = LocalFlights(threading.Event)

    def forget(self, namespace: str | None, key: str | None = None) -> None:
        """Do not let later calls join running calls of keys that were removed."""
        self.flights.forget(namespace, key)

    def run(self, call: Call, *, trace: bool = True) -> Outcome[Any]:
        """Return the call's outcome, wherever its value comes from. Raises what `Client.call` does."""
        connector = self._connector
        if call.key is UNKEYED:
            call = keyed(call, connector.normal_forms(call.options.task))

        if trace and "opentelemetry.trace" in sys.modules and is_tracing():
            return self._run_traced(call)

        views, started = connector.views, monotonic()
        connection, refused = None, False
        if views.attached and (stored := views.hit(call)) is not None:
            return hit_outcome(call, stored, 0.0) or self._converse(call, started, stored, refused=True)

        try:
            connection, reply = connector.first_reply(call.begin)
        except ConnectionLost as lost:
            reply = lost.with_traceback(None)  # which refers to this frame, and that to it
        else:
            if type(reply) is wire.Hit:
                connector.heartbeat.heard_at = now = monotonic()
                connector.give_back(connection)
                if now >= views.ask_at.get(call.options.namespace, 0.0):
                    views.saw_hit(call.options.namespace)

                hit = hit_outcome(call, reply, now - started)
                if hit is not None:
                    return hit

                connection, refused = None, True
            elif type(reply) is wire.Pending:
                reply = connector.wait(connection, reply.id, call.options.wait_seconds, started)

        return self._converse(call, started, reply, connection, refused=refused)

    def _converse(
        self,
        call: Call,
        started: float,
        reply: commands.FinalReply,
        connection: BlockingConnection | None = None,
        *,
        refused: bool,
    ) -> Outcome[Any]:
        execution = Execution(self._connector, connection)
        conversation = converse(call, self.flights, self._connector.place, started, reply, refused=refused)
        outcome: Outcome[Any] = finished(execution.run(conversation))
        return outcome

    def _run_traced(self, call: Call) -> Outcome[Any]:
        from sidecard_client.metrics.tracing import traced  # noqa: PLC0415 - for apps that trace

        with traced(call) as span:
            outcome = self.run(call, trace=False)
            if span is not None:
                span.set_outcome(outcome)

            return outcome


class Execution:
    """One conversation, and the connection that it uses.

    ``handlers`` execute commands. `run` returns a command of another class to its caller.
    """

    def __init__(self, connector: Connector, connection: BlockingConnection | None = None) -> None:
        self._connector = connector
        self.connection = connection

    def run(self, conversation: Generator[Any, Any, Any], result: Any = None) -> Any:
        """Resume with ``result`` and execute commands, up to one without a handler, or the conversation's result.

        Raises what the conversation raises.
        """
        handlers, resume = self.handlers, conversation.send
        while True:
            try:
                while True:
                    command = resume(result)
                    handler = handlers.get(command.__class__)
                    if handler is None:
                        return command

                    resume = conversation.send
                    result = handler(self, command)
            except StopIteration as end:
                return self.concluded(end.value)
            except BaseException as error:
                if error is result:  # the conversation has ended with it
                    result = None  # the error refers to this frame, which must not refer to it
                    if isinstance(error, SidecardError):
                        self.give_back()
                    else:
                        # 1. the daemon grants the lease; 2. an interruption comes before the conversation has it, or after
                        # the conversation has passed on its last report; 3. no one else returns the lease.
                        self.abandon()

                    raise

                # An interruption, at any point: the conversation returns what is held, and raises it again.
                resume, result = conversation.throw, error

    def concluded(self, result: Any) -> Any:
        """Return a conversation's result, and its connection to the client."""
        self.give_back()
        return result

    def begin(self, command: commands.BeginCall) -> commands.FinalReply:
        """Send a begin and wait for the final reply."""
        self.give_back()
        call, wait_seconds, started = command.call, command.wait_seconds, monotonic()
        try:
            connection, reply = self._connector.first_reply(lambda request_id: call.begin(request_id, wait_seconds))
        except ConnectionLost as lost:
            return lost

        self.connection = connection
        if wait_seconds is None:
            wait_seconds = call.options.wait_seconds

        if type(reply) is not wire.Pending:
            return reply  # type: ignore[no-any-return]  # the connector's replies are of any request

        return self._connector.wait(connection, reply.id, wait_seconds, started)

    def give_back(self) -> None:
        """Return the connection to the client."""
        connection, self.connection = self.connection, None
        if connection is not None:
            self._connector.give_back(connection)

    def _ask(self, command: commands.Ask) -> commands.FinalReply:
        if self.connection is None:
            return ConnectionEnded("the connection was given back")

        return self._connector.exchange(self.connection, command.message, command.wait_seconds)

    def _send(self, command: commands.Send) -> bool:
        return self.connection is not None and self._connector.send(self.connection, command.message)

    def hold(self, command: commands.Hold | commands.Open) -> None:
        """Renew the lease of ``command`` until `release`."""
        if command.lease is not None and self.connection is not None:
            self._connector.heartbeat.hold(self.connection, command.lease)

    def release(self, _: object = None) -> None:
        """Stop renewing."""
        if self.connection is not None:
            self._connector.heartbeat.release(self.connection)

    def abandon(self, _: object = None) -> None:
        """Close the connection: the daemon voids the begin, and a lease that it granted."""
        connection, self.connection = self.connection, None
        if connection is not None:
            self._connector.heartbeat.release(connection)
            self._connector.throw_away(connection)

    def _run(self, command: commands.Run) -> Returned | Raised:
        lease, connection, heartbeat = command.lease, self.connection, self._connector.heartbeat
        if lease is not None and connection is not None:
            heartbeat.hold(connection, lease)

        try:
            return Returned(command.function(*command.call.args, **command.call.kwargs))
        except BaseException as error:  # noqa: BLE001 - the conversation decides about it
            return Raised(error)
        finally:
            if lease is not None and connection is not None:
                heartbeat.release(connection)

    def _wait_local(self, command: commands.WaitLocal) -> None:
        command.waiter.event.wait(command.seconds)

    def _embed(self, command: commands.Embed) -> Call:
        from sidecard_client.call.embedding import embedded  # noqa: PLC0415 - for apps that embed

        return embedded(command.call)

    handlers: ClassVar[dict[type, Callable[[Any, Any], Any]]] = {
        commands.BeginCall: begin,
        commands.Ask: _ask,
        commands.Send: _send,
        commands.Hold: hold,
        commands.Release: release,
        commands.Abandon: abandon,
        commands.Run: _run,
        commands.WaitLocal: _wait_local,
        commands.Embed: _embed,
    }
