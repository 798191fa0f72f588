"""Waiting for a permit is part of the flight, one sentence a test."""

import pytest

from sidecard.core import notes
from sidecard.core.settings import BackendSettings
from sidecard_client.protocol import wire
from sidecard_client.protocol.wire import Begin, Cancel, Complete, Lease, Ok, Pending, Rejected, Shared, Timeout, Usage
from tests.backends import ONE, TOUCHY, held, limited, opened
from tests.host import Host, packed


def test_who_finds_a_backend_full_waits_for_a_permit() -> None:
    """Pending at once, and the lease when the permit comes back."""
    host = limited()
    holder, lease = held(host, "a")
    bob = host.peer()
    bob.waits("key", 7, backends=("a",))
    assert host.breakers()["a"].queued == 1
    host.passes(2.0)
    holder.completes(lease, "answer")

    assert bob.receives() == [Lease(7, "boot-2", "a", 15.0, 1)]
    assert host.breakers()["a"].queued == 0


@pytest.mark.parametrize("kind", ["transient", "fatal", "ignored", "cancelled"])
def test_a_permit_comes_back_however_the_call_fails(kind: wire.FailureKind) -> None:
    """And goes to who waits."""
    host = limited()
    holder, lease = held(host, "a")
    bob = host.peer()
    bob.waits("key", backends=("a",))
    holder.fails(lease, kind)

    assert isinstance(bob.receives()[0], Lease)
    assert host.stats().permits == 1


def test_a_permit_comes_back_when_its_holder_dies_cancels_or_hangs() -> None:
    """Three ways to end without an outcome."""
    host = limited()
    first, second, third, last = (host.peer() for _ in range(4))
    first.calls("a")
    for peer in (second, third, last):
        peer.waits("key" + str(peer.peer.id), 5, backends=("a",))

    first.dies()
    assert isinstance(second.receives()[0], Lease)
    second.asks(Cancel(5, id=6))
    assert isinstance(third.receives()[0], Lease)
    host.passes(15.0)
    assert isinstance(last.receives()[0], Lease)
    assert host.stats().permits == 1


def test_duplicates_join_a_flight_that_waits_for_a_permit() -> None:
    """They get the answer when the first of them has got its permit and made the call."""
    host = limited()
    holder, lease = held(host, "a")
    bob, carol = host.peer(), host.peer()
    bob.waits("key", backends=("a",))
    carol.waits("key", backends=("a",))
    assert (host.stats().waiters, host.stats().queued, host.stats().flights) == (2, 1, 1)
    holder.completes(lease, "other")
    bob.completes(bob.gets(Lease).lease, "answer")

    assert carol.gets(Shared).id == 1
    assert host.stats().completed == 2


def test_who_waits_for_a_permit_does_so_until_its_deadline() -> None:
    """Then the next of its flight applies, with a deadline of its own."""
    host = limited()
    held(host, "a")[0].asks(wire.Ping())
    bob, carol = host.peer(), host.peer()
    bob.waits("key", backends=("a",), wait_seconds=5.0)
    carol.waits("key", backends=("a",), wait_seconds=9.0)
    host.passes(5.0)

    assert bob.receives() == [Timeout(1, 5.0)]
    assert carol.receives() == []
    assert host.stats().queued == 1
    host.passes(4.0)
    assert carol.receives() == [Timeout(1, 9.0)]
    assert host.stats().flights == 0


def test_a_permit_that_comes_at_the_deadline_is_not_given_to_who_has_stopped_listening() -> None:
    """1. A deadline passes; 2. the permit comes back; 3. the tick comes: the lease goes to the next, not in 2 to the first."""
    host = limited()
    holder, lease = held(host, "a")
    bob, carol = host.peer(pid=1), host.peer(pid=2)
    bob.waits("key", backends=("a",), wait_seconds=5.0)
    carol.waits("other", backends=("a",))
    host.now += 5.0
    holder.completes(lease, "answer")

    assert bob.receives() == [Timeout(1, 5.0)]
    assert isinstance(carol.receives()[0], Lease)


