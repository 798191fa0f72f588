"""What both clients' streams have in common: where a stream is from, what its holder tells, and how a broken one fails. Pure.

A `Stream` (or an `AsyncStream`) goes one of three ways, which is known with its first piece:

===========  ========================================================  =======================================================
way          its pieces                                                it ends in
===========  ========================================================  =======================================================
following    the daemon's: of a stored answer, or of somebody's call   `wire.End`, or an exception: never in a piece missing
leading      of the function, which runs here under a lease; each one  ``complete``, or ``fail``
             is told to the daemon before the caller has it
alone        of the function, without the daemon                       its end
===========  ========================================================  =======================================================

Before the first piece a call that fails goes on elsewhere as every call does (`attempts`). After it nothing can be taken back:
what breaks then is the caller's exception, or the followers' `CallFailed`.
"""

from collections.abc import Iterator
from time import monotonic
from typing import Any, Final

from msgspec import Raw

from sidecard_client.call import call as calls
from sidecard_client.call.call import Call, Outcome, Source
from sidecard_client.call.values import pack_value
from sidecard_client.protocol import wire
from sidecard_client.protocol.errors import CallFailed, CallTimeout, UnshareableValue

MAX_CHUNK_BYTES: Final = calls.MAX_VALUE_BYTES

_STORED: Final = frozenset({"cache", "stale"})


class Facts:
    """Where a stream is from. What is not known yet is None."""

    source: Source | None = None
    """``upstream``, ``cache``, ``stale``, ``shared`` or ``fallback``; from the first piece on, as are the three that follow."""
    age_seconds: float = 0.0
    backend: str | None = None
    waited_seconds: float = 0.0
    """From asking until the first piece, or the permission to call, was there."""
    saved_seconds: float = 0.0
    """With the end; 0 where this caller made the call."""
    saved_dollars: float = 0.0
    """Of stored answers from the first piece on, else with the end."""
    attempts: int = 0
    """Leases that the call has used."""
    similarity: float | None = None
    """Of an answer to a similar request, as `calls.Outcome.similarity`; from the first piece on."""
    _next_at: float = 0.0

    def pause_seconds(self, pace_seconds: float, now: float) -> float:
        """Return how long to wait before a piece is taken, so that a stored stream's come ``pace_seconds`` apart.

        Before and not after: a caller that is cancelled while it waits has lost no piece.
        """
        at = max(self._next_at, now) if self.source in _STORED else now
        self._next_at = at + pace_seconds
        return at - now

    def began(self, chunk: wire.Chunk, waited_seconds: float) -> None:
        """Take in what the first piece says."""
        self.source = chunk.source or "shared"
        self.age_seconds = chunk.age_seconds
        self.backend = chunk.backend
        self.saved_dollars = chunk.saved_dollars
        self.similarity = chunk.similarity
        self.waited_seconds = waited_seconds

    def ended(self, end: wire.End, waited_seconds: float) -> None:
        """Take in what the end says."""
        if self.source is None:
            self.source = end.source or "shared"
            self.waited_seconds = waited_seconds

        self.age_seconds = end.age_seconds
        self.backend = end.backend
        self.saved_seconds = end.saved_seconds
        self.saved_dollars = end.saved_dollars
        self.similarity = end.similarity

    def grew_old(self, old: Outcome[Any]) -> Iterator[Any]:
        """Take in that there is an older answer alone, and return its pieces."""
        self.source = old.source
        self.age_seconds = old.age_seconds
        self.backend = old.backend
        self.waited_seconds = old.waited_seconds
        self.attempts = old.attempts
        return iter(old.value if isinstance(old.value, list) else [old.value])


class Telling:
    """What the holder of a stream's lease tells: each piece, and then how it ended.

    ``shared`` is false from the moment at which a piece could not be told: the caller goes on alone then.
    The pieces are kept only for hooks that want the whole (``usage``, ``store``, the daemon's call log).
    """

    def __init__(self, call: Call, lease: wire.Lease) -> None:
        self.shared = True
        self._call = call
        self._lease = lease
        self._began = monotonic()
        self._first_chunk_seconds: float | None = None
        options = call.options
        wanted = options.usage is not None or options.store is not None or lease.log
        self._kept: list[Any] | None = [] if wanted else None

    def append(self, request_id: int, chunk: Any) -> wire.Append:
        """Build the message of a piece. Raises `UnshareableValue`."""
        if self._first_chunk_seconds is None:
            self._first_chunk_seconds = monotonic() - self._began

        packed = pack_value(chunk)
        if len(packed) > MAX_CHUNK_BYTES:
            raise UnshareableValue(
                f"A piece is too large to be shared: {len(packed)} bytes, at most {MAX_CHUNK_BYTES}."
            )

        if self._kept is not None:
            self._kept.append(chunk)

        return wire.Append(id=request_id, lease=self._lease.lease, chunk=Raw(packed))

    def complete(self, request_id: int) -> wire.Complete:
        """Build the message of a stream that is whole."""
        message = calls.completion(self._call, request_id, self._lease, wire.NO_VALUE, self._kept or [])
        usage = message.usage or wire.Usage()
        if usage.first_chunk_seconds is None and self._first_chunk_seconds is not None:
            fields = {name: getattr(usage, name) for name in usage.__struct_fields__}
            usage = wire.Usage(**{**fields, "first_chunk_seconds": self._first_chunk_seconds})

        return wire.Complete(
            id=message.id,
            lease=message.lease,
            usage=usage,
            ttl_seconds=message.ttl_seconds,
            store=message.store,
            tags=message.tags,
            spoken=message.spoken,
        )

    def refuse(self, request_id: int, error: UnshareableValue) -> wire.Fail:
        """Build the message for a piece that cannot be shared: those who wait make their own calls."""
        self.shared = False
        return wire.Fail(id=request_id, lease=self._lease.lease, kind="ignored", message=str(error), answered=True)


def broken(reply: Any, waited_seconds: float) -> Exception:
    """Return the exception of a stream that ended by something else than its end, after its first piece."""
    match reply:
        case wire.Failed():
            return CallFailed(reply.kind, f"the stream broke: {reply.message}")
        case wire.Timeout():
            return CallTimeout(waited_seconds)
        case wire.Rejected():
            return CallFailed("transient", "the stream broke: the daemon was stopped")
        case _:
            return CallFailed("transient", f"the stream broke: the daemon sent {type(reply).__name__}")


def lost(reason: str) -> CallFailed:
    """Return the exception of a stream whose daemon is gone, after its first piece."""
    return CallFailed("transient", f"the stream broke: the daemon was lost ({reason})")


def no_pieces(function: Any, returned: object) -> TypeError:
    """Return the exception for a function that returned something that cannot be iterated over."""
    return TypeError(
        f"{getattr(function, '__qualname__', function)} returned {type(returned).__name__}, which has no pieces: "
        "stream() takes functions that return something to iterate over."
    )
