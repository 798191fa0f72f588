"""Every decision of a stream before its function runs, for both clients; the commands are those of `conversation`.

===========  ===========================================================  ============================================
way          its pieces                                                   it ends in
===========  ===========================================================  ============================================
following    the daemon's: a stored answer, or another caller's stream    `wire.End`, or an exception: never silently
leading      the function's, which runs here under a lease (`leading`)    ``complete``, or ``fail``
alone        the function's, without the daemon                           its end
===========  ===========================================================  ============================================

Before the first piece, a failing call tries other backends like every call. After it, nothing can be taken back: a
failure is the caller's exception, or the followers' `CallFailed`.
"""

from collections.abc import Callable, Generator, Iterable, Iterator
from time import monotonic
from typing import Any, Final

from msgspec import Struct

from sidecard_client.call.acceptance import accepts, accepts_age, refreshed
from sidecard_client.call.attempts import Attempts
from sidecard_client.call.call import Call, check_fallback, remaining_seconds, unshared
from sidecard_client.call.commands import BeginCall, Command, Embed, FinalReply, Give, NextReply
from sidecard_client.call.conversation import TURNED_AWAY
from sidecard_client.call.outcome import (
    NextStep,
    Outcome,
    Source,
    another_call,
    call_failed,
    prefixed,
    resolve,
    value_of,
)
from sidecard_client.protocol import wire
from sidecard_client.protocol.connection import ConnectionEnded, ConnectionLost
from sidecard_client.protocol.errors import CallFailed, CallTimeout, ProtocolError, UnreadableAnswer

END: Final[Any] = object()
"""The value of `Returned` in place of a piece if a stream ends."""

_STORED: Final = frozenset({"cache", "stale"})


class Enough(Struct, frozen=True):
    """A function may yield this before the piece that ends its answer: a caller that leaves after that piece has all of it.

    Then the answer is stored and shared as if the function had ended, or fails as if it had raised ``error``. An exception of the
    function after that piece changes nothing.
    """

    error: Exception | None = None


ENOUGH: Final = Enough()
"""The next piece completes the answer."""


class ForOwnCaller(Struct, frozen=True):
    """A function may yield this: ``piece`` goes to the function's own caller, and is neither shared nor stored."""

    piece: Any
    is_output: bool = True
    """Whether the model's output has begun: false for what precedes it."""


class ForOthers(Struct, frozen=True):
    """A function may yield this: ``piece`` is shared and stored, and does not go to the function's own caller."""

    piece: Any
    is_output: bool = True
    """As `ForOwnCaller.is_output`. A piece that is neither of the two is output."""


def divided(pieces: Iterable[Any]) -> tuple[list[Any], list[Any] | None]:
    """Return all pieces for a function's own caller, and those for others; None if others get none of its answer.

    Raises what ``pieces`` raises, unless the exception says by ``not_stored`` that its own caller has the whole answer.
    """
    own, shared = list[Any](), list[Any]()
    try:
        for piece in pieces:
            if isinstance(piece, ForOwnCaller):
                own.append(piece.piece)
            elif isinstance(piece, ForOthers):
                shared.append(piece.piece)
            elif not isinstance(piece, Enough):
                own.append(piece)
                shared.append(piece)
    except Exception as error:
        if not getattr(error, "not_stored", ""):
            raise

        return own, None

    return own, shared


def replayed(hit: wire.Hit) -> Iterator[wire.Chunk | wire.End]:
    """Yield a stored answer as the daemon replies to a stream's begin: a chunk for each element of a list, then the end."""
    facts: tuple[Any, ...] = "cache", hit.age_seconds, hit.backend, hit.saved_dollars
    for piece in hit.value if type(hit.value) is list else [hit.value]:
        yield wire.Chunk(hit.id, piece, *facts)
        facts = ()  # only the first chunk has them

    costs = hit.saved_seconds, hit.saved_dollars
    yield wire.End(hit.id, "cache", hit.age_seconds, hit.stale, *costs, hit.backend, hit.meta)


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
    not_stored: str = ""
    """Why the answer was not stored (`sidecard_client.protocol.wire.NotStoredReason`); known at the end, if this caller made the call."""
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
            case NextStep.SEND_PREFIX:
                call = prefixed(call)
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


def broken(reply: FinalReply, waited_seconds: float) -> Exception:
    """Return the exception of a followed stream that did not end in `wire.End`."""
    match reply:
        case wire.Failed():
            return call_failed(reply, "the stream broke: ")
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
