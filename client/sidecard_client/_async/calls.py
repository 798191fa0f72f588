"""An asynchronous call from beginning to end: ask, then take the answer, or make the call and tell.

The decisions are `calls`'; sharing without a daemon is `local`'s. This is the waiting between them.
Cancellation may come at every ``await``: each one leaves the lease given back and the others' turn passed on.
"""

import inspect
from collections.abc import Callable
from contextlib import suppress
from time import monotonic
from typing import Any, cast

import anyio
from anyio import to_thread

from sidecard_client._async.connection import AsyncConnection
from sidecard_client._async.connector import AsyncConnector
from sidecard_client.call import call as calls
from sidecard_client.call.attempts import Attempts, leaves_a_lease
from sidecard_client.call.call import Call, Outcome, Source
from sidecard_client.call.failures import kind_of, message_of
from sidecard_client.call.local_flights import Answered, Broken, Elected, LocalFlight, LocalFlights
from sidecard_client.call.values import unpack_value
from sidecard_client.protocol import wire
from sidecard_client.protocol.connection import ConnectionLost
from sidecard_client.protocol.errors import CallFailed, CallTimeout, UnshareableValue

LOCAL_WAIT_SECONDS = 120.0
"""How long a call waits for another task's where its policy says nothing: the daemon's own default."""


