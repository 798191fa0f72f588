"""Queues for permits."""

import pytest

from sidecard.core import notes
from sidecard.core.settings import BackendSettings
from sidecard_client.protocol import wire
from sidecard_client.protocol.wire import Begin, Cancel, Complete, Lease, Ok, Pending, Rejected, Shared, Timeout, Usage
from tests.backends import ONE, TOUCHY, held, limited, opened
from tests.host import Host, packed


def test_caller_of_full_backend_queues() -> None:
    """A caller of a full backend is pending and gets the lease when a permit returns."""
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
def test_permit_returns_after_any_failure(kind: wire.FailureKind) -> None:
    """A permit returns after any failure and goes to the queue."""
    host = limited()
    holder, lease = held(host, "a")
    bob = host.peer()
    bob.waits("key", backends=("a",))
    holder.fails(lease, kind)

    assert isinstance(bob.receives()[0], Lease)
    assert host.stats().permits == 1


def test_permit_returns_when_holder_is_lost_cancels_or_expires() -> None:
    """A permit returns when its holder is lost, cancels or expires."""
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


def test_duplicates_join_a_queued_flight() -> None:
    """Duplicates join a queued flight and get its answer."""
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


def test_applicant_times_out_and_next_caller_applies() -> None:
    """An applicant times out; the next caller of its flight applies with its own deadline."""
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


def test_permit_at_deadline_goes_to_next_applicant() -> None:
    """A permit skips an expired applicant: 1. its deadline passes; 2. the permit returns; 3. the tick follows."""
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
def test_leaving_applicant_passes_flight_on(way: str) -> None:
    """A leaving applicant passes its flight to the next caller, unnoticed."""
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


def test_drain_rejects_applicants_and_waiters_once() -> None:
    """A drain rejects applicants, their waiters and pending retries once; calls in progress may end."""
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


def test_processes_take_turns_in_queue() -> None:
    """A process that requests five permits delays another's first by one turn."""
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


def test_connections_of_one_process_share_a_turn() -> None:
    """Connections of one process share its turn; a connection of an unknown process has its own."""
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


def test_newcomer_does_not_overtake_queue() -> None:
    """A newcomer queues behind waiting callers, even if a permit is free because the tick is late."""
    host = Host(backends={"a": BackendSettings(requests_per_minute=1.0)})
    held(host, "a")
    bob, carol = host.peer(), host.peer()
    bob.waits("first", backends=("a",))
    host.now += 61.0
    carol.waits("second", backends=("a",))
    host.passes(0.0)

    assert isinstance(bob.receives()[0], Lease)
    assert carol.receives() == []


def test_due_queue_is_served_after_newcomer_joins() -> None:
    """A queue that is due is served immediately, although a newcomer has reset its timer."""
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


def test_applicant_of_two_backends_gets_first_free() -> None:
    """An applicant of two backends gets the first free one and leaves the other's queue."""
    host = Host(backends={"a": ONE, "b": ONE})
    (_, _), (second, lease) = held(host, "a"), held(host, "b")
    bob = host.peer()
    bob.waits("key", backends=("a", "b"))
    assert (host.breakers()["a"].queued, host.breakers()["b"].queued) == (1, 1)
    second.completes(lease, "answer")

    assert bob.gets(Lease).backend == "b"
    assert (host.breakers()["a"].queued, host.breakers()["b"].queued) == (0, 0)


def test_request_rate_limit_queues_callers() -> None:
    """Callers beyond the requests per minute wait, without a permit having to return."""
    host = Host(backends={"a": BackendSettings(requests_per_minute=2.0)}, lease_seconds=600.0)
    held(host, "a")
    held(host, "a")
    bob = host.peer()
    bob.waits("key", backends=("a",))
    host.passes(60.0)
    assert bob.receives() == []
    host.passes(1.0)

    assert isinstance(bob.receives()[0], Lease)


def test_token_rate_limit_queues_callers() -> None:
    """Callers beyond the tokens per minute wait; a call above the limit is admitted alone."""
    host = Host(backends={"a": BackendSettings(tokens_per_minute=100.0)}, wait_seconds=300.0)
    alice, bob = host.peer(), host.peer()
    lease = alice.calls("a").lease
    bob.waits("key", backends=("a",))
    alice.completes(lease, "answer", usage=Usage(prompt_tokens=500))
    assert bob.receives() == []
    host.passes(61.0)

    assert isinstance(bob.receives()[0], Lease)


def test_full_queue_rejects_and_notes_once() -> None:
    """A full queue rejects callers and emits one note each time that it fills."""
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


