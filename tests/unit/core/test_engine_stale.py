"""Answers beyond their time and shortly before it, and failures that are remembered: one sentence a test."""

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


def brought(reply: Lease | Rejected) -> Any:
    """Return the older answer that a reply brings along."""
    return msgspec.msgpack.decode(reply.stale_value)


def test_one_caller_refreshes_while_the_others_get_the_old_answer() -> None:
    """The first has the lease and the old answer, the second the old answer at once, and then all have the new one."""
    host, alice, bob = host_with_an_old_answer()
    alice.asks(Begin("key", id=5))
    bob.asks(Begin("key", id=6))

    lease = alice.gets(Lease)
    assert (brought(lease), lease.stale_age_seconds, lease.stale_backend) == ("old", 15.0, "default")
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


def test_an_answer_is_stale_until_the_end_of_its_stale_time_and_not_longer() -> None:
    """Then it is gone, and the next caller leads without one."""
    host, alice, bob = host_with_an_old_answer(39.999)
    alice.asks(Begin("key", id=5))
    assert brought(alice.gets(Lease)) == "old"
    host.passes(0.002)
    bob.asks(Begin("key", id=6))

    assert bob.receives() == [Pending(6)]
    assert host.stats().cache_entries == 0


def test_without_a_stale_time_there_is_nothing_beyond_the_ttl() -> None:
    """It is off by default."""
    host = Host(ttl_seconds=10.0, sharing_window_seconds=0.0)
    alice = host.peer()
    alice.completes(alice.leads("key"), "old")
    host.passes(10.0)
    alice.asks(Begin("key", id=5))

    lease = alice.gets(Lease)
    assert lease.stale_value is msgspec.UNSET


def test_the_callers_stale_time_beats_the_tasks_and_the_tasks_beats_the_default() -> None:
    """Per call, per task, for all: the nearest wins."""
    host = Host(**STALE, tasks={"rag": TaskSettings(stale_seconds=100.0), "strict": TaskSettings(stale_seconds=0.0)})
    alice = host.peer()
    for key, task, said in (("a", "general", None), ("b", "rag", None), ("c", "strict", None), ("d", "strict", 500.0)):
        alice.completes(alice.leads(key, task=task, stale_seconds=said), key)

    lives = []
    for age in (0.0, 35.0, 100.0, 400.0):
        host.passes(age)
        lives.append(host.stats().cache_entries)

    assert lives == [4, 3, 1, 0]


def test_a_caller_may_want_a_younger_one_than_was_kept() -> None:
    """Who says 0 never gets an old answer, and waits for the new one."""
    host, alice, bob = host_with_an_old_answer()
    carol = host.peer()
    lease = alice.leads("key", 5)
    bob.asks(Begin("key", id=6, stale_seconds=0.0))
    carol.asks(Begin("key", id=7, stale_seconds=5.1))

    assert bob.receives() == [Pending(6)]
    assert carol.gets(Hit).stale
    alice.completes(lease, "new")
    assert unpacked(bob.receives()[0]) == "new"


def test_refresh_and_get_have_nothing_old() -> None:
    """Who asks for a fresh answer, or reads entries, is not served another."""
    _, alice, bob = host_with_an_old_answer()
    bob.asks(Get("key", id=4))
    assert bob.receives() == [Miss(4)]
    alice.asks(Begin("key", id=5, mode="refresh"))
    assert alice.gets(Lease).stale_value is msgspec.UNSET


def test_only_if_cached_takes_an_old_answer() -> None:
    """It is stored, and marked."""
    _, alice, _ = host_with_an_old_answer()
    alice.asks(Begin("key", id=5, mode="only_if_cached"))

    assert alice.gets(Hit).stale


def test_an_open_breaker_gives_the_old_answer_with_the_refusal() -> None:
    """Stale on failure, and no call."""
    host, alice, _ = host_with_an_old_answer()
    host.sets("default", "open")
    alice.asks(Begin("key", id=5))

    rejected = alice.gets(Rejected)
    assert (rejected.reason, brought(rejected), rejected.stale_age_seconds) == ("breaker_open", "old", 15.0)
    stats = host.stats()
    assert (stats.rejected, stats.stale_given) == (1, 1)


