"""What is announced is no reason to have room for it: a peer would take gigabytes of the daemon by a few bytes on each connection."""

import tracemalloc
from collections.abc import Callable

import pytest

from sidecard.observe.push.spool_records import FILE_MAGIC, MAX_BODY_BYTES, decode_records
from sidecard_client.protocol import wire
from sidecard_client.protocol.connection import Connection
from sidecard_client.protocol.frames import BadMessage, FrameBuffer, RequestReader, frame

FEW_BYTES = 100_000


def announced() -> None:
    """The largest frame there may be, of which one byte comes."""
    FrameBuffer().feed(wire.MAX_FRAME_BYTES.to_bytes(4, "big") + b"x")


def announced_to_a_client() -> None:
    """The same, by a daemon."""
    Connection().receive(wire.MAX_FRAME_BYTES.to_bytes(4, "big") + b"x")


def array_in_a_frame() -> None:
    """A request that is said to be a list of four billion elements, or a map, or text."""
    for head in (b"\xdd", b"\xdf", b"\xdb", b"\xc6"):
        for before in (b"", b"\x82\xa2op\xa5begin\xa8backends"):
            (message,) = RequestReader().feed(frame(before + head + b"\xff\xff\xff\xff"))
            assert isinstance(message, BadMessage)


def record_in_a_spool() -> None:
    """A block that is said to be as large as any."""
    decode_records(FILE_MAGIC + b"\0" * 4 + MAX_BODY_BYTES.to_bytes(4, "little") + b"\0" * 30)


@pytest.mark.parametrize("read", [announced, announced_to_a_client, array_in_a_frame, record_in_a_spool])
def test_a_length_that_is_announced_takes_no_memory(read: Callable[[], None]) -> None:
    """Only what has come is kept."""
    tracemalloc.start()
    try:
        read()
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert peak_bytes < FEW_BYTES
