"""The daemon's side of a connection, sans-I/O: detect the encoding, decode requests, and explain invalid ones."""

import math
from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import Any, get_args

import msgspec
from msgspec import Struct

from sidecard.server.json_lines.text import DECODE_FAULTS, TooManyElements, from_json, payload_of_line
from sidecard_client.protocol import wire
from sidecard_client.protocol.errors import FramingError
from sidecard_client.protocol.frames import FrameBuffer, LineBuffer
from sidecard_client.protocol.nesting import MAPS, count_of, end_of_scalar

_WHITE_SPACE = b" \t\r\n"
_HEADER = wire.FRAME_HEADER_BYTES
_OPS = frozenset(str(kind.__struct_config__.tag) for kind in wire.AnyRequest.__args__)
_KNOWN_OPS = ", ".join(sorted(_OPS))


class _Head(Struct, gc=False):
    """Id and op of a message, not decoded. Its other fields are skipped: objects for 5,000,000 of them would take 200 ms."""

    id: msgspec.Raw = msgspec.Raw()
    op: msgspec.Raw = msgspec.Raw()


_plain = msgspec.msgpack.Decoder().decode
_head = msgspec.msgpack.Decoder(_Head).decode
_head_of_json = msgspec.json.Decoder(_Head).decode
_request_from_json = msgspec.json.Decoder(wire.AnyRequest).decode

_SMALL_BYTES = 64 * 1024
"""A wrong message up to this size is decoded completely to explain what is wrong."""

_FIRST_BYTES = 1024
"""Id and op of a larger wrong message are first searched in so many bytes."""

_SHORT_BYTES = 4096
"""A JSON line up to this size may be decoded by types, which takes up to 7 us for one number (`from_json`)."""

_CHOICES: dict[str, tuple[str, ...]] = {
    "action": get_args(wire.BreakerAction),
    "kind": get_args(wire.FailureKind),
    "mode": get_args(wire.Mode),
    "route": get_args(wire.Route),
    "level": get_args(wire.LogLevel),
    "aggregate": get_args(wire.Aggregate),
    "metrics.kind": get_args(wire.MetricKind),
}
"""Fields that take one of a few words; ``metrics.kind`` is that of a measurement."""

TURN_BYTES = 64 * 1024
"""A reader for turns splits off no further messages after so many bytes: 0.2 ms to 2 ms, by their content."""


class BadMessage(Struct, frozen=True):
    """An invalid message in a valid frame. The connection stays open."""

    id: int
    code: wire.ErrorCode
    message: str


Incoming = wire.AnyRequest | BadMessage


