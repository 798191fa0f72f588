"""One connection: encodings, ends, and peers that do not read."""

import os
import socket

import pytest

from sidecard.config.schema import LimitSettings
from sidecard.server.connections import DENIAL_SECONDS, MAX_DENIED
from sidecard.server.peer_output import HIGH_WATER_BYTES
from sidecard.server.scheduler import MAX_BATCH
from sidecard_client.protocol import wire
from tests.unit.server.harness import FakePeer, ServerHarness, value_of

LARGE = "x" * 100_000


def peer_with_large_entry(server: ServerHarness, value: str = LARGE) -> FakePeer:
    """Connect a peer whose namespace has an entry of the key ``large``."""
    peer = server.connect()
    peer.send(wire.Put("large", value_of(value), id=1))
    peer.received()
    return peer


def test_peer_credentials_come_from_the_kernel() -> None:
    """Ids are unsigned."""
    server = ServerHarness()
    server.connect(uid=2**32 - 2, gid=5)
    (peer,) = server.connections._peers.values()

    assert (peer.uid, peer.gid, peer.pid, peer.operator) == (2**32 - 2, 5, 77, False)


@pytest.mark.parametrize(
    ("limits", "name"),
    [(LimitSettings(max_peers=2), "max_peers"), (LimitSettings(max_peers_per_uid=2), "max_peers_per_uid")],
)
def test_a_peer_above_the_limit_is_closed(limits: LimitSettings, name: str) -> None:
    """It may connect again once another peer has left. A client gets no reply, and makes its own calls."""
    server = ServerHarness(limits)
    first, _ = server.connect(), server.connect()
    third = server.connect()
    third.send(wire.Ping(id=1))

    assert third.transport.closed
    assert third.received() == []
    assert server.refused[0][0] == 1000
    assert server.engine.metrics.limited == {name: 1}

    third.connection.connection_lost(None)
    first.disconnect()
    fourth = server.connect()
    fourth.send(wire.Ping(id=1))
    assert len(fourth.received()) == 1


def test_a_denied_json_peer_gets_the_reason() -> None:
    """The encoding, and so the form of the reason, is known from the first byte."""
    server = ServerHarness(LimitSettings(max_peers=1))
    server.connect()
    second = server.connect()
    second.send_text('{"op":"ping"}\n')

    (error,) = second.received()
    assert (error["type"], error["code"]) == ("error", "unavailable")
    assert "limits.max_peers (1)" in error["message"]
    assert second.transport.closed


def test_a_silent_denied_peer_is_closed_after_a_second() -> None:
    """Only a few denied peers are kept open at a time, since each occupies a descriptor."""
    server = ServerHarness(LimitSettings(max_peers=1))
    server.connect()
    waited_for = [server.connect() for _ in range(MAX_DENIED)]
    assert server.connect().transport.aborted
    assert not any(peer.transport.aborted for peer in waited_for)

    server.loop.pass_time(DENIAL_SECONDS)
    assert all(peer.transport.aborted for peer in waited_for)
    for peer in waited_for:
        peer.connection.connection_lost(None)

    assert not server.connect().transport.aborted


def test_the_limit_per_uid_does_not_affect_other_uids() -> None:
    """Other uids may still connect."""
    server = ServerHarness(LimitSettings(max_peers_per_uid=1))
    server.connect(uid=1)
    assert not server.connect(uid=2).transport.aborted


def test_a_framing_error_is_reported_and_ends_the_connection() -> None:
    """The peer's leases end with it."""
    server = ServerHarness()
    alice = server.connect()
    alice.send(wire.Begin("key", id=1))
    alice.received()
    alice.connection.data_received(b"\xff\xff\xff\xff")

    (error,) = alice.received()
    assert error.code == "too_large"
    assert alice.transport.closed
    assert server.engine.idle


