"""Write large msgpack as JSON in pieces, so that other peers are served between them.

The text of 15 MiB takes up to 0.5 s. Texts are cut at code points, bytes at multiples of three, lists and maps between their
parts. Small parts in a row are converted together, which is as fast as converting the whole.
"""

import base64
from collections.abc import Iterator
from typing import Final

from sidecard.server.json_lines.text import json_text, to_json
from sidecard_client.protocol.nesting import (
    EXTENSIONS,
    FIXED_BYTES,
    LENGTH_BYTES,
    MAPS,
    SINGLE_BYTES,
    count_of,
    end_of_scalar,
)

PIECE_BYTES: Final = 48 * 1024
"""Bytes of msgpack in a piece, which takes about 1 ms. A multiple of three, as base64 requires."""

_PIECE_PARTS: Final = 2048
_SMALL_TEXTS: Final = 128
_FIRST_RUN: Final = 8
_TEXTS: Final = frozenset((*range(0xA0, 0xC0), 0xD9, 0xDA, 0xDB))
_BINARY: Final = frozenset((0xC4, 0xC5, 0xC6))
_CUTTABLE: Final = _TEXTS | _BINARY
_CONTINUATION = 0x80
_NOT_COMPLETE = "it is not one complete msgpack value"


def json_pieces(packed: bytes) -> Iterator[bytes]:
    """Yield the JSON text of ``packed`` in pieces. Raises one of `DECODE_FAULTS` for what JSON cannot express.

    Pieces are of up to `PIECE_BYTES` of msgpack or 2,048 parts. A map with repeated names may have them all.
    """
    written: list[bytes] = []
    try:
        for text in _Walk(packed).texts():
            written.append(text)
            if len(text) > _PIECE_PARTS or len(written) >= _SMALL_TEXTS:
                yield b"".join(written)
                written.clear()
    except IndexError as fault:
        raise ValueError(_NOT_COMPLETE) from fault

    yield b"".join(written)


class _Walk:
    """A walk through a msgpack value, which does not recurse."""

    def __init__(self, packed: bytes) -> None:
        self._packed = packed
        self._at = 0
        self._outer: list[tuple[int, bool]] = []
        """Parts that are left of each list and map around the current one, and whether it is a map."""

    def texts(self) -> Iterator[bytes]:
        """Yield JSON text, each part after about as much work as converting `_PIECE_PARTS` numbers."""
        left, is_map, first = 1, False, True
        while True:
            while not left:
                if not self._outer:
                    if self._at != len(self._packed):
                        raise ValueError(_NOT_COMPLETE)

                    return

                yield b"}" if is_map else b"]"
                left, is_map = self._outer.pop()
                first = False

            if not first:
                yield b","

            first = False
            count, text = self._row(left, is_map) if self._outer else (0, b"")
            if count:
                left -= count
                # Without brackets or braces; only the whole value has none.
                yield text[1:-1]
                continue

            left -= 1
            if is_map:
                if self._packed[self._at] not in _TEXTS:
                    raise TypeError("a map has keys that are not strings")

                yield from self._scalar()
                yield b":"
                left -= 1

            head = self._packed[self._at]
            if head in FIXED_BYTES or head in LENGTH_BYTES:
                yield from self._scalar()
            else:
                self._outer.append((left, is_map))
                left, self._at = count_of(self._packed, head, self._at)
                is_map, first = head in MAPS, True
                yield b"{" if is_map else b"["

    def _row(self, left: int, is_map: bool) -> tuple[int, bytes]:  # noqa: FBT001 - internal
        """Convert the next small parts of a list or map, without those that have parts themselves. Return how many they are."""
        packed, at = self._packed, self._at
        end_of_row = at + PIECE_BYTES
        count, whole_end, whole_count, run = 0, at, 0, _FIRST_RUN
        while count < left and count < _PIECE_PARTS and at < end_of_row:
            head = packed[at]
            width = FIXED_BYTES.get(head)
            if width is not None:
                # Equally long parts in a row, as `sidecard_client.protocol.nesting` finds them.
                window = packed[at : at + width * min(left - count, run) : width]
                found = len(window) - len(window.lstrip(SINGLE_BYTES if width == 1 else window[:1]))
                run = min(run * 4, _PIECE_PARTS) if found == run else _FIRST_RUN
                at += width * found
                count += found
                odd = is_map and count % 2
                whole_end, whole_count = at - width * odd, count - odd
            elif head in LENGTH_BYTES:
                length_at, length_bytes = at + 1, LENGTH_BYTES[head]
                length = int.from_bytes(packed[length_at : length_at + length_bytes], "big") + (head in EXTENSIONS)
                if length > PIECE_BYTES:
                    break

                at = length_at + length_bytes + length
                count += 1
                if not (is_map and count % 2):
                    whole_end, whole_count = at, count
            else:
                break

        if not whole_count:
            return 0, b""

        row = packed[self._at : whole_end]
        self._at = whole_end
        if is_map:
            return whole_count, json_text(b"\xdf" + (whole_count // 2).to_bytes(4, "big") + row)

        return whole_count, json_text(b"\xdd" + whole_count.to_bytes(4, "big") + row)

    def _scalar(self) -> Iterator[bytes]:
        """Convert the next part, which has no parts itself."""
        packed, start = self._packed, self._at
        self._at = ends_at = end_of_scalar(packed, start)
        head = packed[start]
        if ends_at - start <= PIECE_BYTES or head not in _CUTTABLE:
            yield json_text(packed[start:ends_at])
            return

        begins_at = start + 1 + LENGTH_BYTES.get(head, 0)
        if head in _BINARY:
            yield b'{"$bytes":"'
            for at in range(begins_at, ends_at, PIECE_BYTES):
                yield base64.b64encode(packed[at : min(at + PIECE_BYTES, ends_at)])

            yield b'"}'
        else:
            yield b'"'
            while begins_at < ends_at:
                at = min(begins_at + PIECE_BYTES, ends_at)
                while at < ends_at and packed[at] & 0xC0 == _CONTINUATION and at > begins_at:
                    at -= 1

                yield to_json(str(packed[begins_at:at], "utf-8"))[1:-1]
                begins_at = at

            yield b'"'