@pytest.mark.parametrize("way", ["dies", "cancels"])
def test_an_applicant_that_leaves_hands_its_flight_to_the_next(way: str) -> None:
    """Whoever waited with it applies in its place, and nobody hears anything."""
    host = limited()
    holder, lease = held(host, "a")
    bob, carol = host.peer(), host.peer()
    bob.waits("key", 3, backends=("a",))
    carol.waits("key", backends=("a",))
    if way == "dies":
        bob.dies()
    else:
        bob.asks(Cancel(3, id=4))
        assert bob.receives() == [Ok(4)]

    assert carol.receives() == []
    assert (host.stats().queued, host.stats().waiters) == (1, 1)
    holder.completes(lease, "answer")
    assert carol.gets(Lease).attempt == 1


def test_drain_sends_everybody_away_once() -> None:
    """Who waits for a permit, who waits with it, and who waits for a retry; the call in progress may end."""
    host = Host(backends={"a": ONE, "b": BackendSettings()})
    holder, lease = held(host, "a")
    bob, carol, dave = host.peer(), host.peer(), host.peer()
    bob.waits("key", backends=("a",))
    carol.waits("key", backends=("a",))
    dave.fails(dave.calls("b").lease, next=True, retry=True)
    assert dave.receives() == [Pending(98)]
    host.drains()

    assert bob.receives() == carol.receives() == [Rejected(1, "draining")]
    assert dave.receives() == [Rejected(98, "draining")]
    assert not host.engine.idle
    holder.completes(lease, "answer")
    host.gives_up_draining()
    host.passes(500.0)
    assert host.engine.idle
    assert [bob.receives(), carol.receives(), dave.receives()] == [[], [], []]


def test_processes_take_turns_in_a_queue() -> None:
    """One that asks for five permits at once delays another's first by one."""
    host = limited()
    holder, lease = held(host, "a")
    greedy, modest = host.peer(pid=1), host.peer(pid=2)
    for number in range(5):
        greedy.waits(f"greedy{number}", number, backends=("a",))

    for number in range(2):
        modest.waits(f"modest{number}", number, backends=("a",))

    holder.completes(lease, "answer")
    served = []
    while leases := [(actor, reply) for actor in (greedy, modest) for reply in actor.receives()]:
        ((actor, reply),) = leases
        assert isinstance(reply, Lease)
        served.append("greedy" if actor is greedy else "modest")
        actor.asks(Complete(reply.lease, packed("answer"), id=99))
        actor.inbox = [later for later in actor.inbox if later.id != 99]

    assert served == ["greedy", "modest", "greedy", "modest", "greedy", "greedy", "greedy"]


def test_connections_of_one_process_share_its_turn() -> None:
    """A pool of connections is no way to more than one's share; what cannot be told apart is a line for itself."""
    host = limited()
    holder, lease = held(host, "a")
    pool = [host.peer(pid=1) for _ in range(3)]
    other, unknown = host.peer(pid=2), host.peer(pid=0)
    for actor in (*pool, other, unknown):
        actor.waits("key" + str(actor.peer.id), backends=("a",))

    holder.completes(lease, "answer")
    served = []
    for _ in range(5):
        ((actor, reply),) = [(actor, reply) for actor in (*pool, other, unknown) for reply in actor.receives()]
        assert isinstance(reply, Lease)
        served.append(actor)
        actor.dies()
        host.actors[actor.peer.id] = actor

    assert served == [pool[0], other, unknown, pool[1], pool[2]]


def test_a_newcomer_does_not_overtake_who_waits() -> None:
    """Even where a permit is free at that instant: here, since the tick that serves the queue is late."""
    host = Host(backends={"a": BackendSettings(requests_per_minute=1.0)})
    held(host, "a")
    bob, carol = host.peer(), host.peer()
    bob.waits("first", backends=("a",))
    host.now += 61.0
    carol.waits("second", backends=("a",))
    host.passes(0.0)

    assert isinstance(bob.receives()[0], Lease)
    assert carol.receives() == []


