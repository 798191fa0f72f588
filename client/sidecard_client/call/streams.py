"""Every decision of a stream, for both clients; its commands are those of `conversation`.

===========  ===========================================================  ============================================
way          its pieces                                                   it ends in
===========  ===========================================================  ============================================
following    the daemon's: a stored answer, or another caller's stream    `wire.End`, or an exception: never silently
leading      the function's, which runs here under a lease; the daemon    ``complete``, or ``fail``
             gets each piece before the caller
alone        the function's, without the daemon                           its end
===========  ===========================================================  ============================================

Before the first piece, a failing call tries other backends like every call. After it, nothing can be taken back: a
failure is the caller's exception, or the followers' `CallFailed`.
"""

from collections.abc import Callable, Generator, Iterator
from time import monotonic
from typing import Any, Final

from msgspec import Raw, structs

from sidecard_client.call.attempts import Attempts
from sidecard_client.call.call import Call, check_fallback, refreshed, remaining_seconds, unshared
from sidecard_client.call.commands import (
    Abandon,
    Ask,
    BeginCall,
    Command,
    Embed,
    FinalReply,
    Give,
    GoOn,
    Hold,
    NextReply,
    Open,
    Pull,
    Raised,
    Release,
    Returned,
    Send,
)
from sidecard_client.call.completion import MAX_VALUE_BYTES, complete_packed, reason_of, warn_unshareable
from sidecard_client.call.conversation import TURNED_AWAY, run_attempts, settle
from sidecard_client.call.failures import fail, kind_of
from sidecard_client.call.outcome import NextStep, Outcome, Source, another_call, resolve, value_of
from sidecard_client.protocol import wire
from sidecard_client.protocol.connection import ConnectionEnded, ConnectionLost
from sidecard_client.protocol.errors import CallFailed, CallTimeout, ProtocolError, UnreadableAnswer, UnshareableValue
from sidecard_client.protocol.nesting import MAX_PIECE_DEPTH
from sidecard_client.values.packing import pack_value

END: Final[Any] = object()
"""The value of `Returned` in place of a piece if a stream ends."""

MAX_CHUNK_BYTES: Final = MAX_VALUE_BYTES

_STORED: Final = frozenset({"cache", "stale"})


class Provenance:
    """Where a stream's pieces come from. An unknown fact is None."""

    source: Source | None = None
    """``upstream``, ``cache``, ``stale``, ``shared`` or ``fallback``. Known with the first piece, like the next three."""
    age_seconds: float = 0.0
    backend: str | None = None
    waited_seconds: float = 0.0
    """From asking to the first piece, or to the permission to call."""
    saved_seconds: float = 0.0
    """Known at the end; 0 if this caller made the call."""
    saved_dollars: float = 0.0
    """Known with the first piece of a stored answer, else at the end."""
    attempts: int = 0
    """Leases that the call used."""
    similarity: float | None = None
    """As `Outcome.similarity`; known with the first piece."""
    _next_at: float = 0.0

    def adopt(self, other: "Provenance") -> None:
        """Take over all facts of ``other``."""
        vars(self).update(vars(other))

    def pause_seconds(self, pace_seconds: float, now: float) -> float:
        """Return how long to wait before taking a piece, so that a stored stream's pieces are ``pace_seconds`` apart.

        Before it and not after: a caller that is canceled while it waits has lost no piece.
        """
        at = max(self._next_at, now) if self.source in _STORED else now
        self._next_at = at + pace_seconds
        return at - now

    def began(self, chunk: wire.Chunk, waited_seconds: float) -> None:
        """Record the facts of the first piece."""
        self.source = chunk.source or "shared"
        self.age_seconds = chunk.age_seconds
        self.backend = chunk.backend
        self.saved_dollars = chunk.saved_dollars
        self.similarity = chunk.similarity
        self.waited_seconds = waited_seconds

    def ended(self, end: wire.End, waited_seconds: float) -> None:
        """Record the facts of the end."""
        if self.source is None:
            self.source = end.source or "shared"
            self.waited_seconds = waited_seconds

        self.age_seconds = end.age_seconds
        self.backend = end.backend
        self.saved_seconds = end.saved_seconds
        self.saved_dollars = end.saved_dollars
        self.similarity = end.similarity

    def use_stale(self, stale: Outcome[Any]) -> Iterator[Any]:
        """Record that only a stale answer exists, and return its pieces."""
        self.source = stale.source
        self.age_seconds = stale.age_seconds
        self.backend = stale.backend
        self.waited_seconds = stale.waited_seconds
        self.attempts = stale.attempts
        return iter(stale.value if isinstance(stale.value, list) else [stale.value])


