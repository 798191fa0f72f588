"""Convert messages between JSON and msgpack. Bytes, which JSON lacks, are base64 under ``{"$bytes": "..."}``."""

import base64
import binascii
import re
from collections.abc import Generator
from typing import Any

import msgspec

from sidecard_client.protocol import wire

to_json = msgspec.json.Encoder().encode

_plain = msgspec.msgpack.Decoder().decode

DECODE_FAULTS = (msgspec.MsgspecError, RecursionError, UnicodeError, ValueError, TypeError, OverflowError)
"""Exceptions of decoding a peer's bytes: malformed, of a wrong type, nested too deep, not UTF-8, out of range."""


class TooManyElements(Exception):
    """Decoding a line would take too long; the text says what to change."""

    def __init__(self) -> None:
        super().__init__(
            f"The line holds more than {wire.MAX_LINE_ELEMENTS} arrays and objects, fractional numbers or, beside $bytes, "
            "elements: send such values in msgpack frames."
        )


_USUAL_CHARACTERS = 24
"""Of the longest number that is written with as many digits as it needs: -2.2250738585072014e-308."""

_EXPONENT_WEIGHT = 3
"""Numbers with an exponent take up to 0.7 us."""


def from_json(text: bytes | memoryview) -> Any:
    """Decode JSON. Raises one of `DECODE_FAULTS`, or `TooManyElements` for too many fractional numbers.

    Its decoder alone takes 1.4 s for 1 MB of ``1e308``: it converts most numbers in 0.03 us, and some in 7 us.
    """
    numbers = _numbers(wire.MAX_LINE_ELEMENTS)
    next(numbers)
    return msgspec.json.Decoder(float_hook=numbers.send).decode(text)


def _numbers(left: int) -> Generator[float, str, None]:
    """Convert each number sent to it, until they have taken the time of ``left`` usual ones. A generator has half the cost of a call."""
    text = yield 0.0
    while True:
        left -= _EXPONENT_WEIGHT if "e" in text or "E" in text else 1
        if len(text) > _USUAL_CHARACTERS:
            # Up to 30 us for a number of 770 digits.
            left -= len(text) // 8

        if left < 0:
            raise TooManyElements

        number = float(text)
        if number - number:
            raise ValueError("a number is out of range")

        text = yield number


def payload_of_line(line: bytes) -> bytes:
    """Return the msgpack message of a JSON line.

    Raises one of `DECODE_FAULTS`, or `TooManyElements`: 1 MiB of empty objects takes 22 ms to decode, 1 MiB of numbers
    up to 70 ms, and 45 ms to search for bytes.
    """
    if line.count(b"{") + line.count(b"[") > wire.MAX_LINE_ELEMENTS:
        raise TooManyElements

    fields = from_json(line)
    # Few lines have bytes, and to search all values for them takes as long as to decode them.
    if (b"bytes" in line or _escaped_name(line)) and isinstance(fields, dict):
        fields = _BytesDecoder().convert(fields)

    return wire.pack(fields)


_CONTAINERS = frozenset((dict, list))

_CONTAINER_WEIGHT = 2
"""An array or object costs so many elements more, if it is searched for bytes: 60,000 take 40 ms."""

_escaped_name = re.compile(rb"\\u00[267]").search
"""Finds escapes with which the name ``$bytes`` may be written: ``\\u0024bytes``. Those of other alphabets are none."""


class _BytesDecoder:
    """Converts each ``{"$bytes": base64}`` of one message to bytes."""

    def __init__(self) -> None:
        self._left = wire.MAX_LINE_ELEMENTS

    def convert(self, value: list[Any] | dict[str, Any]) -> Any:
        """Return a list or map with bytes."""
        self._left -= len(value) + _CONTAINER_WEIGHT
        if self._left < 0:
            raise TooManyElements

        if isinstance(value, list):
            return [self.convert(item) if type(item) in _CONTAINERS else item for item in value]

        if len(value) == 1 and isinstance(text := value.get("$bytes"), str):
            try:
                return base64.b64decode(text, validate=True)
            except binascii.Error as fault:
                raise ValueError(f"$bytes is no base64: {fault}") from fault

        return {name: self.convert(item) if type(item) in _CONTAINERS else item for name, item in value.items()}


def json_line(reply: wire.AnyReply, packed: bytes | None = None) -> bytes:
    """Return a reply, which is ``packed`` already or not yet, as one line of JSON.

    A value that JSON cannot express (a map with keys that are not strings, NaN) becomes an `Error` that names msgpack.
    """
    try:
        return json_text(wire.pack(reply) if packed is None else packed) + b"\n"
    except DECODE_FAULTS as fault:
        return json_error(reply.id, fault)


def json_error(request_id: int, fault: Exception) -> bytes:
    """Return the line that replaces a reply whose value JSON cannot express."""
    return (
        to_json(
            wire.Error(
                request_id, "bad_request", f"The value cannot be written as JSON ({fault}): read it with msgpack."
            )
        )
        + b"\n"
    )


def json_text(packed: bytes | memoryview) -> bytes:
    """Return msgpack as JSON. Raises one of `DECODE_FAULTS` for what JSON cannot express."""
    return to_json(_without_bytes(_plain(packed)))


def _without_bytes(value: Any) -> Any:
    """Convert bytes to ``{"$bytes": base64}``. Raises for what JSON cannot express."""
    if isinstance(value, bytes):
        return {"$bytes": base64.b64encode(value).decode()}

    if isinstance(value, dict):
        if not all(isinstance(name, str) for name in value):
            raise TypeError("a map has keys that are not strings")

        return {name: _without_bytes(item) for name, item in value.items()}

    if isinstance(value, float) and (value != value or value in {float("inf"), float("-inf")}):  # noqa: PLR0124 - NaN
        raise ValueError(f"{value} is no JSON number")

    return [_without_bytes(item) for item in value] if isinstance(value, list) else value