def test_a_queue_whose_minute_has_come_is_served_though_somebody_joined_it_meanwhile() -> None:
    """The alarm of the first is not lost: it is due at once."""
    host = Host(backends={"a": BackendSettings(requests_per_minute=2.0)}, lease_seconds=600.0, wait_seconds=500.0)
    held(host, "a")
    held(host, "a")
    bob, carol = host.peer(), host.peer()
    bob.waits("first", backends=("a",))
    host.now += 70.0
    carol.waits("second", backends=("a",))

    assert (host.engine.next_deadline() or 0.0) <= host.now
    host.passes(0.0)
    assert isinstance(bob.receives()[0], Lease)
    assert isinstance(carol.receives()[0], Lease)


def test_who_waits_for_two_backends_gets_the_first_that_is_free() -> None:
    """And leaves the other's queue."""
    host = Host(backends={"a": ONE, "b": ONE})
    (_, _), (second, lease) = held(host, "a"), held(host, "b")
    bob = host.peer()
    bob.waits("key", backends=("a", "b"))
    assert (host.breakers()["a"].queued, host.breakers()["b"].queued) == (1, 1)
    second.completes(lease, "answer")

    assert bob.gets(Lease).backend == "b"
    assert (host.breakers()["a"].queued, host.breakers()["b"].queued) == (0, 0)


def test_rates_are_waited_for() -> None:
    """More requests than the minute's share come after it, without a permit having to come back."""
    host = Host(backends={"a": BackendSettings(requests_per_minute=2.0)}, lease_seconds=600.0)
    held(host, "a")
    held(host, "a")
    bob = host.peer()
    bob.waits("key", backends=("a",))
    host.passes(60.0)
    assert bob.receives() == []
    host.passes(1.0)

    assert isinstance(bob.receives()[0], Lease)


def test_tokens_are_waited_for_and_one_that_takes_more_than_the_share_is_let_through_alone() -> None:
    """A call that never fits must not wait for ever."""
    host = Host(backends={"a": BackendSettings(tokens_per_minute=100.0)}, wait_seconds=300.0)
    alice, bob = host.peer(), host.peer()
    lease = alice.calls("a").lease
    bob.waits("key", backends=("a",))
    alice.completes(lease, "answer", usage=Usage(prompt_tokens=500))
    assert bob.receives() == []
    host.passes(61.0)

    assert isinstance(bob.receives()[0], Lease)


def test_a_full_queue_refuses_and_tells_so_once_per_filling() -> None:
    """Nobody is told again that it is full before it had room."""
    host = Host(backends={"a": BackendSettings(max_concurrent=1, max_queue=1)})
    holder, lease = held(host, "a")
    bob, carol = host.peer(), host.peer()
    bob.waits("key", backends=("a",))
    for _ in range(3):
        assert carol.refused("a") == Rejected(1, "saturated", None, {"a": "saturated"})

    full = notes.QueueFull("a", 1)
    assert host.notes.count(full) == 1
    holder.completes(lease, "answer")
    carol.waits("other", 2, backends=("a",))
    host.peer().refused("a")
    assert host.notes.count(full) == 2


def test_a_queue_of_none_refuses_at_once() -> None:
    """An operator may want no waiting."""
    host = Host(backends={"a": BackendSettings(max_concurrent=1, max_queue=0)})
    held(host, "a")

    assert host.peer().refused("a").reason == "saturated"


def test_the_flights_own_waiter_finds_room_in_a_queue_that_has_just_moved() -> None:
    """1. A holder dies; 2. its permit goes to the queue's one; 3. its flight's waiter takes that place, and is not refused."""
    host = Host(backends={"a": BackendSettings(max_concurrent=1, max_queue=1)})
    alice, bob, carol = host.peer(), host.peer(), host.peer()
    alice.leads("key", backends=("a",))
    bob.waits("key", backends=("a",))
    carol.waits("other", backends=("a",))
    alice.dies()

    assert isinstance(carol.receives()[0], Lease)
    assert bob.receives() == []
    assert host.breakers()["a"].queued == 1