def test_a_spent_budget_gives_the_old_answer_with_the_refusal() -> None:
    """So do all reasons that no call is allowed for."""
    budget = BudgetSettings(dollars=0.1, hard=True)
    remote = {"default": BackendSettings()}
    _, alice, _ = host_with_an_old_answer(budgets={"day": budget}, backends=remote)
    alice.asks(Begin("key", id=5))

    rejected = alice.gets(Rejected)
    assert (rejected.reason, brought(rejected)) == ("budget", "old")


def test_who_would_wait_for_a_permit_has_the_old_answer_instead() -> None:
    """A saturated backend makes nobody wait for what is there."""
    host, alice, bob = host_with_an_old_answer(backends=BUSY)
    alice.calls("default", request_id=4)
    bob.asks(Begin("key", id=5))

    assert bob.gets(Hit).stale
    stats = host.stats()
    assert (stats.queued, stats.flights, stats.waiters) == (0, 0, 0)


def test_a_draining_daemon_still_serves_the_old_answer() -> None:
    """It grants no lease for a new one."""
    host, alice, _ = host_with_an_old_answer()
    host.drains()
    alice.asks(Begin("key", id=5))

    assert alice.gets(Hit).stale


def test_a_failed_refresh_leaves_the_old_answer_to_the_next() -> None:
    """The next caller leads, with it."""
    _, alice, bob = host_with_an_old_answer()
    alice.fails(alice.leads("key", 5), "transient")
    bob.asks(Begin("key", id=6))

    assert brought(bob.gets(Lease)) == "old"


def test_delete_and_purge_take_the_old_answer_too() -> None:
    """What was removed is served to nobody."""
    for removal in (Delete("key", id=4), Purge(id=4)):
        host, _, _ = host_with_an_old_answer()
        operator = host.peer(operator=True)
        operator.asks(removal)
        operator.receives()
        operator.asks(Begin("key", id=5))
        assert operator.gets(Lease).stale_value is msgspec.UNSET


def test_an_old_stream_is_replayed_and_says_so() -> None:
    """From its first piece on."""
    host = Host(**STALE)
    alice, bob = host.peer(), host.peer()
    lease = alice.leads("key", stream=True)
    alice.appends(lease, "a", "b")
    alice.asks(wire.Complete(lease, id=99))
    alice.receives()
    host.passes(15.0)
    alice.asks(Begin("key", id=5, stream=True))
    assert brought(alice.gets(Lease)) == ["a", "b"]
    bob.asks(Begin("key", id=6, stream=True))
    chunks = bob.receives()

    assert isinstance(chunks[0], wire.Chunk)
    assert chunks[0].source == "stale"
    assert isinstance(chunks[-1], wire.End)
    assert (chunks[-1].source, chunks[-1].stale) == ("stale", True)


def test_an_answer_without_a_ttl_is_stale_from_the_beginning() -> None:
    """Always fetched, and there when it cannot be; the store, which knows nothing of staleness, has none of it."""
    host = Host(ttl_seconds=0.0, stale_seconds=30.0, sharing_window_seconds=0.0, store="own")
    alice = host.peer()
    alice.asks(Begin("key", id=1))
    host.answers(host.asked().ticket, Absent())
    alice.completes(alice.gets(Lease).lease, "old")

    assert [type(effect).__name__ for effect in host.wants()] == ["StoreRemove"]
    alice.asks(Begin("key", id=2))
    host.answers(host.asked().ticket, Absent())
    assert brought(alice.gets(Lease)) == "old"


def test_where_there_is_a_store_it_is_asked_and_the_others_have_the_old_answer_then() -> None:
    """Another host may have a new one; where not, one leads and nobody else waits."""
    host = Host(**STALE, store="shared")
    alice, bob, carol = host.peer(), host.peer(), host.peer()
    alice.asks(Put("key", packed("old"), id=1))
    host.passes(15.0)
    host.wants()
    alice.receives()
    alice.asks(Begin("key", id=2))
    ask = host.asked()
    bob.asks(Begin("key", id=3))
    assert bob.gets(Hit).stale  # somebody looks already
    host.answers(ask.ticket, Absent("claim"))

    assert brought(alice.gets(Lease)) == "old"
    carol.asks(Begin("key", id=4))
    assert carol.gets(Hit).stale


