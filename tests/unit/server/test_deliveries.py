"""What one event causes for many receivers is delivered in turns."""

import msgspec
import pytest

from sidecard.config.schema import LimitSettings
from sidecard.server.deliveries import MAX_DELIVERIES
from sidecard.server.scheduler import TURN_SECONDS
from sidecard_client.protocol import wire
from tests.unit.server.harness import FakePeer, ServerHarness

WAITERS = 1000
LIMITS = LimitSettings(max_peers_per_uid=4096)


class Crowd:
    """A flight with many waiters on few connections, a holder, and a bystander of another uid."""

    def __init__(self, connections: int = 4) -> None:
        self.server = ServerHarness(LIMITS)
        self.holder, self.bystander = self.server.connect(uid=1001), self.server.connect(uid=1002)
        self.waiters = [self.server.connect(uid=1001) for _ in range(connections)]
        self.holder.send(wire.Begin("key", id=1))
        (self.lease,) = self.holder.received()
        for number in range(WAITERS):
            self.waiters[number % connections].send(wire.Begin("key", id=1 + number))

        self.settle()
        for waiter in self.waiters:
            assert {type(reply) for reply in waiter.received()} == {wire.Pending}

    def settle(self) -> None:
        """Run the loop until nothing is ready."""
        while self.server.loop.turn():
            pass

    def fail(self) -> None:
        """Fail the call for all waiters."""
        self.holder.send(wire.Fail(self.lease.lease, "fatal", message="m" * 4096, id=2))

    def delivered(self) -> int:
        """Count the waiters that got their reply."""
        return sum(waiter.transport.sent.count(b"failed") for waiter in self.waiters)


def ids_of(peer: FakePeer) -> list[int]:
    """Return the ids of the received replies."""
    return [reply.id for reply in peer.received()]


def test_few_replies_of_an_event_are_sent_at_once_and_the_others_in_turns() -> None:
    """A bystander waits for one turn, not for 1,000 replies; each waiter gets its own replies in order."""
    crowd = Crowd()
    crowd.fail()
    assert crowd.delivered() <= MAX_DELIVERIES

    crowd.server.loop.cost = TURN_SECONDS / 10
    turns = 0
    while crowd.delivered() < WAITERS:
        before = crowd.delivered()
        crowd.server.loop.turn()
        assert crowd.delivered() - before <= 2 * MAX_DELIVERIES
        crowd.bystander.send(wire.Ping(id=turns))
        assert ids_of(crowd.bystander) == [turns]
        turns += 1
        assert turns < 1000

    assert turns > 20
    for first, waiter in enumerate(crowd.waiters):
        assert ids_of(waiter) == list(range(1 + first, 1 + WAITERS, len(crowd.waiters)))


def test_later_replies_to_a_receiver_come_after_the_deferred_ones() -> None:
    """Whether it is a reply to its own request, or to another caller's."""
    crowd = Crowd(connections=1)
    crowd.fail()
    (waiter,) = crowd.waiters
    waiter.send(wire.Ping(id=5000))
    waiter.send(wire.Begin("other", id=5001), wire.Ping(id=5002))
    crowd.settle()

    assert ids_of(waiter) == [*range(1, 1 + WAITERS), 5000, 5001, 5002]
    waiter.send(wire.Ping(id=6000))
    assert ids_of(waiter) == [6000]


def crowd_with_json_peer() -> tuple[Crowd, FakePeer]:
    """Return a crowd whose last waiter is a JSON-lines peer, with its reply deferred."""
    crowd = Crowd()
    peer = crowd.server.connect(uid=1001)
    peer.send_text('{"op":"begin","key":"key","id":1}\n')
    crowd.holder.send(wire.Begin("other", id=3))
    crowd.fail()
    assert [reply["type"] for reply in peer.received()] == ["pending"]
    return crowd, peer


def test_half_closed_peer_with_deferred_replies_gets_them_and_is_closed() -> None:
    """It has begun and canceled a wait before they are delivered: the `pending`, which comes last, does not count as a wait."""
    crowd, peer = crowd_with_json_peer()
    peer.send_text('{"op":"begin","key":"other","id":2}\n{"op":"cancel","target":2,"id":3}\n')
    peer.disconnect()
    assert not peer.transport.closed
    crowd.settle()
    assert [reply["type"] for reply in peer.received()] == ["failed", "pending", "ok"]
    assert peer.transport.closed


def test_half_closed_peer_that_waits_after_deferred_replies_gets_its_answer() -> None:
    """Its wait has begun before they are delivered."""
    crowd, peer = crowd_with_json_peer()
    peer.send_text('{"op":"begin","key":"other","id":2}\n')
    peer.disconnect()
    crowd.settle()
    assert [reply["type"] for reply in peer.received()] == ["failed", "pending"]
    assert not peer.transport.closed
    lease = next(reply for reply in crowd.holder.received() if isinstance(reply, wire.Lease))
    crowd.holder.send(wire.Complete(lease.lease, msgspec.Raw(wire.pack("answer")), id=4))
    assert [reply["type"] for reply in peer.received()] == ["shared"]
    assert peer.transport.closed


def test_replies_to_a_lost_receiver_are_dropped() -> None:
    """And the others get theirs."""
    crowd = Crowd(connections=2)
    crowd.fail()
    lost, other = crowd.waiters
    lost.disconnect()
    lost.received()
    crowd.settle()

    assert lost.received() == []
    assert len(ids_of(other)) == WAITERS // 2
    assert not crowd.server.bugs


def test_a_stopping_daemon_sends_all_before_it_closes_connections() -> None:
    """Its callers need not wait for a daemon that is gone."""
    crowd = Crowd()
    crowd.server.driver.drain(lambda: None)
    crowd.server.driver.end_drain()

    for waiter in crowd.waiters:
        assert {type(reply) for reply in waiter.received()} == {wire.Rejected}


@pytest.mark.parametrize("json", [False, True])
def test_a_long_stream_is_replayed_in_turns(json: bool) -> None:
    """Its chunks arrive in order, and a bystander is served meanwhile."""
    server = ServerHarness()
    follower, bystander = server.connect(uid=1001), server.connect(uid=1002)
    server.connect(uid=1001).send(wire.Put("key", msgspec.Raw(wire.pack(list(range(5000)))), id=1))
    if json:
        follower.send_text('{"op":"begin","key":"key","id":7,"stream":true}\n')
    else:
        follower.send(wire.Begin("key", id=7, stream=True))

    server.loop.cost = TURN_SECONDS / 10
    turns = 0
    while server.loop.soon:
        sent = len(follower.transport.sent)
        server.loop.turn()
        assert len(follower.transport.sent) - sent < 100_000
        bystander.send(wire.Ping(id=turns))
        assert ids_of(bystander) == [turns]
        turns += 1
        assert turns < 1000

    assert turns > 5
    replies = follower.received()
    chunks = [reply["chunk"] for reply in replies[:-1]] if json else [reply.chunk for reply in replies[:-1]]
    assert chunks == list(range(5000))
