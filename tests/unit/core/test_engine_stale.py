"""Stale answers, early refreshes, and remembered failures."""

from typing import Any

import msgspec
import pytest

from sidecard.core.events import Absent, ClaimedRemotely, Found, InvalidationsMissed, KeyChanged, Unavailable
from sidecard.core.flights.failures import MAX_REMEMBERED
from sidecard.core.records import Record
from sidecard.core.settings import BackendSettings, BreakerSettings, BudgetSettings, TaskSettings
from sidecard_client.protocol import wire
from sidecard_client.protocol.wire import Begin, Delete, Failed, Get, Hit, Lease, Miss, Pending, Purge, Put, Rejected
from tests.host import Actor, Host, packed, unpacked

STALE = {"ttl_seconds": 10.0, "stale_seconds": 30.0, "sharing_window_seconds": 0.0}
BUSY = {"default": BackendSettings(locality="local", max_concurrent=1, max_queue=8)}


def host_with_an_old_answer(age_seconds: float = 15.0, **settings: Any) -> tuple[Host, Actor, Actor]:
    """Return a host whose answer to ``key``, "old", is so old, and two peers."""
    host = Host(**STALE | settings)
    alice, bob = host.peer(), host.peer()
    lease = alice.leads("key")
    host.passes(2.0)
    alice.completes(lease, "old", usage=wire.Usage(model="m", cost_dollars=0.5))
    host.passes(age_seconds)
    return host, alice, bob


def older_answer_of(reply: Lease | Rejected) -> Any:
    """Return the older answer that a reply carries."""
    return msgspec.msgpack.decode(reply.stale_value)


def test_one_caller_refreshes_and_others_get_stale_answer() -> None:
    """The first caller refreshes with the stale answer at hand; others get the stale answer, then the new one."""
    host, alice, bob = host_with_an_old_answer()
    alice.asks(Begin("key", id=5))
    bob.asks(Begin("key", id=6))

    lease = alice.gets(Lease)
    assert (older_answer_of(lease), lease.stale_age_seconds, lease.stale_backend) == ("old", 15.0, "default")
    hit = bob.gets(Hit)
    assert (unpacked(hit), hit.stale, hit.age_seconds, hit.saved_dollars) == ("old", True, 15.0, 0.5)
    alice.completes(lease.lease, "new")
    bob.asks(Begin("key", id=7))
    hit = bob.gets(Hit)
    assert (unpacked(hit), hit.stale) == ("new", False)
    stats = host.stats()
    assert (stats.hits, stats.stale_hits, stats.stale_given, stats.misses) == (2, 1, 1, 2)
    samples = host.samples()
    assert samples["sidecard_cache_hits_total freshness=stale task=general"] == 1
    assert samples["sidecard_cache_hits_total freshness=fresh task=general"] == 1


def test_answer_is_stale_until_its_stale_time_ends() -> None:
    """A stale answer is served until its stale time ends; then the next caller leads without it."""
    host, alice, bob = host_with_an_old_answer(39.999)
    alice.asks(Begin("key", id=5))
    assert older_answer_of(alice.gets(Lease)) == "old"
    host.passes(0.002)
    bob.asks(Begin("key", id=6))

    assert bob.receives() == [Pending(6)]
    assert host.stats().cache_entries == 0


def test_nothing_is_served_beyond_ttl_by_default() -> None:
    """By default nothing is served beyond the ttl."""
    host = Host(ttl_seconds=10.0, sharing_window_seconds=0.0)
    alice = host.peer()
    alice.completes(alice.leads("key"), "old")
    host.passes(10.0)
    alice.asks(Begin("key", id=5))

    lease = alice.gets(Lease)
    assert lease.stale_value is msgspec.UNSET


def test_stale_time_of_call_overrides_task_overrides_default() -> None:
    """A call's stale time overrides the task's, and the task's overrides the default."""
    host = Host(**STALE, tasks={"rag": TaskSettings(stale_seconds=100.0), "strict": TaskSettings(stale_seconds=0.0)})
    alice = host.peer()
    for key, task, said in (("a", "general", None), ("b", "rag", None), ("c", "strict", None), ("d", "strict", 500.0)):
        alice.completes(alice.leads(key, task=task, stale_seconds=said), key)

    lives = []
    for age in (0.0, 35.0, 100.0, 400.0):
        host.passes(age)
        lives.append(host.stats().cache_entries)

    assert lives == [4, 3, 1, 0]


def test_begin_may_limit_staleness() -> None:
    """A begin with ``stale_seconds`` 0 waits for the new answer."""
    host, alice, bob = host_with_an_old_answer()
    carol = host.peer()
    lease = alice.leads("key", 5)
    bob.asks(Begin("key", id=6, stale_seconds=0.0))
    carol.asks(Begin("key", id=7, stale_seconds=5.1))

    assert bob.receives() == [Pending(6)]
    assert carol.gets(Hit).stale
    alice.completes(lease, "new")
    assert unpacked(bob.receives()[0]) == "new"