def test_data_after_the_end_is_not_served() -> None:
    """A transport may still deliver data that it had buffered."""
    server = ServerHarness()
    alice = server.connect()
    alice.send_text("GET / HTTP/1.1\r\n\r\n")
    alice.received()
    alice.send_text('{"op":"ping"}\n')

    assert alice.received() == []


def test_connections_that_end_together_are_ended_in_turns() -> None:
    """Once the time of the iteration is over, the rest waits; the engine learns of each end."""
    server = ServerHarness()
    peers = [server.connect(uid) for uid in (1, 1, 1, 2)]
    for peer in peers:
        peer.send(wire.Ping(id=1))

    server.loop.now += 1.0
    for peer in peers:
        peer.disconnect()

    assert [peer.transport.closed for peer in peers] == [True, False, False, True]
    server.loop.turn()
    assert all(peer.transport.closed for peer in peers)
    for peer in peers[1:3]:
        peer.connection.connection_lost(None)

    assert len(server.connections) == 0


def test_end_of_file_ends_a_msgpack_peer() -> None:
    """Another holder takes over its flight immediately."""
    server = ServerHarness()
    alice, bob = server.connect(), server.connect()
    alice.send(wire.Begin("key", id=1))
    bob.send(wire.Begin("key", id=2))
    bob.received()
    alice.disconnect()

    (lease,) = bob.received()
    assert isinstance(lease, wire.Lease)


def test_a_half_closed_json_peer_is_closed_after_its_outstanding_reply() -> None:
    """As `echo ... | socat` does."""
    server = ServerHarness()
    alice, bob = server.connect(), server.connect()
    alice.send(wire.Begin("key", id=1))
    (lease,) = alice.received()
    bob.send_text('{"op":"begin","key":"key"}\n{"op":"get","key":"absent"}')
    bob.disconnect()
    assert [reply["type"] for reply in bob.received()] == ["pending", "miss"]
    assert not bob.transport.closed

    alice.send(wire.Complete(lease.lease, value_of("answer"), id=3))
    assert [reply["type"] for reply in bob.received()] == ["shared"]
    assert bob.transport.closed


def test_a_half_closed_json_peer_that_watches_gets_notes_until_it_disconnects() -> None:
    """As `echo '{"op":"watch"}' | socat -t 999` does. The end of other requests does not end the watch."""
    server = ServerHarness()
    root, alice = server.connect(uid=0), server.connect()
    root.send_text('{"op":"watch","id":7}\n{"op":"get","key":"absent"}')
    root.disconnect()
    assert [reply["type"] for reply in root.received()] == ["pending", "miss"]
    for request_id in (1, 2):
        alice.send(wire.Begin("key", id=request_id))
        (lease,) = alice.received()
        alice.send(wire.Fail(lease.lease, id=9))
        alice.received()
        (note,) = root.received()
        assert (note["type"], note["id"], note["note"]) == ("note", 7, "lease_ended")

    assert not root.transport.closed


def test_a_half_closed_json_peer_that_has_canceled_its_watch_is_closed() -> None:
    """No request is outstanding then."""
    server = ServerHarness()
    root = server.connect(uid=0)
    root.send_text('{"op":"watch","id":7}\n{"op":"cancel","target":7,"id":8}')
    root.disconnect()
    assert [reply["type"] for reply in root.received()] == ["pending", "ok"]
    assert root.transport.closed
    assert not server.engine.watched


def test_a_half_closed_json_peer_without_a_wait_is_closed() -> None:
    """It gets its reply first."""
    server = ServerHarness()
    alice = server.connect()
    alice.send_text('{"op":"ping"}')
    alice.disconnect()

    assert [reply["type"] for reply in alice.received()] == ["pong"]
    assert alice.transport.closed
    assert len(server.connections) == 0


def test_a_half_closed_json_peer_that_cancels_its_wait_is_closed() -> None:
    """No further reply would follow."""
    server = ServerHarness()
    server.connect().send(wire.Begin("key", id=1))
    alice = server.connect()
    alice.send_text('{"op":"begin","key":"key","id":5}\n{"op":"cancel","target":5}\n')
    alice.disconnect()

    assert alice.transport.closed


