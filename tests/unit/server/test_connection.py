"""One connection: encodings, ends, and a peer that does not read."""

import pytest

from sidecard.config.schema import Limits
from sidecard.server.connection import HIGH_WATER_BYTES
from sidecard.server.connections import MAX_REFUSED, REFUSAL_SECONDS
from sidecard.server.scheduler import MAX_BATCH
from sidecard_client.protocol import wire
from tests.unit.server.lines import Phone, Switchboard, value_of

LARGE = "x" * 100_000


def holding(board: Switchboard, value: str = LARGE) -> Phone:
    """Connect a peer whose namespace has an entry of the key ``large``."""
    phone = board.phone()
    phone.says(wire.Put("large", value_of(value), id=1))
    phone.heard()
    return phone


def test_the_kernel_says_who_a_peer_is() -> None:
    """Unsigned, as ids are."""
    board = Switchboard()
    board.phone(uid=2**32 - 2, gid=5)
    (peer,) = board.roster._peers.values()

    assert (peer.uid, peer.gid, peer.pid, peer.operator) == (2**32 - 2, 5, 77, False)


@pytest.mark.parametrize(
    ("limits", "name"), [(Limits(max_peers=2), "max_peers"), (Limits(max_peers_per_uid=2), "max_peers_per_uid")]
)
def test_a_peer_too_many_is_closed(limits: Limits, name: str) -> None:
    """Until one of those before it leaves. A client hears nothing, which it takes for a daemon that is away."""
    board = Switchboard(limits)
    first, _ = board.phone(), board.phone()
    third = board.phone()
    third.says(wire.Ping(id=1))

    assert third.transport.closed
    assert third.heard() == []
    assert board.refused[0][0] == 1000
    assert board.engine.meters.limited == {name: 1}

    third.connection.connection_lost(None)
    first.hangs_up()
    fourth = board.phone()
    fourth.says(wire.Ping(id=1))
    assert len(fourth.heard()) == 1


def test_a_person_too_many_is_told_why() -> None:
    """Only who speaks JSON lines can be: what a peer speaks is known when it has spoken."""
    board = Switchboard(Limits(max_peers=1))
    board.phone()
    second = board.phone()
    second.types('{"op":"ping"}\n')

    (error,) = second.heard()
    assert (error["type"], error["code"]) == ("error", "unavailable")
    assert "limits.max_peers (1)" in error["message"]
    assert second.transport.closed


def test_a_peer_too_many_that_says_nothing_is_not_waited_for() -> None:
    """Nor are more than a few of them at all, since each has a descriptor."""
    board = Switchboard(Limits(max_peers=1))
    board.phone()
    waited_for = [board.phone() for _ in range(MAX_REFUSED)]
    assert board.phone().transport.aborted
    assert not any(phone.transport.aborted for phone in waited_for)

    board.loop.pass_time(REFUSAL_SECONDS)
    assert all(phone.transport.aborted for phone in waited_for)
    for phone in waited_for:
        phone.connection.connection_lost(None)

    assert not board.phone().transport.aborted


def test_the_bound_per_uid_is_per_uid() -> None:
    """Others may still connect."""
    board = Switchboard(Limits(max_peers_per_uid=1))
    board.phone(uid=1)
    assert not board.phone(uid=2).transport.aborted


def test_a_framing_error_is_told_and_ends_the_connection() -> None:
    """What the peer held goes with it."""
    board = Switchboard()
    alice = board.phone()
    alice.says(wire.Begin("key", id=1))
    alice.heard()
    alice.connection.data_received(b"\xff\xff\xff\xff")

    (error,) = alice.heard()
    assert error.code == "too_large"
    assert alice.transport.closed
    assert board.engine.idle


def test_what_comes_after_the_end_is_not_served() -> None:
    """A transport may still deliver what it had."""
    board = Switchboard()
    alice = board.phone()
    alice.types("GET / HTTP/1.1\r\n\r\n")
    alice.heard()
    alice.types('{"op":"ping"}\n')

    assert alice.heard() == []


def test_the_end_of_a_msgpack_peer_is_its_end() -> None:
    """A holder that dies is succeeded at once."""
    board = Switchboard()
    alice, bob = board.phone(), board.phone()
    alice.says(wire.Begin("key", id=1))
    bob.says(wire.Begin("key", id=2))
    bob.heard()
    alice.hangs_up()

    (lease,) = bob.heard()
    assert isinstance(lease, wire.Lease)


def test_a_half_closed_json_peer_gets_its_outstanding_answer_and_is_then_closed() -> None:
    """As `echo ... | socat` does."""
    board = Switchboard()
    alice, bob = board.phone(), board.phone()
    alice.says(wire.Begin("key", id=1))
    (lease,) = alice.heard()
    bob.types('{"op":"begin","key":"key"}\n{"op":"get","key":"absent"}')
    bob.hangs_up()
    assert [reply["type"] for reply in bob.heard()] == ["pending", "miss"]
    assert not bob.transport.closed

    alice.says(wire.Complete(lease.lease, value_of("answer"), id=3))
    assert [reply["type"] for reply in bob.heard()] == ["shared"]
    assert bob.transport.closed


