"""Split ``application/vnd.amazon.eventstream``, the binary framing of AWS event streams, into messages. Pure.

A message is, with all integers big-endian::

    total length (4)  headers length (4)  CRC-32 of these 8 bytes (4)  headers  payload  CRC-32 of all before (4)

and a header is ``name length (1)  name  type (1)  value``, where text has type 7 and a length of two bytes. Only text headers
are read (``:message-type``, ``:event-type``, ``:exception-type``); the values of other types have known lengths.
"""

import struct
import zlib
from collections.abc import Iterator
from typing import Final

from msgspec import Struct

CONTENT_TYPE: Final = "application/vnd.amazon.eventstream"

MAX_MESSAGE_BYTES: Final = 24 * 1024 * 1024
"""The service's own limit of a message's payload, with room for its headers."""

_PRELUDE: Final = struct.Struct(">III")
_CRC: Final = struct.Struct(">I")
_SHORT: Final = struct.Struct(">H")
_FRAME_BYTES: Final = _PRELUDE.size + _CRC.size

_FIXED_BYTES: Final = {0: 0, 1: 0, 2: 1, 3: 2, 4: 4, 5: 8, 8: 8, 9: 16}
"""Lengths of the values by type: true, false, byte, short, integer, long, time, UUID."""
_BYTES: Final = 6
_TEXT: Final = 7


class DamagedEventStream(Exception):
    """The bytes are not an event stream, or are damaged."""


class Message(Struct, frozen=True):
    """One message: its text headers and its payload."""

    headers: dict[str, str]
    payload: bytes


class MessageSplitter:
    """Split bytes into messages, however they arrive."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> Iterator[Message]:
        """Add bytes, and yield the messages that they complete. Raises `DamagedEventStream` in place of a damaged one."""
        self._buffer += data
        start = 0
        while (end := self._end_of_message(start)) is not None:
            yield _message(bytes(self._buffer[start:end]))
            start = end

        del self._buffer[:start]

    @property
    def is_between_messages(self) -> bool:
        """The last byte ended a message."""
        return not self._buffer

    def _end_of_message(self, start: int) -> int | None:
        """Return where the message that begins at ``start`` ends; None if it has not arrived yet."""
        if len(self._buffer) - start < _PRELUDE.size:
            return None

        total, headers, crc = _PRELUDE.unpack_from(self._buffer, start)
        if zlib.crc32(self._buffer[start : start + 8]) != crc:
            raise DamagedEventStream("the checksum of a message's lengths is wrong")

        if not _FRAME_BYTES + headers <= total <= MAX_MESSAGE_BYTES:
            raise DamagedEventStream(f"a message has {total} bytes, {headers} of them headers")

        return start + total if len(self._buffer) - start >= total else None


def _message(frame: bytes) -> Message:
    _, headers, _ = _PRELUDE.unpack_from(frame)
    if zlib.crc32(frame[: -_CRC.size]) != _CRC.unpack_from(frame, len(frame) - _CRC.size)[0]:
        raise DamagedEventStream("the checksum of a message is wrong")

    payload = _PRELUDE.size + headers
    return Message(_text_headers(frame[_PRELUDE.size : payload]), frame[payload : -_CRC.size])


def _text_headers(data: bytes) -> dict[str, str]:
    headers = {}
    place = 0
    try:
        while place < len(data):
            end = place + 1 + data[place]
            name, kind = data[place + 1 : end], data[end]
            place = end + 1
            if kind in {_TEXT, _BYTES}:
                (size,) = _SHORT.unpack_from(data, place)
                place += _SHORT.size
            else:
                size = _FIXED_BYTES[kind]

            if kind == _TEXT:
                headers[name.decode()] = data[place : place + size].decode()

            place += size
    except (IndexError, KeyError, UnicodeError, struct.error):
        raise DamagedEventStream("a message's headers cannot be read") from None

    if place != len(data):
        raise DamagedEventStream("a message's last header is cut off")

    return headers
