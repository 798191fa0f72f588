"""Framing of both encodings, sans-I/O: split received bytes into messages, and encode messages.

`wire` defines the messages; ``sidecard docs protocol`` describes the framing.
"""

import base64
import binascii
import struct
from collections import deque
from collections.abc import Sequence
from typing import Any, get_args

import msgspec
from msgspec import Struct

from sidecard_client.protocol import wire
from sidecard_client.protocol.errors import FramingError

_WHITE_SPACE = b" \t\r\n"
_HEADER = wire.FRAME_HEADER_BYTES
_KNOWN_OPS = ", ".join(sorted(str(kind.__struct_config__.tag) for kind in wire.AnyRequest.__args__))

_length_of = struct.Struct(">I").unpack_from

_plain = msgspec.msgpack.Decoder().decode
_shallow = msgspec.msgpack.Decoder(dict[str, msgspec.Raw]).decode

_SMALL_BYTES = 64 * 1024
"""A wrong message up to this size is decoded completely to explain what is wrong."""

_to_json = msgspec.json.Encoder().encode
_from_json = msgspec.json.Decoder().decode

_CHOICES: dict[str, tuple[str, ...]] = {
    "action": get_args(wire.BreakerAction),
    "kind": get_args(wire.FailureKind),
    "mode": get_args(wire.Mode),
    "route": get_args(wire.Route),
}
"""Fields that take one of a few words."""

_DECODE_FAULTS = (msgspec.MsgspecError, RecursionError, UnicodeError, ValueError, TypeError, OverflowError)
"""Exceptions of decoding a peer's bytes: malformed, of a wrong type, nested too deep, not UTF-8, out of range."""


def frame(payload: bytes) -> bytes:
    """Return a msgpack message preceded by its length."""
    return len(payload).to_bytes(_HEADER, "big") + payload


class FrameBuffer:
    """Splits a stream of bytes into frames, however the bytes arrive."""

    def __init__(self, max_frame_bytes: int = wire.MAX_FRAME_BYTES) -> None:
        self._max_frame_bytes = max_frame_bytes
        self._max_bytes = max_frame_bytes + _HEADER
        self._buffer = bytearray()
        self._wanted = _HEADER
        """Bytes the buffer must hold before the next frame can be complete."""

    @property
    def held_bytes(self) -> int:
        """Bytes received of an incomplete frame."""
        return len(self._buffer)

    def is_one_frame(self, data: bytes | memoryview) -> bool:
        """Return whether ``data`` is exactly one frame within the limit, and nothing precedes it."""
        return (
            _HEADER < len(data) <= self._max_bytes and not self._buffer and _length_of(data)[0] == len(data) - _HEADER
        )

    def feed(self, data: bytes | memoryview) -> list[bytes | memoryview]:
        """Take received bytes and return the complete payloads.

        Raises `FramingError` for a length of 0 or above the limit, with the payloads ``before`` it.
        """
        buffer = self._buffer
        # Like `is_one_frame`, without its call: nearly every read is one complete frame.
        if _HEADER < len(data) <= self._max_bytes and not buffer and _length_of(data)[0] == len(data) - _HEADER:
            return [(data if data.__class__ is memoryview else memoryview(data))[_HEADER:]]

        buffer += data
        if len(buffer) < self._wanted:
            return []

        frames: list[bytes | memoryview] = []
        start = 0
        whole = bytes(buffer)
        while True:
            if len(whole) - start < _HEADER:
                self._wanted = _HEADER
                break

            length = int.from_bytes(whole[start : start + _HEADER], "big")
            self._check(length, frames)
            end = start + _HEADER + length
            if end > len(whole):
                self._wanted = _HEADER + length
                break

            frames.append(whole[start + _HEADER : end])
            start = end

        if start:
            del buffer[:start]

        return frames

    def _check(self, length: int, before: Sequence[bytes | memoryview] = ()) -> None:
        if length == 0:
            raise FramingError(
                "bad_request", "A frame has length 0: send a msgpack map after the 4-byte length.", tuple(before)
            )

        if length > self._max_frame_bytes:
            raise FramingError(
                "too_large",
                f"A frame of {length} bytes is larger than the limit of {self._max_frame_bytes}: "
                "send less, or ask the operator to raise limits.max_frame_bytes.",
                tuple(before),
            )


