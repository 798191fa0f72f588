"""The law of flights, one sentence a test."""

import pytest

from sidecard.core import notes
from sidecard.core.settings import TaskSettings
from sidecard_client.protocol import wire
from sidecard_client.protocol.wire import (
    Begin,
    Cancel,
    Complete,
    Failed,
    Lease,
    Pending,
    Rejected,
    Renew,
    StaleLease,
    Timeout,
)
from tests.host import Host, packed, unpacked


def test_begin_of_an_unknown_key_leads() -> None:
    """The first caller gets the lease, on its first backend."""
    host = Host()
    alice = host.peer()
    alice.asks(Begin("key", id=1, backends=("local", "cloud")))

    assert alice.receives() == [Lease(1, "boot-1", "local", 15.0, 1)]


def test_begin_of_a_key_in_flight_waits_and_gets_the_value() -> None:
    """A duplicate caller awaits the one answer; time waited is not time saved."""
    host = Host()
    alice, bob = host.peer(), host.peer()
    lease = alice.leads("key")
    host.passes(1.0)
    bob.waits("key", 7)
    host.passes(2.0)
    alice.completes(lease, {"text": "Paris"}, usage=wire.Usage(model="m", cost_dollars=0.5))

    (shared,) = bob.receives()
    assert isinstance(shared, wire.Shared)
    assert unpacked(shared) == {"text": "Paris"}
    assert (shared.id, shared.saved_seconds, shared.saved_dollars) == (7, 1.0, 0.5)
    assert shared.meta == wire.Usage(model="m", cost_dollars=0.5)


def test_begin_after_the_answer_hits() -> None:
    """A stored answer comes with its age and with what its own call took."""
    host = Host()
    alice = host.peer()
    lease = alice.leads("key")
    host.passes(3.0)
    alice.completes(lease, "Paris")
    host.passes(10.0)
    alice.asks(Begin("key", id=2))

    (hit,) = alice.receives()
    assert isinstance(hit, wire.Hit)
    assert (unpacked(hit), hit.age_seconds, hit.saved_seconds, hit.stale) == ("Paris", 10.0, 3.0, False)


def test_a_caller_of_another_uid_leads_its_own_flight() -> None:
    """Namespaces are private to a uid."""
    host = Host()
    lease = (alice := host.peer(uid=1000)).leads("key")
    alice.completes(lease, "secret")

    assert host.peer(uid=1001).leads("key") == "boot-2"


def test_a_lost_holder_passes_the_lease_at_once_to_the_longest_waiting() -> None:
    """The connection's end is known without any timeout."""
    host = Host()
    alice, bob, carol = host.peer(), host.peer(), host.peer()
    lease = alice.leads("key")
    bob.waits("key", 5)
    carol.waits("key", 6)
    alice.dies()

    assert bob.receives() == [Lease(5, "boot-2", "default", 15.0, 2)]
    assert carol.receives() == []
    bob.completes("boot-2", "answer")
    assert unpacked(carol.receives()[0]) == "answer"
    assert host.stats().lost == 1
    assert notes.Reelected("key", "boot-2", bob.peer.id, 1) in host.notes
    assert lease == "boot-1"


def test_a_hanging_holder_loses_its_lease_and_its_late_answer_is_refused() -> None:
    """Whoever does not renew is succeeded; the fence refuses what comes later, and the bill is still booked."""
    host = Host()
    alice, bob = host.peer(), host.peer()
    lease = alice.leads("key")
    bob.waits("key", 5)
    host.passes(15.0)
    assert bob.receives() == [Lease(5, "boot-2", "default", 15.0, 2)]
    alice.asks(Complete(lease, packed("late"), id=3, usage=wire.Usage(cost_dollars=1.0)))
    assert alice.receives() == [StaleLease(3)]
    bob.completes("boot-2", "fresh")
    alice.asks(Begin("key", id=4))

    assert unpacked(alice.receives()[0]) == "fresh"
    total = host.report().total
    assert (total.upstream_calls, total.billed_dollars) == (2, 1.0)
    assert host.stats().expired == 1


