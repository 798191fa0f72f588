"""The outcome of a call, and what each final reply to its begin means. Pure."""

from collections.abc import Callable, Generator
from enum import Enum
from typing import TYPE_CHECKING, Any, Generic, Literal

from msgspec import UNSET, Struct, UnsetType, structs

from sidecard_client.call.acceptance import accepts, newer, refreshed, renewed
from sidecard_client.call.call import Call, T, unshared
from sidecard_client.call.options import prefixes_of_prompt
from sidecard_client.call.warn import name_of_function, warn
from sidecard_client.keys.vectors import CAN_EMBED
from sidecard_client.protocol import wire
from sidecard_client.protocol.errors import (
    CallFailed,
    CallRejected,
    CallTimeout,
    ProtocolError,
    RequestRefused,
    UnreadableAnswer,
)
from sidecard_client.values.codec import is_of_a_type

Source = Literal["upstream", "cache", "stale", "shared", "fallback"]

MAX_REFRESHES = 2
"""How often a caller begins again after an answer that it does not accept; then it makes a call that shares nothing."""

_FALLBACK_REASONS = frozenset({"busy", "draining"})
"""A caller rejected for one of these reasons makes its call without the daemon."""


class Outcome(Struct, Generic[T], frozen=True, dict=True):
    """A call's value and its source.

    ``source`` is ``upstream`` (this caller made the call), ``cache``, ``stale``, ``shared`` (another caller's call),
    or ``fallback`` (made without the daemon, or shared within the process).
    ``saved_seconds`` and ``saved_dollars`` are the duration and price of the value's own call; 0 for ``upstream``.
    ``waited_seconds`` is the time from asking to the value, or to the permission to call; 0 for a hit that was read from a view.
    ``passed_over`` gives the daemon's reason for each backend that the route preferred to this one; it is empty
    without a lease. ``attempts`` counts the leases that this call used, failed ones included.
    ``similarity`` is the cosine of both vectors where the value answers a similar request.
    """

    value: T
    source: Source
    age_seconds: float = 0.0
    backend: str = wire.DEFAULT_BACKEND
    saved_seconds: float = 0.0
    saved_dollars: float = 0.0
    waited_seconds: float = 0.0
    passed_over: dict[str, str] = {}
    attempts: int = 0
    similarity: float | None = None

    def refresh(self) -> "Refreshed[T]":
        """Make the call again, for a newer answer than this one. ``await outcome.refresh()`` for one of an `AsyncClient`.

        Function, arguments and policy are the same. A newer answer of another caller will do, so callers that refresh one
        answer at the same time share one call. If the call fails, this answer does not replace it.
        Raises what `outcome` does, and `RuntimeError` for an outcome that was copied, or not returned by `outcome`.
        """
        ask_again = self.__dict__.get(_ASK_AGAIN)
        if ask_again is None:
            raise RuntimeError(
                "Only an outcome that outcome() or outcome_each() returned can be refreshed, not a copy of it: call outcome() again."
            )

        refreshed_outcome: Refreshed[T] = ask_again()
        return refreshed_outcome


_ASK_AGAIN = "_ask_again"
"""Attribute with which `renewable` lets an outcome ask again. Not a field, so that outcomes compare and pickle."""

if TYPE_CHECKING:

    class Refreshed(Outcome[T], frozen=True):
        """What `Outcome.refresh` returns: a `Client`'s outcome, or an awaitable of an `AsyncClient`'s. For type checkers."""

        def __await__(self) -> Generator[Any, Any, Outcome[T]]: ...


def renewable(outcome: Outcome[Any], call: Call, ask: Callable[[Call], Any], clock: Callable[[], float]) -> Any:
    """Let the outcome of ``call`` ask again; return it. Call this as soon as the outcome is made: its age counts from now."""
    made_at = clock() - outcome.age_seconds
    outcome.__dict__[_ASK_AGAIN] = lambda: ask(renewed(call, clock() - made_at))
    return outcome


class NextStep(Enum):
    """What a caller does after a reply that is neither a value nor a lease."""

    OWN_CALL = "own call"
    """The holder's answer could not be shared: every waiter makes its own call, all at the same time."""
    WITHOUT_DAEMON = "without the daemon"
    """The daemon takes no more calls, or sent an invalid reply: continue as if it were not there."""
    NEWER = "newer"
    """The caller does not accept the answer: begin again, for a newer one, which another caller may have made since."""
    REFRESH = "refresh"
    """The caller does not accept the answer (too old, invalid, or of another type): begin again, for a new one."""
    SEND_PREFIX = "send the prefixes"
    """A backend schedules calls by their prefixes: begin again with them (`prefixed`)."""
    SEND_VECTOR = "send the vector"
    """A similar request may have been answered: begin again, with the vector (`embedding.embedded`)."""