def test_what_another_host_computes_nobody_waits_for_who_may_have_the_old_answer() -> None:
    """Until the news come that it is done, or a newer answer is found."""
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


def test_an_old_answer_that_is_doubted_is_not_served_before_the_store_was_asked() -> None:
    """Another host may have removed it; where the store is silent, it is better than none."""
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


def test_news_of_a_key_ends_its_old_answer() -> None:
    """Another host has a newer one."""
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
def test_an_answer_is_fetched_early_by_a_draw(jitter: float, early: bool) -> None:
    """By the formula of the paper: the call's time, times minus the logarithm of the draw, against the time left."""
    host, alice, bob = host_with_a_ripe_answer(jitter)
    alice.asks(Begin("key", id=5, task="rag"))
    if not early:
        assert not alice.gets(Hit).stale
        assert host.stats().early_refreshes == 0
        return

    lease = alice.gets(Lease)
    assert brought(lease) == "old"
    bob.asks(Begin("key", id=6, task="rag"))
    hit = bob.gets(Hit)
    assert (unpacked(hit), hit.stale) == ("old", False)
    alice.completes(lease.lease, "new")
    bob.asks(Begin("key", id=7, task="rag"))
    assert unpacked(bob.gets(Hit)) == "new"
    stats = host.stats()
    assert (stats.early_refreshes, stats.stale_given, stats.stale_hits, stats.misses) == (1, 0, 0, 1)


def test_nobody_is_refused_or_waits_because_of_an_early_refresh() -> None:
    """What is in its time is served, where the refresh cannot be made now."""
    host, alice, bob = host_with_a_ripe_answer(0.99)
    host.sets("default", "open")
    alice.asks(Begin("key", id=5, task="rag"))
    assert not alice.gets(Hit).stale
    host.sets("default", "auto")
    host.drains()
    bob.asks(Begin("key", id=6, task="rag"))
    assert not bob.gets(Hit).stale


def test_an_early_refresh_replaces_what_the_store_has() -> None:
    """There the older answer is still in its time as well."""
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


def test_a_fatal_failure_is_remembered_only_on_request() -> None:
    """The law says never; the holder, or the task, may say otherwise."""
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


def test_what_may_pass_is_never_remembered() -> None:
    """Nor what was not the backend's fault."""
    kinds: tuple[wire.FailureKind, ...] = ("transient", "ignored", "cancelled")
    for kind in kinds:
        host = Host()
        alice = host.peer()
        alice.fails(alice.leads("key"), kind, ttl_seconds=60.0)
        alice.receives()
        assert alice.leads("key", 2)


def test_a_remembered_failure_ends_with_what_its_key_means() -> None:
    """By a put, a delete, a purge, an answer; and who refreshes does not ask for it."""
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


def test_a_flight_that_was_voided_is_not_remembered_as_failed() -> None:
    """What was deleted meanwhile may be another question now."""
    host = Host()
    alice = host.peer()
    lease = alice.leads("key")
    alice.asks(Delete("key", id=2))
    alice.fails(lease, "fatal", ttl_seconds=60.0)
    alice.receives()

    assert alice.leads("key", 3)


def test_remembered_failures_are_bounded() -> None:
    """The oldest is forgotten first."""
    host = Host()
    alice = host.peer()
    for number in range(MAX_REMEMBERED + 1):
        alice.fails(alice.leads(f"key {number}"), "fatal", ttl_seconds=60.0)
        alice.receives()

    assert alice.leads("key 0", 2)
    alice.asks(Begin("key 1", id=3))
    alice.gets(Failed)


def test_the_settings_breaker_is_not_touched_by_what_was_not_called() -> None:
    """A remembered failure is no call: no permit, no outcome."""
    host = Host(backends={"default": BackendSettings(locality="local", breaker=BreakerSettings(min_calls=1))})
    alice = host.peer()
    alice.fails(alice.leads("key"), "fatal", ttl_seconds=60.0)
    alice.receives()
    calls = host.breakers()["default"].calls
    for number in range(20):
        alice.asks(Begin("key", id=number))

    assert host.breakers()["default"].calls == calls
