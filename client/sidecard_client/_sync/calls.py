"""A blocking call from beginning to end: ask, then take the answer, or make the call and tell.

Whatever happens to the daemon, the function's value or exception reaches its own caller.
"""

import threading
from time import monotonic
from typing import Any, assert_never

from sidecard_client._sync.connection import BlockingConnection
from sidecard_client._sync.connector import Connector
from sidecard_client.call import call as calls
from sidecard_client.call.attempts import Attempts, leaves_a_lease
from sidecard_client.call.call import Call, Outcome, Source
from sidecard_client.call.failures import kind_of, message_of
from sidecard_client.call.local_flights import (
    Answered,
    Broken,
    Elected,
    LocalEnd,
    LocalFlight,
    LocalFlights,
    LocalWaiter,
    Released,
)
from sidecard_client.call.values import unpack_value
from sidecard_client.protocol import wire
from sidecard_client.protocol.connection import ConnectionLost
from sidecard_client.protocol.errors import CallFailed, CallTimeout, UnshareableValue

LOCAL_WAIT_SECONDS = 120.0
"""How long a call waits for another thread's where its policy says nothing: the daemon's own default."""


class Interpreter:
    """Runs the calls of one client over ``connector``. Thread-safe."""

    def __init__(self, connector: Connector) -> None:
        self._connector = connector
        self._flights = LocalFlights()

    def run(self, call: Call) -> Outcome[Any]:
        """Return the call's outcome, from wherever it comes. Raises what `Client.call` does."""
        if call.key is calls.UNKEYED:
            call = calls.keyed(call, self._connector.normal_forms(call.options.task))

        if not calls.tracing():
            return self._run(call)

        from sidecard_client.metrics.tracing import traced  # noqa: PLC0415 - for apps that trace

        with traced(call) as span:
            outcome = self._run(call)
            if span is not None:
                span.set_outcome(outcome)

            return outcome

    def _run(self, call: Call) -> Outcome[Any]:
        started = monotonic()
        try:
            connection, reply = self._connector.begin(call, started)
        except ConnectionLost as error:
            return self._run_without_daemon(call, started, str(error))

        now = self._connector.heartbeat.heard = monotonic()
        waited_seconds = now - started
        if type(reply) is wire.Lease:
            return self._lead(call, connection, reply, waited_seconds)

        self._connector.give_back(connection)
        resolved = calls.resolve(call, reply, waited_seconds)
        if type(resolved) is Outcome:
            return resolved

        if resolved is calls.VECTOR_WANTED:
            return self._run(_embedded(call))

        if resolved is calls.OWN_CALL:
            if call.key is not None:
                return self._run(calls.unshared(call))

            return self._run_here(call, "upstream", waited_seconds)

        return self._run_without_daemon(call, started, "it takes no more calls just now")

    def _lead(
        self, call: Call, connection: BlockingConnection, lease: wire.Lease, waited_seconds: float
    ) -> Outcome[Any]:
        """Make the call under ``lease``, on one backend after the other if need be, and tell the daemon how it went."""
        # Callers of this process who lose the daemon meanwhile join this call instead of making their own.
        flight = None if call.key is None else self._flights.lead((call.options.namespace, call.key))
        connection.leading = True
        attempts = Attempts(call)
        try:
            return self._make(call, connection, lease, flight, waited_seconds, attempts)
        except Exception as error:
            old = attempts.old_outcome(error, waited_seconds)
            if old is None:
                raise

            return old
        finally:
            if connection.leading:
                # Nobody told the daemon, or an interruption came between any two lines:
                # a lease that nobody works for must not be renewed, nor a flight without a leader be joined.
                self._connector.heartbeat.release(connection)
                if flight is not None:
                    self._flights.drop(flight, 0)

                self._connector.throw_away(connection)
            else:
                self._connector.give_back(connection)

    def _make(
        self,
        call: Call,
        connection: BlockingConnection,
        lease: wire.Lease,
        flight: LocalFlight | None,
        waited_seconds: float,
        attempts: Attempts,
    ) -> Outcome[Any]:
        while True:
            self._connector.heartbeat.hold(connection, lease.lease, lease.expires_in_seconds)
            function = attempts.take(lease)
            try:
                value = function(*call.args, **call.kwargs)
            except BaseException as error:
                self._connector.heartbeat.release(connection)
                kind = kind_of(error, call.options.classify)
                message = attempts.fail(connection.next_id(), lease, error, kind)
                if not message.next:
                    self._fail_here(flight, kind, error)
                    self._tell(connection, message)
                    raise

                reply = self._ask_next(connection, call, message)
                verdict = attempts.verdict(message, reply)
                if verdict == "lease":
                    lease = reply
                    continue

                if verdict == "alone":
                    return self._run_here(call, "upstream", waited_seconds, flight, attempts)

                self._fail_here(flight, kind, error)
                raise

            self._connector.heartbeat.release(connection)
            if flight is not None:
                self._flights.succeed(flight, value)

            self._complete(call, function, connection, lease, value)
            return attempts.outcome(value, waited_seconds)

    def _complete(
        self, call: Call, function: Any, connection: BlockingConnection, lease: wire.Lease, value: Any
    ) -> None:
        try:
            message = calls.complete(call, connection.next_id(), lease, value)
        except UnshareableValue as error:
            self._tell(connection, calls.refuse_to_share(call, connection.next_id(), lease.lease, value, error))
            calls.warn_unshareable(function, error)
        else:
            self._tell(connection, message)

    def _tell(self, connection: BlockingConnection, request: wire.Complete | wire.Fail) -> None:
        connection.leading = leaves_a_lease(self._connector.tell(connection, request))

    def _ask_next(self, connection: BlockingConnection, call: Call, request: wire.Fail) -> Any:
        reply = self._connector.ask_next(connection, call, request)
        connection.leading = leaves_a_lease(reply)
        return reply

    def _run_without_daemon(self, call: Call, started: float, reason: str) -> Outcome[Any]:
        """Make the call, or join the same call of another thread: single-flight within the process."""
        calls.may_run_here(call, reason, self._connector.place)
        if call.key is None:
            return self._run_here(call, "fallback", monotonic() - started)

        gate = threading.Lock()
        gate.acquire()
        entered = self._flights.enter((call.options.namespace, call.key), gate.release)
        if isinstance(entered, LocalFlight):
            return self._run_here(call, "fallback", monotonic() - started, entered)

        end = self._wait_here(call, entered, gate, started)
        waited_seconds = monotonic() - started
        match end:
            case Answered():
                return Outcome(unpack_value(end.packed), "fallback", waited_seconds=waited_seconds)
            case Elected():
                return self._run_here(call, "fallback", waited_seconds, entered.flight)
            case Released():
                return self._run_here(call, "fallback", waited_seconds)
            case Broken():
                raise CallFailed(end.kind, end.message)
            case _:
                assert_never(end)

    def _wait_here(self, call: Call, waiter: LocalWaiter, gate: threading.Lock, started: float) -> LocalEnd:
        left = calls.remaining_seconds(call, monotonic() - started)
        try:
            gate.acquire(timeout=LOCAL_WAIT_SECONDS if left is None else left)
        except BaseException:
            self._flights.leave(waiter)
            raise

        if waiter.end is None:
            self._flights.leave(waiter)
            raise CallTimeout(monotonic() - started)

        return waiter.end

    def _run_here(
        self,
        call: Call,
        source: Source,
        waited_seconds: float,
        flight: LocalFlight | None = None,
        attempts: Attempts | None = None,
    ) -> Outcome[Any]:
        """Make the call without a lease, on one backend after the other, and end ``flight``."""
        turn = 0 if flight is None else flight.elections
        tried = set() if attempts is None else attempts.tried
        count = 0 if attempts is None else attempts.count
        try:
            for backend, function in calls.choices_here(call, tried):
                tried.add(backend)
                try:
                    value = function(*call.args, **call.kwargs)
                except BaseException as error:
                    kind = kind_of(error, call.options.classify)
                    if calls.another_here(call, tried, kind):
                        continue

                    self._fail_here(flight, kind, error)
                    raise

                if flight is not None:
                    self._flights.succeed(flight, value)

                if call.span is not None:
                    calls.usage_of(call, value)

                return Outcome(value, source, backend=backend, waited_seconds=waited_seconds, attempts=count)
        finally:
            if flight is not None:
                self._flights.drop(flight, turn)

        raise AssertionError("a call has a backend, and another one whenever `another_here` says so")

    def _fail_here(self, flight: LocalFlight | None, kind: wire.FailureKind, error: BaseException) -> None:
        if flight is not None:
            self._flights.fail(flight, kind, message_of(error))


def _embedded(call: Call) -> Call:
    from sidecard_client.call.embedding import embedded  # noqa: PLC0415 - for those who embed

    return embedded(call)