def resolve(  # noqa: C901, PLR0912 - one case for each reply
    call: Call, reply: Any, waited_seconds: float
) -> Outcome[Any] | NextStep:
    """Turn the final reply to a `wire.Begin`, other than a lease, into the next step.

    Raises `CallFailed`, `CallRejected`, `CallTimeout`; `RequestRefused` where ``on_unavailable`` is ``"raise"``;
    and `ProtocolError` for a reply that answers no begin.
    """
    match reply:
        case wire.Hit():
            return hit_outcome(call, reply, waited_seconds) or after_refused_hit(call)
        case wire.Shared():
            if call.span is not None:
                call.span.link(reply.trace)

            try:
                value = value_of(call, reply.value)
            except UnreadableAnswer:
                return NextStep.OWN_CALL

            if not accepts(call, value, reply.age_seconds, waited_seconds):
                return after_refused(call)

            return Outcome(
                value,
                "shared",
                reply.age_seconds,
                reply.backend,
                reply.saved_seconds,
                reply.saved_dollars,
                waited_seconds,
            )
        case wire.Failed(kind="ignored"):
            return NextStep.OWN_CALL
        case wire.Failed():
            raise call_failed(reply)
        case wire.Timeout():
            raise CallTimeout(waited_seconds)
        case wire.Rejected():
            if reply.reason not in _FALLBACK_REASONS and reply.stale_value is not UNSET:
                stale = stale_outcome(call, reply, waited_seconds)
                if stale is not None:
                    return stale

            if reply.reason in _FALLBACK_REASONS and call.options.on_unavailable == "fallback":
                return NextStep.WITHOUT_DAEMON

            status = None if isinstance(reply.status, UnsetType) else reply.status
            raise CallRejected(reply.reason, reply.retry_after_seconds, reply.backends, status)
        case wire.Error():
            if call.options.on_unavailable != "fallback":
                raise RequestRefused(reply.code, reply.message)

            function = call.functions[0]
            warn(
                f"The daemon refuses the call of {name_of_function(function)}, which is made without it ({reply.code}): "
                f"{reply.message}",
                function,
            )
            return NextStep.WITHOUT_DAEMON
        case wire.VectorWanted() if call.similar is CAN_EMBED:
            return NextStep.SEND_VECTOR
        case wire.PrefixWanted() if call.options.prefix is not None and call.prefixes is None:
            return NextStep.SEND_PREFIX
        case _:
            raise ProtocolError(f"The daemon answered a begin by {type(reply).__name__}.")


def prefixed(call: Call) -> Call:
    """Return the call with the prefixes of its prompt."""
    return structs.replace(call, prefixes=prefixes_of_prompt(call.options))


def call_failed(reply: wire.Failed, happened: str = "") -> CallFailed:
    """Return the exception of a caller that waited for a failed call. ``happened`` begins its message."""
    return CallFailed(reply.kind, happened + reply.message, None if reply.detail is UNSET else reply.detail)


def after_refused_hit(call: Call) -> NextStep:
    """Return what follows a stored answer that the caller does not accept. Raises `CallRejected` if it makes no call."""
    return NextStep.OWN_CALL if call.options.mode == "refresh" else after_refused(call)


def after_refused(call: Call) -> NextStep:
    """Return what follows an answer that the caller does not accept. Raises `CallRejected` if it makes no call."""
    if call.options.mode == "only_if_cached":
        raise CallRejected("not_cached")

    if call.refreshes >= MAX_REFRESHES:
        return NextStep.OWN_CALL

    options = call.options
    first = not call.refreshes and options.mode == "use" and call.similar is None
    return NextStep.NEWER if first and options.valid is not None else NextStep.REFRESH


def another_call(call: Call, age_seconds: float = 0.0) -> Call:
    """Return the call to make in place of one whose answer, now of that age, its caller does not accept.

    Raises `CallRejected` if the caller makes none.
    """
    match after_refused(call):
        case NextStep.OWN_CALL:
            return unshared(call)
        case NextStep.NEWER:
            return newer(call, age_seconds)
        case _:
            return refreshed(call)


def value_of(call: Call, plain: Any) -> Any:
    """Return the value of an answer or of a stream's piece, of the call's type. Raises `UnreadableAnswer`."""
    if call.codec is not None:
        return call.codec.from_plain(plain)

    if type(plain) is list and is_of_a_type(plain):
        raise UnreadableAnswer("The answer is of a type, and a plain value is expected")

    return plain


def hit_outcome(call: Call, hit: wire.Hit, waited_seconds: float) -> Outcome[Any] | None:
    """Return the outcome of a call whose answer was stored; None if the caller does not accept it (`NextStep.REFRESH`)."""
    value, options = hit.value, call.options
    if call.codec is not None or type(value) is list:
        try:
            value = value_of(call, value)
        except UnreadableAnswer:
            return None

    age_seconds = hit.age_seconds
    if (
        (options.ttl_seconds is not None and age_seconds >= options.ttl_seconds)
        or (options.max_age_seconds is not None and age_seconds >= options.max_age_seconds)
        or options.valid is not None
    ) and not accepts(call, value, age_seconds, waited_seconds, stale=hit.stale):
        return None

    return Outcome(
        value,
        "stale" if hit.stale else "cache",
        hit.age_seconds,
        hit.backend,
        hit.saved_seconds,
        hit.saved_dollars,
        waited_seconds,
        similarity=hit.similarity,
    )


def stale_outcome(
    call: Call, reply: wire.Lease | wire.Rejected, waited_seconds: float, attempts: int = 0, since_seconds: float = 0.0
) -> Outcome[Any] | None:
    """Return the outcome of a call whose only answer is the stale one sent with ``reply``, so long ago.

    None if the caller does not accept it: it is too old by now, invalid, or of another type.
    """
    try:
        stale = reply.stale_value
        value = (
            [value_of(call, piece) for piece in stale]
            if call.stream and isinstance(stale, list)
            else value_of(call, stale)
        )
    except UnreadableAnswer:
        return None

    age_seconds = reply.stale_age_seconds + since_seconds
    if not accepts(call, value, age_seconds, 0.0, stale=True):
        return None

    return Outcome(
        value,
        "stale",
        age_seconds,
        reply.stale_backend,
        waited_seconds=waited_seconds,
        attempts=attempts,
    )
