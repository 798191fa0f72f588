"""Values of very many small elements: the cost of streaming them is bounded."""

import msgspec
import pytest

from sidecard.core.flights.streams import CHUNK_OVERHEAD_BYTES
from sidecard_client.protocol import wire
from tests.host import Host

MEBI = 1024 * 1024
NOTHINGS = 200_000
"""Elements of one byte, which as pieces count for twenty megabytes."""


def nothings(count: int) -> msgspec.Raw:
    """Pack a list of nothings."""
    return msgspec.Raw(b"\xdd" + count.to_bytes(4, "big") + b"\xc0" * count)


def test_stored_list_with_too_many_elements_is_not_streamed() -> None:
    """A stored list of 16 MB of nulls is not streamed: its caller makes the call."""
    host = Host(max_memory_bytes=16 * MEBI)
    peer = host.peer()
    peer.asks(wire.Put("key", nothings(NOTHINGS), id=1))
    peer.receives()

    peer.asks(wire.Begin("key", id=2, stream=True))
    refused = peer.gets(wire.Rejected)
    peer.asks(wire.Begin("key", id=3))

    assert NOTHINGS * CHUNK_OVERHEAD_BYTES > 8 * MEBI
    assert refused.reason == "busy"
    assert isinstance(peer.gets(wire.Hit), wire.Hit)
    assert host.engine.idle


def test_answer_with_too_many_elements_fails_stream_waiters() -> None:
    """Waiters that want chunks of an answer with too many elements fail; plain waiters get it."""
    host = Host(max_memory_bytes=16 * MEBI)
    holder, reader, other = host.peer(), host.peer(), host.peer()
    lease = holder.leads("key")
    reader.waits("key", stream=True)
    other.waits("key")

    holder.asks(wire.Complete(lease, nothings(NOTHINGS), id=9))

    failed = reader.gets(wire.Failed)
    assert failed.kind == "ignored"
    assert isinstance(other.gets(wire.Shared), wire.Shared)
    holder.asks(wire.GetStats(id=10))
    stats = holder.receives()[-1]
    assert isinstance(stats, wire.Stats)
    assert (stats.streams, stats.stream_bytes) == (0, 0)


@pytest.mark.parametrize("value", [b"\xdd\xff\xff\xff\xff\xc0", b"\xdc\xff", b"\xdd", b"\x9f\xc0"])
def test_list_shorter_than_its_header_is_one_chunk(value: bytes) -> None:
    """A list that is shorter than its header claims is one chunk."""
    host = Host()
    peer = host.peer()
    peer.asks(wire.Put("key", msgspec.Raw(value), id=1))
    peer.receives()

    peer.asks(wire.Begin("key", id=2, stream=True))

    piece, end = peer.receives()
    assert isinstance(piece, wire.Chunk)
    assert bytes(piece.chunk) == value
    assert isinstance(end, wire.End)
