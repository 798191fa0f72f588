"""Settings operations: what a reload changes immediately, and what it does not lose."""

from typing import Any

import pytest

from sidecard.core import notes
from sidecard.core.effects import ReadSettings
from sidecard.core.events import SettingsRead, WorkContinued
from sidecard.core.settings import (
    BackendSettings,
    BreakerSettings,
    BudgetSettings,
    EngineSettings,
    RetrySettings,
    SharedWith,
    TaskSettings,
)
from sidecard_client.protocol import wire
from tests.host import Actor, Host, packed, unpacked

USAGE = wire.Usage(model="m", cost_dollars=1.0)


def limited(most: int, **settings: Any) -> dict[str, Any]:
    """Return the settings of one backend with a limit."""
    return {"backends": {"b": BackendSettings(max_concurrent=most, **settings)}}


def fail(peer: Actor, times: int) -> None:
    """Make calls of the backend fail."""
    for number in range(times):
        peer.fails(peer.calls("b", request_id=number).lease, request_id=number)
        peer.receives()


def test_reload_is_for_operators_and_replies_when_the_settings_are_read() -> None:
    """The reply has what has changed."""
    host = Host()
    alice, root = host.peer(), host.peer(0, 0, operator=True)
    alice.asks(wire.Reload(id=1))
    assert alice.gets(wire.Error).code == "denied"

    root.asks(wire.Reload(id=2))
    assert (root.receives(), host.reloads) == ([], [ReadSettings(root.peer.id, 2)])
    host.happens(
        SettingsRead(
            EngineSettings(),
            {"cache.ttl_seconds": 1.0},
            {"cache.ttl_seconds": "file"},
            {"cache.ttl_seconds": 1.0},
            ["store.url"],
            asked_by=(root.peer.id, 2),
        )
    )
    assert root.receives() == [wire.Reloaded(2, {"cache.ttl_seconds": 1.0}, ["store.url"], [])]
    root.asks(wire.GetConfig(id=3))
    assert root.receives() == [wire.Settings(3, {"cache.ttl_seconds": 1.0}, {"cache.ttl_seconds": "file"})]


def test_invalid_settings_change_nothing() -> None:
    """The reply has the problems."""
    host = Host(**limited(1))
    root = host.peer(0, 0, operator=True)
    host.happens(SettingsRead(problems=["cache.ttl_seconds: not a number"], asked_by=(root.peer.id, 2)))
    assert root.receives() == [wire.Reloaded(2, {}, [], ["cache.ttl_seconds: not a number"])]
    assert host.breakers()["b"].limit == 1


def test_a_new_lifetime_applies_to_new_entries() -> None:
    """Entries in memory keep their terms."""
    host = Host(ttl_seconds=100.0)
    alice = host.peer()
    alice.completes(alice.leads("old"), "1")
    host.reads(ttl_seconds=1000.0, tasks={"brief": TaskSettings(ttl_seconds=10.0)}, sharing_window_seconds=0.0)
    alice.completes(alice.leads("new"), "2")
    alice.completes(alice.leads("brief", task="brief"), "3")
    host.passes(20.0)
    alice.leads("brief", task="brief")
    host.passes(90.0)
    alice.leads("old")
    alice.asks(wire.Begin("new", id=1))
    assert unpacked(alice.receives()[0]) == "2"


def test_a_smaller_cache_evicts_in_batches_and_a_larger_one_keeps_entries() -> None:
    """Removing hundreds of thousands of entries blocks no caller."""
    host = Host(cache_max_bytes=10_000_000)
    alice = host.peer()
    for number in range(5000):
        alice.asks(wire.Put(f"k{number}", packed("x" * 500)))

    assert host.stats().cache_entries == 5000
    host.reads(cache_max_bytes=1_000_000)
    host.happens(WorkContinued())
    assert 4000 < host.stats().cache_entries < 5000
    assert host.works() > 3
    stats = host.stats()
    assert stats.cache_bytes <= 1_000_000 < stats.cache_bytes + 1000
    assert (stats.evicted, stats.cache_max_bytes) == (5000 - stats.cache_entries, 1_000_000)
    host.reads(cache_max_bytes=10_000_000)
    host.passes(1.0)
    assert host.stats().cache_entries == stats.cache_entries


def test_a_shrinking_cache_stores_new_entries() -> None:
    """In place of others."""
    host = Host(cache_max_bytes=10_000_000)
    alice = host.peer()
    for number in range(5000):
        alice.asks(wire.Put(f"k{number}", packed("x" * 500)))

    host.reads(cache_max_bytes=1_000_000)
    alice.receives()
    alice.completes(alice.leads("key"), "answer")
    alice.asks(wire.Begin("key", id=1))
    assert unpacked(alice.receives()[0]) == "answer"


