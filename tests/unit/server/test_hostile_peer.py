"""Peers that use more than their share of time, memory or turns."""

import tracemalloc

import msgspec
import pytest

from sidecard.config.schema import LimitSettings
from sidecard.server.buffers import COUNTED_BYTES
from sidecard.server.scheduler import MAX_BATCH, TURN_SECONDS
from sidecard_client.protocol import wire
from sidecard_client.protocol.frames import frame
from tests.unit.server.harness import UID, FakePeer, ServerHarness, value_of

MIB = 1024 * 1024


def send_partial(peer: FakePeer, count: int, size: int = MIB) -> None:
    """Send ``count`` bytes of a larger frame."""
    peer.connection.data_received(size.to_bytes(4, "big") + b"x" * count)


@pytest.mark.parametrize("data", [b"\x00", b"\x00\x00\x10", b"\x00\x00\x10\x00\x81", b'{"op":', b" "])
def test_a_message_that_is_never_completed_closes_its_peer(data: bytes) -> None:
    """In either encoding, whatever it begins with, however often a byte arrives."""
    server = ServerHarness(LimitSettings(message_seconds=30))
    alice = server.connect()
    alice.connection.data_received(data)
    server.loop.pass_time(29)
    alice.connection.data_received(b" ")
    assert not alice.transport.aborted

    server.loop.pass_time(1)
    assert alice.transport.aborted
    assert "message_seconds" in server.closed[0][1]
    assert server.engine.metrics.limited == {"message_seconds": 1}


def test_messages_that_arrive_in_parts_and_in_time_are_served() -> None:
    """The time limit is per message, although some message is always incomplete."""
    server = ServerHarness(LimitSettings(message_seconds=30))
    alice = server.connect()
    data = b"".join(frame(wire.pack(wire.Ping(id=number))) for number in range(10))
    whole = len(data) // 10
    alice.connection.data_received(data[:5])
    for number in range(9):
        server.loop.pass_time(29)
        alice.connection.data_received(data[5 + whole * number : 5 + whole * (number + 1)])

    assert [reply.id for reply in alice.received()] == list(range(9))
    assert not alice.transport.aborted


def test_an_idle_peer_is_not_closed() -> None:
    """Before its first message and between messages, as in clients' connection pools."""
    server = ServerHarness(LimitSettings(message_seconds=30))
    silent, idle = server.connect(), server.connect()
    idle.send(wire.Ping(id=1))
    server.loop.pass_time(86400)
    silent.send(wire.Ping(id=1))

    assert len(silent.received()) == 1
    assert not idle.transport.aborted


def test_above_the_common_limit_the_largest_connection_of_the_largest_uid_is_closed() -> None:
    """Many connections with little each count as one with much."""
    server = ServerHarness(LimitSettings(max_buffered_bytes=MIB))
    large = server.connect(uid=1)
    send_partial(large, 450_000)
    many = [server.connect(uid=2) for _ in range(5)]
    for number, peer in enumerate(many):
        send_partial(peer, 110_000 + number)

    assert [peer.transport.aborted for peer in many] == [False] * 5
    send_partial(late := server.connect(uid=2), 80_000)
    assert many[4].transport.aborted
    assert not large.transport.aborted
    assert not late.transport.aborted
    assert server.buffers.bytes <= MIB
    assert server.engine.metrics.limited == {"max_buffered_bytes": 1}


def test_unread_replies_count_toward_the_common_limit() -> None:
    """Each peer is within its own limits."""
    server = ServerHarness(LimitSettings(max_buffered_bytes=4 * MIB))
    peers = [server.connect() for _ in range(9)]
    peers[0].send(wire.Put("large", value_of("x" * 500_000), id=1))
    for peer in peers[1:]:
        peer.transport.reads = False
        peer.send(wire.Get("large", id=2))

    assert server.buffers.bytes == pytest.approx(4_000_000, rel=0.01)
    peers[1].send(wire.Get("large", id=2))
    assert [peer.transport.aborted for peer in peers] == [False, True] + [False] * 7


def test_reply_that_the_kernel_takes_in_part_counts_whole() -> None:
    """It is kept until its last byte has left."""
    server = ServerHarness()
    peer = server.connect()
    peer.send(wire.Put("large", value_of("x" * MIB), id=1))
    peer.transport.reads, peer.transport.taken = False, 900_000
    peer.send(wire.Get("large", id=2))
    assert peer.transport.buffered < 200_000
    assert server.buffers.bytes == pytest.approx(MIB, rel=0.01)
    peer.read_all()
    assert server.buffers.bytes == 0