def test_a_half_closed_json_peer_is_closed_after_a_stored_stream() -> None:
    """Chunks and end are sent while the begin is served."""
    server = ServerHarness()
    server.connect().send_text('{"op":"put","key":"key","value":["a","b"]}\n')
    alice = server.connect()
    alice.send_text('{"op":"begin","key":"key","stream":true}')
    alice.disconnect()

    assert [reply["type"] for reply in alice.received()] == ["chunk", "chunk", "end"]
    assert alice.transport.closed


def test_a_reply_to_another_request_of_the_same_id_does_not_end_a_wait() -> None:
    """Ids may be left out in JSON, so all of them are 0."""
    server = ServerHarness()
    server.connect().send(wire.Begin("key", id=1))
    alice = server.connect()
    alice.send_text('{"op":"put","key":"k","value":1}\n{"op":"begin","key":"key"}\n{"op":"get","key":"k"}\n')
    alice.disconnect()

    assert [reply["type"] for reply in alice.received()] == ["stored", "pending", "hit"]
    assert not alice.transport.closed


def test_a_half_closed_json_peer_with_a_lease_is_closed_and_another_holder_elected() -> None:
    """It cannot complete the lease."""
    server = ServerHarness()
    alice, bob, carol = server.connect(), server.connect(), server.connect()
    alice.send(wire.Begin("key", id=1))
    bob.send_text('{"op":"begin","key":"key"}')
    bob.disconnect()
    carol.send(wire.Begin("key", id=1))
    carol.received()
    alice.disconnect()

    assert [reply["type"] for reply in bob.received()] == ["pending", "lease"]
    assert isinstance(carol.received()[-1], wire.Lease)


def test_many_messages_of_one_read_are_served_in_turns() -> None:
    """Other peers are served in between; the order of replies is kept."""
    server = ServerHarness()
    alice = server.connect()
    alice.send(*(wire.Ping(id=number) for number in range(2 * MAX_BATCH + 10)))
    first = alice.received()
    assert len(first) == MAX_BATCH
    assert not alice.transport.reading

    rest = []
    while server.loop.turn():
        rest += alice.received()

    assert [reply.id for reply in first + rest] == list(range(2 * MAX_BATCH + 10))
    assert alice.transport.reading