def test_a_namespace_limit_can_be_set_and_removed() -> None:
    """The excess is evicted in batches; other namespaces lose no entry."""
    host = Host(cache_max_bytes=100_000_000)
    alice = host.peer()
    for number in range(3000):
        alice.asks(wire.Put(f"k{number}", packed("x" * 500), namespace="large"))
        alice.asks(wire.Put(f"k{number}", packed("x" * 500)))

    host.reads(cache_max_bytes=100_000_000, namespace_max_bytes={"large": 100_000})
    for _ in range(5):
        host.passes(1.0)

    stats = host.stats()
    assert 3000 < stats.cache_entries < 3200
    assert stats.evicted == stats.evicted_by_limits == 6000 - stats.cache_entries
    assert host.samples()["sidecard_evicted_total reason=namespace"] == stats.evicted
    assert host.samples()["sidecard_evicted_total reason=room"] == 0
    host.reads(cache_max_bytes=100_000_000)
    for number in range(1000):
        alice.asks(wire.Put(f"k{number}", packed("x" * 500), namespace="large"))

    assert host.stats().evicted == stats.evicted


def test_a_cache_that_is_switched_off_drops_its_entries() -> None:
    """It can be switched on again."""
    host = Host()
    alice = host.peer()
    alice.completes(alice.leads("key"), "1")
    host.reads(cache_max_bytes=0, sharing_window_seconds=0.0)
    alice.completes(alice.leads("key"), "2")
    host.reads()
    alice.completes(alice.leads("key"), "3")
    alice.asks(wire.Begin("key", id=1))
    assert unpacked(alice.receives()[0]) == "3"


def test_a_higher_limit_grants_leases_to_waiting_callers() -> None:
    """Immediately, first come first served; a lower limit ends no call."""
    host = Host(**limited(1))
    alice, bob, carol = host.peer(), host.peer(), host.peer()
    held = alice.calls("b")
    for waiting in (bob, carol):
        waiting.asks(wire.Begin(None, id=1, backends=("b",)))
        assert waiting.receives() == [wire.Pending(1)]

    host.reads(**limited(2))
    second = bob.gets(wire.Lease)
    assert carol.receives() == []
    host.reads(**limited(1))
    alice.completes(held.lease, "1")
    assert carol.receives() == []
    bob.completes(second.lease, "2")
    carol.gets(wire.Lease)


def test_sovereign_mode_rejects_callers_that_wait_for_a_remote_backend() -> None:
    """It grants no lease on one; a call in progress may end."""
    host = Host(**limited(1))
    alice, bob, carol = host.peer(), host.peer(), host.peer()
    held = alice.calls("b")
    bob.asks(wire.Begin(None, id=1, backends=("b",)))
    carol.asks(wire.Begin(None, id=1, backends=("b", "local")))
    assert bob.receives() == [wire.Pending(1)]
    assert carol.gets(wire.Lease).backend == "local"
    host.reads(**limited(1), sovereign=True)
    assert bob.gets(wire.Rejected).reason == "sovereign"
    alice.completes(held.lease, "1")
    assert alice.refused("b").reason == "sovereign"


def test_a_breaker_applies_new_settings_to_its_counts() -> None:
    """If five failures are now enough, the next result opens it."""
    host = Host(**limited(0))
    alice = host.peer()
    fail(alice, 5)
    assert host.breakers()["b"].state == "closed"
    host.reads(**limited(0, breaker=BreakerSettings(min_calls=6)))
    fail(alice, 1)
    assert host.breakers()["b"].state == "open"
    host.reads(**limited(0, breaker=BreakerSettings(min_calls=100)))
    assert host.breakers()["b"].state == "open"


def test_a_half_open_breaker_with_fewer_probes_concludes() -> None:
    """One of three probes has succeeded, and one is enough now: the next result concludes."""
    breaker = BreakerSettings(min_calls=1, open_seconds=1.0, probes=3)
    host = Host(**limited(0, breaker=breaker))
    alice = host.peer()
    fail(alice, 1)
    host.passes(2.0)
    alice.completes(alice.calls("b").lease, "1")
    host.reads(**limited(0, breaker=BreakerSettings(min_calls=1, open_seconds=1.0, probes=1)))
    alice.completes(alice.calls("b").lease, "2")
    assert host.breakers()["b"].state == "closed"


@pytest.mark.parametrize("held", [False, True])
def test_a_breaker_is_disabled_and_enabled(held: bool) -> None:
    """Unless an operator holds it open."""
    host = Host(**limited(0))
    if held:
        host.sets("b", "open")

    host.reads(**limited(0, breaker=BreakerSettings(enabled=False)))
    assert host.breakers()["b"].state == ("forced_open" if held else "disabled")
    host.reads(**limited(0))
    assert host.breakers()["b"].state == ("forced_open" if held else "closed")


