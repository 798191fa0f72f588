"""The law of flights: begin, complete, fail, renew, cancel, disconnect and drain."""

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
    """The first caller of a key gets the lease, on its first backend."""
    host = Host()
    alice = host.peer()
    alice.asks(Begin("key", id=1, backends=("local", "cloud")))

    assert alice.receives() == [Lease(1, "boot-1", "local", 15.0, 1)]


def test_begin_of_a_key_in_flight_waits_and_gets_the_value() -> None:
    """A second caller waits for the one answer; its waiting time is not saved time."""
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


def test_begin_after_complete_hits() -> None:
    """A begin after a complete is a hit with the answer's age and call duration."""
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


def test_caller_of_another_uid_leads_its_own_flight() -> None:
    """A caller of another uid leads its own flight."""
    host = Host()
    lease = (alice := host.peer(uid=1000)).leads("key")
    alice.completes(lease, "secret")

    assert host.peer(uid=1001).leads("key") == "boot-2"


def test_lost_holder_passes_lease_to_longest_waiting() -> None:
    """A lost holder's lease goes to the longest-waiting caller without any timeout."""
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


def test_note_of_ended_lease_names_holders_process() -> None:
    """The note of an ended lease has the holder's connection and pid, by which an operator finds the worker."""
    host = Host()
    alice = host.peer(pid=42)
    lease = alice.leads("key")
    alice.dies()

    (note,) = [note for note in host.notes if isinstance(note, notes.LeaseEnded)]
    assert (note.lease, note.peer, note.pid) == (lease, alice.peer.id, 42)


def test_expired_lease_is_replaced_and_late_complete_rejected() -> None:
    """An expired lease goes to another holder; the late complete is stale, and billed."""
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


def test_unresponsive_process_is_replaced_by_other_processes_first() -> None:
    """Callers of an unresponsive process are elected only if no other process waits."""
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


def test_lost_holders_process_may_lead_again() -> None:
    """After a lost connection, another connection of that process may be elected."""
    host = Host()
    lost, own, other = host.peer(pid=7), host.peer(pid=7), host.peer(pid=8)
    lost.leads("key")
    own.waits("key", 4)
    other.waits("key", 5)
    lost.dies()

    assert own.receives() == [Lease(4, "boot-2", "default", 15.0, 2)]


def test_late_answer_is_billed_once() -> None:
    """A late answer is billed once, however often it is sent."""
    host = Host()
    alice = host.peer()
    lease = alice.leads("key")
    host.passes(15.0)
    for number in range(3):
        alice.asks(Complete(lease, packed("late"), id=number, usage=wire.Usage(cost_dollars=1.0)))

    assert host.report().total.billed_dollars == 1.0


def test_renew_keeps_lease() -> None:
    """A renewed lease does not expire, however slow the call."""
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


@pytest.mark.parametrize(("renew", "expected"), [(None, 15.0), (2.0, 6.0), (10.0, 15.0)])
def test_lease_reply_implies_renew_interval(renew: float | None, expected: float) -> None:
    """The lifetime in the lease reply is three renewal intervals, and never more than the lease's."""
    host = Host(renew_seconds=renew)
    alice = host.peer()
    alice.asks(Begin("key", id=1))

    (lease,) = alice.receives()
    assert isinstance(lease, Lease)
    assert lease.expires_in_seconds == expected


def test_lease_of_another_peer_is_stale() -> None:
    """A lease's name is stale for every peer but its holder."""
    host = Host()
    alice, mallory = host.peer(), host.peer()
    lease = alice.leads("key")
    mallory.asks(Complete(lease, packed("forged"), id=1))
    mallory.asks(wire.Fail(lease, id=2))
    mallory.asks(Renew(lease, id=3))

    assert mallory.receives() == [StaleLease(1), StaleLease(2), StaleLease(3)]
    alice.completes(lease, "true")


@pytest.mark.parametrize("kind", ["transient", "cancelled"])
def test_failures_elect_up_to_limit_then_fail_all(kind: wire.FailureKind) -> None:
    """Three holders fail; the fourth caller shares the last failure without a call."""
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


def test_fatal_failure_fails_all_waiters_and_is_not_remembered() -> None:
    """A fatal failure fails all waiters; the next caller may try again."""
    host = Host()
    alice, bob, carol = host.peer(), host.peer(), host.peer()
    lease = alice.leads("key")
    bob.waits("key", 2)
    carol.waits("key", 3)
    alice.asks(wire.Fail(lease, kind="fatal", message="ValueError: bad prompt", id=9))

    assert bob.receives() == [Failed(2, "fatal", "ValueError: bad prompt")]
    assert carol.receives() == [Failed(3, "fatal", "ValueError: bad prompt")]
    assert bob.leads("key") == "boot-2"


def test_ignored_failure_releases_all_waiters_together() -> None:
    """An answer that cannot be shared releases all waiters at the same time."""
    host = Host()
    alice, bob, carol = host.peer(), host.peer(), host.peer()
    lease = alice.leads("key")
    bob.waits("key", 2)
    carol.waits("key", 3)
    alice.asks(wire.Fail(lease, kind="ignored", id=9))

    assert [bob.receives(), carol.receives()] == [[Failed(2, "ignored", "")], [Failed(3, "ignored", "")]]


