"""Peers that take more than they may: of time, of memory, of the loop's turns."""

import msgspec
import pytest

from sidecard.config.schema import Limits
from sidecard.server.buffers import COUNTED_BYTES
from sidecard.server.scheduler import MAX_BATCH, MAX_BESIDE
from sidecard_client.protocol import wire
from sidecard_client.protocol.frames import frame
from tests.unit.server.lines import Phone, Switchboard, value_of

MIB = 1024 * 1024


def begun(phone: Phone, count: int, size: int = MIB) -> None:
    """Send so many bytes of a larger frame."""
    phone.connection.data_received(size.to_bytes(4, "big") + b"x" * count)


@pytest.mark.parametrize("data", [b"\x00", b"\x00\x00\x10", b"\x00\x00\x10\x00\x81", b'{"op":', b" "])
def test_a_message_that_never_ends_closes_its_peer(data: bytes) -> None:
    """In either encoding, whatever it begins with, however often a byte comes."""
    board = Switchboard(Limits(message_seconds=30))
    alice = board.phone()
    alice.connection.data_received(data)
    board.loop.pass_time(29)
    alice.connection.data_received(b" ")
    assert not alice.transport.aborted

    board.loop.pass_time(1)
    assert alice.transport.aborted
    assert "message_seconds" in board.closed[0][1]
    assert board.engine.meters.limited == {"message_seconds": 1}


def test_messages_that_come_in_parts_and_in_time_are_served() -> None:
    """The time is one message's, not the connection's: some part of one is always here."""
    board = Switchboard(Limits(message_seconds=30))
    alice = board.phone()
    data = b"".join(frame(wire.pack(wire.Ping(id=number))) for number in range(10))
    whole = len(data) // 10
    alice.connection.data_received(data[:5])
    for number in range(9):
        board.loop.pass_time(29)
        alice.connection.data_received(data[5 + whole * number : 5 + whole * (number + 1)])

    assert [reply.id for reply in alice.heard()] == list(range(9))
    assert not alice.transport.aborted


def test_a_peer_that_says_nothing_may_stay() -> None:
    """Between messages, and before the first: pools of clients do."""
    board = Switchboard(Limits(message_seconds=30))
    silent, idle = board.phone(), board.phone()
    idle.says(wire.Ping(id=1))
    board.loop.pass_time(86400)
    silent.says(wire.Ping(id=1))

    assert len(silent.heard()) == 1
    assert not idle.transport.aborted


def test_beyond_the_bound_of_all_buffers_who_holds_most_is_closed() -> None:
    """Of the uid that holds most: one with many connections of little each is no better than one with one."""
    board = Switchboard(Limits(max_buffered_bytes=MIB))
    large = board.phone(uid=1)
    begun(large, 450_000)
    many = [board.phone(uid=2) for _ in range(5)]
    for number, phone in enumerate(many):
        begun(phone, 110_000 + number)

    assert [phone.transport.aborted for phone in many] == [False] * 5
    begun(late := board.phone(uid=2), 80_000)
    assert many[4].transport.aborted
    assert not large.transport.aborted
    assert not late.transport.aborted
    assert board.buffers.bytes <= MIB
    assert board.engine.meters.limited == {"max_buffered_bytes": 1}


def test_replies_that_nobody_reads_count_for_all_peers_together() -> None:
    """Each of them is within its own bounds."""
    board = Switchboard(Limits(max_buffered_bytes=4 * MIB))
    phones = [board.phone() for _ in range(9)]
    phones[0].says(wire.Put("large", value_of("x" * 500_000), id=1))
    for phone in phones[1:]:
        phone.transport.reads = False
        phone.says(wire.Get("large", id=2))

    assert board.buffers.bytes == pytest.approx(4_000_000, rel=0.01)
    phones[1].says(wire.Get("large", id=2))
    assert [phone.transport.aborted for phone in phones] == [False, True] + [False] * 7


def test_what_was_read_served_or_lost_is_held_no_more() -> None:
    """The sum is back at nothing."""
    board = Switchboard()
    alice, bob, carol = board.phone(), board.phone(), board.phone()
    request = frame(wire.pack(wire.Put("large", value_of("x" * 500_000), id=1)))
    alice.connection.data_received(request[:400_000])
    assert board.buffers.bytes == 400_000
    alice.connection.data_received(request[400_000:])
    assert isinstance(alice.heard()[0], wire.Stored)
    assert board.buffers.bytes == 0

    bob.transport.reads = False
    bob.says(wire.Get("large", id=1))
    begun(carol, 2 * COUNTED_BYTES)
    assert board.buffers.bytes > 500_000
    bob.reads_again()
    carol.hangs_up()
    assert (board.buffers.bytes, len(board.buffers._of_uid), len(board.buffers._held)) == (0, 0, 0)


