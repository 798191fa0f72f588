"""Values for other processes: msgpack that decodes to the same value, of the same types.

msgpack has no tuples and no classes: a tuple would decode to a list, a dataclass to a dict. A caller that shares an answer
must get the holder's value, so such values are refused instead of changed, unless a `ValueCodec` converts them.
"""

from collections.abc import Iterable
from typing import Any

import msgspec
from msgspec import Raw

from sidecard_client.protocol.errors import UnshareableValue
from sidecard_client.protocol.nesting import MAX_DEPTH, MAX_PIECE_DEPTH, nesting_problem, nests_too_deep
from sidecard_client.protocol.wire import pack
from sidecard_client.values.codec import ValueCodec, unpack_value


def pack_value(value: Any, codec: ValueCodec | None = None, max_depth: int = MAX_DEPTH) -> bytes:
    """Return the msgpack bytes of ``value`` after checking that the same value comes back.

    The check is made only on a miss. Raises `UnshareableValue` with the place that would change and what to return instead.
    """
    kind = type(value)
    if codec is not None:
        value = codec.to_plain(value)

    if nests_too_deep(value, max_depth):
        raise UnshareableValue(
            f"The value is not shared: it is nested more than {max_depth} deep, and decoders of other programs could fail. "
            "Return a flatter value, or its text."
        )

    try:
        packed = pack(value)
        if kind is str and codec is None:
            return packed

        reason = nesting_problem(packed, max_depth) or _fault_of(value)
        if reason is None:
            if unpack_value(packed) == value:
                return packed

            reason = "it does not come back equal from msgpack"
    except (TypeError, ValueError, OverflowError, RecursionError, msgspec.MsgspecError) as error:
        reason = _fault_of(value) or f"msgpack cannot encode a {kind.__name__}: {error}"

    raise UnshareableValue(f"The value is not shared: {reason}.")


def pack_pieces(pieces: Iterable[Any], codec: ValueCodec | None) -> bytes:
    """Return the msgpack bytes of the list of a stream's pieces, each of which is packed as `pack_value` does."""
    return pack([Raw(pack_value(piece, codec, MAX_PIECE_DEPTH)) for piece in pieces])


def _fault_of(value: Any) -> str | None:
    from sidecard_client.values.likeness import fault_of_plain  # noqa: PLC0415 - a hit does not need it

    fault = fault_of_plain(value)
    return None if fault is None else f"value{fault[0]} {fault[1]}"