def behind_unread_reply(server: ServerHarness, *requests: wire.Request) -> FakePeer:
    """Send requests at once, behind one whose reply is large and not read."""
    peer = server.connect()
    peer.send(wire.Put("large", value_of("x" * 2 * MIB), id=1))
    peer.received()
    peer.transport.reads = False
    peer.connection.data_received(b"".join(frame(wire.pack(request)) for request in (wire.Get("large"), *requests)))
    assert peer.connection.congested
    return peer


def test_large_messages_that_wait_behind_unread_replies_are_counted() -> None:
    """They are held for as long as the peer does not read."""
    server = ServerHarness()
    peer = behind_unread_reply(server, wire.Put("other", value_of("y" * 5 * MIB)))
    assert server.buffers.bytes == pytest.approx(7 * MIB, rel=0.01)
    peer.transport.reads = True
    peer.read_all()
    while server.loop.turn():
        pass

    assert server.buffers.bytes == 0
    assert isinstance(peer.received()[-1], wire.Stored)


def test_messages_that_wait_behind_unread_replies_stay_encoded() -> None:
    """A vector of small integers takes 32 times as much memory when it is decoded."""
    vectors = [wire.Begin("k", id=number, vector=(1.0,) * 4096, group="g") for number in range(2, 18)]
    packed = [wire.pack(msgspec.to_builtins(begin) | {"vector": [1] * 4096, "op": "begin"}) for begin in vectors]
    server = ServerHarness()
    behind_unread_reply(server)
    tracemalloc.start()
    try:
        peer = server.connect()
        peer.transport.reads = False
        peer.connection.data_received(frame(wire.pack(wire.Get("large"))) + b"".join(map(frame, packed)))
        grown, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert peer.connection.congested
    assert grown < 2 * MIB + 3 * sum(map(len, packed))


def test_read_served_and_lost_bytes_are_no_longer_counted() -> None:
    """The sum returns to 0."""
    server = ServerHarness()
    alice, bob, carol = server.connect(), server.connect(), server.connect()
    request = frame(wire.pack(wire.Put("large", value_of("x" * 500_000), id=1)))
    alice.connection.data_received(request[:400_000])
    assert server.buffers.bytes == 400_000
    alice.connection.data_received(request[400_000:])
    assert isinstance(alice.received()[0], wire.Stored)
    assert server.buffers.bytes == 0

    bob.transport.reads = False
    bob.send(wire.Get("large", id=1))
    send_partial(carol, 2 * COUNTED_BYTES)
    assert server.buffers.bytes > 500_000
    bob.read_all()
    carol.disconnect()
    assert (server.buffers.bytes, len(server.buffers.memory.by_uid()), len(server.buffers._held)) == (0, 0, 0)


@pytest.mark.parametrize("same_uid", [False, True])
def test_a_small_request_waits_for_at_most_one_turn_of_each_flood(same_uid: bool) -> None:
    """Another uid's request is served inline; one of the same uid waits for the turns of its connections."""
    server = ServerHarness()
    floods, polite = [server.connect(uid=1) for _ in range(8)], server.connect(uid=1 if same_uid else 2)
    server.loop.cost = TURN_SECONDS / 4
    for flood in floods:
        flood.send(*(wire.Ping(id=number) for number in range(5 * MAX_BATCH)))

    assert sum(len(flood.received()) for flood in floods) <= 3 * MAX_BATCH
    polite.send(wire.Ping(id=1))
    iterations = 0
    while not (replies := polite.received()):
        assert server.loop.turn()
        iterations += 1

    assert len(replies) == 1
    assert iterations <= (len(floods) + 1 if same_uid else 0)
    server.loop.cost = 0.0
    while server.loop.turn():
        pass

    assert all(flood.transport.reading for flood in floods)


@pytest.mark.parametrize("line", [b'{"op":"nonsense","v":[%s0]}\n' % (b"0," * 100_000), b"\n" * 100_000])
def test_lines_are_split_and_decoded_in_turns(line: bytes) -> None:
    """Reading them costs only a copy, so several connections with large lines delay another uid by one turn."""
    server = ServerHarness()
    floods, polite = [server.connect(uid=1) for _ in range(4)], server.connect(uid=2)
    for flood in floods:
        flood.connection.data_received(line)

    assert all(flood.received() == [] for flood in floods)
    polite.send(wire.Ping(id=1))
    assert len(polite.received()) == 1
    while server.loop.turn():
        pass

    assert all(len(flood.received()) == line.count(b"nonsense") for flood in floods)
    assert all(flood.transport.reading for flood in floods)