def test_who_will_not_wait_is_refused_by_a_full_backend() -> None:
    """``wait_seconds`` 0 asks for a lease now or never; where somebody makes the call already it is a timeout."""
    host = limited()
    alice = host.peer()
    alice.leads("key", backends=("a",))
    bob = host.peer()

    assert bob.refused("a", wait_seconds=0.0).reason == "saturated"
    bob.asks(Begin("key", id=2, backends=("a",), wait_seconds=0.0))
    assert bob.receives() == [Timeout(2, 0.0)]
    assert host.stats().queued == 0


def test_who_will_not_wait_gets_what_is_free() -> None:
    """At once."""
    assert limited().peer().calls("a", wait_seconds=0.0).backend == "a"


def test_callers_without_a_key_queue_as_well() -> None:
    """Each for itself: nothing is shared."""
    host = limited()
    holder, lease = held(host, "a")
    bob = host.peer()
    for number in (1, 2):
        bob.asks(Begin(None, id=number, backends=("a",)))

    assert bob.receives() == [Pending(1), Pending(2)]
    holder.completes(lease, "answer")
    assert bob.gets(Lease).id == 1


def test_max_waiters_bounds_who_waits_for_permits_too_and_is_told_once_per_filling() -> None:
    """Beyond it callers are busy: they make the call without the daemon."""
    host = limited(max_waiters=2)
    holder, lease = held(host, "a")
    bob, carol = host.peer(), host.peer()
    for number in (1, 2):
        bob.asks(Begin(None, id=number, backends=("a",)))

    bob.receives()
    full = notes.Saturated("waiters", 2)
    assert [carol.refused("a").reason for _ in range(3)] == ["busy"] * 3
    assert host.notes.count(full) == 1
    holder.completes(lease, "answer")
    bob.receives()
    bob.asks(Begin(None, id=3, backends=("a",)))
    assert bob.receives() == [Pending(3)]
    assert carol.refused("a").reason == "busy"
    assert host.notes.count(full) == 2


def test_max_leases_bounds_leases_of_all_backends_and_is_told_once_per_filling() -> None:
    """Also those that nobody configured."""
    host = Host(max_leases=1)
    holder, lease = held(host, "x")
    bob = host.peer()
    assert [bob.refused("y").reason for _ in range(3)] == ["busy"] * 3
    assert host.notes.count(notes.Saturated("leases", 1)) == 1
    holder.completes(lease, "answer")
    bob.calls("y")
    host.peer().refused("z")

    assert host.notes.count(notes.Saturated("leases", 1)) == 2


def test_the_next_in_a_queue_is_turned_away_where_the_table_of_leases_is_full() -> None:
    """Rather than being left in a queue that nobody would serve."""
    host = Host(backends={"a": BackendSettings(requests_per_minute=1.0)}, max_leases=2, lease_seconds=600.0)
    held(host, "a")
    bob = host.peer()
    bob.waits("key", backends=("a",), wait_seconds=300.0)
    held(host, "x")
    host.passes(61.0)

    assert bob.receives() == [Rejected(1, "busy")]


def test_a_caller_that_waits_is_let_through_where_a_breaker_closes_meanwhile() -> None:
    """It named both; when it came, one was full and the other's breaker open."""
    host = Host(backends={"a": ONE, "b": TOUCHY})
    opened(host, "b")
    held(host, "a")
    bob = host.peer()
    bob.waits("key", 7, backends=("a", "b"))
    host.passes(12.0)
    prober, probe = held(host, "b")
    assert bob.receives() == []
    prober.completes(probe, "well again")

    (lease,) = bob.receives()
    assert isinstance(lease, Lease)
    assert lease.backend == "b"
    assert host.breakers()["a"].queued == 0


def test_a_caller_that_waits_is_let_through_where_an_operator_closes_a_breaker() -> None:
    """The same, by hand."""
    host = Host(backends={"a": ONE, "b": TOUCHY})
    opened(host, "b")
    held(host, "a")
    bob = host.peer()
    bob.waits("key", 7, backends=("a", "b"))
    host.sets("b", "close")
    (lease,) = bob.receives()
    assert isinstance(lease, Lease)
    assert lease.backend == "b"
