"""The fields of a JSON body. Pure."""

import json
from typing import Any

import msgspec

_from_json = msgspec.json.Decoder().decode
_to_json = msgspec.json.Encoder().encode
_to_msgpack = msgspec.msgpack.Encoder().encode


def fields_of_json(body: bytes) -> dict[str, Any] | None:
    """Return the body as a JSON object; None if it is not one, or has no stable form.

    An object that has a name twice has no meaning of its own: some servers use the first value, or the last, and some both.
    """
    try:
        fields = _from_json(body)
    except (msgspec.MsgspecError, RecursionError, UnicodeError, ValueError):
        return None

    return fields if isinstance(fields, dict) and is_plain(fields) and _has_unique_names(fields, body) else None


def is_plain(value: Any) -> bool:
    """Return whether msgpack can express a value of JSON, whose integers are unbounded."""
    try:
        _to_msgpack(value)
    except (OverflowError, RecursionError, UnicodeError):
        return False

    return True


def _has_unique_names(fields: dict[str, Any], body: bytes) -> bool:
    try:
        if _to_json(fields) == body:  # as most SDKs write it; the other way takes ten times as long
            return True

        json.loads(body, object_pairs_hook=_check_unique)
    except (RecursionError, UnicodeError, ValueError):
        return False

    return True


def _check_unique(pairs: list[tuple[str, Any]]) -> None:
    if len({name for name, _ in pairs}) != len(pairs):
        raise ValueError("an object has a name twice")