def test_uids_take_turns_whatever_the_number_of_their_connections() -> None:
    """A uid with a thousand connections is served as often as one with a single connection."""
    server = ServerHarness()
    many, one = [server.connect(uid=1) for _ in range(10)], server.connect(uid=2)
    for peer in (*many, one):
        peer.send(*(wire.Ping(id=number) for number in range(5 * MAX_BATCH)))

    for _ in range(10):
        server.loop.turn()

    assert len(one.received()) == 5 * MAX_BATCH


def test_a_connection_that_ends_while_queued_is_skipped() -> None:
    """Connections queued behind it are served."""
    server = ServerHarness()
    gone, closed, last = (server.connect() for _ in range(3))
    for peer in (gone, closed, last):
        peer.send(*(wire.Ping(id=number) for number in range(2 * MAX_BATCH)))

    assert [len(peer.received()) for peer in (gone, closed, last)] == [MAX_BATCH] * 3
    gone.disconnect()
    gone.connection.connection_lost(None)
    closed.connection.close()
    while server.loop.turn():
        pass

    assert len(last.received()) == MAX_BATCH
    assert closed.received() == []


@pytest.mark.parametrize("encode", ["frames", "lines"])
def test_a_batch_of_expensive_requests_ends_after_its_time(encode: str) -> None:
    """All metrics of a host take a hundred times as long as a hit."""
    server = ServerHarness()
    alice = server.connect()
    server.loop.cost = TURN_SECONDS
    if encode == "frames":
        alice.send(*(wire.GetMetrics(id=number) for number in range(20)))
    else:
        alice.send_text("".join(f'{{"op":"metrics","id":{number}}}\n' for number in range(20)))

    first = alice.received()
    assert 1 <= len(first) <= 2
    while server.loop.turn():
        first += alice.received()

    assert [reply["id"] if encode == "lines" else reply.id for reply in first] == list(range(20))


def test_messages_before_a_framing_error_are_served_in_turns_before_the_error() -> None:
    """A connection with an error must not be served out of turn."""
    server = ServerHarness()
    alice = server.connect()
    pings = b"".join(frame(wire.pack(wire.Ping(id=number))) for number in range(3 * MAX_BATCH))
    alice.connection.data_received(pings + b"\xff\xff\xff\xff")
    replies = alice.received()
    assert len(replies) == MAX_BATCH
    while server.loop.turn():
        replies += alice.received()

    assert [reply.id for reply in replies] == [*range(3 * MAX_BATCH), 0]
    assert replies[-1].code == "too_large"
    assert alice.transport.closed


def test_many_lines_of_a_half_closed_peer_are_all_served_before_it_is_closed() -> None:
    """Including those that wait for a turn."""
    server = ServerHarness()
    alice = server.connect()
    alice.send_text(
        "".join(f'{{"op":"ping","id":{number}}}\n' for number in range(3 * MAX_BATCH)) + '{"op":"ping","id":-1}'
    )
    alice.disconnect()
    replies = alice.received()
    while server.loop.turn():
        replies += alice.received()

    assert [reply["id"] for reply in replies] == [*range(3 * MAX_BATCH), -1]
    assert alice.transport.closed


def test_a_value_of_the_largest_size_is_accepted_and_served() -> None:
    """It is one message, and not too many bytes."""
    server = ServerHarness()
    alice = server.connect()
    value = msgspec.Raw(msgspec.msgpack.encode(b"x" * (16 * MIB - 100)))
    alice.send(wire.Put("large", value, id=1))
    assert alice.received() == [wire.Stored(1, stored=True)]
    alice.send(wire.Get("large", id=2))
    (hit,) = alice.received()
    assert len(hit.value) == 16 * MIB - 100


@pytest.mark.parametrize(
    "message",
    [b'{"op":"nop","text":"' + b"x" * 300_000 + b'"}\n', frame(wire.pack({"op": "nop", "text": "x" * 300_000}))],
    ids=["line", "frame"],
)
def test_incomplete_messages_of_a_uid_that_is_over_its_time_arrive_in_turns(message: bytes) -> None:
    """A read of 256 KiB takes up to 1 ms, so each iteration of the loop continues two, however many connections send."""
    server = ServerHarness()
    peers = [server.connect() for _ in range(8)]
    server.context.scheduler.charge(UID, 1.0)
    for peer in peers:
        peer.connection.data_received(message[: MIB // 4])

    reading = []
    for _ in range(5):
        reading.append(sum(peer.transport.reading for peer in peers))
        server.loop.turn()

    assert reading == [0, 2, 4, 6, 8]
    for peer in peers:
        peer.connection.data_received(message[MIB // 4 :])

    while server.loop.turn():
        pass

    for peer in peers:
        (bad,) = peer.received()
        assert (bad["code"] if isinstance(bad, dict) else bad.code) == "unknown_op"
        assert peer.transport.reading