class RequestReader:
    """The daemon's side of a connection: detects the encoding, splits bytes into messages, at most ``at_once`` per call.

    What waits to be served stays as received: decoded, a vector of small integers takes 30 times as much.
    """

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
        self._buffer: FrameBuffer | LineBuffer = self._frames
        """The one of the two that the peer's encoding needs."""

    @property
    def has_more(self) -> bool:
        """Whether complete messages, or a fault, wait to be returned by `split_more`."""
        return self._buffer.complete

    @property
    def held_bytes(self) -> int:
        """Bytes received and not yet returned as messages."""
        return self._buffer.held_bytes

    def is_text(self, data: bytes) -> bool:
        """Return whether the peer sends JSON lines, judged by ``data`` if it is the first."""
        return self.json is True or (self.json is None and data[:1] not in {b"\x00", b"\x01"})

    def receive(self, data: bytes) -> list[Incoming]:
        """Take received bytes. If `single_frames` remains true, they are exactly one frame, whose message is returned.

        Otherwise it does what `hold` does.
        """
        # Nearly every read is one complete frame, and the general path costs more than decoding it.
        if self.single_frames and self._is_one_frame(data):
            try:
                return [wire.unpack_request(memoryview(data)[_HEADER:])]
            except DECODE_FAULTS as fault:
                return [_explain(memoryview(data)[_HEADER:], fault)]

        self.hold(data)
        return []

    def hold(self, data: bytes) -> None:
        """Take received bytes, and leave splitting and decoding to `split_more` and `decode`. Raises `FramingError` for an unknown encoding."""
        self.single_frames = False
        if self.json is None:
            if not data:
                return

            self._detect_encoding(data)

        self._buffer.hold(data)

    def split_more(self) -> list[bytes]:
        """Return further complete messages for `decode`: up to ``at_once`` frames with up to `TURN_BYTES`, or one line.

        Raises `FramingError`, after which nothing can be read. Its messages ``before`` the fault must still be served.
        """
        limit, max_bytes = math.inf, math.inf
        if self._at_once is not None:
            # 64 KiB of JSON can take 20 ms, so its caller looks at the clock after each line.
            limit, max_bytes = 1 if self.json else self._at_once, TURN_BYTES

        whole = self._buffer.take(limit, max_bytes)
        if whole:
            self.partial = 0

        return whole

    def decode(self, whole: bytes) -> Incoming:
        """Decode a message that `split_more` has returned."""
        return _request_of_line(whole) if self.json else _request_of_frame(whole)

    def note_partial(self) -> int:
        """Update `partial` when no complete message is left, and return it."""
        if not self._buffer.held_bytes:
            self.partial = 0
        elif not self.partial:
            self._begun += 1
            self.partial = self._begun

        return self.partial

    def mark_served(self) -> None:
        """Call when all returned messages are served; later complete frames then take the fast path again."""
        self.single_frames = self.json is False and not self._buffer.held_bytes

    def end(self) -> None:
        """Note the end of the stream: it completes the last line."""
        if self.json:
            self._lines.end()

    def _detect_encoding(self, data: bytes) -> None:
        first = data[:1]
        if first in {b"\x00", b"\x01"}:
            self.json = False
            return

        self.json = True
        self._buffer = self._lines
        if first == b"{" or first in _WHITE_SPACE:
            return

        if not 0x20 <= first[0] < 0x80:  # noqa: PLR2004 - not ASCII text, so it was meant as a frame's length
            self.json = False
            self._buffer = self._frames
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


def requests_of_frames(payloads: Iterable[bytes]) -> Iterator[Incoming]:
    """Decode msgpack messages, each just before it is served. A generator, which costs a batch of hits less than calls."""
    unpack_request = wire.unpack_request
    for payload in payloads:
        try:
            request: Incoming = unpack_request(payload)
        except DECODE_FAULTS as fault:
            request = _explain(payload, fault)

        yield request


def _request_of_frame(payload: bytes | memoryview) -> Incoming:
    try:
        return wire.unpack_request(payload)
    except DECODE_FAULTS as fault:
        return _explain(payload, fault)


def _request_of_line(line: bytes) -> Incoming:
    """Decode a JSON line. Its cost is bounded by its elements as well as by its bytes."""
    if len(line) > _SMALL_BYTES:
        bad = _unknown_line(line)
        if bad is not None:
            return bad

    try:
        payload = payload_of_line(line)
    except TooManyElements as fault:
        return BadMessage(0, "too_large", str(fault))
    except OverflowError:
        return _explain_overflow(line)
    except DECODE_FAULTS as fault:
        return BadMessage(0, "bad_request", f"The line cannot be decoded as the JSON object of a request: {fault}")

    return _request_of_frame(payload)


def _explain_overflow(line: bytes) -> BadMessage:
    """Explain which number of a line has more than 64 bits."""
    fault: Exception = OverflowError("an integer of the line has more than 64 bits")
    if len(line) <= _SHORT_BYTES:
        try:
            _request_from_json(line)
        except DECODE_FAULTS as place_of_it:
            fault = place_of_it

    return _explain_fields(from_json(line), fault)


def _unknown_line(line: bytes) -> BadMessage | None:
    """Reject a large line that is no object or has an unknown op, without decoding its other fields."""
    try:
        return _explain_head({name: from_json(text) for name, text in _short_fields(_head_of_json(line))})
    except (*DECODE_FAULTS, TooManyElements):
        # Decoding it completely leads to the explanation.
        return None


