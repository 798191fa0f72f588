"""Values for other processes: msgpack that decodes to an equal value.

msgpack has no tuples and no classes: a tuple would decode to a list, a dataclass to a dict. A caller that shares an answer
must get the holder's value, so such values are refused instead of changed.
"""

from typing import Any

import msgspec

from sidecard_client.protocol.errors import UnshareableValue
from sidecard_client.protocol.nesting import MAX_DEPTH, nesting_problem, nests_too_deep
from sidecard_client.protocol.wire import pack

unpack_value = msgspec.msgpack.Decoder().decode
"""Decode msgpack bytes to plain objects. Raises `msgspec.DecodeError`."""


def pack_value(value: Any, max_depth: int = MAX_DEPTH) -> bytes:
    """Return the msgpack bytes of ``value`` after checking that they decode to an equal value.

    The check costs one decoding, and only on a miss. Raises `UnshareableValue` with the type and what to return instead.
    """
    if nests_too_deep(value, max_depth):
        raise UnshareableValue(
            f"A value of type {type(value).__name__} is not shared: it is nested more than {max_depth} deep, which other "
            "programs may be unable to decode. Return a flatter value, or its text."
        )

    try:
        packed = pack(value)
        if type(value) is str:
            return packed

        problem = nesting_problem(packed, max_depth)
        if problem is None and unpack_value(packed) == value:
            return packed

        reason = problem or "it does not come back equal from msgpack"
    except (TypeError, ValueError, OverflowError, RecursionError, msgspec.MsgspecError) as error:
        reason = f"it cannot be encoded: {error}"

    raise UnshareableValue(
        f"A value of type {type(value).__name__} is not shared: {reason}. "
        "Return str, bytes, numbers, None, or lists and dicts of these."
    )
