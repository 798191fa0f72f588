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

from collections.abc import Callable, Generator, Iterator, Sequence
from time import monotonic
from typing import Any, Final

from sidecard_client.call.acceptance import accepts, accepts_age, refreshed
from sidecard_client.call.attempts import Attempts
from sidecard_client.call.call import Call, check_fallback, remaining_seconds, unshared
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
from sidecard_client.call.completion import reason_of, warn_unshareable
from sidecard_client.call.conversation import TURNED_AWAY, run_attempts, settle
from sidecard_client.call.failures import fail, kind_of
from sidecard_client.call.outcome import NextStep, Outcome, Source, another_call, resolve, value_of
from sidecard_client.call.stream_report import StreamReport
from sidecard_client.protocol import wire
from sidecard_client.protocol.connection import ConnectionEnded, ConnectionLost
from sidecard_client.protocol.errors import CallFailed, CallTimeout, ProtocolError, UnreadableAnswer, UnshareableValue

END: Final[Any] = object()
"""The value of `Returned` in place of a piece if a stream ends."""

FLUSH_BYTES: Final = 256 * 1024
"""After so many bytes of pieces that were held back, the daemon's reply is awaited, so that no backlog builds up."""

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
            case wire.Chunk() | wire.End() if _is_judged(call, reply, waited_seconds):
                pieces, end = yield from _take_whole(call, reply)
                ended_at = monotonic()
                if pieces is None or not accepts(call, pieces, end.age_seconds, waited_seconds, stale=end.stale):
                    call = another_call(call, end.age_seconds + monotonic() - ended_at)
                    continue

                facts.ended(end, waited_seconds)
                for piece in pieces:
                    yield Give(piece)

                return None
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
            case Outcome() as outcome:
                for piece in facts.use_stale(outcome):
                    yield Give(piece)

                return None
            case NextStep.REFRESH | NextStep.NEWER:
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


def _is_judged(call: Call, first: wire.Chunk | wire.End, waited_seconds: float) -> bool:
    """Return whether a stream must be whole before its caller gets a piece: it is to be valid, or is too old."""
    too_old = not accepts_age(call, first.age_seconds, waited_seconds, stale=first.source == "stale")
    return too_old or call.options.valid is not None


def _take_whole(call: Call, reply: wire.Chunk | wire.End) -> Generator[Command, Any, tuple[list[Any] | None, wire.End]]:
    """Return all pieces of a followed stream, None if one is of another type, and its end. Raises what `broken` returns."""
    pieces: list[Any] | None = []
    while isinstance(reply, wire.Chunk):
        if pieces is not None:
            try:
                pieces.append(value_of(call, reply.chunk))
            except UnreadableAnswer:
                pieces = None

        waiting_since = monotonic()
        following: FinalReply = yield NextReply()
        if not isinstance(following, wire.Chunk | wire.End):
            raise broken(following, monotonic() - waiting_since)

        reply = following

    return pieces, reply


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
        if piece is not END:
            return (yield from _append(attempts, lease, report.append(piece)))

        if not (yield from _append(attempts, lease, report.take_held())):
            return False

        message = report.complete()
    except UnshareableValue as error:
        unshareable = reason_of(attempts.call, error)
        message = report.refuse(error)

    yield Release(lease)
    yield from settle(attempts, message)
    if unshareable is not None:
        warn_unshareable(attempts.call.function_of(attempts.backend), unshareable)

    return False


def _append(attempts: Attempts, lease: wire.Lease, messages: Sequence[wire.Append]) -> Generator[Command, Any, bool]:
    """Send pieces to the daemon; if it does not take them, end the lease and return False."""
    unread_bytes, taken = 0, True
    for message in messages:
        taken = yield Send(message)
        unread_bytes += len(memoryview(message.chunk))
        if taken and unread_bytes >= FLUSH_BYTES and len(messages) > 1:
            unread_bytes = 0
            yield Release(lease)
            taken = isinstance((yield Ask(wire.Renew(lease=lease.lease))), wire.Ok)
            yield Hold(lease)

        if not taken:
            yield Abandon()
            attempts.lease = None
            break

    return taken


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