def test_a_half_closed_json_peer_that_watches_is_told_as_long_as_it_is_connected() -> None:
    """As `echo '{"op":"watch"}' | socat -t 999` does; its begins end on the way."""
    board = Switchboard()
    root, alice = board.phone(uid=0), board.phone()
    root.types('{"op":"watch","id":7}\n{"op":"get","key":"absent"}')
    root.hangs_up()
    assert [reply["type"] for reply in root.heard()] == ["pending", "miss"]
    for request_id in (1, 2):
        alice.says(wire.Begin("key", id=request_id))
        (lease,) = alice.heard()
        alice.says(wire.Fail(lease.lease, id=9))
        alice.heard()
        (note,) = root.heard()
        assert (note["type"], note["id"], note["note"]) == ("note", 7, "lease_ended")

    assert not root.transport.closed


def test_a_half_closed_json_peer_that_has_cancelled_its_watch_is_closed() -> None:
    """Nothing is outstanding then."""
    board = Switchboard()
    root = board.phone(uid=0)
    root.types('{"op":"watch","id":7}\n{"op":"cancel","target":7,"id":8}')
    root.hangs_up()
    assert [reply["type"] for reply in root.heard()] == ["pending", "ok"]
    assert root.transport.closed
    assert not board.engine.watched


def test_a_half_closed_json_peer_that_waits_for_nothing_is_closed() -> None:
    """After its answer."""
    board = Switchboard()
    alice = board.phone()
    alice.types('{"op":"ping"}')
    alice.hangs_up()

    assert [reply["type"] for reply in alice.heard()] == ["pong"]
    assert alice.transport.closed
    assert len(board.roster) == 0


def test_a_half_closed_json_peer_whose_wait_was_taken_back_is_closed() -> None:
    """Nothing more would ever be said to it."""
    board = Switchboard()
    board.phone().says(wire.Begin("key", id=1))
    alice = board.phone()
    alice.types('{"op":"begin","key":"key","id":5}\n{"op":"cancel","target":5}\n')
    alice.hangs_up()

    assert alice.transport.closed


def test_a_half_closed_json_peer_that_reads_a_stored_answer_in_pieces_is_closed_after_its_end() -> None:
    """Pieces and end come at once, with the begin itself."""
    board = Switchboard()
    board.phone().types('{"op":"put","key":"key","value":["a","b"]}\n')
    alice = board.phone()
    alice.types('{"op":"begin","key":"key","stream":true}')
    alice.hangs_up()

    assert [reply["type"] for reply in alice.heard()] == ["chunk", "chunk", "end"]
    assert alice.transport.closed


def test_an_answer_of_the_same_id_does_not_end_a_wait() -> None:
    """Ids may be left out in JSON, so all of them are 0."""
    board = Switchboard()
    board.phone().says(wire.Begin("key", id=1))
    alice = board.phone()
    alice.types('{"op":"put","key":"k","value":1}\n{"op":"begin","key":"key"}\n{"op":"get","key":"k"}\n')
    alice.hangs_up()

    assert [reply["type"] for reply in alice.heard()] == ["stored", "pending", "hit"]
    assert not alice.transport.closed


def test_a_half_closed_json_peer_that_gets_a_lease_is_closed_and_the_lease_passes_on() -> None:
    """It has no way left to complete it."""
    board = Switchboard()
    alice, bob, carol = board.phone(), board.phone(), board.phone()
    alice.says(wire.Begin("key", id=1))
    bob.types('{"op":"begin","key":"key"}')
    bob.hangs_up()
    carol.says(wire.Begin("key", id=1))
    carol.heard()
    alice.hangs_up()

    assert [reply["type"] for reply in bob.heard()] == ["pending", "lease"]
    assert isinstance(carol.heard()[-1], wire.Lease)


def test_many_messages_of_one_read_are_served_in_turns() -> None:
    """So that others get theirs in between, and in order."""
    board = Switchboard()
    alice = board.phone()
    alice.says(*(wire.Ping(id=number) for number in range(2 * MAX_BATCH + 10)))
    first = alice.heard()
    assert len(first) == MAX_BATCH
    assert not alice.transport.reading

    rest = []
    while board.loop.turn():
        rest += alice.heard()

    assert [reply.id for reply in first + rest] == list(range(2 * MAX_BATCH + 10))
    assert alice.transport.reading