def test_refresh_and_get_ignore_stale_answer() -> None:
    """A refresh and a get ignore a stale answer."""
    _, alice, bob = host_with_an_old_answer()
    bob.asks(Get("key", id=4))
    assert bob.receives() == [Miss(4)]
    alice.asks(Begin("key", id=5, mode="refresh"))
    assert alice.gets(Lease).stale_value is msgspec.UNSET


def test_only_if_cached_gets_stale_answer() -> None:
    """``only_if_cached`` gets a stale answer, marked as stale."""
    _, alice, _ = host_with_an_old_answer()
    alice.asks(Begin("key", id=5, mode="only_if_cached"))

    assert alice.gets(Hit).stale


def test_open_breaker_rejects_with_stale_answer() -> None:
    """An open breaker rejects a begin with the stale answer."""
    host, alice, _ = host_with_an_old_answer()
    host.sets("default", "open")
    alice.asks(Begin("key", id=5))

    rejected = alice.gets(Rejected)
    assert (rejected.reason, older_answer_of(rejected), rejected.stale_age_seconds) == ("breaker_open", "old", 15.0)
    stats = host.stats()
    assert (stats.rejected, stats.stale_given) == (1, 1)


def test_spent_budget_rejects_with_stale_answer() -> None:
    """A spent budget rejects a begin with the stale answer."""
    budget = BudgetSettings(dollars=0.1, hard=True)
    remote = {"default": BackendSettings()}
    _, alice, _ = host_with_an_old_answer(budgets={"day": budget}, backends=remote)
    alice.asks(Begin("key", id=5))

    rejected = alice.gets(Rejected)
    assert (rejected.reason, older_answer_of(rejected)) == ("budget", "old")


def test_full_backend_serves_stale_answer() -> None:
    """A full backend serves the stale answer instead of queueing the caller."""
    host, alice, bob = host_with_an_old_answer(backends=BUSY)
    alice.calls("default", request_id=4)
    bob.asks(Begin("key", id=5))

    assert bob.gets(Hit).stale
    stats = host.stats()
    assert (stats.queued, stats.flights, stats.waiters) == (0, 0, 0)


def test_drain_serves_stale_answer() -> None:
    """A draining daemon serves the stale answer and grants no lease."""
    host, alice, _ = host_with_an_old_answer()
    host.drains()
    alice.asks(Begin("key", id=5))

    assert alice.gets(Hit).stale


def test_failed_refresh_keeps_stale_answer() -> None:
    """After a failed refresh, the next caller leads with the stale answer."""
    _, alice, bob = host_with_an_old_answer()
    alice.fails(alice.leads("key", 5), "transient")
    bob.asks(Begin("key", id=6))

    assert older_answer_of(bob.gets(Lease)) == "old"


def test_delete_and_purge_remove_stale_answer() -> None:
    """Delete and purge remove a stale answer."""
    for removal in (Delete("key", id=4), Purge(id=4)):
        host, _, _ = host_with_an_old_answer()
        operator = host.peer(operator=True)
        operator.asks(removal)
        operator.receives()
        operator.asks(Begin("key", id=5))
        assert operator.gets(Lease).stale_value is msgspec.UNSET


def test_stale_stream_is_replayed_as_stale() -> None:
    """A stale stream is replayed and marked as stale from its first chunk."""
    host = Host(**STALE)
    alice, bob = host.peer(), host.peer()
    lease = alice.leads("key", stream=True)
    alice.appends(lease, "a", "b")
    alice.asks(wire.Complete(lease, id=99))
    alice.receives()
    host.passes(15.0)
    alice.asks(Begin("key", id=5, stream=True))
    assert older_answer_of(alice.gets(Lease)) == ["a", "b"]
    bob.asks(Begin("key", id=6, stream=True))
    chunks = bob.receives()

    assert isinstance(chunks[0], wire.Chunk)
    assert chunks[0].source == "stale"
    assert isinstance(chunks[-1], wire.End)
    assert (chunks[-1].source, chunks[-1].stale) == ("stale", True)


def test_answer_with_zero_ttl_is_stale_immediately() -> None:
    """An answer with ttl 0 is stale immediately and is not written to the store."""
    host = Host(ttl_seconds=0.0, stale_seconds=30.0, sharing_window_seconds=0.0, store="own")
    alice = host.peer()
    alice.asks(Begin("key", id=1))
    host.answers(host.asked().ticket, Absent())
    alice.completes(alice.gets(Lease).lease, "old")

    assert [type(effect).__name__ for effect in host.wants()] == ["StoreRemove"]
    alice.asks(Begin("key", id=2))
    host.answers(host.asked().ticket, Absent())
    assert older_answer_of(alice.gets(Lease)) == "old"


