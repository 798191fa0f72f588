"""One connection: encodings, ends, and a peer that does not read."""

import pytest

from sidecard.config.schema import Limits
from sidecard.server.connection import HIGH_WATER_BYTES
from sidecard.server.connections import DENIAL_SECONDS, MAX_DENIED
from sidecard.server.scheduler import MAX_BATCH
from sidecard_client.protocol import wire
from tests.unit.server.harness import FakePeer, ServerHarness, value_of

LARGE = "x" * 100_000


def holding(server: ServerHarness, value: str = LARGE) -> FakePeer:
    """Connect a peer whose namespace has an entry of the key ``large``."""
    peer = server.connect()
    peer.send(wire.Put("large", value_of(value), id=1))
    peer.received()
    return peer


def test_the_kernel_says_who_a_peer_is() -> None:
    """Unsigned, as ids are."""
    server = ServerHarness()
    server.connect(uid=2**32 - 2, gid=5)
    (peer,) = server.connections._peers.values()

    assert (peer.uid, peer.gid, peer.pid, peer.operator) == (2**32 - 2, 5, 77, False)


@pytest.mark.parametrize(
    ("limits", "name"), [(Limits(max_peers=2), "max_peers"), (Limits(max_peers_per_uid=2), "max_peers_per_uid")]
)
def test_a_peer_too_many_is_closed(limits: Limits, name: str) -> None:
    """Until one of those before it leaves. A client hears nothing, which it takes for a daemon that is away."""
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


def test_a_person_too_many_is_told_why() -> None:
    """Only who speaks JSON lines can be: what a peer speaks is known when it has spoken."""
    server = ServerHarness(Limits(max_peers=1))
    server.connect()
    second = server.connect()
    second.send_text('{"op":"ping"}\n')

    (error,) = second.received()
    assert (error["type"], error["code"]) == ("error", "unavailable")
    assert "limits.max_peers (1)" in error["message"]
    assert second.transport.closed


def test_a_peer_too_many_that_says_nothing_is_not_waited_for() -> None:
    """Nor are more than a few of them at all, since each has a descriptor."""
    server = ServerHarness(Limits(max_peers=1))
    server.connect()
    waited_for = [server.connect() for _ in range(MAX_DENIED)]
    assert server.connect().transport.aborted
    assert not any(peer.transport.aborted for peer in waited_for)

    server.loop.pass_time(DENIAL_SECONDS)
    assert all(peer.transport.aborted for peer in waited_for)
    for peer in waited_for:
        peer.connection.connection_lost(None)

    assert not server.connect().transport.aborted


def test_the_bound_per_uid_is_per_uid() -> None:
    """Others may still connect."""
    server = ServerHarness(Limits(max_peers_per_uid=1))
    server.connect(uid=1)
    assert not server.connect(uid=2).transport.aborted


def test_a_framing_error_is_told_and_ends_the_connection() -> None:
    """What the peer held goes with it."""
    server = ServerHarness()
    alice = server.connect()
    alice.send(wire.Begin("key", id=1))
    alice.received()
    alice.connection.data_received(b"\xff\xff\xff\xff")

    (error,) = alice.received()
    assert error.code == "too_large"
    assert alice.transport.closed
    assert server.engine.idle


def test_what_comes_after_the_end_is_not_served() -> None:
    """A transport may still deliver what it had."""
    server = ServerHarness()
    alice = server.connect()
    alice.send_text("GET / HTTP/1.1\r\n\r\n")
    alice.received()
    alice.send_text('{"op":"ping"}\n')

    assert alice.received() == []


def test_the_end_of_a_msgpack_peer_is_its_end() -> None:
    """A holder that dies is succeeded at once."""
    server = ServerHarness()
    alice, bob = server.connect(), server.connect()
    alice.send(wire.Begin("key", id=1))
    bob.send(wire.Begin("key", id=2))
    bob.received()
    alice.disconnect()

    (lease,) = bob.received()
    assert isinstance(lease, wire.Lease)


def test_a_half_closed_json_peer_gets_its_outstanding_answer_and_is_then_closed() -> None:
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


def test_a_half_closed_json_peer_that_watches_is_told_as_long_as_it_is_connected() -> None:
    """As `echo '{"op":"watch"}' | socat -t 999` does; its begins end on the way."""
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


def test_a_half_closed_json_peer_that_has_cancelled_its_watch_is_closed() -> None:
    """Nothing is outstanding then."""
    server = ServerHarness()
    root = server.connect(uid=0)
    root.send_text('{"op":"watch","id":7}\n{"op":"cancel","target":7,"id":8}')
    root.disconnect()
    assert [reply["type"] for reply in root.received()] == ["pending", "ok"]
    assert root.transport.closed
    assert not server.engine.watched