@pytest.mark.parametrize("requests", [MAX_BATCH // 2, 4 * MAX_BATCH])
def test_a_peer_that_does_not_read_is_not_read_or_served_further(requests: int) -> None:
    """Its unread bytes are bounded, however many requests it sent."""
    server = ServerHarness()
    alice = peer_with_large_entry(server)
    alice.transport.reads = False
    alice.send(*(wire.Get("large", id=number) for number in range(requests)))

    assert not alice.transport.reading
    assert HIGH_WATER_BYTES < alice.transport.buffered < 3 * HIGH_WATER_BYTES


def test_a_slow_peer_gets_all_replies() -> None:
    """It is paused, and no reply is lost."""
    server = ServerHarness()
    alice = peer_with_large_entry(server)
    alice.transport.reads = False
    alice.send(*(wire.Get("large", id=number) for number in range(100)))
    ids = [reply.id for reply in alice.received()]
    while len(ids) < 100:
        alice.read_all()
        alice.transport.reads = False
        while server.loop.turn():
            ids += [reply.id for reply in alice.received()]

    assert ids == list(range(100))
    alice.read_all()
    server.loop.turn()
    assert alice.transport.reading


def test_a_peer_that_reads_too_little_for_too_long_is_closed() -> None:
    """After ``stall_seconds`` its memory is released."""
    server = ServerHarness(LimitSettings(stall_seconds=30))
    alice = peer_with_large_entry(server)
    alice.transport.reads = False
    alice.send(*(wire.Get("large", id=number) for number in range(100)))
    server.loop.pass_time(29)
    assert not alice.transport.aborted

    server.loop.pass_time(1)
    assert alice.transport.aborted
    assert "stall_seconds" in server.closed[0][1]


def test_a_peer_that_reads_in_time_is_not_closed() -> None:
    """Each pause restarts the clock."""
    server = ServerHarness(LimitSettings(stall_seconds=30))
    alice = peer_with_large_entry(server)
    alice.transport.reads = False
    alice.send(*(wire.Get("large", id=number) for number in range(20)))
    server.loop.pass_time(29)
    alice.read_all()
    server.loop.pass_time(29)

    assert not alice.transport.aborted


def test_a_peer_with_too_much_unread_is_closed_and_others_get_their_replies() -> None:
    """Replies to other peers' calls arrive without a request, so pausing the peer does not bound them."""
    server = ServerHarness(LimitSettings(max_outbox_bytes=2 * HIGH_WATER_BYTES))
    alice, bob, carol = server.connect(), server.connect(), server.connect()
    alice.transport.reads = False
    for number in range(10):
        carol.send(wire.Begin(str(number), id=number))
        alice.send(wire.Begin(str(number), id=number))
        bob.send(wire.Begin(str(number), id=number))
    bob.received()
    for lease in carol.received():
        carol.send(wire.Complete(lease.lease, value_of("x" * 500_000), id=99))

    assert alice.transport.aborted
    assert "max_outbox_bytes" in server.closed[0][1]
    assert alice.transport.buffered < 4 * HIGH_WATER_BYTES
    assert [reply.id for reply in bob.received()] == list(range(10))


def test_one_reply_larger_than_the_outbox_is_delivered() -> None:
    """The limit applies to the bytes unread before it."""
    server = ServerHarness(LimitSettings(max_outbox_bytes=65536))
    alice = peer_with_large_entry(server, "x" * 2 * HIGH_WATER_BYTES)
    alice.transport.reads = False
    alice.send(wire.Get("large", id=1))

    assert len(alice.received()[0].value) == 2 * HIGH_WATER_BYTES
    assert not alice.transport.aborted


def test_a_closed_peer_that_never_reads_its_last_reply_is_aborted() -> None:
    """A transport would wait for it forever."""
    server = ServerHarness(LimitSettings(stall_seconds=30))
    alice = server.connect()
    alice.send_text("nonsense\n")
    assert alice.transport.closed
    assert not alice.transport.aborted

    server.loop.pass_time(30)
    assert alice.transport.aborted


def test_a_reply_to_a_broken_connection_is_dropped() -> None:
    """The transport detects the end before the loop reports it."""
    server = ServerHarness()
    alice, bob = server.connect(), server.connect()
    alice.send(wire.Begin("key", id=1))
    bob.send(wire.Begin("key", id=2))
    bob.received()
    bob.transport.broken = True
    (lease,) = alice.received()
    alice.send(wire.Complete(lease.lease, value_of("answer"), id=3))

    assert isinstance(alice.received()[0], wire.Stored)
    assert bob.received() == []


def test_closing_all_connections_reports_when_the_last_has_ended() -> None:
    """Connections that do not end are aborted."""
    server = ServerHarness()
    alice, bob, gone = server.connect(), server.connect(), list[str]()
    server.connections.close_all(lambda: gone.append("all"))
    assert alice.transport.closed
    assert bob.transport.closed

    alice.connection.connection_lost(None)
    assert gone == []
    server.connections.abort_all()
    assert (alice.transport.aborted, bob.transport.aborted) == (False, True)
    bob.connection.connection_lost(None)
    assert gone == ["all"]


def test_a_uid_without_connections_is_forgotten() -> None:
    """Uids of containers change all the time."""
    server = ServerHarness()
    for uid in range(10):
        server.connect(uid=uid).disconnect()

    assert len(server.connections._per_uid) == 0


@pytest.mark.parametrize(
    ("usage", "explained"),
    [
        ('{"prompt_tokens":9007199254740993}', "<= 9007199254740992 - at `$.usage.prompt_tokens`; it is 9007199254740993"),
        ('{"completion_tokens":-1}', ">= 0 - at `$.usage.completion_tokens`; it is -1"),
        ('{"cost_dollars":1000000001}', "<= 1000000000.0 - at `$.usage.cost_dollars`; it is 1000000001"),
        (f'{{"prompt_tokens":{10**30}}}', "<= 9007199254740992 - at `$.usage.prompt_tokens`; it is 1000000000000000"),
        ('{"first_chunk_seconds":1e300}', "at `$.usage.first_chunk_seconds`; it is 1e+300"),
        (f'{{"model":"m"}},"more":{10**30}', "complete: an integer of the line has more than 64 bits"),
    ],
)  # fmt: skip
def test_a_number_that_is_out_of_range_is_explained(usage: str, explained: str) -> None:
    """With its field, its value and the range; the connection stays."""
    peer = ServerHarness().connect()
    peer.send_text(f'{{"op":"complete","id":7,"lease":"l","value":1,"usage":{usage}}}\n{{"op":"ping","id":8}}\n')
    error, pong = peer.received()

    assert (error["code"], error["id"], pong["type"]) == ("bad_request", 7, "pong")
    assert explained in error["message"]


@pytest.mark.parametrize("namespace", ["default", "1234:default"])
def test_json_lines_that_ask_for_a_view_open_none(namespace: str) -> None:
    """They cannot carry its descriptor. The reply is the same for another uid's namespace; the connection stays."""
    server = ServerHarness()
    peer = server.connect()
    peer.send_text(f'{{"op":"view","namespace":"{namespace}","id":7}}\n{{"op":"stats","id":8}}\n')
    error, stats = peer.received()
    assert (error["id"], error["code"], "msgpack frames" in error["message"]) == (7, "unavailable", True)
    assert (stats["views"], stats["view_bytes"]) == (0, 0)


def test_a_descriptor_is_passed_between_whole_replies() -> None:
    """After queued replies, when the transport has nothing left to send; the rest of a frame follows at once."""
    server = ServerHarness()
    ours, theirs = socket.socketpair()
    with ours, theirs:
        peer = server.connect(connected=ours)
        peer.send(wire.Ping(id=1))
        peer.received()
        connection = peer.connection
        reply = wire.View(2, view=1, layout=1, size=4096, now_seconds=1.0)
        connection.queue(wire.Ok(3))
        peer.transport.buffered = 5
        assert not connection.pass_descriptor(reply, ours.fileno())
        assert peer.received() == [wire.Ok(3)]

        peer.transport.buffered = 0
        assert connection.pass_descriptor(reply, ours.fileno())
        data, descriptors, _, _ = socket.recv_fds(theirs, 4096, 4)
        assert wire.unpack_reply(data[4:]) == reply
        assert [os.path.sameopenfile(descriptor, ours.fileno()) for descriptor in descriptors] == [True]
        os.close(descriptors[0])

        ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)
        long = wire.Error(4, "internal", "x" * (1 << 20))
        assert connection.pass_descriptor(long, ours.fileno())
        data, descriptors, _, _ = socket.recv_fds(theirs, 1 << 20, 4)
        os.close(descriptors[0])
        while True:
            try:
                data += theirs.recv(1 << 20, socket.MSG_DONTWAIT)
            except BlockingIOError:
                break

        assert wire.unpack_reply((data + peer.transport.sent)[4:]) == long


def test_a_descriptor_for_a_closing_peer_is_dropped() -> None:
    """Nothing can be sent to it any more."""
    server = ServerHarness()
    ours, theirs = socket.socketpair()
    with ours, theirs:
        peer = server.connect(connected=ours)
        peer.transport.broken = True
        assert peer.connection.pass_descriptor(wire.Ok(1), ours.fileno())
        with pytest.raises(BlockingIOError):
            theirs.recv(1, socket.MSG_DONTWAIT)