def test_store_is_read_before_stale_refresh() -> None:
    """The store is read before a stale answer is refreshed; then one caller leads and no other waits."""
    host = Host(**STALE, store="shared")
    alice, bob, carol = host.peer(), host.peer(), host.peer()
    alice.asks(Put("key", packed("old"), id=1))
    host.passes(15.0)
    host.wants()
    alice.receives()
    alice.asks(Begin("key", id=2))
    ask = host.asked()
    bob.asks(Begin("key", id=3))
    assert bob.gets(Hit).stale  # another caller refreshes it already
    host.answers(ask.ticket, Absent("claim"))

    assert older_answer_of(alice.gets(Lease)) == "old"
    carol.asks(Begin("key", id=4))
    assert carol.gets(Hit).stale


def test_stale_answer_is_served_while_other_host_computes() -> None:
    """While another host computes, callers get the stale answer."""
    host = Host(**STALE, store="shared")
    alice, bob = host.peer(), host.peer()
    alice.asks(Put("key", packed("old"), id=1))
    host.passes(15.0)
    host.wants()
    alice.receives()
    alice.asks(Begin("key", id=2))
    host.answers(host.asked().ticket, ClaimedRemotely(5.0))
    assert alice.gets(Hit).stale

    bob.asks(Begin("key", id=3))
    host.answers(host.asked().ticket, Found(Record(b"\xa3new", 1.0, 300.0, 0.0, "default")))
    assert unpacked(bob.gets(Hit)) == "new"


def test_doubted_stale_answer_waits_for_store() -> None:
    """A doubted stale answer is served only if the store does not answer."""
    for answer, old in ((Absent("claim"), False), (Unavailable(), True)):
        host = Host(**STALE, store="shared")
        alice, bob = host.peer(), host.peer()
        alice.asks(Put("key", packed("old"), id=1))
        host.passes(15.0)
        host.wants()
        alice.receives()
        host.happens(InvalidationsMissed())
        alice.asks(Begin("key", id=2))
        bob.asks(Begin("key", id=3))
        host.answers(host.asked().ticket, answer)

        lease = alice.gets(Lease)
        assert (lease.stale_value is not msgspec.UNSET) == old
        assert isinstance(bob.receives()[-1], Hit if old else Pending)


def test_key_change_ends_stale_answer() -> None:
    """Another host's change of a key ends its stale answer."""
    host = Host(**STALE, store="shared")
    alice = host.peer()
    alice.asks(Put("key", packed("old"), id=1))
    host.passes(15.0)
    host.happens(KeyChanged("1000:default", "key", "stored"))

    assert host.stats().cache_entries == 0


# Early refresh -----------------------------------------------------------------------------------------------------------


def host_with_a_ripe_answer(jitter: float, left_seconds: float = 1.0, **fields: Any) -> tuple[Host, Actor, Actor]:
    """Return a host with an answer that took two seconds and has this much of its time left."""
    task = TaskSettings(early_refresh=1.0)
    host = Host(jitter=jitter, ttl_seconds=100.0, sharing_window_seconds=0.0, tasks={"rag": task}, **fields)
    alice, bob = host.peer(), host.peer()
    lease = alice.leads("key", task="rag")
    host.passes(2.0)
    alice.completes(lease, "old")
    host.passes(100.0 - left_seconds)
    return host, alice, bob


@pytest.mark.parametrize(("jitter", "early"), [(0.0, False), (0.39, False), (0.40, True), (0.99, True)])
def test_early_refresh_follows_the_papers_formula(jitter: float, early: bool) -> None:
    """An early refresh is drawn by the paper's formula."""
    host, alice, bob = host_with_a_ripe_answer(jitter)
    alice.asks(Begin("key", id=5, task="rag"))
    if not early:
        assert not alice.gets(Hit).stale
        assert host.stats().early_refreshes == 0
        return

    lease = alice.gets(Lease)
    assert older_answer_of(lease) == "old"
    bob.asks(Begin("key", id=6, task="rag"))
    hit = bob.gets(Hit)
    assert (unpacked(hit), hit.stale) == ("old", False)
    alice.completes(lease.lease, "new")
    bob.asks(Begin("key", id=7, task="rag"))
    assert unpacked(bob.gets(Hit)) == "new"
    stats = host.stats()
    assert (stats.early_refreshes, stats.stale_given, stats.stale_hits, stats.misses) == (1, 0, 0, 1)


def test_early_refresh_delays_and_rejects_no_one() -> None:
    """An early refresh that is not possible now serves the fresh entry."""
    host, alice, bob = host_with_a_ripe_answer(0.99)
    host.sets("default", "open")
    alice.asks(Begin("key", id=5, task="rag"))
    assert not alice.gets(Hit).stale
    host.sets("default", "auto")
    host.drains()
    bob.asks(Begin("key", id=6, task="rag"))
    assert not bob.gets(Hit).stale