def test_unstored_answer_reaches_waiters_only() -> None:
    """An unstored answer reaches all waiters in parallel; the next caller leads."""
    host = Host()
    alice, bob, carol = host.peer(), host.peer(), host.peer()
    lease = alice.leads("key")
    bob.waits("key")
    carol.waits("key")
    alice.completes(lease, "once", store=False)

    assert [unpacked(bob.receives()[0]), unpacked(carol.receives()[0])] == ["once", "once"]
    assert alice.leads("key") == "boot-2"


def test_fail_with_next_keeps_flight_and_waiters() -> None:
    """A fail with ``next`` keeps the flight and its waiters."""
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


def test_fail_with_next_without_backend_elects_a_waiter() -> None:
    """A fail with ``next`` without another backend is answered ``ok``, and a waiter is elected."""
    host = Host()
    alice, bob = host.peer(), host.peer()
    lease = alice.leads("key", backends=("local",))
    bob.waits("key", 5)
    alice.asks(wire.Fail(lease, next=True, id=2))

    assert alice.receives() == [wire.Ok(2)]
    assert bob.receives() == [Lease(5, "boot-2", "default", 15.0, 2)]


def test_leaving_waiter_affects_no_one_else() -> None:
    """A leaving waiter affects neither holder nor other waiters."""
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


def test_waiter_times_out_at_its_own_deadline() -> None:
    """Each waiter times out at its own deadline."""
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


def test_expired_waiter_is_not_elected_before_its_tick() -> None:
    """A waiter past its deadline is not elected, even before the tick that ends its wait."""
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


def test_begin_with_zero_wait_times_out_immediately() -> None:
    """A begin with ``wait_seconds`` 0 gets an entry, a lease, or a timeout immediately."""
    host = Host()
    alice, bob = host.peer(), host.peer()
    alice.leads("key")
    bob.asks(Begin("key", id=1, wait_seconds=0.0))

    assert bob.receives() == [Timeout(1, 0.0)]


def test_cancel_removes_waiting_begin() -> None:
    """A canceled begin gets no reply, and its id is free again."""
    host = Host()
    alice, bob = host.peer(), host.peer()
    lease = alice.leads("key")
    bob.waits("key", 5)
    bob.asks(Cancel(5, id=6))
    assert bob.receives() == [wire.Ok(6)]
    bob.waits("key", 5)
    alice.completes(lease, "answer")

    assert len(bob.receives()) == 1


def test_cancel_that_crosses_with_lease_ends_it() -> None:
    """A cancel ends a lease: 1. the lease is sent; 2. the client cancels; 3. the next waiter leads."""
    host = Host()
    alice, bob = host.peer(), host.peer()
    lease = alice.leads("key", 4)
    bob.waits("key", 5)
    alice.asks(Cancel(4, id=8))

    assert alice.receives() == [wire.Ok(8)]
    assert bob.receives() == [Lease(5, "boot-2", "default", 15.0, 2)]
    alice.asks(Complete(lease, packed("late"), id=9))
    assert alice.receives() == [StaleLease(9)]


def test_cancel_of_unknown_id_is_ok() -> None:
    """A cancel of an unknown id is ok: the answer may have crossed with it."""
    host = Host()
    alice = host.peer()
    alice.asks(Cancel(77, id=1))

    assert alice.receives() == [wire.Ok(1)]


def test_waiting_id_cannot_be_reused() -> None:
    """An id that waits cannot be used again."""
    host = Host()
    alice, bob = host.peer(), host.peer()
    alice.leads("key")
    bob.waits("key", 5)
    bob.asks(Begin("key", id=5))

    (error,) = bob.receives()
    assert isinstance(error, wire.Error)
    assert (error.code, error.id) == ("bad_request", 5)
    assert host.stats().waiters == 1


def test_null_key_leads_without_flight() -> None:
    """A begin without a key gets a lease; it has no flight, and its answer is not stored."""
    host = Host()
    alice, bob = host.peer(), host.peer()
    alice.asks(Begin(id=1))
    bob.asks(Begin(id=1))
    (lease,) = alice.receives()
    assert isinstance(lease, Lease)
    assert isinstance(bob.receives()[0], Lease)
    alice.asks(Complete(lease.lease, packed("answer"), id=2))

    assert alice.receives() == [wire.Stored(2, stored=False)]


def test_refresh_ignores_entry_but_joins_flight() -> None:
    """A refresh ignores the entry but joins a flight in progress."""
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
    """``only_if_cached`` gets an entry or a rejection."""
    host = Host()
    alice, bob = host.peer(), host.peer()
    bob.asks(Begin("key", id=1, mode="only_if_cached"))
    lease = alice.leads("key")
    bob.asks(Begin("key", id=2, mode="only_if_cached"))
    alice.completes(lease, "answer")
    assert bob.receives() == [Rejected(1, "not_cached"), Rejected(2, "not_cached")]
    bob.asks(Begin("key", id=3, mode="only_if_cached"))

    assert unpacked(bob.receives()[0]) == "answer"