@pytest.mark.parametrize("requests", [MAX_BATCH // 2, 4 * MAX_BATCH])
def test_a_peer_that_does_not_read_is_not_read_or_served_further(requests: int) -> None:
    """What it may leave unread is bounded, however much it asked for."""
    board = Switchboard()
    alice = holding(board)
    alice.transport.reads = False
    alice.says(*(wire.Get("large", id=number) for number in range(requests)))

    assert not alice.transport.reading
    assert HIGH_WATER_BYTES < alice.transport.buffered < 3 * HIGH_WATER_BYTES


def test_a_slow_peer_gets_everything_in_the_end() -> None:
    """It is held back, and nothing is left out."""
    board = Switchboard()
    alice = holding(board)
    alice.transport.reads = False
    alice.says(*(wire.Get("large", id=number) for number in range(100)))
    ids = [reply.id for reply in alice.heard()]
    while len(ids) < 100:
        alice.reads_again()
        alice.transport.reads = False
        while board.loop.turn():
            ids += [reply.id for reply in alice.heard()]

    assert ids == list(range(100))
    alice.reads_again()
    board.loop.turn()
    assert alice.transport.reading


def test_a_peer_that_reads_too_little_for_too_long_is_closed() -> None:
    """Its memory is needed."""
    board = Switchboard(Limits(stall_seconds=30))
    alice = holding(board)
    alice.transport.reads = False
    alice.says(*(wire.Get("large", id=number) for number in range(100)))
    board.loop.pass_time(29)
    assert not alice.transport.aborted

    board.loop.pass_time(1)
    assert alice.transport.aborted
    assert "stall_seconds" in board.closed[0][1]


def test_a_peer_that_reads_in_time_is_not_closed() -> None:
    """The clock begins anew with the next pause."""
    board = Switchboard(Limits(stall_seconds=30))
    alice = holding(board)
    alice.transport.reads = False
    alice.says(*(wire.Get("large", id=number) for number in range(20)))
    board.loop.pass_time(29)
    alice.reads_again()
    board.loop.pass_time(29)

    assert not alice.transport.aborted


def test_a_peer_with_too_much_unread_is_closed_and_others_get_their_answers() -> None:
    """Answers of other peers' calls come unasked, so holding it back does not bound them."""
    board = Switchboard(Limits(max_outbox_bytes=2 * HIGH_WATER_BYTES))
    alice, bob, carol = board.phone(), board.phone(), board.phone()
    alice.transport.reads = False
    for number in range(10):
        carol.says(wire.Begin(str(number), id=number))
        alice.says(wire.Begin(str(number), id=number))
        bob.says(wire.Begin(str(number), id=number))
    bob.heard()
    for lease in carol.heard():
        carol.says(wire.Complete(lease.lease, value_of("x" * 500_000), id=99))

    assert alice.transport.aborted
    assert "max_outbox_bytes" in board.closed[0][1]
    assert alice.transport.buffered < 4 * HIGH_WATER_BYTES
    assert [reply.id for reply in bob.heard()] == list(range(10))


def test_one_answer_larger_than_the_outbox_is_delivered() -> None:
    """The bound is on what was left unread before it."""
    board = Switchboard(Limits(max_outbox_bytes=65536))
    alice = holding(board, "x" * 2 * HIGH_WATER_BYTES)
    alice.transport.reads = False
    alice.says(wire.Get("large", id=1))

    assert len(alice.heard()[0].value) == 2 * HIGH_WATER_BYTES
    assert not alice.transport.aborted


def test_a_closed_peer_that_never_reads_its_last_reply_is_not_kept() -> None:
    """A transport would wait for it for ever."""
    board = Switchboard(Limits(stall_seconds=30))
    alice = board.phone()
    alice.types("nonsense\n")
    assert alice.transport.closed
    assert not alice.transport.aborted

    board.loop.pass_time(30)
    assert alice.transport.aborted


def test_a_reply_to_a_connection_that_just_broke_is_dropped() -> None:
    """The transport knows before the loop tells."""
    board = Switchboard()
    alice, bob = board.phone(), board.phone()
    alice.says(wire.Begin("key", id=1))
    bob.says(wire.Begin("key", id=2))
    bob.heard()
    bob.transport.broken = True
    (lease,) = alice.heard()
    alice.says(wire.Complete(lease.lease, value_of("answer"), id=3))

    assert isinstance(alice.heard()[0], wire.Stored)
    assert bob.heard() == []


def test_the_roster_closes_all_and_says_when_the_last_has_gone() -> None:
    """Those that do not go are aborted."""
    board = Switchboard()
    alice, bob, gone = board.phone(), board.phone(), list[str]()
    board.roster.close_all(lambda: gone.append("all"))
    assert alice.transport.closed
    assert bob.transport.closed

    alice.connection.connection_lost(None)
    assert gone == []
    board.roster.abort_all()
    assert (alice.transport.aborted, bob.transport.aborted) == (False, True)
    bob.connection.connection_lost(None)
    assert gone == ["all"]


def test_a_uid_that_has_left_is_forgotten() -> None:
    """Uids of containers come and go."""
    board = Switchboard()
    for uid in range(10):
        board.phone(uid=uid).hangs_up()

    assert len(board.roster._per_uid) == 0