class AsyncInterpreter:
    """Runs the calls of one client over ``connector``."""

    def __init__(self, connector: AsyncConnector) -> None:
        self._connector = connector
        self._flights = LocalFlights()

    async def perform(self, call: Call) -> Any:
        """Return the value of ``call``."""
        return (await self.run(call)).value

    async def run(self, call: Call) -> Outcome[Any]:
        """Return the call's outcome, from wherever it comes. Raises what `AsyncClient.call` does."""
        if call.key is calls.UNKEYED:
            call = calls.keyed(call, await self._connector.normal_forms(call.options.task))

        if not calls.tracing():
            return await self._run(call)

        from sidecard_client.metrics.tracing import traced  # noqa: PLC0415 - for apps that trace

        with traced(call) as span:
            outcome = await self._run(call)
            if span is not None:
                span.set_outcome(outcome)

            return outcome

    async def _run(self, call: Call) -> Outcome[Any]:
        started = monotonic()
        connector = self._connector
        try:
            connection = connector.connection()
            request = call.begin(connection.next_id())
            try:
                reply = await connection.ask(request, request.wait_seconds)
            except ConnectionLost as lost:
                connection = connector.instead_of(connection, lost)
                request = call.begin(connection.next_id(), calls.remaining_seconds(call, monotonic() - started))
                reply = await connector.ask_again(connection, request, request.wait_seconds)

        except ConnectionLost as lost:
            return await self._run_without_daemon(call, lost.reason, started)

        waited_seconds = monotonic() - started
        resolved = calls.resolve(call, reply, waited_seconds)
        if type(resolved) is Outcome:
            return resolved

        if isinstance(resolved, wire.Lease):
            return await self._lead(connection, call, request.id, resolved, waited_seconds)

        if resolved is calls.VECTOR_WANTED:
            return await self._run(await embedded(call))

        if resolved is calls.OWN_CALL:
            if call.key is not None:
                return await self._run(calls.unshared(call))

            return await self._run_here(call, "upstream", waited_seconds)

        return await self._run_without_daemon(call, "it takes no more calls just now", started)

    async def _lead(
        self, connection: AsyncConnection, call: Call, begin_id: int, lease: wire.Lease, waited_seconds: float
    ) -> Outcome[Any]:
        attempts = Attempts(call)
        try:
            return await self._make(connection, call, begin_id, lease, waited_seconds, attempts)
        except Exception as error:
            old = attempts.old_outcome(error, waited_seconds)
            if old is None:
                raise

            return old

    async def _make(
        self,
        connection: AsyncConnection,
        call: Call,
        begin_id: int,
        lease: wire.Lease,
        waited_seconds: float,
        attempts: Attempts,
    ) -> Outcome[Any]:
        """Make the call under ``lease``, on one backend after the other if need be, and tell the daemon how it went."""
        # Callers of this process who lose the daemon meanwhile join this call instead of making their own.
        flight = None if call.key is None else self._flights.lead((call.options.namespace, call.key))
        held: wire.Lease | None = lease
        try:
            while held is not None:
                connection.hold(held)
                function = attempts.take(held)
                try:
                    value = await _perform(function, call)
                except BaseException as error:
                    connection.release(held.lease)
                    kind = kind_of(error, call.options.classify)
                    message = attempts.fail(connection.next_id(), held, error, kind)
                    if not message.next:
                        held = None
                        connection.tell(message)
                        self._fail_here(flight, kind, error)
                        raise

                    reply = await _ask_next(connection, call, begin_id, message)
                    held, verdict = None, attempts.verdict(message, reply)
                    if verdict == "lease":
                        held = cast("wire.Lease", reply)
                        continue

                    if leaves_a_lease(reply):
                        connection.tell(wire.Cancel(target=begin_id))

                    if verdict == "alone":
                        break

                    self._fail_here(flight, kind, error)
                    raise

                connection.release(held.lease)
                if flight is not None:
                    self._flights.succeed(flight, value)

                lease, held = held, None
                await _complete(connection, call, function, begin_id, lease, value)
                return attempts.outcome(value, waited_seconds)

            return await self._run_here(call, "upstream", waited_seconds, flight, attempts)
        finally:
            # A lease that nobody works for any more, because its caller was cancelled between two backends.
            if held is not None:
                connection.release(held.lease)
                connection.tell(wire.Cancel(target=begin_id))

            if flight is not None:
                self._flights.drop(flight, 0)

    async def _run_without_daemon(self, call: Call, reason: str, started: float) -> Outcome[Any]:
        """Make the call, or join the same call of another task: single-flight within the process."""
        calls.may_run_here(call, reason, self._connector.place)
        if call.key is None:
            return await self._run_here(call, "fallback", monotonic() - started)

        event = anyio.Event()
        entered = self._flights.enter((call.options.namespace, call.key), event.set)
        if isinstance(entered, LocalFlight):
            return await self._run_here(call, "fallback", monotonic() - started, entered)

        left = calls.remaining_seconds(call, monotonic() - started)
        try:
            with anyio.move_on_after(LOCAL_WAIT_SECONDS if left is None else left):
                await event.wait()
        except BaseException:
            self._flights.leave(entered)
            raise

        waited_seconds = monotonic() - started
        match entered.end:
            case None:
                self._flights.leave(entered)
                raise CallTimeout(waited_seconds)
            case Answered(packed):
                return Outcome(unpack_value(packed), "fallback", waited_seconds=waited_seconds)
            case Elected():
                return await self._run_here(call, "fallback", waited_seconds, entered.flight)
            case Broken(kind="cancelled"):
                # Callers with short time limits, one after the other: none of them may fail the rest.
                return await self._run_without_daemon(call, reason, started)
            case Broken(kind, message):
                raise CallFailed(kind, message)
            case _:
                return await self._run_here(call, "fallback", waited_seconds)

    async def _run_here(
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
                    value = await _perform(function, call)
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


async def embedded(call: Call) -> Call:
    """Return the call with its vector, if it is to be had; an embedder that is no coroutine function runs in a thread."""
    from sidecard_client.call.embedding import embedded_by_async  # noqa: PLC0415 - for those who embed

    return await embedded_by_async(call, to_thread.run_sync)


async def _ask_next(connection: AsyncConnection, call: Call, begin_id: int, request: wire.Fail) -> wire.AnyReply | None:
    """Tell a failure of ``call`` and return the final reply, or None where the daemon was lost before it."""
    try:
        return await connection.ask(request, call.options.wait_seconds, begin_id)
    except ConnectionLost:
        return None


async def _complete(
    connection: AsyncConnection, call: Call, function: Callable[..., Any], begin_id: int, lease: wire.Lease, value: Any
) -> None:
    try:
        message = calls.complete(call, connection.next_id(), lease, value)
    except UnshareableValue as error:
        connection.tell(calls.refuse_to_share(call, connection.next_id(), lease.lease, value, error))
        calls.warn_unshareable(function, error)
        return

    # Not only told: once a call has returned, its answer is there for whoever asks next, in any process.
    # Where the connection is lost, its end has voided the lease, and the caller has its value all the same.
    with suppress(ConnectionLost):
        if leaves_a_lease(await connection.ask(message)):
            # A daemon of another version, say: those who wait must not wait until the lease ends.
            connection.tell(wire.Cancel(target=begin_id))


async def _perform(function: Callable[..., Any], call: Call) -> Any:
    """Await an async function here; run a plain one in a thread, because nobody knows whether it blocks."""
    if inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(type(function).__call__):
        return await function(*call.args, **call.kwargs)

    # In a tuple, because trio takes a coroutine that comes out of a thread for a mistake.
    (result,) = await to_thread.run_sync(lambda: (function(*call.args, **call.kwargs),))
    return await result if inspect.isawaitable(result) else result
