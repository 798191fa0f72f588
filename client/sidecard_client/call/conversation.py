"""Every decision of a call after the first reply to its begin: one generator for both clients. It never waits itself.

`converse` yields commands and receives their results; a client's interpreter executes them, blocking or awaiting::

    interpreter            conversation
    -----------            ------------
    reply to a begin  -->  lease?   Run the function, Ask the daemon with the result
                           shared, failed, rejected?   return or raise
                           lost?    WaitLocal for the same call of this process, or Run without a lease

Failures are values (`ConnectionLost`, `Raised`). Only interruptions and cancellations are thrown into the generator, at
any yield. Then it yields what returns the lease, passes the local flight on, and raises them again.
"""

import sys
from collections.abc import Callable, Generator
from contextlib import suppress
from time import monotonic
from typing import Any

from sidecard_client.call.acceptance import is_valid, newer, refreshed
from sidecard_client.call.attempts import Attempts, may_leave_lease
from sidecard_client.call.call import (
    Call,
    another_without_daemon,
    backends_without_daemon,
    check_fallback,
    remaining_seconds,
    unshared,
)
from sidecard_client.call.commands import (
    Abandon,
    Ask,
    BeginCall,
    Command,
    Embed,
    FinalReply,
    Open,
    Raised,
    Returned,
    Run,
    Send,
    WaitLocal,
)
from sidecard_client.call.completion import complete_or_refuse, usage_of, warn_unshareable
from sidecard_client.call.failures import kind_of, message_of, packed_detail
from sidecard_client.call.local_flights import (
    Answered,
    Elected,
    LocalFailure,
    LocalFlight,
    LocalFlights,
    Released,
)
from sidecard_client.call.outcome import (
    MAX_REFRESHES,
    NextStep,
    Outcome,
    Source,
    after_refused_hit,
    prefixed,
    resolve,
    value_of,
)
from sidecard_client.protocol import wire
from sidecard_client.protocol.connection import ConnectionEnded, ConnectionLost
from sidecard_client.protocol.errors import CallFailed, CallRejected, CallTimeout, UnreadableAnswer
from sidecard_client.values.codec import unpack_value

LOCAL_WAIT_SECONDS = 120.0
"""How long a call without a ``wait`` waits for another one of its process: the daemon's own default."""

TURNED_AWAY = "it takes no more calls now"


Conversation = Generator[Command, Any, Outcome[Any] | Raised]
"""Returns the call's outcome, or its function's own exception.

That is returned because a generator cannot raise every exception (`StopIteration`). Everything else is raised.
"""

Attempting = Generator[Command, Any, Returned | Raised]


def converse(
    call: Call,
    flights: LocalFlights,
    place: Callable[[], str],
    started: float,
    reply: FinalReply,
    *,
    refused: bool = False,
) -> Conversation:
    """Go on from the final ``reply`` to the begin of ``call``, which was sent at ``started`` to ``place()``.

    ``refused``: it is a stored answer that the caller does not accept (`hit_outcome`). Raises `CallFailed`, `CallRejected`,
    `CallTimeout`, `DaemonUnavailable`, `RequestRefused` and `ProtocolError`.
    """
    if type(reply) is wire.Lease:
        return _make(Attempts(call, reply), flights, None, "upstream", monotonic() - started)

    return _converse(call, flights, place, started, reply, refused=refused)