class LineBuffer:
    """Splits a stream of bytes into lines, and skips blank ones."""

    def __init__(self, max_line_bytes: int = wire.MAX_LINE_BYTES) -> None:
        self._max_line_bytes = max_line_bytes
        self._rest = bytearray()

    @property
    def held_bytes(self) -> int:
        """Bytes received of an incomplete line."""
        return len(self._rest)

    def feed(self, data: bytes) -> list[bytes]:
        """Take received bytes and return the complete lines.

        Raises `FramingError` for a line above the limit, with the lines ``before`` it.
        """
        if b"\n" not in data:
            self._rest += data
            self._check(len(self._rest))
            return []

        first, *others = data.split(b"\n")
        lines = [bytes(self._rest) + first, *others[:-1]]
        self._rest = bytearray(others[-1])
        for index, line in enumerate((*lines, self._rest)):
            if len(line) > self._max_line_bytes:
                self._check(len(line), [line for line in lines[:index] if line.strip()])

        return [line for line in lines if line.strip()]

    def finish(self) -> list[bytes]:
        """Return the last line if it lacks its line feed."""
        line, self._rest = bytes(self._rest), bytearray()
        return [line] if line.strip() else []

    def _check(self, length: int, before: Sequence[bytes] = ()) -> None:
        if length > self._max_line_bytes:
            raise FramingError(
                "too_large",
                f"A line of more than {self._max_line_bytes} bytes: send larger values in msgpack frames, "
                "or ask the operator to raise limits.max_line_bytes.",
                tuple(before),
            )


class BadMessage(Struct, frozen=True):
    """An invalid message in a valid frame. The connection stays open."""

    id: int
    code: wire.ErrorCode
    message: str


Incoming = wire.AnyRequest | BadMessage


class RequestReader:
    """The daemon's side of a connection: detects the encoding and decodes requests, at most ``at_once`` per call."""

    def __init__(
        self,
        max_frame_bytes: int = wire.MAX_FRAME_BYTES,
        max_line_bytes: int = wire.MAX_LINE_BYTES,
        at_once: int | None = None,
    ) -> None:
        self.json: bool | None = None
        """Whether the peer uses JSON lines; None before its first byte."""
        self.single_frames = False
        """Since `mark_served`, each read was exactly one frame; then frames are decoded without buffering (the fast path)."""
        self.partial = 0
        """Number of the incomplete message, different for each; 0 if there is none."""
        self._begun = 0
        self._at_once = at_once
        self._frames = FrameBuffer(max_frame_bytes)
        self._is_one_frame = self._frames.is_one_frame
        self._lines = LineBuffer(max_line_bytes)
        self._waiting: deque[bytes | memoryview] = deque()

    @property
    def undecoded(self) -> int:
        """Number of complete messages not decoded yet. Decoding is most of a small message's cost."""
        return len(self._waiting)

    @property
    def held_bytes(self) -> int:
        """Bytes received and not yet returned as messages."""
        return self._frames.held_bytes + self._lines.held_bytes + sum(map(len, self._waiting))

    def feed(self, data: bytes) -> list[Incoming]:
        """Take received bytes and return up to ``at_once`` complete messages; `take_more` returns the rest.

        Raises `FramingError`, after which nothing can be read. Its messages ``before`` the fault must still be served.
        """
        # Nearly every read is one complete frame, and the general path costs more than decoding it.
        if self.single_frames and self._is_one_frame(data):
            try:
                return [wire.unpack_request(memoryview(data)[_HEADER:])]
            except _DECODE_FAULTS as fault:
                return [_explain(memoryview(data)[_HEADER:], fault)]

        self.single_frames = False
        if self.json is None:
            if not data:
                return []

            self._detect_encoding(data)

        try:
            whole = self._lines.feed(data) if self.json else self._frames.feed(data)
        except FramingError as fault:
            fault.before = tuple(map(self._read, (*self._waiting, *fault.before)))
            self._waiting.clear()
            raise

        if not self._lines.held_bytes + self._frames.held_bytes:
            self.partial = 0
        elif whole or not self.partial:
            self._begun += 1
            self.partial = self._begun

        if self._waiting or (self._at_once is not None and len(whole) > self._at_once):
            self._waiting += whole
            return self.take_more()

        return list(map(_request_of_line if self.json else _request_of_frame, whole))

    def take_more(self) -> list[Incoming]:
        """Return up to ``at_once`` of the remaining messages."""
        count = len(self._waiting) if self._at_once is None else min(self._at_once, len(self._waiting))
        return [self._read(self._waiting.popleft()) for _ in range(count)]

    def mark_served(self) -> None:
        """Call when all returned messages are served; later complete frames then take the fast path again."""
        self.single_frames = self.json is False and not self.partial and not self._waiting

    def finish(self) -> list[Incoming]:
        """At the end of the stream, return up to ``at_once`` remaining messages. The last line may lack its line feed."""
        self._waiting += self._lines.finish() if self.json else ()
        self.partial = 0
        return self.take_more()

    def _read(self, whole: bytes | memoryview) -> Incoming:
        return _request_of_line(whole) if self.json else _request_of_frame(whole)

    def _detect_encoding(self, data: bytes) -> None:
        first = data[:1]
        if first in {b"\x00", b"\x01"}:
            self.json = False
            return

        self.json = True
        if first == b"{" or first in _WHITE_SPACE:
            return

        if not 0x20 <= first[0] < 0x80:  # noqa: PLR2004 - not ASCII text, so it was meant as a frame's length
            self.json = False
            raise FramingError(
                "too_large",
                f"A frame's length begins with byte 0x{first[0]:02x}, which makes it larger than any limit: "
                "send the length as 4 bytes, big-endian.",
            )

        raise FramingError(
            "bad_request",
            'This socket speaks JSON lines, such as {"op":"ping"}, and msgpack maps behind a 4-byte length: '
            f"a connection cannot begin with {first!r}.",
        )


