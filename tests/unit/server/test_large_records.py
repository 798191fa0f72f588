"""Large `record` messages: served in parts, in turns, before what follows them on the same connection."""

import json

import pytest

from sidecard_client.protocol import wire
from sidecard_client.protocol.frames import frame
from tests.unit.server.harness import FakePeer, ServerHarness

COUNT = 2000
READ_BYTES = 65536


def large_record(**fields: object) -> wire.RecordMetrics:
    """Return a message that takes several turns."""
    return wire.RecordMetrics(
        metrics=tuple(
            wire.Measurement(name="docs", kind="counter", labels={"n": str(number % 10), "a": "x" * 90})
            for number in range(COUNT)
        ),
        **fields,  # type: ignore[arg-type]
    )


def send(peer: FakePeer, *requests: wire.Request, read_bytes: int) -> None:
    """Send frames, received in reads of a size. A paused transport delivers nothing."""
    data = b"".join(frame(wire.pack(request)) for request in requests)
    while data:
        while not peer.transport.reading:
            assert peer.connection._loop.turn()  # type: ignore[attr-defined]  # the fake one

        peer.connection.data_received(data[:read_bytes])
        data = data[read_bytes:]


def counted(server: ServerHarness) -> float:
    """Return what has been recorded."""
    return sum(
        sample.value for source in server.engine._apps.sources() for piece in source.pieces for sample in piece.samples
    )


@pytest.mark.parametrize("read_bytes", [READ_BYTES, 10_000_000])
def test_a_large_record_takes_turns_and_what_follows_waits(read_bytes: int) -> None:
    """Whether it arrives as one read or many."""
    server = ServerHarness()
    server.loop.cost = 0.001
    peer = server.connect()
    send(peer, large_record(acknowledge=True, id=1), read_bytes=read_bytes)
    other = server.connect(uid=2000)
    other.send(wire.Ping(id=1))
    while not other.received():
        server.loop.turn()

    assert counted(server) < COUNT
    assert peer.received() == []

    turns = 0
    while server.loop.turn():
        turns += 1

    assert turns > 2
    assert counted(server) == COUNT
    assert peer.received() == [wire.Recorded(1, 0)]
    peer.send(wire.Ping(id=3))
    while server.loop.turn():
        pass

    assert [reply.id for reply in peer.received()] == [3]


@pytest.mark.parametrize("read_bytes", [READ_BYTES, 10_000_000])
def test_requests_behind_a_large_record_see_all_of_it(read_bytes: int) -> None:
    """They are served after its last part."""
    server = ServerHarness()
    peer = server.connect()
    send(peer, large_record(), wire.Ping(id=2), wire.GetMetrics(id=3), read_bytes=read_bytes)
    while server.loop.turn():
        pass

    pong, metrics = peer.received()
    assert (pong.id, metrics.id) == (2, 3)
    (family,) = [family for family in metrics.families if family.name == "docs"]
    assert sum(sample.value for sample in family.samples) == COUNT


@pytest.mark.parametrize("read_bytes", [READ_BYTES, 10_000_000])
def test_a_peer_that_ends_after_a_large_record_is_counted(read_bytes: int) -> None:
    """A worker may record without acknowledgement and exit."""
    server = ServerHarness()
    peer = server.connect()
    send(peer, large_record(), read_bytes=read_bytes)
    peer.disconnect()
    while server.loop.turn():
        pass

    assert counted(server) == COUNT
    assert peer.transport.closed


def test_a_large_record_as_a_line_is_recorded() -> None:
    """A half-closed peer gets its acknowledgement, and the connection ends."""
    server = ServerHarness()
    person = server.connect()
    metrics = [{"name": "docs", "kind": "counter", "labels": {"n": str(number % 10)}} for number in range(COUNT)]
    person.send_text(json.dumps({"op": "record", "acknowledge": True, "id": 4, "metrics": metrics}) + "\n")
    person.connection.eof_received()
    while server.loop.turn():
        pass

    (reply,) = person.received()
    assert (reply["type"], reply["id"], reply["dropped"]) == ("recorded", 4, 0)
    assert counted(server) == COUNT
    assert person.transport.closed