def test_delete_during_flight_prevents_storing() -> None:
    """After a delete, the flight's waiters get the answer, and the cache does not store it."""
    host = Host()
    alice, bob = host.peer(), host.peer()
    lease = alice.leads("key")
    bob.waits("key")
    bob.asks(wire.Delete("key", id=8))
    assert bob.receives() == [wire.Deleted(8, 0)]
    alice.asks(Complete(lease, packed("answer"), id=9))

    assert alice.receives() == [wire.Stored(9, stored=False, not_stored="removed")]
    assert unpacked(bob.receives()[0]) == "answer"
    assert alice.leads("key") == "boot-2"


@pytest.mark.parametrize("off", [{"ttl_seconds": 0.0}, {"cache_max_bytes": 0}])
def test_sharing_window_works_without_caching(off: dict[str, float]) -> None:
    """A finished answer is shared for its window without caching; then the next caller leads."""
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


def test_ttl_of_call_overrides_task_overrides_default() -> None:
    """A call's ttl overrides the task's, and the task's overrides the default."""
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


def test_drain_ends_flights_and_starts_none() -> None:
    """During a drain, waiters get their answer and new callers are rejected, except for hits."""
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


def test_drain_rejects_waiters_of_failed_holder() -> None:
    """During a drain, no waiter is elected when a holder fails."""
    host = Host()
    alice, bob = host.peer(), host.peer()
    alice.leads("key")
    bob.waits("key", 5)
    host.drains()
    alice.dies()

    assert bob.receives() == [Rejected(5, "draining")]
    assert host.engine.idle


def test_expired_waiter_times_out_during_drain() -> None:
    """A waiter past its deadline times out during a drain, even if one tick handles both."""
    host = Host()
    alice, bob = host.peer(), host.peer()
    alice.leads("key")
    bob.waits("key", 5, wait_seconds=2.0)
    host.drains()
    host.now += 3.0
    alice.dies()

    assert bob.receives() == [Timeout(5, 3.0)]


def test_expired_drain_rejects_every_waiter() -> None:
    """An expired drain answers every waiter exactly once."""
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
def test_full_table_rejects_callers_as_busy(table: str, settings: dict[str, int]) -> None:
    """A full table rejects callers as busy, with one note."""
    host = Host(**settings)
    alice, bob = host.peer(), host.peer()
    lease = alice.leads("key")
    for number in range(3):
        bob.asks(Begin(f"other{number}", id=number))

    assert bob.receives() == [Rejected(number, "busy") for number in range(3)]
    assert host.notes == [notes.TableFull(table, 1)]  # type: ignore[arg-type]  # one of the literals
    alice.completes(lease, "answer")
    assert bob.leads("other")


def test_full_waiter_table_rejects_callers_as_busy() -> None:
    """The limit on waiters holds for the whole daemon."""
    host = Host(max_waiters=1)
    alice, bob, carol = host.peer(), host.peer(), host.peer()
    alice.leads("key")
    bob.waits("key")
    carol.asks(Begin("key", id=3))

    assert carol.receives() == [Rejected(3, "busy")]


def test_lost_peer_is_not_elected_for_its_own_flight() -> None:
    """A lost peer that holds a lease and waits for it is not elected."""
    host = Host()
    alice = host.peer()
    alice.leads("key", 1)
    alice.asks(Begin("key", id=2))
    assert alice.receives() == [Pending(2)]
    alice.dies()

    assert host.engine.idle
    assert host.stats().flights == 0


def test_every_begin_has_exactly_one_counted_end() -> None:
    """The counters of begins and of their ends agree."""
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


def test_peers_of_unknown_processes_are_different_ones() -> None:
    """Without a pid, an unresponsive holder's other connections are taken for other processes."""
    host = Host()
    hung, first, second = host.peer(), host.peer(), host.peer(pid=8)
    hung.leads("key")
    first.waits("key", 4)
    second.waits("key", 5)
    host.passes(15.0)

    assert first.receives() == [Lease(4, "boot-2", "default", 15.0, 2)]


def test_fatal_failure_is_remembered_for_parts_of_a_second() -> None:
    """A time below a second counts as any other."""
    host = Host()
    alice, bob = host.peer(), host.peer()
    alice.fails(alice.leads("key"), "fatal", ttl_seconds=0.5)
    host.passes(0.4)
    bob.asks(Begin("key", id=1))
    assert isinstance(bob.receives()[0], Failed)
    host.passes(0.2)
    bob.leads("key", 2)


def test_a_hit_within_the_sharing_window_counts_as_shared() -> None:
    """After its time to live, an answer is shared, and the counters say so."""
    host = Host(ttl_seconds=1.0, sharing_window_seconds=60.0)
    alice, bob = host.peer(), host.peer()
    alice.completes(alice.leads("key"), 1)
    host.passes(2.0)
    bob.asks(Begin("key", id=1))
    bob.receives()

    stats = host.stats()
    assert (stats.shared, stats.hits) == (1, 0)