def test_who_asks_little_is_served_before_the_second_batch_of_who_asks_much() -> None:
    """However many of those there are, each turn of the loop serves one batch of one of them."""
    board = Switchboard()
    floods, polite = [board.phone() for _ in range(8)], board.phone()
    for flood in floods:
        flood.says(*(wire.Ping(id=number) for number in range(5 * MAX_BATCH)))

    served = [len(flood.heard()) for flood in floods]
    assert served == [MAX_BATCH] + [0] * 7
    polite.says(*(wire.Ping(id=number) for number in range(MAX_BESIDE)))
    assert len(polite.heard()) == MAX_BESIDE
    board.loop.turn()
    assert sum(len(flood.heard()) for flood in floods) == MAX_BATCH

    while board.loop.turn():
        pass

    assert all(flood.transport.reading for flood in floods)


def test_uids_take_turns_whatever_the_number_of_their_connections() -> None:
    """So that one with a thousand is served as often as one with one."""
    board = Switchboard()
    many, one = [board.phone(uid=1) for _ in range(10)], board.phone(uid=2)
    for phone in (*many, one):
        phone.says(*(wire.Ping(id=number) for number in range(5 * MAX_BATCH)))

    for _ in range(10):
        board.loop.turn()

    assert len(one.heard()) == 5 * MAX_BATCH


def test_a_connection_that_ends_while_it_waits_for_its_turn_has_none() -> None:
    """Those behind it have theirs."""
    board = Switchboard()
    gone, closed, last = (board.phone() for _ in range(3))
    for phone in (gone, closed, last):
        phone.says(*(wire.Ping(id=number) for number in range(2 * MAX_BATCH)))

    gone.hangs_up()
    gone.connection.connection_lost(None)
    closed.connection.close()
    while board.loop.turn():
        pass

    assert len(last.heard()) == 2 * MAX_BATCH
    assert closed.heard() == []


@pytest.mark.parametrize("encode", ["frames", "lines"])
def test_a_batch_of_dear_requests_ends_when_its_time_is_over(encode: str) -> None:
    """All metrics of a host take a hundred times as long to tell as a hit."""
    board = Switchboard()
    alice = board.phone()
    board.driver.clock = iter(range(10_000)).__next__
    if encode == "frames":
        alice.says(*(wire.GetMetrics(id=number) for number in range(20)))
    else:
        alice.types("".join(f'{{"op":"metrics","id":{number}}}\n' for number in range(20)))

    first = alice.heard()
    assert 1 <= len(first) <= 2
    while board.loop.turn():
        first += alice.heard()

    assert [reply["id"] if encode == "lines" else reply.id for reply in first] == list(range(20))


def test_what_came_before_a_fault_is_served_in_turns_and_the_fault_told_last() -> None:
    """A connection that ends so must not be served out of turn."""
    board = Switchboard()
    alice = board.phone()
    pings = b"".join(frame(wire.pack(wire.Ping(id=number))) for number in range(3 * MAX_BATCH))
    alice.connection.data_received(pings + b"\xff\xff\xff\xff")
    heard = alice.heard()
    assert len(heard) == MAX_BATCH
    while board.loop.turn():
        heard += alice.heard()

    assert [reply.id for reply in heard] == [*range(3 * MAX_BATCH), 0]
    assert heard[-1].code == "too_large"
    assert alice.transport.closed


def test_many_lines_of_a_half_closed_peer_are_all_served_before_it_is_closed() -> None:
    """Also those that wait for their turn."""
    board = Switchboard()
    alice = board.phone()
    alice.types(
        "".join(f'{{"op":"ping","id":{number}}}\n' for number in range(3 * MAX_BATCH)) + '{"op":"ping","id":-1}'
    )
    alice.hangs_up()
    heard = alice.heard()
    while board.loop.turn():
        heard += alice.heard()

    assert [reply["id"] for reply in heard] == [*range(3 * MAX_BATCH), -1]
    assert alice.transport.closed


def test_a_value_of_the_size_limit_passes() -> None:
    """In and out: it is one message, and not too many."""
    board = Switchboard()
    alice = board.phone()
    value = msgspec.Raw(msgspec.msgpack.encode(b"x" * (16 * MIB - 100)))
    alice.says(wire.Put("large", value, id=1))
    assert alice.heard() == [wire.Stored(1, stored=True)]
    alice.says(wire.Get("large", id=2))
    (hit,) = alice.heard()
    assert len(hit.value) == 16 * MIB - 100
