"""AWS event streams: messages are split as they arrive, and damaged ones are refused."""

import struct
import zlib

import pytest

from sidecard_client.http.answers.event_stream import DamagedEventStream, Message, MessageSplitter
from tests.api_samples import as_message

TWO = as_message({"a": 1}, "chunk") + as_message({"b": 2}, "validationException", exception=True)


def split(*pieces: bytes) -> list[Message]:
    """Split these pieces into messages."""
    splitter = MessageSplitter()
    messages = [message for piece in pieces for message in splitter.feed(piece)]
    assert splitter.is_between_messages
    return messages


def framed(headers: bytes, payload: bytes = b"") -> bytes:
    """Write a message with these headers."""
    lengths = struct.pack(">II", 16 + len(headers) + len(payload), len(headers))
    frame = lengths + struct.pack(">I", zlib.crc32(lengths)) + headers + payload
    return frame + struct.pack(">I", zlib.crc32(frame))


def test_messages_are_split_however_they_arrive() -> None:
    """Every split gives the same messages."""
    first, second = split(TWO)
    assert first.headers[":event-type"] == "chunk"
    assert first.payload == b'{"a": 1}'
    assert second.headers == {
        ":message-type": "exception",
        ":exception-type": "validationException",
        ":content-type": "application/json",
    }
    for cut in range(len(TWO)):
        assert split(TWO[:cut], TWO[cut:]) == [first, second]


def test_a_cut_message_is_none() -> None:
    """What does not end between two messages is not whole."""
    for end in range(1, len(TWO)):
        splitter = MessageSplitter()
        complete = list(splitter.feed(TWO[:end]))
        assert splitter.is_between_messages == (len(complete) == 1 and end == len(as_message({"a": 1}, "chunk")))


def test_every_flipped_bit_is_found() -> None:
    """The checksums cover every bit of a message."""
    message = as_message({"a": 1}, "chunk")
    for bit in range(8 * len(message)):
        damaged = bytearray(message)
        damaged[bit // 8] ^= 1 << bit % 8
        with pytest.raises(DamagedEventStream):
            list(MessageSplitter().feed(bytes(damaged)))


def test_headers_of_all_types_are_skipped_by_their_lengths() -> None:
    """Only text headers are read."""
    sizes = {0: 0, 1: 0, 2: 1, 3: 2, 4: 4, 5: 8, 8: 8, 9: 16}
    headers = b"".join(b"\x01x" + bytes([kind]) + bytes(size) for kind, size in sizes.items())
    headers += b"\x01b\x06\x00\x02\xff\xff" + b"\x04name\x07\x00\x03\xe2\x82\xac"
    assert split(framed(headers, b"p")) == [Message({"name": "€"}, b"p")]


@pytest.mark.parametrize(
    "headers", [b"\x05ab", b"\x01a", b"\x01a\x0b", b"\x01a\x07\x00\x05ab", b"\x01a\x07\x00\x01\xff"]
)
def test_headers_that_cannot_be_read_are_refused(headers: bytes) -> None:
    """Cut headers, unknown types and text that is not UTF-8."""
    with pytest.raises(DamagedEventStream):
        list(MessageSplitter().feed(framed(headers)))