class Leading:
    """The result of `follow` for a caller that runs the function: how, and with which ``source``."""

    __slots__ = ("attempts", "source")

    def __init__(self, call: Call, lease: wire.Lease | None = None, source: Source = "upstream") -> None:
        self.attempts = Attempts(call, lease)
        self.source = source


class StreamReport:
    """The messages of a stream's holder: each piece, and the end. Its function was called at ``opened_at``.

    The pieces are kept only for hooks that need the whole (``usage``, ``store``, the daemon's call log).
    """

    def __init__(self, call: Call, lease: wire.Lease, opened_at: float) -> None:
        self._call = call
        self._lease = lease
        self._opened_at = opened_at
        self._first_chunk_seconds: float | None = None
        options = call.options
        wanted = options.usage is not None or options.store is not None or lease.log
        self._kept: list[Any] | None = [] if wanted else None

    def append(self, piece: Any) -> wire.Append:
        """Build the message of a piece. Raises `UnshareableValue`."""
        if self._first_chunk_seconds is None:
            self._first_chunk_seconds = monotonic() - self._opened_at

        packed = pack_value(piece, self._call.codec, MAX_PIECE_DEPTH)
        if len(packed) > MAX_CHUNK_BYTES:
            raise UnshareableValue(
                f"A piece is too large to be shared: {len(packed)} bytes, at most {MAX_CHUNK_BYTES}."
            )

        if self._kept is not None:
            self._kept.append(piece)

        return wire.Append(lease=self._lease.lease, chunk=Raw(packed))

    def complete(self) -> wire.Complete:
        """Build the message of a complete stream."""
        message = complete_packed(self._call, self._lease, wire.NO_VALUE, self._kept or [])
        usage = message.usage or wire.Usage()
        if usage.first_chunk_seconds is None and self._first_chunk_seconds is not None:
            usage = structs.replace(usage, first_chunk_seconds=self._first_chunk_seconds)

        return structs.replace(message, usage=usage, deterministic=False)

    def refuse(self, error: UnshareableValue) -> wire.Fail:
        """Build the message for a piece that cannot be shared: waiters make their own calls."""
        return wire.Fail(lease=self._lease.lease, kind="ignored", message=str(error), answered=True)


def stream(call: Call, facts: Provenance, place: Callable[[], str]) -> Generator[Command, Any, Raised | None]:
    """Converse for a whole stream. Raises what `follow` does."""
    leading = yield from follow(call, facts, place)
    return None if leading is None else (yield from lead(leading, facts))


def follow(  # noqa: C901, PLR0912 - one case for each reply
    call: Call, facts: Provenance, place: Callable[[], str]
) -> Generator[Command, Any, Leading | None]:
    """Begin ``call``, and follow the daemon's stream if there is one; else return how to run the function.

    The caller may leave at every `Give`: then nothing is held but the begin. Raises what `resolve` and `check_fallback`
    do; after the first piece, `CallFailed` or `CallTimeout`.
    """
    while True:
        started = monotonic()
        reply: FinalReply = yield BeginCall(call)
        if isinstance(reply, ConnectionEnded):
            # The daemon has restarted, or closed an idle connection. It holds nothing for it, so asking again is safe.
            reply = yield BeginCall(call, remaining_seconds(call, monotonic() - started), again=True)

        waited_seconds = monotonic() - started
        match reply:
            case ConnectionLost():
                check_fallback(call, reply.reason, place)
                return Leading(call, None, "fallback")
            case wire.Lease():
                facts.waited_seconds = waited_seconds
                return Leading(call, reply)
            case wire.Chunk():
                try:
                    first = value_of(call, reply.chunk)
                except UnreadableAnswer:
                    call = another_call(call)
                    continue

                facts.began(reply, waited_seconds)
                yield from _follow_chunks(call, first, facts)
                return None
            case wire.End():
                facts.ended(reply, waited_seconds)
                return None

        match resolve(call, reply, waited_seconds):
            case Outcome() as stale:
                for piece in facts.use_stale(stale):
                    yield Give(piece)

                return None
            case NextStep.REFRESH:
                call = refreshed(call)
            case NextStep.SEND_VECTOR:
                call = yield Embed(call)
            case NextStep.OWN_CALL if call.key is None:
                return Leading(call)
            case NextStep.OWN_CALL:
                call = unshared(call)
            case NextStep.WITHOUT_DAEMON:
                check_fallback(call, TURNED_AWAY, place)
                return Leading(call, None, "fallback")
            case _:
                raise ProtocolError(f"The daemon answered the begin of a stream by {type(reply).__name__}.")