def test_a_half_closed_json_peer_that_waits_for_nothing_is_closed() -> None:
    """After its answer."""
    server = ServerHarness()
    alice = server.connect()
    alice.send_text('{"op":"ping"}')
    alice.disconnect()

    assert [reply["type"] for reply in alice.received()] == ["pong"]
    assert alice.transport.closed
    assert len(server.connections) == 0


def test_a_half_closed_json_peer_whose_wait_was_taken_back_is_closed() -> None:
    """Nothing more would ever be said to it."""
    server = ServerHarness()
    server.connect().send(wire.Begin("key", id=1))
    alice = server.connect()
    alice.send_text('{"op":"begin","key":"key","id":5}\n{"op":"cancel","target":5}\n')
    alice.disconnect()

    assert alice.transport.closed


def test_a_half_closed_json_peer_that_reads_a_stored_answer_in_pieces_is_closed_after_its_end() -> None:
    """Pieces and end come at once, with the begin itself."""
    server = ServerHarness()
    server.connect().send_text('{"op":"put","key":"key","value":["a","b"]}\n')
    alice = server.connect()
    alice.send_text('{"op":"begin","key":"key","stream":true}')
    alice.disconnect()

    assert [reply["type"] for reply in alice.received()] == ["chunk", "chunk", "end"]
    assert alice.transport.closed


def test_an_answer_of_the_same_id_does_not_end_a_wait() -> None:
    """Ids may be left out in JSON, so all of them are 0."""
    server = ServerHarness()
    server.connect().send(wire.Begin("key", id=1))
    alice = server.connect()
    alice.send_text('{"op":"put","key":"k","value":1}\n{"op":"begin","key":"key"}\n{"op":"get","key":"k"}\n')
    alice.disconnect()

    assert [reply["type"] for reply in alice.received()] == ["stored", "pending", "hit"]
    assert not alice.transport.closed


def test_a_half_closed_json_peer_that_gets_a_lease_is_closed_and_the_lease_passes_on() -> None:
    """It has no way left to complete it."""
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
    """So that others get theirs in between, and in order."""
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
    """What it may leave unread is bounded, however much it asked for."""
    server = ServerHarness()
    alice = holding(server)
    alice.transport.reads = False
    alice.send(*(wire.Get("large", id=number) for number in range(requests)))

    assert not alice.transport.reading
    assert HIGH_WATER_BYTES < alice.transport.buffered < 3 * HIGH_WATER_BYTES


def test_a_slow_peer_gets_everything_in_the_end() -> None:
    """It is held back, and nothing is left out."""
    server = ServerHarness()
    alice = holding(server)
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
    """Its memory is needed."""
    server = ServerHarness(Limits(stall_seconds=30))
    alice = holding(server)
    alice.transport.reads = False
    alice.send(*(wire.Get("large", id=number) for number in range(100)))
    server.loop.pass_time(29)
    assert not alice.transport.aborted

    server.loop.pass_time(1)
    assert alice.transport.aborted
    assert "stall_seconds" in server.closed[0][1]


def test_a_peer_that_reads_in_time_is_not_closed() -> None:
    """The clock begins anew with the next pause."""
    server = ServerHarness(Limits(stall_seconds=30))
    alice = holding(server)
    alice.transport.reads = False
    alice.send(*(wire.Get("large", id=number) for number in range(20)))
    server.loop.pass_time(29)
    alice.read_all()
    server.loop.pass_time(29)

    assert not alice.transport.aborted


def test_a_peer_with_too_much_unread_is_closed_and_others_get_their_answers() -> None:
    """Answers of other peers' calls come unasked, so holding it back does not bound them."""
    server = ServerHarness(Limits(max_outbox_bytes=2 * HIGH_WATER_BYTES))
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


def test_one_answer_larger_than_the_outbox_is_delivered() -> None:
    """The bound is on what was left unread before it."""
    server = ServerHarness(Limits(max_outbox_bytes=65536))
    alice = holding(server, "x" * 2 * HIGH_WATER_BYTES)
    alice.transport.reads = False
    alice.send(wire.Get("large", id=1))

    assert len(alice.received()[0].value) == 2 * HIGH_WATER_BYTES
    assert not alice.transport.aborted


def test_a_closed_peer_that_never_reads_its_last_reply_is_not_kept() -> None:
    """A transport would wait for it for ever."""
    server = ServerHarness(Limits(stall_seconds=30))
    alice = server.connect()
    alice.send_text("nonsense\n")
    assert alice.transport.closed
    assert not alice.transport.aborted

    server.loop.pass_time(30)
    assert alice.transport.aborted


def test_a_reply_to_a_connection_that_just_broke_is_dropped() -> None:
    """The transport knows before the loop tells."""
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


def test_the_roster_closes_all_and_says_when_the_last_has_gone() -> None:
    """Those that do not go are aborted."""
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


def test_a_uid_that_has_left_is_forgotten() -> None:
    """Uids of containers come and go."""
    server = ServerHarness()
    for uid in range(10):
        server.connect(uid=uid).disconnect()

    assert len(server.connections._per_uid) == 0