def test_queue_of_zero_rejects_immediately() -> None:
    """A backend with ``max_queue`` 0 rejects callers immediately."""
    host = Host(backends={"a": BackendSettings(max_concurrent=1, max_queue=0)})
    held(host, "a")

    assert host.peer().refused("a").reason == "saturated"


def test_elected_waiter_finds_room_in_moved_queue() -> None:
    """1. A holder is lost; 2. its permit goes to the queue; 3. its flight's waiter takes the free place."""
    host = Host(backends={"a": BackendSettings(max_concurrent=1, max_queue=1)})
    alice, bob, carol = host.peer(), host.peer(), host.peer()
    alice.leads("key", backends=("a",))
    bob.waits("key", backends=("a",))
    carol.waits("other", backends=("a",))
    alice.dies()

    assert isinstance(carol.receives()[0], Lease)
    assert bob.receives() == []
    assert host.breakers()["a"].queued == 1


def test_zero_wait_is_rejected_by_full_backend() -> None:
    """``wait_seconds`` 0 is rejected by a full backend, and times out on a flight in progress."""
    host = limited()
    alice = host.peer()
    alice.leads("key", backends=("a",))
    bob = host.peer()

    assert bob.refused("a", wait_seconds=0.0).reason == "saturated"
    bob.asks(Begin("key", id=2, backends=("a",), wait_seconds=0.0))
    assert bob.receives() == [Timeout(2, 0.0)]
    assert host.stats().queued == 0


def test_zero_wait_gets_free_permit() -> None:
    """``wait_seconds`` 0 gets a free permit immediately."""
    assert limited().peer().calls("a", wait_seconds=0.0).backend == "a"


def test_callers_without_key_queue() -> None:
    """Callers without a key queue, each for itself."""
    host = limited()
    holder, lease = held(host, "a")
    bob = host.peer()
    for number in (1, 2):
        bob.asks(Begin(None, id=number, backends=("a",)))

    assert bob.receives() == [Pending(1), Pending(2)]
    holder.completes(lease, "answer")
    assert bob.gets(Lease).id == 1


def test_max_waiters_bounds_applicants_and_is_noted_once() -> None:
    """``max_waiters`` bounds applicants too, with one note each time that the table fills."""
    host = limited(max_waiters=2)
    holder, lease = held(host, "a")
    bob, carol = host.peer(), host.peer()
    for number in (1, 2):
        bob.asks(Begin(None, id=number, backends=("a",)))

    bob.receives()
    full = notes.TableFull("waiters", 2)
    assert [carol.refused("a").reason for _ in range(3)] == ["busy"] * 3
    assert host.notes.count(full) == 1
    holder.completes(lease, "answer")
    bob.receives()
    bob.asks(Begin(None, id=3, backends=("a",)))
    assert bob.receives() == [Pending(3)]
    assert carol.refused("a").reason == "busy"
    assert host.notes.count(full) == 2


def test_max_leases_bounds_all_backends_and_is_noted_once() -> None:
    """``max_leases`` bounds all backends together, with one note each time that the table fills."""
    host = Host(max_leases=1)
    holder, lease = held(host, "x")
    bob = host.peer()
    assert [bob.refused("y").reason for _ in range(3)] == ["busy"] * 3
    assert host.notes.count(notes.TableFull("leases", 1)) == 1
    holder.completes(lease, "answer")
    bob.calls("y")
    host.peer().refused("z")

    assert host.notes.count(notes.TableFull("leases", 1)) == 2


def test_queued_caller_is_rejected_if_lease_table_is_full() -> None:
    """A queued caller is rejected if the table of leases is full, rather than left in the queue."""
    host = Host(backends={"a": BackendSettings(requests_per_minute=1.0)}, max_leases=2, lease_seconds=600.0)
    held(host, "a")
    bob = host.peer()
    bob.waits("key", backends=("a",), wait_seconds=300.0)
    held(host, "x")
    host.passes(61.0)

    assert bob.receives() == [Rejected(1, "busy")]
    assert host.samples()["sidecard_limited_total limit=max_leases"] == 1


def test_queued_caller_uses_backend_whose_breaker_closes() -> None:
    """A caller queued for a full backend gets another one whose breaker closes meanwhile."""
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


def test_queued_caller_uses_backend_whose_breaker_operator_closes() -> None:
    """The same, if an operator closes the breaker."""
    host = Host(backends={"a": ONE, "b": TOUCHY})
    opened(host, "b")
    held(host, "a")
    bob = host.peer()
    bob.waits("key", 7, backends=("a", "b"))
    host.sets("b", "close")
    (lease,) = bob.receives()
    assert isinstance(lease, Lease)
    assert lease.backend == "b"
