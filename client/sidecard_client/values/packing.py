"""Values for other processes: msgpack that decodes to the same value, of the same types.

msgpack has no tuples and no classes: a tuple would decode to a list, a dataclass to a dict. A caller that shares an answer
must get the holder's value, so such values are refused instead of changed, unless a `ValueCodec` brings them back.
"""

from typing import Any

import msgspec

from sidecard_client.protocol.errors import UnshareableValue
from sidecard_client.protocol.nesting import MAX_DEPTH, nesting_problem, nests_too_deep
from sidecard_client.protocol.wire import pack
from sidecard_client.values.codec import ValueCodec
from sidecard_client.values.likeness import place_of_fancy

unpack_value = msgspec.msgpack.Decoder().decode
"""Decode msgpack bytes to plain objects. Raises `msgspec.DecodeError`."""


def pack_value(value: Any, codec: ValueCodec | None = None, max_depth: int = MAX_DEPTH) -> bytes:
    """Return the msgpack bytes of ``value`` after checking that the same value comes back.

    The check is made only on a miss. Raises `UnshareableValue` with the place that would change and what to return instead.
    """
    if codec is not None:
        value = codec.to_plain(value)

    if nests_too_deep(value, max_depth):
        raise UnshareableValue(
            f"A value of type {type(value).__name__} is not shared: it is nested more than {max_depth} deep, which other "
            "programs may be unable to decode. Return a flatter value, or its text."
        )

    try:
        packed = pack(value)
        if type(value) is str:
            return packed

        reason = nesting_problem(packed, max_depth) or place_of_fancy(value)
        if reason is None:
            if unpack_value(packed) == value:
                return packed

            reason = "it does not come back equal from msgpack"
    except (TypeError, ValueError, OverflowError, RecursionError, msgspec.MsgspecError) as error:
        reason = f"it cannot be encoded: {error}"

    raise UnshareableValue(
        f"A value of type {type(value).__name__} is not shared: {reason}. "
        "Return str, bytes, numbers, None, or lists and dicts of these, or name the type in the function's annotation or "
        "with returns=."
    )