def _follow_chunks(call: Call, piece: Any, facts: Provenance) -> Generator[Command, Any, None]:
    while True:
        yield Give(piece)
        started = monotonic()
        reply: FinalReply = yield NextReply()
        if not isinstance(reply, wire.Chunk):
            break

        try:
            piece = value_of(call, reply.chunk)
        except UnreadableAnswer as error:
            raise CallFailed("transient", f"the stream broke: {error}") from error

    if not isinstance(reply, wire.End):
        raise broken(reply, monotonic() - started)

    facts.ended(reply, facts.waited_seconds)


def lead(leading: Leading, facts: Provenance) -> Generator[Command, Any, Raised | None]:
    """Run the function, and give each piece to the daemon and to the caller. Returns the call's exception."""
    attempts, dropped = leading.attempts, False
    try:
        result: Returned | Raised = yield from run_attempts(attempts, Open)
        if isinstance(result, Raised):
            stale = attempts.stale_outcome(result.error, facts.waited_seconds)
            if stale is None:
                return result

            for piece in facts.use_stale(stale):
                yield Give(piece)

            return None

        facts.source = leading.source if attempts.lease is None else "upstream"
        facts.backend, facts.attempts = attempts.backend, attempts.count
        return (yield from _lead_pieces(attempts, result.value))
    except GeneratorExit:
        dropped = True  # no interpreter executes commands any more
        raise
    finally:
        if attempts.lease is not None and not dropped:
            yield Abandon()


def _lead_pieces(attempts: Attempts, piece: Any) -> Generator[Command, Any, Raised | None]:
    lease = attempts.lease
    report = None if lease is None else StreamReport(attempts.call, lease, attempts.opened_at)
    wanted = True
    while True:
        if report is not None and not (yield from _report(attempts, report, piece)):
            report = None

        if piece is END:
            return None

        if wanted:
            wanted = yield Give(piece)
            if not wanted and not (yield from _may_go_on(attempts)):
                return None

        result: Returned | Raised = yield Pull()
        if isinstance(result, Raised):
            lease = attempts.lease
            if lease is not None:
                yield Release(lease)
                kind = kind_of(result.error, attempts.call.options.classify)
                yield from settle(attempts, fail(lease.lease, result.error, kind))

            return result

        piece = result.value


def _report(attempts: Attempts, report: StreamReport, piece: Any) -> Generator[Command, Any, bool]:
    """Send a piece, or the end, to the daemon. Returns False once nothing more can be shared."""
    lease = attempts.lease
    if lease is None:
        return False

    unshareable = None
    try:
        message: Any = report.complete() if piece is END else report.append(piece)
    except UnshareableValue as error:
        unshareable = reason_of(attempts.call, error)
        message = report.refuse(error)

    if isinstance(message, wire.Append):
        if not (yield Send(message)):
            yield Abandon()
            attempts.lease = None

        return attempts.lease is not None

    yield Release(lease)
    yield from settle(attempts, message)
    if unshareable is not None:
        warn_unshareable(attempts.call.function_of(attempts.backend), unshareable)

    return False


def _may_go_on(attempts: Attempts) -> Generator[Command, Any, bool]:
    """After the caller has left, return whether the call goes on because others wait for it; else end it."""
    lease = attempts.lease
    if lease is None:
        return False

    yield Release(lease)
    reply: FinalReply = yield Ask(wire.Renew(lease=lease.lease))
    if others_wait(reply):
        yield Hold(lease)
        if (yield GoOn()):
            return True

        yield Release(lease)

    yield from settle(attempts, wire.Fail(lease.lease, "cancelled", "the caller wanted no more of its stream"))
    return False


def others_wait(reply: FinalReply) -> bool:
    """Return whether the reply to a `wire.Renew` reports waiters."""
    return isinstance(reply, wire.Ok) and bool(reply.waiters)


def broken(reply: FinalReply, waited_seconds: float) -> Exception:
    """Return the exception of a followed stream that did not end in `wire.End`."""
    match reply:
        case wire.Failed():
            return CallFailed(reply.kind, f"the stream broke: {reply.message}")
        case wire.Timeout():
            return CallTimeout(waited_seconds)
        case wire.Rejected():
            return CallFailed("transient", "the stream broke: the daemon was stopped")
        case ConnectionLost():
            return CallFailed("transient", f"the stream broke: the daemon was lost ({reply.reason})")
        case _:
            return CallFailed("transient", f"the stream broke: the daemon sent {type(reply).__name__}")


def no_pieces(function: Any, returned: object) -> TypeError:
    """Return the exception for a function whose result cannot be iterated over."""
    return TypeError(
        f"{getattr(function, '__qualname__', function)} returned {type(returned).__name__}, which has no pieces: "
        "stream() takes functions that return something to iterate over."
    )
