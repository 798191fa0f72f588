"""Peers that have closed their connections are known before their ends are read, and get no lease of others."""

import os
import socket
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from sidecard.core.events import Peer
from sidecard.server.hang_ups import HangUps
from sidecard_client.protocol import wire
from tests.unit.server.harness import FakePeer, ServerHarness, value_of

PEER = Peer(1, 1000, 1000, 7, operator=False)
OTHER = Peer(2, 1000, 1000, 8, operator=False)

Pair = tuple[socket.socket, socket.socket]


@pytest.fixture
def pairs() -> Iterator[list[Pair]]:
    """Connected sockets: the daemon's end and the peer's."""
    with ExitStack() as stack:
        made = [socket.socketpair() for _ in range(5)]
        for pair in made:
            for one in pair:
                stack.enter_context(one)

        yield made


def test_a_closed_connection_is_reported_once_though_data_is_unread(pairs: list[Pair]) -> None:
    """What the peer sent before does not hide its end."""
    (ours, theirs), (other, _), *_ = pairs
    hang_ups = HangUps()
    hang_ups.watch(PEER, ours.fileno())
    hang_ups.watch(OTHER, other.fileno())
    theirs.sendall(b"unread")
    assert hang_ups.take() == []
    theirs.close()
    assert hang_ups.take() == [PEER]
    assert hang_ups.take() == []
    assert ours.recv(100) == b"unread"


def test_a_peer_that_has_only_finished_sending_has_not_hung_up(pairs: list[Pair]) -> None:
    """`socat` half-closes, and still reads the answer."""
    ours, theirs = pairs[0]
    hang_ups = HangUps()
    hang_ups.watch(PEER, ours.fileno())
    theirs.sendall(b'{"op":"begin","key":"k"}\n')
    theirs.shutdown(socket.SHUT_WR)
    assert hang_ups.take() == []
    theirs.close()
    assert hang_ups.take() == [PEER]


def test_a_forgotten_peer_is_not_reported_and_its_descriptor_is_free(pairs: list[Pair]) -> None:
    """A descriptor's number is used again for another peer."""
    (ours, theirs), (further, its_peer), *_ = pairs
    hang_ups = HangUps()
    hang_ups.watch(PEER, ours.fileno())
    hang_ups.forget(ours.fileno())
    hang_ups.forget(ours.fileno())
    theirs.close()
    assert hang_ups.take() == []
    number = ours.fileno()
    ours.close()
    with socket.socket(fileno=os.dup(further.fileno())) as reused:
        assert reused.fileno() == number
        hang_ups.watch(OTHER, number)
        its_peer.close()
        assert hang_ups.take() == [OTHER]


def callers(server: ServerHarness, pairs: list[Pair]) -> list[FakePeer]:
    """Let as many peers begin the same key, one after another: the first one gets the lease."""
    peers = []
    for number, (ours, _) in enumerate(pairs, start=1):
        peer = server.connect(connected=ours)
        peer.send(wire.Begin("key", id=number))
        peers.append(peer)

    return peers


def test_processes_that_end_together_cost_their_waiters_one_election(pairs: list[Pair]) -> None:
    """The holder and the waiters next in line are gone; the one that lives gets the lease, whatever `max_elections` is."""
    server = ServerHarness(max_elections=1)
    *gone, alive = callers(server, pairs)
    for _, theirs in pairs[:-1]:
        theirs.close()

    for peer in gone:
        peer.disconnect()

    pending, lease = alive.received()
    assert isinstance(pending, wire.Pending)
    assert isinstance(lease, wire.Lease)
    assert server.engine.counters.lost == 1
    assert server.engine.counters.reelections == 1


def test_what_a_peer_sent_before_it_hung_up_counts(pairs: list[Pair]) -> None:
    """Its answer, read after another peer's end has shown that it is gone, reaches those that wait for it."""
    server = ServerHarness()
    holder, other, waiter, *_ = callers(server, pairs)
    (lease,) = holder.received()
    for _, theirs in pairs[:2]:
        theirs.close()

    other.disconnect()
    holder.send(wire.Complete(lease.lease, value_of("answer"), id=9))
    holder.disconnect()
    pending, shared = waiter.received()
    assert isinstance(pending, wire.Pending)
    assert (shared.value, server.engine.counters.lost) == ("answer", 0)


def test_an_expired_lease_goes_to_no_peer_that_has_hung_up(pairs: list[Pair]) -> None:
    """After the daemon was stopped for long, its timers may come before the ends of connections."""
    server = ServerHarness(max_elections=1, lease_seconds=5, wait_seconds=60)
    *_, alive = callers(server, pairs)
    for _, theirs in pairs[1:-1]:
        theirs.close()

    server.loop.pass_time(6.0)
    pending, lease = alive.received()
    assert isinstance(pending, wire.Pending)
    assert isinstance(lease, wire.Lease)


def test_ended_connections_are_watched_no_longer(pairs: list[Pair]) -> None:
    """Nothing is left of them."""
    server = ServerHarness()
    peers = callers(server, pairs)
    for _, theirs in pairs:
        theirs.close()

    for peer in peers:
        peer.disconnect()

    assert not server.driver._hang_ups._peers
    assert not server.engine._flights._peers
    assert not server.engine._flights._hung_up
