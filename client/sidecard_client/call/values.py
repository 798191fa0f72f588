"""Values on their way to other processes: msgpack, and equal when they come back.

msgpack has no tuples and no classes: a tuple would come back as a list, a dataclass as a dict.
A caller that shares an answer must get what the holder got, so such values are refused instead of changed.
"""

from typing import Any

import msgspec

from sidecard_client.protocol.errors import UnshareableValue
from sidecard_client.protocol.wire import pack

unpack_value = msgspec.msgpack.Decoder().decode
"""Msgpack bytes to plain objects. Raises `msgspec.DecodeError`."""


def pack_value(value: Any) -> bytes:
    """Return the msgpack bytes of ``value``, having checked that they decode to an equal value.

    The check costs one decoding, on a miss alone, where a model has just worked for it.
    Raises `UnshareableValue` with the type and what to return instead.
    """
    try:
        packed = pack(value)
        if type(value) is str or unpack_value(packed) == value:
            return packed

        reason = "comes back as something else"
    except (TypeError, ValueError, OverflowError, RecursionError, msgspec.MsgspecError) as error:
        reason = f"cannot be encoded: {error}"

    raise UnshareableValue(
        f"A value of type {type(value).__name__} is not shared: it {reason}. "
        "Return str, bytes, numbers, None, or lists and dicts of these."
    )
