"""Frames in three parts equal ordinary frames."""

import msgspec
import pytest

from sidecard.server.buffers import BufferBudget
from sidecard.server.peer_output import HIGH_WATER_BYTES
from sidecard.server.replies.large import LARGE_BYTES, around_value, shared_value
from sidecard_client.protocol import wire
from sidecard_client.protocol.frames import frame
from tests.unit.server.harness import ServerHarness, value_of

LARGE = msgspec.Raw(wire.pack(b"value" * LARGE_BYTES))
HOSTILE_ID = int.from_bytes(b"\x01\xa5value\x00", "big")
"""Its bytes hold the name of the field that follows."""


@pytest.mark.parametrize("request_id", [0, 1, -1, 127, 128, 2**16, 2**32, 2**63 - 1, -(2**63), HOSTILE_ID])
def test_the_parts_of_a_frame_equal_the_frame(request_id: int) -> None:
    """Whatever id the peer chose, and whichever fields are left out."""
    usage = wire.Usage(model="m")
    for reply in (
        wire.Shared(request_id, LARGE, 1.0, stale=False, saved_seconds=1.0, saved_dollars=0.0, backend="b", meta=usage),
        wire.Shared(request_id, LARGE, 1.0, False, 1.0, 0.0, "b", usage, trace="t"),
        wire.Chunk(request_id, LARGE),
        wire.Chunk(request_id, LARGE, "shared", 0.0, "b"),
    ):
        value = shared_value(reply)
        assert value is not None
        before, after = around_value(reply, value)
        assert before + bytes(value) + after == frame(wire.pack(reply))
        assert value.obj is not None


def test_small_values_and_replies_of_one_peer_are_not_shared() -> None:
    """Hits are bounded by what their own peer reads."""
    small = msgspec.Raw(wire.pack("x"))
    assert shared_value(wire.Chunk(1, small)) is None
    assert shared_value(wire.Hit(1, LARGE, 0.0, False, 0.0, 0.0, "b", {})) is None
    assert shared_value(wire.Pending(1)) is None


def test_a_value_with_many_waiters_counts_once_until_the_last_has_read_it() -> None:
    """One of them disconnects with it unread."""
    server = ServerHarness()
    holder, waiters = server.connect(), [server.connect() for _ in range(10)]
    holder.send(wire.Begin("k", id=1))
    (lease,) = holder.received()
    for peer in waiters:
        peer.transport.reads = False
        peer.send(wire.Begin("k", id=1))
        peer.received()

    size = 2 * HIGH_WATER_BYTES
    holder.send(wire.Complete(lease.lease, value_of("x" * size), id=2))
    assert server.buffers.bytes == pytest.approx(size, rel=0.01)
    assert all(len(peer.received()[0].value) == size for peer in waiters)
    waiters[0].transport.aborted = True
    waiters[0].connection.connection_lost(None)
    for peer in waiters[1:]:
        assert server.buffers.bytes == pytest.approx(size, rel=0.01)
        peer.read_all()

    assert server.buffers.bytes == 0
    assert (len(server.buffers._values), len(server.buffers._used)) == (0, 0)


def test_a_peer_that_reads_immediately_shares_nothing() -> None:
    """Its frame has left when it is written."""
    server = ServerHarness()
    holder, waiter = server.connect(), server.connect()
    holder.send(wire.Begin("k", id=1))
    (lease,) = holder.received()
    waiter.send(wire.Begin("k", id=1))
    holder.send(wire.Complete(lease.lease, value_of("x" * 100_000), id=2))

    assert isinstance(waiter.received()[1], wire.Shared)
    assert server.buffers.bytes == 0


def test_if_only_shared_values_are_held_the_largest_user_is_closed() -> None:
    """Different values are each in memory."""
    buffers = BufferBudget[str](1000)
    values = [memoryview(bytes([number]) * 400) for number in range(3)]
    for name, value in zip("abc", values, strict=True):
        buffers.share(name, value)

    buffers.share("b", values[0])
    assert buffers.bytes == 1200
    assert buffers.update("c", 1, 0) == ["b"]
    assert buffers.bytes == 800
