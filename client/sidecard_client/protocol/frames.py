"""Framing of both encodings, sans-I/O: split received bytes into messages, and encode messages.

`wire` defines the messages; ``sidecard docs protocol`` describes the framing.
"""

import math
import struct
from collections.abc import Sequence
from typing import NoReturn

from sidecard_client.protocol import wire
from sidecard_client.protocol.errors import FramingError

_HEADER = wire.FRAME_HEADER_BYTES
_LINE_FEED = ord("\n")
_WINDOW_BYTES = 64 * 1024
"""The first bytes of a buffer are copied once, and frames split from the copy."""
_length_of = struct.Struct(">I").unpack_from


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
        # Like `is_one_frame`, without its call: nearly every read is one complete frame.
        if _HEADER < len(data) <= self._max_bytes and not self._buffer and _length_of(data)[0] == len(data) - _HEADER:
            return [(data if data.__class__ is memoryview else memoryview(data))[_HEADER:]]

        self._buffer += data
        return list(self.take()) if len(self._buffer) >= self._wanted else []

    def hold(self, data: bytes) -> None:
        """Take received bytes. Splitting them is left to `take`: 256 KiB can hold 50,000 frames."""
        self._buffer += data
        self._wanted = self._next_bytes()

    @property
    def complete(self) -> bool:
        """Whether `take` would return a payload, or raise."""
        return len(self._buffer) >= self._wanted

    def take(self, limit: float = math.inf, max_bytes: float = math.inf) -> list[bytes]:
        """Return up to ``limit`` payloads; no more once they have ``max_bytes`` together. Raises as `feed` does."""
        frames: list[bytes] = []
        buffer, start = self._buffer, 0
        size, length, max_length = len(buffer), 1, self._max_frame_bytes
        with memoryview(buffer) as view:
            # A slice of bytes has a third of the cost of one of a bytearray or memoryview, and most frames are small.
            window = bytes(view[:_WINDOW_BYTES])
            while len(frames) < limit and start < max_bytes and size - start >= _HEADER:
                length = _length_of(view, start)[0]
                end = start + _HEADER + length
                if end > size or not 0 < length <= max_length:
                    break

                frames.append(
                    window[start + _HEADER : end] if end <= _WINDOW_BYTES else bytes(view[start + _HEADER : end])
                )
                start = end

        if not 0 < length <= max_length:
            self._buffer, self._wanted = bytearray(), _HEADER
            self._check(length, frames)

        del buffer[:start]
        self._wanted = self._next_bytes()
        return frames

    def _next_bytes(self) -> int:
        """Return how many bytes the buffer must hold before `take` returns a payload or raises."""
        if len(self._buffer) < _HEADER:
            return _HEADER

        length: int = _length_of(self._buffer)[0]
        return _HEADER + length if 0 < length <= self._max_frame_bytes else _HEADER

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
        self._buffer = bytearray()
        self._end = -1
        """Where the first line ends; -1 if it is incomplete."""

    @property
    def held_bytes(self) -> int:
        """Bytes received and not returned."""
        return len(self._buffer)

    @property
    def complete(self) -> bool:
        """Whether `take` would return a line, skip a blank one, or raise."""
        return self._end >= 0 or len(self._buffer) > self._max_line_bytes

    def feed(self, data: bytes) -> list[bytes]:
        """Take received bytes and return the complete lines.

        Raises `FramingError` for a line above the limit, with the lines ``before`` it.
        """
        self.hold(data)
        return self.take()

    def hold(self, data: bytes) -> None:
        """Take received bytes. Splitting them is left to `take`: 256 KiB can hold as many lines."""
        searched = len(self._buffer)
        self._buffer += data
        if self._end < 0:
            self._end = self._buffer.find(b"\n", searched)

    def take(self, limit: float = math.inf, max_bytes: float = math.inf) -> list[bytes]:
        """Return up to ``limit`` lines, blank ones included; no more once they have ``max_bytes`` together.

        Raises as `feed` does.
        """
        lines: list[bytes] = []
        buffer, start, end, count = self._buffer, 0, self._end, 0
        while end >= 0 and count < limit and start < max_bytes:
            if end - start > self._max_line_bytes:
                break

            line = bytes(buffer[start:end])
            if not line.isspace() and line:
                lines.append(line)

            count += 1
            start = end + 1
            end = buffer.find(b"\n", start)

        if (len(buffer) if end < 0 else end) - start > self._max_line_bytes and count < limit:
            self._buffer, self._end = bytearray(), -1
            self._reject(lines)

        del buffer[:start]
        self._end = end - start if end >= 0 else -1
        return lines

    def end(self) -> None:
        """Complete the last line, which may lack its line feed."""
        if self._buffer and self._buffer[-1] != _LINE_FEED:
            self.hold(b"\n")

    def finish(self) -> list[bytes]:
        """Return the remaining lines. The last may lack its line feed."""
        self.end()
        return self.take()

    def _reject(self, before: Sequence[bytes]) -> NoReturn:
        raise FramingError(
            "too_large",
            f"A line of more than {self._max_line_bytes} bytes: send larger values in msgpack frames, "
            "or ask the operator to raise limits.max_line_bytes.",
            tuple(before),
        )