def test_early_refresh_replaces_stored_entry() -> None:
    """An early refresh replaces the store's entry, which is still fresh."""
    host = Host(
        jitter=0.99,
        ttl_seconds=100.0,
        sharing_window_seconds=0.0,
        store="shared",
        tasks={"rag": TaskSettings(early_refresh=1.0)},
    )
    alice = host.peer()
    alice.asks(Begin("key", id=1, task="rag"))
    host.answers(host.asked().ticket, Absent("claim"))
    lease = alice.gets(Lease).lease
    host.passes(2.0)
    alice.completes(lease, "old")
    host.passes(99.5)
    host.wants()
    alice.completes(alice.leads("key", task="rag"), "new")

    (write,) = host.wants()
    assert write.replace  # type: ignore[union-attr]  # it is a StoreWrite, or this fails


# Failures ----------------------------------------------------------------------------------------------------------------


def test_fatal_failure_is_remembered_on_request_only() -> None:
    """A fatal failure is remembered only if the holder or the task requests it."""
    host = Host(tasks={"strict": TaskSettings(failure_ttl_seconds=20.0)})
    alice, bob = host.peer(), host.peer()
    for key, task, said, remembered in (
        ("a", "general", None, False),
        ("b", "general", 5.0, True),
        ("c", "strict", None, True),
        ("d", "strict", 0.0, False),
    ):
        alice.fails(alice.leads(key, task=task), "fatal", message="ValueError: bad prompt", ttl_seconds=said)
        alice.receives()
        bob.asks(Begin(key, id=1, task=task))
        (reply,) = bob.receives()
        expected = Failed(1, "fatal", "ValueError: bad prompt")
        assert reply == expected if remembered else isinstance(reply, Lease)

    host.passes(5.0)
    bob.asks(Begin("b", id=1))
    assert isinstance(bob.receives()[0], Lease)
    stats = host.stats()
    assert (stats.failed, stats.failed_again) == (2, 2)


def test_only_fatal_failures_are_remembered() -> None:
    """Failures of other kinds are never remembered."""
    kinds: tuple[wire.FailureKind, ...] = ("transient", "ignored", "cancelled")
    for kind in kinds:
        host = Host()
        alice = host.peer()
        alice.fails(alice.leads("key"), kind, ttl_seconds=60.0)
        alice.receives()
        assert alice.leads("key", 2)


def test_remembered_failure_ends_with_a_new_answer() -> None:
    """A put, delete, purge or answer ends a remembered failure; a refresh ignores it."""
    for ending in ("put", "delete", "purge", "refresh"):
        host = Host()
        alice = host.peer(operator=True)
        alice.fails(alice.leads("key"), "fatal", ttl_seconds=60.0)
        alice.receives()
        if ending == "put":
            alice.asks(Put("key", packed(1), id=2, ttl_seconds=0.0))
        elif ending == "delete":
            alice.asks(Delete("key", id=2))
        elif ending == "purge":
            alice.asks(Purge(namespace="default", id=2))
        else:
            alice.completes(alice.leads("key", 2, mode="refresh"), 1, ttl_seconds=0.0)
            host.passes(60.0)

        alice.receives()
        alice.asks(Begin("key", id=3))
        assert not isinstance(alice.receives()[0], Failed)


def test_failure_of_voided_flight_is_not_remembered() -> None:
    """A failure is not remembered if the key was deleted during the call."""
    host = Host()
    alice = host.peer()
    lease = alice.leads("key")
    alice.asks(Delete("key", id=2))
    alice.fails(lease, "fatal", ttl_seconds=60.0)
    alice.receives()

    assert alice.leads("key", 3)


def test_remembered_failures_are_bounded() -> None:
    """The oldest remembered failure leaves first."""
    host = Host()
    alice = host.peer()
    for number in range(MAX_REMEMBERED + 1):
        alice.fails(alice.leads(f"key {number}"), "fatal", ttl_seconds=60.0)
        alice.receives()

    assert alice.leads("key 0", 2)
    alice.asks(Begin("key 1", id=3))
    alice.gets(Failed)


def test_remembered_failure_does_not_affect_breaker() -> None:
    """A remembered failure takes no permit and has no result."""
    host = Host(backends={"default": BackendSettings(locality="local", breaker=BreakerSettings(min_calls=1))})
    alice = host.peer()
    alice.fails(alice.leads("key"), "fatal", ttl_seconds=60.0)
    alice.receives()
    calls = host.breakers()["default"].calls
    for number in range(20):
        alice.asks(Begin("key", id=number))

    assert host.breakers()["default"].calls == calls