def test_a_hanging_process_is_not_succeeded_by_its_own_callers_while_others_wait() -> None:
    """They hang as well; those of its own process lead only where nobody else waits."""
    host = Host(max_elections=2)
    hung, own, other = host.peer(pid=7), host.peer(pid=7), host.peer(pid=8)
    hung.leads("key")
    hung.waits("key", 2)
    own.waits("key")
    other.waits("key", 5)
    host.passes(15.0)
    assert other.receives() == [Lease(5, "boot-2", "default", 15.0, 2)]
    host.passes(15.0)

    assert hung.receives() == [Lease(2, "boot-3", "default", 15.0, 3)]
    assert own.receives() == []


def test_a_lost_holders_process_may_lead_again() -> None:
    """One connection of it has ended; the process lives."""
    host = Host()
    lost, own, other = host.peer(pid=7), host.peer(pid=7), host.peer(pid=8)
    lost.leads("key")
    own.waits("key", 4)
    other.waits("key", 5)
    lost.dies()

    assert own.receives() == [Lease(4, "boot-2", "default", 15.0, 2)]


def test_a_late_answer_is_billed_once() -> None:
    """Sending it again adds nothing."""
    host = Host()
    alice = host.peer()
    lease = alice.leads("key")
    host.passes(15.0)
    for number in range(3):
        alice.asks(Complete(lease, packed("late"), id=number, usage=wire.Usage(cost_dollars=1.0)))

    assert host.report().total.billed_dollars == 1.0


def test_renew_keeps_a_lease_as_long_as_the_holder_lives() -> None:
    """A slow call that renews is never doubled."""
    host = Host()
    alice, bob = host.peer(), host.peer()
    lease = alice.leads("key")
    bob.waits("key", wait_seconds=100.0)
    for number in range(10):
        host.passes(5.0)
        alice.asks(Renew(lease, id=number))
        assert alice.receives() == [wire.Ok(number, waiters=1)]

    alice.completes(lease, "answer")
    assert unpacked(bob.receives()[0]) == "answer"


@pytest.mark.parametrize(("renew", "told"), [(None, 15.0), (2.0, 6.0), (10.0, 15.0)])
def test_holders_are_told_how_often_to_renew(renew: float | None, told: float) -> None:
    """Every third of what they hear, which is never more than the lease."""
    host = Host(renew_seconds=renew)
    alice = host.peer()
    alice.asks(Begin("key", id=1))

    (lease,) = alice.receives()
    assert isinstance(lease, Lease)
    assert lease.expires_in_seconds == told


def test_a_lease_of_another_peer_is_refused() -> None:
    """Knowing a lease's name is not holding it."""
    host = Host()
    alice, mallory = host.peer(), host.peer()
    lease = alice.leads("key")
    mallory.asks(Complete(lease, packed("forged"), id=1))
    mallory.asks(wire.Fail(lease, id=2))
    mallory.asks(Renew(lease, id=3))

    assert mallory.receives() == [StaleLease(1), StaleLease(2), StaleLease(3)]
    alice.completes(lease, "true")


@pytest.mark.parametrize("kind", ["transient", "cancelled"])
def test_failures_elect_until_the_bound_and_then_fail_everybody(kind: wire.FailureKind) -> None:
    """Three holders fail; the fourth caller shares the last failure and does not try as well."""
    host = Host(max_elections=2)
    peers = [host.peer() for _ in range(4)]
    lease = peers[0].leads("key")
    for peer in peers[1:]:
        peer.waits("key")
    for number, peer in enumerate(peers[:3], start=1):
        peer.asks(wire.Fail(lease, kind=kind, message="down", id=50))
        assert peer.receives() == [wire.Ok(50)]
        if number < 3:
            (granted,) = peers[number].receives()
            assert isinstance(granted, Lease)
            assert granted.attempt == number + 1
            lease = granted.lease

    assert peers[3].receives() == [Failed(1, kind, "down")]
    assert host.stats().reelections == 2
    assert peers[0].leads("key") == "boot-4"


