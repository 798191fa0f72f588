"""The fields of a JSON body. Pure."""

from typing import Any

import msgspec

_from_json = msgspec.json.Decoder().decode
_to_msgpack = msgspec.msgpack.Encoder().encode


def fields_of_json(body: bytes) -> dict[str, Any] | None:
    """Return the body as a JSON object; None if it is not one, or has no stable form."""
    try:
        fields = _from_json(body)
    except (msgspec.MsgspecError, RecursionError, UnicodeError, ValueError):
        return None

    return fields if isinstance(fields, dict) and is_plain(fields) else None


def is_plain(value: Any) -> bool:
    """Return whether msgpack can express a value of JSON, whose integers are unbounded."""
    try:
        _to_msgpack(value)
    except (OverflowError, RecursionError, UnicodeError):
        return False

    return True
