"""What stands in the place of an answer whose value cannot be read."""

import inspect
import sys
from collections.abc import Callable

import msgspec
import pytest

from sidecard_client.protocol import wire
from sidecard_client.protocol.connection import Connection
from sidecard_client.protocol.errors import ProtocolError
from sidecard_client.protocol.frames import frame

BAD_VALUES = {
    "text that is no UTF-8": b"\xa1\xff",
    "a map as a key": b"\x81\x80\x02",
    "a time stamp out of range": b"\xc7\x0c\xff" + b"\xff" * 12,
}


def hit(value: bytes) -> wire.Hit:
    """Build a stored answer of these bytes."""
    return wire.Hit(1, msgspec.Raw(value), 1.0, stale=False, saved_seconds=1.0, saved_dollars=0.0, backend="b", meta={})


def shared(value: bytes) -> wire.Shared:
    """Build another caller's answer from these bytes."""
    return wire.Shared(
        1, msgspec.Raw(value), 1.0, stale=False, saved_seconds=1.0, saved_dollars=0.0, backend="b", meta={}
    )


@pytest.mark.parametrize("reply", [hit, shared])
@pytest.mark.parametrize("value", BAD_VALUES.values(), ids=BAD_VALUES)
def test_an_answer_that_cannot_be_read_costs_its_own_caller_alone(
    value: bytes, reply: Callable[[bytes], wire.Reply]
) -> None:
    """Its caller makes its own call, and the connection serves the other requests."""
    connection = Connection()
    connection.send(wire.Begin("key"))
    connection.send(wire.Ping())
    instead, pong = connection.receive(
        frame(wire.pack(reply(value))) + frame(wire.pack(wire.Pong(2, "1", wire.PROTOCOL_VERSION, "boot", 1.0)))
    )

    assert isinstance(instead, wire.Failed)
    assert (instead.id, instead.kind) == (1, "ignored")
    assert isinstance(pong, wire.Pong)
    assert len(connection) == 0


def test_a_piece_that_cannot_be_read_ends_its_stream_alone() -> None:
    """Later pieces of the stream are dropped."""
    connection = Connection()
    connection.send(wire.Begin("key", stream=True))
    pieces = [wire.Chunk(1, "a"), wire.Chunk(1, msgspec.Raw(b"\xa1\xff")), wire.Chunk(1, "b")]
    replies = connection.receive(b"".join(frame(wire.pack(piece)) for piece in pieces))

    assert [type(reply) for reply in replies] == [wire.Chunk, wire.Failed]
    assert len(connection) == 0


def test_a_lease_that_cannot_be_read_ends_the_connection() -> None:
    """The daemon must learn immediately that no caller holds it."""
    connection = Connection()
    connection.send(wire.Begin("key"))
    lease = wire.pack({"type": "lease", "id": 1, "lease": "boot-1", "backend": msgspec.Raw(b"\xa1\xff")})

    with pytest.raises(ProtocolError, match="no reply"):
        connection.receive(frame(lease))


def chunk(value: bytes) -> wire.Chunk:
    """Build a piece of a stream from these bytes."""
    return wire.Chunk(1, msgspec.Raw(value))


@pytest.mark.parametrize("reply", [hit, shared, chunk])
def test_recursion_limit_fails_one_call(reply: Callable[[bytes], wire.Reply]) -> None:
    """A reader deep in its own stack, which cannot even skip a nested value, gets `Failed` for this call alone."""
    payload = frame(wire.pack(reply(b"\x91" * 63 + b"\x90")))

    def read(frames: int) -> list[wire.AnyReply]:
        if frames:
            return read(frames - 1)

        connection = Connection()
        connection.send(wire.Begin("key"))
        return connection.receive(payload)

    left = sys.getrecursionlimit() - len(inspect.stack(0))
    kinds = {type(read(frames)[0]) for frames in range(left - 80, left - 20)}

    assert kinds == {wire.Failed, type(reply(b"\x90"))} or sys.version_info >= (3, 12)