def test_fatal_fails_everybody_now_waiting_and_is_not_remembered() -> None:
    """A bad prompt fails for all who sent it; the next one may try again."""
    host = Host()
    alice, bob, carol = host.peer(), host.peer(), host.peer()
    lease = alice.leads("key")
    bob.waits("key", 2)
    carol.waits("key", 3)
    alice.asks(wire.Fail(lease, kind="fatal", message="ValueError: bad prompt", id=9))

    assert bob.receives() == [Failed(2, "fatal", "ValueError: bad prompt")]
    assert carol.receives() == [Failed(3, "fatal", "ValueError: bad prompt")]
    assert bob.leads("key") == "boot-2"


def test_ignored_releases_everybody_at_once() -> None:
    """An answer that cannot be shared is nobody's turn to wait for: not one behind another."""
    host = Host()
    alice, bob, carol = host.peer(), host.peer(), host.peer()
    lease = alice.leads("key")
    bob.waits("key", 2)
    carol.waits("key", 3)
    alice.asks(wire.Fail(lease, kind="ignored", id=9))

    assert [bob.receives(), carol.receives()] == [[Failed(2, "ignored", "")], [Failed(3, "ignored", "")]]


def test_an_answer_that_may_not_be_stored_reaches_all_waiters_and_nobody_later() -> None:
    """Law 7: released in parallel; then the next caller leads."""
    host = Host()
    alice, bob, carol = host.peer(), host.peer(), host.peer()
    lease = alice.leads("key")
    bob.waits("key")
    carol.waits("key")
    alice.completes(lease, "once", store=False)

    assert [unpacked(bob.receives()[0]), unpacked(carol.receives()[0])] == ["once", "once"]
    assert alice.leads("key") == "boot-2"


def test_fail_with_next_moves_to_the_next_backend_and_waiters_stay() -> None:
    """The same caller goes on; the flight is the same."""
    host = Host()
    alice, bob = host.peer(), host.peer()
    lease = alice.leads("key", backends=("local", "cloud"))
    bob.waits("key")
    alice.asks(wire.Fail(lease, next=True, id=2))
    assert alice.receives() == [Lease(2, "boot-2", "cloud", 15.0, 2)]
    assert bob.receives() == []
    alice.asks(Complete(lease, packed("old"), id=3))
    assert alice.receives() == [StaleLease(3)]
    alice.completes("boot-2", "from the cloud")

    (shared,) = bob.receives()
    assert isinstance(shared, wire.Shared)
    assert shared.backend == "cloud"


def test_fail_with_next_and_no_backend_left_is_a_plain_failure() -> None:
    """The caller is told ``ok`` and a waiter is elected."""
    host = Host()
    alice, bob = host.peer(), host.peer()
    lease = alice.leads("key", backends=("local",))
    bob.waits("key", 5)
    alice.asks(wire.Fail(lease, next=True, id=2))

    assert alice.receives() == [wire.Ok(2)]
    assert bob.receives() == [Lease(5, "boot-2", "default", 15.0, 2)]


def test_a_waiter_that_leaves_touches_nobody() -> None:
    """Neither holder nor other waiters hear of it."""
    host = Host()
    alice, bob, carol = host.peer(), host.peer(), host.peer()
    lease = alice.leads("key")
    bob.waits("key")
    carol.waits("key")
    bob.dies()
    assert carol.receives() == []
    alice.completes(lease, "answer")

    assert unpacked(carol.receives()[0]) == "answer"
    assert host.stats().left == 1


