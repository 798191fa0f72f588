"""Split streams into server-sent events or lines, however their bytes arrive. Pure.

Events are parsed as HTML's standard and the SDKs do: several ``data:`` lines of an event are joined, comments and unknown fields
have no meaning, lines end in CR, LF or both, and a byte order mark may begin the stream. A last event without its empty line
counts: replayed, its bytes are the same as for the SDK that ignores it.
"""

from collections.abc import Iterator
from typing import Final

MAX_EVENT_BYTES: Final = 15 * 1024 * 1024
"""Limit of a line and of an event's data. A longer one is not an event of a language model."""

_BYTE_ORDER_MARK: Final = b"\xef\xbb\xbf"

Event = tuple[str, bytes]
"""Name (empty if it has none) and data."""


class LineSplitter:
    """Split a stream into lines."""

    def __init__(self) -> None:
        self._line = bytearray()  # not a list: a server may send a line byte by byte
        self._after_cr = False
        self._first = True
        self.too_long = False
        """A line exceeded the limit; no line follows."""

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Add bytes, and yield the lines that they complete, without their ends."""
        if self.too_long or not data:
            return

        if self._after_cr and data.startswith(b"\n"):
            data = data[1:]

        self._after_cr = data.endswith(b"\r") or (self._after_cr and not data)
        first, *others = data.replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n")
        self._add(first)
        for other in others:
            line = self.rest()
            if self.too_long:
                return

            yield line
            self._add(other)

    def rest(self) -> bytes:
        """Take the last line, which has no end."""
        line = b"" if self.too_long else bytes(self._line)
        if self._first:
            line = line.removeprefix(_BYTE_ORDER_MARK)

        self._first = False
        self._line.clear()
        return line

    def _add(self, data: bytes) -> None:
        self._line += data
        self.too_long = len(self._line) > MAX_EVENT_BYTES


class EventSplitter:
    """Split a stream into server-sent events."""

    def __init__(self) -> None:
        self._lines = LineSplitter()
        self._name = ""
        self._data = bytearray()
        """The data so far, each line of it with its end."""
        self.too_long = False
        """An event exceeded the limit; no event follows."""

    def feed(self, data: bytes) -> Iterator[Event]:
        """Add bytes, and yield the events that they complete. Events without data are none."""
        for line in self._lines.feed(data):
            if line:
                self._field(line)
            elif not self.too_long:
                yield from self._event()

        self.too_long = self.too_long or self._lines.too_long

    def rest(self) -> Iterator[Event]:
        """Yield the last event, if nothing ended it."""
        self._field(self._lines.rest())
        if not self.too_long:
            yield from self._event()

    def _event(self) -> Iterator[Event]:
        name, data = self._name, bytes(self._data[:-1])
        self._name = ""
        self._data.clear()
        if data.strip():
            yield name, data

    def _field(self, line: bytes) -> None:
        name, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if name == b"data":
            self.too_long = self.too_long or len(self._data) + len(value) > MAX_EVENT_BYTES
            if not self.too_long:
                self._data += value + b"\n"
        elif name == b"event":
            self._name = value.decode("utf-8", "replace")