def test_backends_can_be_added_and_removed() -> None:
    """A removed one gets the settings of an unnamed backend; its calls go on."""
    host = Host(**limited(1))
    alice, bob = host.peer(), host.peer()
    held = alice.calls("b")
    bob.asks(wire.Begin(None, id=1, backends=("b",)))
    bob.receives()
    host.reads(backends={"new": BackendSettings(locality="local", max_concurrent=7)})
    bob.gets(wire.Lease)
    states = host.breakers()
    assert (states["new"].locality, states["new"].limit) == ("local", 7)
    assert (states["b"].limit, states["b"].permits) == (None, 2)
    alice.completes(held.lease, "1")


def test_a_minute_limit_counts_earlier_calls() -> None:
    """Otherwise a reload would admit twice as much."""
    host = Host(**limited(0, requests_per_minute=5.0))
    alice = host.peer()
    for number in range(3):
        alice.calls("b", request_id=number)

    host.reads(**limited(0, max_queue=0, requests_per_minute=4.0))
    alice.calls("b")
    assert alice.refused("b").reason == "saturated"


def test_a_budget_keeps_its_spending() -> None:
    """If its period is the same; a raised one is noted again when it is used up."""
    host = Host(budgets={"day": BudgetSettings(2.0, hard=True), "hour": BudgetSettings(9.0, 3600.0)})
    alice = host.peer()
    for number in range(2):
        alice.completes(alice.leads(f"k{number}", backends=("b",)), "1", usage=USAGE)

    assert alice.refused("b").reason == "budget"
    host.reads(budgets={"day": BudgetSettings(3.0, hard=True), "hour": BudgetSettings(9.0, 7200.0)})
    alice.completes(alice.leads("k", backends=("b",)), "1", usage=USAGE)
    assert alice.refused("b").reason == "budget"
    assert {name: state.spent_dollars for name, state in host.report().budgets.items()} == {"day": 3.0, "hour": 1.0}
    spent = [note.dollars for note in host.notes if isinstance(note, notes.BudgetSpent)]
    assert spent == [2.0, 3.0]
    host.reads()
    alice.calls("b")
    assert host.report().budgets == {}


def test_a_call_returns_its_reservation_to_a_removed_budget() -> None:
    """Without a fault."""
    host = Host(budgets={"day": BudgetSettings(2.0, hard=True)})
    alice = host.peer()
    held = alice.calls("b")
    host.reads()
    alice.completes(held.lease, "1", usage=USAGE)
    host.reads(budgets={"day": BudgetSettings(2.0, hard=True)})
    assert host.report().budgets["day"].spent_dollars == 0.0


def test_a_namespace_can_be_shared_and_private_again() -> None:
    """Also for peers that have used it before."""
    host = Host()
    alice, bob = host.peer(1000), host.peer(1001)
    team = {"team": SharedWith(everyone=True)}
    alice.completes(alice.leads("key", namespace="team"), "alone")
    host.reads(shared_namespaces=team)
    alice.completes(alice.leads("key", namespace="team"), "together")
    bob.asks(wire.Begin("key", id=1, namespace="team"))
    assert unpacked(bob.receives()[0]) == "together"
    host.reads()
    bob.leads("key", namespace="team")


def test_a_new_lease_time_applies_at_the_next_grant_or_renewal() -> None:
    """The next lease reports it."""
    host = Host(lease_seconds=10.0)
    alice = host.peer()
    short = alice.calls("b")
    host.reads(lease_seconds=30.0, renew_seconds=2.0)
    long = alice.calls("b")
    assert (short.expires_in_seconds, long.expires_in_seconds) == (10.0, 6.0)
    host.passes(9.0)
    alice.asks(wire.Renew(short.lease, id=5))
    assert alice.receives() == [wire.Ok(5)]
    host.passes(20.0)
    alice.completes(short.lease, "1")
    host.passes(2.0)
    alice.asks(wire.Complete(long.lease, packed("2"), id=6))
    assert alice.receives() == [wire.StaleLease(6)]


def test_all_other_settings_apply_immediately() -> None:
    """Waits, elections, routes, retries and bounds on tables."""
    host = Host()
    alice, bob = host.peer(), host.peer()
    host.reads(
        wait_seconds=5.0,
        tasks={"rag": TaskSettings(backends=("local",))},
        retries=RetrySettings(share=0.0, floor_per_second=0.0),
        max_waiters=1,
        max_flights=1,
    )
    alice.asks(wire.Begin("key", id=1, task="rag"))
    lease = alice.gets(wire.Lease)
    assert lease.backend == "local"
    alice.asks(wire.Begin("other", id=2))
    assert alice.gets(wire.Rejected).reason == "busy"
    bob.waits("key")
    bob.asks(wire.Begin("key", id=2))
    assert bob.gets(wire.Rejected).reason == "busy"
    host.passes(5.0)
    bob.gets(wire.Timeout)
    alice.fails(lease.lease, next=True, retry=True)
    alice.gets(wire.Ok)