def test_a_waiter_is_told_at_its_deadline() -> None:
    """Each waits as long as it said itself."""
    host = Host()
    alice, bob, carol = host.peer(), host.peer(), host.peer()
    lease = alice.leads("key")
    bob.waits("key", wait_seconds=2.0)
    carol.waits("key", wait_seconds=4.0)
    host.passes(2.0)
    assert bob.receives() == [Timeout(1, 2.0)]
    assert carol.receives() == []
    alice.completes(lease, "answer")

    assert unpacked(carol.receives()[0]) == "answer"


def test_a_waiter_past_its_deadline_is_not_elected_before_its_tick() -> None:
    """Willingness is checked at the grant, though the tick that ends the wait comes later."""
    host = Host()
    alice, bob, carol = host.peer(), host.peer(), host.peer()
    alice.leads("key")
    bob.waits("key", wait_seconds=2.0)
    carol.waits("key", 6, wait_seconds=9.0)
    host.now += 3.0
    alice.dies()

    assert bob.receives() == []
    assert carol.receives() == [Lease(6, "boot-2", "default", 15.0, 2)]
    host.passes(0.0)
    assert bob.receives() == [Timeout(1, 3.0)]


def test_begin_that_will_not_wait_is_told_at_once() -> None:
    """``wait_seconds`` 0 asks only for what is there or for the lease."""
    host = Host()
    alice, bob = host.peer(), host.peer()
    alice.leads("key")
    bob.asks(Begin("key", id=1, wait_seconds=0.0))

    assert bob.receives() == [Timeout(1, 0.0)]


def test_cancel_takes_a_waiting_begin_back_for_good() -> None:
    """Nothing more is heard of it, and its id is free again."""
    host = Host()
    alice, bob = host.peer(), host.peer()
    lease = alice.leads("key")
    bob.waits("key", 5)
    bob.asks(Cancel(5, id=6))
    assert bob.receives() == [wire.Ok(6)]
    bob.waits("key", 5)
    alice.completes(lease, "answer")

    assert len(bob.receives()) == 1


def test_cancel_that_crossed_with_a_lease_gives_it_back() -> None:
    """1. the lease is sent, 2. the client cancels, 3. the next waiter leads."""
    host = Host()
    alice, bob = host.peer(), host.peer()
    lease = alice.leads("key", 4)
    bob.waits("key", 5)
    alice.asks(Cancel(4, id=8))

    assert alice.receives() == [wire.Ok(8)]
    assert bob.receives() == [Lease(5, "boot-2", "default", 15.0, 2)]
    alice.asks(Complete(lease, packed("late"), id=9))
    assert alice.receives() == [StaleLease(9)]


def test_cancel_of_nothing_is_fine() -> None:
    """The answer may have crossed with it."""
    host = Host()
    alice = host.peer()
    alice.asks(Cancel(77, id=1))

    assert alice.receives() == [wire.Ok(1)]


def test_an_id_that_waits_already_is_refused() -> None:
    """Two waits of one id could not be told apart."""
    host = Host()
    alice, bob = host.peer(), host.peer()
    alice.leads("key")
    bob.waits("key", 5)
    bob.asks(Begin("key", id=5))

    (error,) = bob.receives()
    assert isinstance(error, wire.Error)
    assert (error.code, error.id) == ("bad_request", 5)
    assert host.stats().waiters == 1


def test_a_key_of_null_leads_without_a_flight() -> None:
    """Permission only: nobody joins it and nothing is stored."""
    host = Host()
    alice, bob = host.peer(), host.peer()
    alice.asks(Begin(id=1))
    bob.asks(Begin(id=1))
    (lease,) = alice.receives()
    assert isinstance(lease, Lease)
    assert isinstance(bob.receives()[0], Lease)
    alice.asks(Complete(lease.lease, packed("answer"), id=2))

    assert alice.receives() == [wire.Stored(2, stored=False)]