def json_line(reply: wire.AnyReply) -> bytes:
    """Return a reply as one line of JSON.

    A value that JSON cannot express (a map with keys that are not strings, NaN) becomes an `Error` that names msgpack.
    """
    try:
        return _to_json(_without_bytes(_plain(wire.pack(reply)))) + b"\n"
    except _DECODE_FAULTS as fault:
        text = f"The value cannot be written as JSON ({fault}): read it with msgpack."
        return _to_json(wire.Error(reply.id, "bad_request", text)) + b"\n"


def _request_of_frame(payload: bytes | memoryview) -> Incoming:
    try:
        return wire.unpack_request(payload)
    except _DECODE_FAULTS as fault:
        return _explain(payload, fault)


def _request_of_line(line: bytes | memoryview) -> Incoming:
    try:
        fields = _from_json(line)
        payload = wire.pack(_with_bytes(fields))
    except _DECODE_FAULTS as fault:
        return BadMessage(0, "bad_request", f"The line cannot be decoded as the JSON object of a request: {fault}")

    return _request_of_frame(payload)


def _explain(payload: bytes | memoryview, fault: Exception) -> BadMessage:
    """Explain what is wrong with a message, with its id and op if they can be decoded."""
    try:
        fields = _plain(payload) if len(payload) <= _SMALL_BYTES else _head_of(payload)
    except _DECODE_FAULTS:
        return BadMessage(0, "bad_request", f"The message cannot be decoded as a msgpack map: {fault}")

    if not isinstance(fields, dict):
        return BadMessage(
            0, "bad_request", f"A message is a map with the fields op and id, not a {type(fields).__name__}."
        )

    request_id = fields.get("id", 0)
    if type(request_id) is not int or not -(2**63) <= request_id < 2**63:
        return BadMessage(0, "bad_request", "id must be an integer of 64 bits.")

    op = fields.get("op")
    if not isinstance(op, str):
        return BadMessage(request_id, "bad_request", f"The field op is missing; it is one of: {_KNOWN_OPS}.")

    if op not in _KNOWN_OPS.split(", "):
        return BadMessage(request_id, "unknown_op", f"There is no op {op[:64]!r}; there are: {_KNOWN_OPS}.")

    choices = [words for field, words in _CHOICES.items() if str(fault).endswith(f"`$.{field}`")]
    instead = f"; there are: {', '.join(choices[0])}" if choices and "enum" in str(fault) else ""
    return BadMessage(request_id, "bad_request", f"{op}: {fault}{instead}")


def _head_of(payload: bytes | memoryview) -> dict[str, Any]:
    """Return id and op of a message without decoding the rest, which takes seconds for the largest messages."""
    fields = _shallow(payload)
    head = {
        name: fields[name] for name in ("id", "op") if name in fields and len(memoryview(fields[name])) <= _SMALL_BYTES
    }
    return {name: _plain(value) for name, value in head.items()}


def _with_bytes(value: Any) -> Any:
    """Convert each ``{"$bytes": base64}`` to bytes."""
    if isinstance(value, dict):
        if len(value) == 1 and isinstance(text := value.get("$bytes"), str):
            try:
                return base64.b64decode(text, validate=True)
            except binascii.Error as fault:
                raise ValueError(f"$bytes is no base64: {fault}") from fault

        return {name: _with_bytes(item) for name, item in value.items()}

    return [_with_bytes(item) for item in value] if isinstance(value, list) else value


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