def _converse(  # noqa: C901 - one case for each next step
    call: Call,
    flights: LocalFlights,
    place: Callable[[], str],
    started: float,
    reply: FinalReply,
    *,
    refused: bool,
) -> Conversation:
    if isinstance(reply, ConnectionEnded):
        # The daemon has restarted, or closed an idle connection. It holds nothing for it, so asking again is safe.
        reply = yield BeginCall(call, remaining_seconds(call, monotonic() - started), again=True)

    if isinstance(reply, ConnectionLost):
        return (yield from _fall_back(call, flights, place, started, reply.reason))

    waited_seconds = monotonic() - started
    if isinstance(reply, wire.Lease):
        return (yield from _make(Attempts(call, reply), flights, None, "upstream", waited_seconds))

    resolved = after_refused_hit(call) if refused else resolve(call, reply, waited_seconds)
    match resolved:
        case Outcome():
            return resolved
        case NextStep.WITHOUT_DAEMON:
            return (yield from _fall_back(call, flights, place, started, TURNED_AWAY))
        case NextStep.NEWER | NextStep.REFRESH:
            since_seconds = monotonic() - started - waited_seconds
            age_seconds = reply.age_seconds if isinstance(reply, wire.Hit | wire.Shared) else 0.0
            call = newer(call, age_seconds + since_seconds) if resolved is NextStep.NEWER else refreshed(call)
            reply = yield BeginCall(call, remaining_seconds(call, monotonic() - started))
            return (yield from converse(call, flights, place, started, reply))
        case NextStep.SEND_VECTOR:
            call = yield Embed(call)
        case NextStep.SEND_PREFIX:
            call = prefixed(call)
        case NextStep.OWN_CALL if call.key is None:
            return (yield from _make(Attempts(call), flights, None, "upstream", waited_seconds))
        case NextStep.OWN_CALL:
            call = unshared(call)

    started = monotonic()
    reply = yield BeginCall(call)
    return (yield from converse(call, flights, place, started, reply))


def _make(  # noqa: C901, PLR0912 - one place for all that a result leads to
    attempts: Attempts, flights: LocalFlights, flight: LocalFlight | None, source: Source, waited_seconds: float
) -> Conversation:
    """Run the function, and give the result to the daemon and to the waiters of ``flight``.

    A stale value that the daemon sent along replaces a failure that may pass.
    """
    call, turn = attempts.call, 0 if flight is None else flight.elections
    try:
        result, lease = None, attempts.lease
        if lease is not None:
            if call.key is not None:
                # Callers of this process that lose the daemon meanwhile join this call instead of making their own.
                flight = flights.lead((call.options.namespace, call.key))

            result = yield Run(attempts.use(lease), call, lease)

        if not isinstance(result, Returned):
            result = yield from run_attempts(attempts, Run, result)

        if isinstance(result, Raised):
            if flight is not None:
                kind = kind_of(result.error, call.options.classify)
                flights.fail(flight, kind, message_of(result.error), bytes(packed_detail(result.error)))

            return attempts.stale_outcome(result.error, waited_seconds) or result

        shares = call.key is not None and (flight is not None or attempts.lease is not None)
        valid = not shares or is_valid(call, result.value)
        if flight is not None:
            if valid:
                flights.succeed(flight, result.value, call.codec)
            else:
                flights.reject(flight)

            flight = None

        lease = attempts.lease
        if lease is None:
            if call.span is not None:
                usage_of(call, result.value)

            return attempts.outcome(result.value, source, waited_seconds)

        # With the reply, the answer is there for all processes before this call returns.
        message, unshareable = complete_or_refuse(call, lease, result.value, valid=valid)
        attempts.lease = None  # as in `settle`, whose generator costs a miss 1 %
        reply = yield Ask(message)
        if may_leave_lease(reply):
            yield Abandon()

        if unshareable is not None:
            warn_unshareable(call.function_of(attempts.backend), unshareable)

        return attempts.outcome(result.value, source, waited_seconds)
    finally:
        if flight is not None:
            flights.drop(flight, turn)

        if attempts.lease is not None:
            yield Abandon()


def run_attempts(attempts: Attempts, run: type[Run] | type[Open], result: Raised | None = None) -> Attempting:
    """Run the function, on one backend after another, until it returns or no backend is left.

    ``result`` is that of the first run, if it was made already. If the function returns, `Attempts.lease` is still the
    daemon's; else, the daemon has the failure.
    """
    call = attempts.call
    while (lease := attempts.lease) is not None:
        if result is None:
            attempts.opened_at = monotonic()
            result = yield run(attempts.use(lease), call, lease)

        if isinstance(result, Returned):
            return result

        kind = kind_of(result.error, call.options.classify)
        message = attempts.failure(lease, result.error, kind)
        if not message.next:
            yield from settle(attempts, message)
            return result

        reply: FinalReply = yield Ask(message, call.options.wait_seconds)
        next_step = attempts.after_failure(message, reply)
        if isinstance(reply, wire.Lease) and next_step == "use_lease":
            attempts.lease, result = reply, None
            continue

        if may_leave_lease(reply):
            yield Abandon()

        attempts.lease = None
        if next_step == "give_up":
            return result

    return (yield from _run_unleased(attempts, run))


