"""The replies of one JSON-lines peer, in order: small ones are written at once, large ones in pieces.

A large value that several peers get is written once for all of them.
"""

from collections import deque
from typing import TYPE_CHECKING, Final, NamedTuple
from weakref import WeakValueDictionary

import msgspec
from msgspec import structs

from sidecard.server.json_lines.pieces import json_pieces
from sidecard.server.json_lines.text import DECODE_FAULTS, json_error, json_line, to_json
from sidecard_client.protocol import wire

if TYPE_CHECKING:
    from collections.abc import Iterator

WHOLE_BYTES: Final = 16 * 1024
"""A message of up to so many bytes in msgpack is written in one piece: up to 1 ms."""

_PART_BYTES: Final = 256 * 1024
"""Pieces are joined up to this size, so that a socket gets few."""

_VALUE_FIELDS: Final[dict[type, str]] = {
    wire.Hit: "value",
    wire.Shared: "value",
    wire.Chunk: "chunk",
    wire.Lease: "stale_value",
    wire.Rejected: "stale_value",
    wire.Failed: "detail",
}


class JsonValue:
    """JSON text that is written in pieces. ``packed`` lives as long, so its identity is not that of another object."""

    def __init__(self, packed: "msgspec.Raw | bytes") -> None:
        self.packed = packed
        self.receivers = 0
        self.parts: list[bytes] = []
        """Complete once `is_done`."""
        self.is_done = False
        self._joining: list[bytes] = []
        self._bytes = len(memoryview(packed))
        self._joined_bytes = 0
        self._pieces: Iterator[bytes] | None = None

    @property
    def bytes_each(self) -> int:
        """Memory of the value and its text so far, for each receiver."""
        return self._bytes // max(1, self.receivers)

    def work(self) -> None:
        """Write one piece. Raises one of `DECODE_FAULTS`, at any piece, for what JSON cannot express."""
        if self._pieces is None:
            self._pieces = json_pieces(bytes(self.packed))

        piece = next(self._pieces, None)
        self.is_done = piece is None
        if piece is not None:
            self._joining.append(piece)
            self._joined_bytes += len(piece)
            self._bytes += len(piece)

        if self._joined_bytes >= _PART_BYTES or self.is_done:
            self.parts.append(b"".join(self._joining))
            self._joining.clear()
            self._joined_bytes = 0


class JsonValues:
    """The values that are being written, by the identity of their msgpack."""

    def __init__(self) -> None:
        self._values: WeakValueDictionary[int, JsonValue] = WeakValueDictionary()

    def of(self, packed: msgspec.Raw) -> JsonValue:
        """Return the text of a value, begun by an earlier receiver or not yet."""
        value = self._values.get(id(packed))
        if value is None:
            value = self._values[id(packed)] = JsonValue(packed)

        return value


class _Line(NamedTuple):
    """A reply that is not sent yet. Without ``value``, its whole text is in ``before``."""

    reply_id: int
    before: bytes
    value: JsonValue | None = None
    after: bytes = b"\n"
    cost_bytes: int = 0
    """Memory when it was added."""


class JsonOutbox:
    """Lines that wait until they, or those before them, are written."""

    __slots__ = ("_costs", "_values", "lines")

    def __init__(self, values: JsonValues) -> None:
        self.lines: deque[_Line] = deque()
        self._values = values
        self._costs = 0

    @property
    def held_bytes(self) -> int:
        """Memory that the lines hold. Only the first one grows by work on it, the others by that for other receivers."""
        if not self.lines:
            return 0

        first = self.lines[0]
        grown = 0 if first.value is None else first.value.bytes_each - first.cost_bytes
        return self._costs + max(0, grown)

    def encode(self, reply: wire.AnyReply) -> bytes | None:
        """Return the line of a reply; None if it must wait for `work`."""
        field = _VALUE_FIELDS.get(type(reply))
        packed = None if field is None else getattr(reply, field)
        if field is not None and isinstance(packed, msgspec.Raw) and len(memoryview(packed)) > WHOLE_BYTES:
            # Unescaped quotes: only a field has this text, and no field before it is named alike.
            rest = json_line(structs.replace(reply, **{field: None}))
            before, after = rest.split(b"%b:null" % to_json(field), 1)
            value = self._values.of(packed)
            line = _Line(reply.id, before + to_json(field) + b":", value, after)
        else:
            whole = wire.pack(reply)
            if len(whole) <= WHOLE_BYTES:
                text = json_line(reply, whole)
                if not self.lines:
                    return text

                line = _Line(reply.id, text)
            else:
                line = _Line(reply.id, b"", JsonValue(whole))

        cost_bytes = len(line.before)
        if line.value is not None:
            line.value.receivers += 1
            cost_bytes = line.value.bytes_each

        self._costs += cost_bytes
        self.lines.append(line._replace(cost_bytes=cost_bytes))
        return None

    def work(self) -> list[bytes]:
        """Write one piece of the first line. Return the parts of the line if it is complete, else nothing."""
        reply_id, before, value, after, _ = self.lines[0]
        if value is None:
            parts = [before]
        else:
            try:
                if not value.is_done:
                    value.work()
            except DECODE_FAULTS as fault:
                parts = [json_error(reply_id, fault)]
            else:
                if not value.is_done:
                    return []

                parts = [before, *value.parts, after]

        self._end_first()
        return parts

    def clear(self) -> None:
        """Forget all lines."""
        while self.lines:
            self._end_first()

    def _end_first(self) -> None:
        line = self.lines.popleft()
        self._costs -= line.cost_bytes
        if line.value is not None:
            line.value.receivers -= 1