def _explain(payload: bytes | memoryview, fault: Exception) -> BadMessage:
    """Explain what is wrong with a message, with its id and op if they can be decoded."""
    if type(fault) is msgspec.DecodeError:
        # Malformed, so its head cannot be decoded either.
        return BadMessage(0, "bad_request", f"The message cannot be decoded as a msgpack map: {fault}")

    try:
        fields = _plain(payload) if len(payload) <= _SMALL_BYTES else _head_of(payload)
    except DECODE_FAULTS:
        return BadMessage(0, "bad_request", f"The message cannot be decoded as a msgpack map: {fault}")

    return _explain_fields(fields, fault)


def _explain_fields(fields: Any, fault: Exception) -> BadMessage:
    if not isinstance(fields, dict):
        return BadMessage(
            0, "bad_request", f"A message is a map with the fields op and id, not a {type(fields).__name__}."
        )

    bad = _explain_head(fields)
    if bad is not None:
        return bad

    op, request_id = fields["op"], fields.get("id", 0)
    text = str(fault)
    place = text.rpartition("`$.")[2].rstrip("`")
    name = place.rpartition(".")[2]
    words = _CHOICES.get("metrics.kind" if name == "kind" and "." in place else name, ()) if "enum" in text else ()
    instead = f"; there are: {', '.join(words)}" if words else ""
    return BadMessage(request_id, "bad_request", f"{op}: {text}{instead}{_number_at(fields, text)}")


def _number_at(fields: dict[str, Any], fault: str) -> str:
    """Return the number that a fault is about, as a clause of its sentence; an empty text if it is about anything else."""
    value: Any = fields
    for name in fault.partition("`$.")[2].rstrip("`").split("."):
        value = value.get(name) if isinstance(value, dict) else None

    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return f"; it is {value}" if is_number else ""


def _explain_head(fields: dict[str, Any]) -> BadMessage | None:
    """Explain what is wrong with a message's id or op; None if both are valid."""
    request_id = fields.get("id", 0)
    if type(request_id) is not int or not -(2**63) <= request_id < 2**63:
        return BadMessage(0, "bad_request", "id must be an integer of 64 bits.")

    op = fields.get("op")
    if not isinstance(op, str):
        return BadMessage(request_id, "bad_request", f"The field op is missing; it is one of: {_KNOWN_OPS}.")

    if op not in _OPS:
        return BadMessage(request_id, "unknown_op", f"There is no op {op[:64]!r}; there are: {_KNOWN_OPS}.")

    return None


def _head_of(payload: bytes | memoryview) -> dict[str, Any]:
    """Return id and op of a message. If op is among its first fields, the rest is not even skipped, which takes 4 ns per element."""
    first = _first_fields(bytes(payload[:_FIRST_BYTES]))
    return first if "op" in first else {name: _plain(value) for name, value in _short_fields(_head(payload))}


def _first_fields(data: bytes) -> dict[str, Any]:
    """Return id and op, as far as they precede every list and map, from the first bytes of a message."""
    fields: dict[str, Any] = {}
    with suppress(IndexError, *DECODE_FAULTS):
        count, at = count_of(data, data[0], 0) if data[0] in MAPS else (0, 1)
        for _ in range(count // 2):
            value_at = end_of_scalar(data, at)
            name, at = _plain(data[at:value_at]), end_of_scalar(data, value_at)
            if name in {"id", "op"}:
                fields[name] = _plain(data[value_at:at])

            if len(fields) == 2:  # noqa: PLR2004 - id and op
                break

    return fields


def _short_fields(head: _Head) -> Iterator[tuple[str, msgspec.Raw]]:
    for name, value in (("id", head.id), ("op", head.op)):
        if 0 < len(memoryview(value)) <= _SMALL_BYTES:
            yield name, value