def test_refresh_passes_stored_answers_by_but_joins_a_flight() -> None:
    """A fresh answer is wanted, not a second call of the same moment."""
    host = Host()
    alice, bob = host.peer(), host.peer()
    alice.completes(alice.leads("key"), "old")
    lease = alice.leads("key", mode="refresh")
    bob.waits("key", mode="refresh")
    alice.completes(lease, "new")

    assert unpacked(bob.receives()[0]) == "new"
    bob.asks(Begin("key", id=3))
    assert unpacked(bob.receives()[0]) == "new"


def test_only_if_cached_neither_waits_nor_leads() -> None:
    """It gets what is there or is told that nothing is."""
    host = Host()
    alice, bob = host.peer(), host.peer()
    bob.asks(Begin("key", id=1, mode="only_if_cached"))
    lease = alice.leads("key")
    bob.asks(Begin("key", id=2, mode="only_if_cached"))
    alice.completes(lease, "answer")
    assert bob.receives() == [Rejected(1, "not_cached"), Rejected(2, "not_cached")]
    bob.asks(Begin("key", id=3, mode="only_if_cached"))

    assert unpacked(bob.receives()[0]) == "answer"


def test_delete_during_a_flight_forbids_to_store_its_answer() -> None:
    """Law 8: the waiters get the value, the cache does not."""
    host = Host()
    alice, bob = host.peer(), host.peer()
    lease = alice.leads("key")
    bob.waits("key")
    bob.asks(wire.Delete("key", id=8))
    assert bob.receives() == [wire.Deleted(8, 0)]
    alice.asks(Complete(lease, packed("answer"), id=9))

    assert alice.receives() == [wire.Stored(9, stored=False)]
    assert unpacked(bob.receives()[0]) == "answer"
    assert alice.leads("key") == "boot-2"


@pytest.mark.parametrize("off", [{"ttl_seconds": 0.0}, {"cache_max_bytes": 0}])
def test_the_sharing_window_works_with_caching_off(off: dict[str, float]) -> None:
    """A finished answer is shared for its window though nothing is cached; then the next caller leads."""
    host = Host(sharing_window_seconds=60.0, **off)
    alice, bob = host.peer(), host.peer()
    alice.completes(alice.leads("key"), "answer")
    host.passes(59.0)
    bob.asks(Begin("key", id=2))
    (shared,) = bob.receives()
    assert isinstance(shared, wire.Shared)
    assert (unpacked(shared), shared.age_seconds) == ("answer", 59.0)
    host.passes(1.0)

    assert bob.leads("key") == "boot-2"
    assert host.report().total.shared == 1


def test_the_callers_ttl_beats_the_tasks_and_the_tasks_beats_the_default() -> None:
    """Per call, per task, for all: the nearest wins."""
    host = Host(ttl_seconds=300.0, sharing_window_seconds=0.0, tasks={"rag": TaskSettings(ttl_seconds=20.0)})
    alice = host.peer()
    alice.completes(alice.leads("default"), 1)
    alice.completes(alice.leads("task", task="rag"), 1)
    alice.completes(alice.leads("begin", task="rag", ttl_seconds=10.0), 1)
    alice.completes(alice.leads("complete", task="rag", ttl_seconds=10.0), 1, ttl_seconds=5.0)
    alive = []
    for _ in range(5):
        host.passes(5.0)
        alive.append(host.stats().cache_entries)

    assert alive[-1] == 1
    assert host.stats().expired_entries == 3


def test_drain_lets_flights_end_and_starts_none() -> None:
    """Who waits gets the answer; who comes is sent away, but for what is stored."""
    host = Host()
    alice, bob = host.peer(), host.peer()
    alice.completes(alice.leads("stored"), "old")
    lease = alice.leads("key")
    bob.waits("key", 5)
    host.drains()
    bob.asks(Begin("other", id=6))
    bob.asks(Begin("stored", id=7))
    refused, hit = bob.receives()
    assert refused == Rejected(6, "draining")
    assert unpacked(hit) == "old"
    assert not host.engine.idle
    alice.completes(lease, "answer")

    assert unpacked(bob.receives()[0]) == "answer"
    assert host.engine.idle


