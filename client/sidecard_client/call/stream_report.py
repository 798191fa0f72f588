"""What the holder of a stream reports: each piece, and the end. Pure but for the user's hooks."""

from collections.abc import Sequence
from time import monotonic
from typing import Any

from msgspec import Raw, structs

from sidecard_client.call.acceptance import is_valid
from sidecard_client.call.call import Call
from sidecard_client.call.completion import MAX_VALUE_BYTES, complete_packed, reject, usage_of
from sidecard_client.protocol import wire
from sidecard_client.protocol.errors import UnshareableValue
from sidecard_client.protocol.nesting import MAX_PIECE_DEPTH
from sidecard_client.values.packing import pack_value


class StreamReport:
    """The messages of a stream's holder. Its function was called at ``opened_at``.

    The pieces are kept only for hooks that need the whole (``usage``, ``store``, ``valid``, the daemon's call log). With ``valid=``
    their messages are held back until the whole is judged: other callers must not see a piece of an invalid answer.
    """

    def __init__(self, call: Call, lease: wire.Lease, opened_at: float) -> None:
        self._call = call
        self._lease = lease
        self._opened_at = opened_at
        self._first_chunk_seconds: float | None = None
        options = call.options
        judged = options.valid is not None and call.key is not None
        wanted = judged or options.usage is not None or options.store is not None or lease.log
        self._kept: list[Any] | None = [] if wanted else None
        self._held: list[wire.Append] | None = [] if judged else None
        self._valid = True

    def began(self) -> None:
        """Record that the function has produced output, for the time to the first one."""
        if self._first_chunk_seconds is None:
            self._first_chunk_seconds = monotonic() - self._opened_at

    def append(self, piece: Any, *, is_output: bool) -> Sequence[wire.Append]:
        """Return the messages to send for a piece: its own, or none if that is held back. Raises `UnshareableValue`."""
        packed = pack_value(piece, self._call.codec, MAX_PIECE_DEPTH)
        if len(packed) > MAX_VALUE_BYTES:
            raise UnshareableValue(
                f"A piece is too large to be shared: {len(packed)} bytes, at most {MAX_VALUE_BYTES}."
            )

        if self._kept is not None:
            self._kept.append(piece)

        # Without a prefix nobody waits for the output, so the message says nothing about it.
        message = wire.Append(lease=self._lease.lease, chunk=Raw(packed), output=is_output or not self._lease.prefix)
        if self._held is None:
            return (message,)

        self._held.append(message)
        return ()

    def take_held(self) -> Sequence[wire.Append]:
        """Judge the whole; return the messages that were held back, or none if it is invalid."""
        if self._held is None:
            return ()

        held, self._held = self._held, []
        self._valid = is_valid(self._call, self._kept)
        return held if self._valid else ()

    def complete(self) -> wire.Complete | wire.Fail:
        """Build the message of a complete stream, as judged by `take_held`."""
        pieces = self._kept or []
        if not self._valid:
            return reject(self._call, self._lease.lease, pieces)

        message = complete_packed(self._call, self._lease, wire.NO_VALUE, pieces)
        usage = message.usage or wire.Usage()
        if usage.first_chunk_seconds is None and self._first_chunk_seconds is not None:
            usage = structs.replace(usage, first_chunk_seconds=self._first_chunk_seconds)

        return structs.replace(message, usage=usage, deterministic=False)

    def usage(self) -> wire.Usage | None:
        """Return the usage of the pieces so far."""
        return usage_of(self._call, self._kept or [])

    def refuse(self, error: UnshareableValue) -> wire.Fail:
        """Build the message for a piece that cannot be shared: waiters make their own calls."""
        return wire.Fail(
            lease=self._lease.lease, kind="ignored", message=str(error), answered=True, not_stored="unshareable"
        )