def _run_unleased(attempts: Attempts, run: type[Run] | type[Open]) -> Attempting:
    call, tried = attempts.call, attempts.tried
    try:
        choices = backends_without_daemon(call, tried)
    except CallRejected as error:
        return Raised(error.with_traceback(None))  # which refers to this frame, and that to it

    for backend, function in choices:
        tried.add(backend)
        attempts.backend = backend
        result: Returned | Raised = yield run(function, call, None)
        if isinstance(result, Returned):
            return result

        if not another_without_daemon(call, tried, kind_of(result.error, call.options.classify)):
            return result

    raise AssertionError("unreachable: the last backend either answers or fails")


def settle(attempts: Attempts, message: wire.Complete | wire.Fail) -> Generator[Command, Any, None]:
    """Send the last report of a lease, and make sure that the daemon holds none after it."""
    # From here on the lease need not be returned: if this is interrupted, the report was sent completely or the connection
    # is closed.
    attempts.lease = None
    if isinstance(message, wire.Fail) and message.kind == "cancelled":
        yield Send(message)  # a canceled caller must not wait
        return

    reply: FinalReply = yield Ask(message)
    attempts.not_stored = message.not_stored or (reply.not_stored if isinstance(reply, wire.Stored) else "")
    if may_leave_lease(reply):
        yield Abandon()


def _fall_back(  # noqa: C901 - one case for each end of a wait
    call: Call, flights: LocalFlights, place: Callable[[], str], started: float, reason: str
) -> Conversation:
    """Make the call without the daemon, or join the same call of this process."""
    check_fallback(call, reason, place)
    attempts, refused = Attempts(call), 0
    if call.key is None:
        return (yield from _make(attempts, flights, None, "fallback", monotonic() - started))

    while True:
        entered = flights.enter((call.options.namespace, call.key))
        waited_seconds = monotonic() - started
        if isinstance(entered, LocalFlight):
            return (yield from _make(attempts, flights, entered, "fallback", waited_seconds))

        left = remaining_seconds(call, waited_seconds)
        try:
            yield WaitLocal(entered, LOCAL_WAIT_SECONDS if left is None else left)
        except BaseException:
            flights.leave(entered)
            raise

        waited_seconds = monotonic() - started
        match entered.end:
            case None:
                flights.leave(entered)
                raise CallTimeout(waited_seconds)
            case Answered(packed):
                with suppress(UnreadableAnswer):
                    value = value_of(call, unpack_value(packed))
                    if is_valid(call, value):
                        return Outcome(value, "fallback", waited_seconds=waited_seconds)

                    refused += 1
                    if refused <= MAX_REFRESHES:
                        continue

                # This caller does not accept them, or they are of a function of another type with the same ``key=``.
                return (yield from _make(attempts, flights, None, "fallback", waited_seconds))
            case Elected():
                return (yield from _make(attempts, flights, entered.flight, "fallback", waited_seconds))
            case Released():
                return (yield from _make(attempts, flights, None, "fallback", waited_seconds))
            case LocalFailure(kind="cancelled"):
                continue  # callers with short time limits, one after another, must not fail the rest
            case LocalFailure(kind, message, detail):
                raise CallFailed(kind, message, unpack_value(detail) if detail else None)


def finished(result: Any) -> Any:
    """Return a conversation's result, or raise the exception of its function."""
    if not isinstance(result, Raised):
        return result

    try:
        raise result.error
    finally:
        del result  # the error refers to this frame, which must not refer to it


def is_tracing() -> bool:
    """Return whether the app traces: OpenTelemetry is imported and has a provider (as redis-py decides).

    Asked for each call, so it must cost nothing: it reads the provider where the library keeps it, outside its public
    interface. If it is not found there, `tracing.traced` finds out.
    """
    library = sys.modules.get("opentelemetry.trace")
    return library is not None and library.__dict__.get("_TRACER_PROVIDER", library) is not None
