"""A length prefix reserves no memory: a few bytes per connection could otherwise claim gigabytes of the daemon."""

import tracemalloc
from collections.abc import Callable

import pytest

from sidecard.observe.push.spool_records import FILE_MAGIC, MAX_BODY_BYTES, decode_records
from sidecard.server.reader import BadMessage
from sidecard_client.protocol import wire
from sidecard_client.protocol.connection import Connection
from sidecard_client.protocol.frames import FrameBuffer, frame
from tests.readers import WholeReader

FEW_BYTES = 100_000


def announced() -> None:
    """Send the largest length, and one byte."""
    FrameBuffer().feed(wire.MAX_FRAME_BYTES.to_bytes(4, "big") + b"x")


def announced_to_a_client() -> None:
    """Send the same to a client."""
    Connection().receive(wire.MAX_FRAME_BYTES.to_bytes(4, "big") + b"x")


def array_in_a_frame() -> None:
    """Send requests with lists, maps and texts of four billion elements."""
    for head in (b"\xdd", b"\xdf", b"\xdb", b"\xc6"):
        for before in (b"", b"\x82\xa2op\xa5begin\xa8backends"):
            (message,) = WholeReader().feed(frame(before + head + b"\xff\xff\xff\xff"))
            assert isinstance(message, BadMessage)


def record_in_a_spool() -> None:
    """Read a spool record with the largest length."""
    decode_records(FILE_MAGIC + b"\0" * 4 + MAX_BODY_BYTES.to_bytes(4, "little") + b"\0" * 30)


@pytest.mark.parametrize("read", [announced, announced_to_a_client, array_in_a_frame, record_in_a_spool])
def test_a_length_prefix_reserves_no_memory(read: Callable[[], None]) -> None:
    """Only received bytes take memory."""
    tracemalloc.start()
    try:
        read()
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert peak_bytes < FEW_BYTES