def test_drain_ends_the_wait_of_a_flight_whose_holder_fails() -> None:
    """Nobody is elected by a daemon that is about to stop."""
    host = Host()
    alice, bob = host.peer(), host.peer()
    alice.leads("key")
    bob.waits("key", 5)
    host.drains()
    alice.dies()

    assert bob.receives() == [Rejected(5, "draining")]
    assert host.engine.idle


def test_a_waiter_past_its_deadline_is_told_so_even_by_a_daemon_that_stops() -> None:
    """Its own deadline came first, though one tick brings both."""
    host = Host()
    alice, bob = host.peer(), host.peer()
    alice.leads("key")
    bob.waits("key", 5, wait_seconds=2.0)
    host.drains()
    host.now += 3.0
    alice.dies()

    assert bob.receives() == [Timeout(5, 3.0)]


def test_drain_that_takes_too_long_sends_every_waiter_away() -> None:
    """Every waiter gets exactly one end, drain or not."""
    host = Host()
    alice, bob = host.peer(), host.peer()
    lease = alice.leads("key")
    bob.waits("key", 5)
    host.drains()
    host.gives_up_draining()
    assert bob.receives() == [Rejected(5, "draining")]
    alice.completes(lease, "answer")

    assert bob.receives() == []


@pytest.mark.parametrize(("table", "settings"), [("flights", {"max_flights": 1}), ("leases", {"max_leases": 1})])
def test_at_the_bound_of_a_table_callers_are_told_to_call_themselves(table: str, settings: dict[str, int]) -> None:
    """Busy is an answer, and is said aloud once."""
    host = Host(**settings)
    alice, bob = host.peer(), host.peer()
    lease = alice.leads("key")
    for number in range(3):
        bob.asks(Begin(f"other{number}", id=number))

    assert bob.receives() == [Rejected(number, "busy") for number in range(3)]
    assert host.notes == [notes.Saturated(table, 1)]  # type: ignore[arg-type]  # one of the literals
    alice.completes(lease, "answer")
    assert bob.leads("other")


def test_at_the_bound_of_waiters_callers_are_told_to_call_themselves() -> None:
    """The bound is on all waiters of the daemon."""
    host = Host(max_waiters=1)
    alice, bob, carol = host.peer(), host.peer(), host.peer()
    alice.leads("key")
    bob.waits("key")
    carol.asks(Begin("key", id=3))

    assert carol.receives() == [Rejected(3, "busy")]


def test_a_peer_that_dies_with_a_lease_and_a_wait_on_it_is_not_elected() -> None:
    """A multiplexed client may wait for its own flight; its death ends both."""
    host = Host()
    alice = host.peer()
    alice.leads("key", 1)
    alice.asks(Begin("key", id=2))
    assert alice.receives() == [Pending(2)]
    alice.dies()

    assert host.engine.idle
    assert host.stats().flights == 0


def test_every_begin_is_counted_in_exactly_one_end() -> None:
    """The identity of the stats holds after a little of everything."""
    host = Host()
    alice, bob, carol = host.peer(), host.peer(), host.peer()
    lease = alice.leads("key")
    bob.waits("key", 2)
    carol.waits("key", 3)
    carol.asks(Cancel(3, id=9))
    alice.completes(lease, "answer")
    carol.asks(Begin("key", id=4))
    carol.asks(Begin("none", id=5, mode="only_if_cached"))
    assert (len(bob.receives()), len(carol.receives())) == (1, 3)
    bob.leads("other", 6)
    carol.waits("other", 7, wait_seconds=1.0)
    host.passes(1.0)
    stats = host.stats()

    ends = stats.hits + stats.shared + stats.leases_first + stats.failed + stats.rejected + stats.timeouts + stats.left
    assert stats.begins == ends + stats.waiters == 7
