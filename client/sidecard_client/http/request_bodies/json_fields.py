"""The fields of a JSON body. Pure."""

from typing import Any, Final

import msgspec

_from_json = msgspec.json.Decoder().decode
_MAX_INTEGER: Final = 2**63


def fields_of_json(body: bytes) -> dict[str, Any] | None:
    """Return the body as a JSON object; None if it is not one, or has no stable form."""
    try:
        fields = _from_json(body)
    except (msgspec.MsgspecError, RecursionError, UnicodeError, ValueError):
        return None

    return fields if isinstance(fields, dict) and is_plain(fields) else None


def is_plain(value: Any) -> bool:
    """Return whether msgpack can express a value of JSON, whose integers are unbounded."""
    stack = [value]
    while stack:
        item = stack.pop()
        if isinstance(item, dict):
            stack.extend(item.values())
        elif isinstance(item, list):
            stack.extend(item)
        elif isinstance(item, int) and not -_MAX_INTEGER <= item < 2 * _MAX_INTEGER:
            return False

    return True
