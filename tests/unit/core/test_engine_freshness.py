"""A caller's own bound on the age of its answers: ``ttl_seconds`` and ``max_age_seconds``."""

import math
import struct
from typing import Any

import msgspec
import pytest

from sidecard.core.events import Absent, ClaimedRemotely, Found, KeyChanged, Unavailable
from sidecard.core.records import Record
from sidecard.core.settings import BackendSettings, BreakerSettings, TaskSettings
from sidecard_client.protocol import wire
from sidecard_client.protocol.wire import Begin, Chunk, Error, Get, Hit, Lease, Miss, Pending, Rejected, Shared
from tests.host import Actor, Host, packed, unpacked

SCOPE = "1000:default"

BOUNDS = [
    {"ttl_seconds": 10.0},
    {"max_age_seconds": 10.0},
    {"ttl_seconds": 100.0, "max_age_seconds": 10.0},
    {"ttl_seconds": 10.0, "max_age_seconds": 100.0},
]
"""Each accepts answers of less than ten seconds."""


def host_with_answer(age_seconds: float, ttl_seconds: float | None = None, **settings: Any) -> tuple[Host, Actor]:
    """Return a host whose answer to ``key`` is "old" and so old, and a peer."""
    host = Host(**settings)
    alice = host.peer()
    alice.completes(alice.leads("key", ttl_seconds=ttl_seconds), "old", ttl_seconds=ttl_seconds)
    host.passes(age_seconds)
    return host, alice


@pytest.mark.parametrize("bound", BOUNDS)
def test_answer_within_the_bound_is_served_and_an_older_one_is_a_miss(bound: dict[str, Any]) -> None:
    """The lesser of both decides. A rejected entry stays for other callers, until the new answer replaces it."""
    host, alice = host_with_answer(9.5)
    bob = host.peer()
    alice.asks(Begin("key", id=1, **bound))
    assert unpacked(alice.gets(Hit)) == "old"

    host.passes(0.5)
    lease = alice.leads("key", 2, **bound)
    bob.asks(Begin("key", id=3))
    assert (hit := bob.gets(Hit), unpacked(hit), hit.age_seconds)[1:] == ("old", 10.0)
    alice.completes(lease, "new")
    bob.asks(Begin("key", id=4))
    assert unpacked(bob.gets(Hit)) == "new"
    assert host.stats().misses == 2


def test_sharing_window_is_for_callers_without_a_bound() -> None:
    """The window keeps an answer beyond its lifetime only for callers that set no bound, whatever the bound is."""
    host, alice = host_with_answer(1.5, ttl_seconds=1.0, sharing_window_seconds=60.0)
    bob = host.peer()
    bob.asks(Begin("key", id=1))
    assert unpacked(bob.gets(Shared)) == "old"
    bounds: list[dict[str, Any]] = [{"ttl_seconds": 1.0}, {"ttl_seconds": 100.0}, {"max_age_seconds": 100.0}]
    for number, bound in enumerate(bounds, 2):
        alice.asks(Begin("key", id=number, mode="only_if_cached", **bound))
        assert alice.gets(Rejected).reason == "not_cached"

    assert alice.leads("key", 9, ttl_seconds=1.0)


def test_zero_ttl_is_not_stored_and_gets_no_older_answer() -> None:
    """An answer with ttl 0 goes to its waiters alone; it joins flights, and leaves a stored answer to other callers."""
    host, alice = host_with_answer(1.0)
    bob, carol = host.peer(), host.peer()
    lease = alice.leads("key", 2, ttl_seconds=0.0)
    bob.waits("key", 3, ttl_seconds=0.0)
    host.passes(1.0)
    alice.completes(lease, "new", ttl_seconds=0.0)
    shared = bob.gets(Shared)
    assert (unpacked(shared), shared.age_seconds) == ("new", 0.0)

    carol.asks(Begin("key", id=4))
    assert unpacked(carol.gets(Hit)) == "old"
    assert alice.leads("key", 5, max_age_seconds=0.0)
    assert host.stats().stored == 1


def test_zero_ttl_of_a_new_key_stores_nothing() -> None:
    """Neither the cache nor the sharing window keeps it."""
    host = Host()
    alice = host.peer()
    alice.completes(alice.leads("key", ttl_seconds=0.0), "new")
    assert host.stats().cache_entries == 0
    assert alice.leads("key", 2)


@pytest.mark.parametrize("mode", ["use", "only_if_cached"])
def test_explicit_stale_says_how_much_older_an_answer_may_be(mode: wire.Mode) -> None:
    """Beyond the bound an answer is stale for its caller alone, and served only within an explicit ``stale_seconds``."""
    host, alice = host_with_answer(15.0, stale_seconds=600.0, lease_seconds=100.0)
    bob = host.peer()
    bound: dict[str, Any] = {"max_age_seconds": 10.0}
    alice.asks(Begin("key", id=1, stale_seconds=20.0, **bound))
    lease = alice.gets(Lease)
    assert (msgspec.msgpack.decode(lease.stale_value), lease.stale_age_seconds) == ("old", 15.0)
    bob.asks(Begin("key", id=2, mode=mode, stale_seconds=20.0, **bound))
    hit = bob.gets(Hit)
    assert (unpacked(hit), hit.stale, hit.age_seconds) == ("old", True, 15.0)

    bob.asks(Begin("key", id=3, mode=mode, **bound))
    assert isinstance(bob.receives()[0], Pending if mode == "use" else Rejected)
    host.passes(15.0)
    bob.asks(Begin("key", id=4, mode=mode, stale_seconds=20.0, **bound))
    assert isinstance(bob.receives()[0], Pending if mode == "use" else Rejected)
    stats = host.stats()
    assert (stats.stale_hits, stats.stale_given, stats.early_refreshes) == (1, 1, 0)


def test_stale_answer_of_the_operator_obeys_the_bound() -> None:
    """What the operator allows to be served as stale goes to a bounded caller only below its bound."""
    host, alice = host_with_answer(15.0, ttl_seconds=10.0, stale_seconds=600.0, sharing_window_seconds=0.0)
    bob = host.peer()
    alice.asks(Begin("key", id=1, max_age_seconds=20.0))
    assert alice.gets(Lease).stale_age_seconds == 15.0
    bob.asks(Begin("key", id=2, max_age_seconds=20.0))
    assert bob.gets(Hit).stale
    bob.waits("key", 3, max_age_seconds=12.0)


def test_rejection_carries_no_answer_beyond_the_bound() -> None:
    """A rejected caller gets the older answer only if it accepts its age."""
    breaker = BreakerSettings(min_calls=1, failure_rate=0.1)
    _, alice = host_with_answer(15.0, backends={"default": BackendSettings(locality="local", breaker=breaker)})
    alice.fails(alice.leads("other"))
    alice.receives()
    alice.asks(Begin("key", id=2, max_age_seconds=10.0, stale_seconds=2.0))
    assert alice.gets(Rejected).stale_value is msgspec.UNSET
    alice.asks(Begin("key", id=3, max_age_seconds=10.0, stale_seconds=20.0))
    assert msgspec.msgpack.decode(alice.gets(Rejected).stale_value) == "old"


def test_waiter_for_a_permit_gets_no_answer_beyond_the_bound() -> None:
    """A caller that would queue for a permit gets the older answer, marked as stale, or queues."""
    _, alice = host_with_answer(15.0, backends={"default": BackendSettings(locality="local", max_concurrent=1)})
    alice.calls()
    alice.asks(Begin("key", id=2, max_age_seconds=10.0, stale_seconds=20.0))
    assert alice.gets(Hit).stale
    alice.waits("key", 3, max_age_seconds=10.0)


def test_early_refresh_is_drawn_by_the_bound() -> None:
    """A caller with a bound refreshes shortly before the bound, and carries the answer that is still fresh for it."""
    host, alice = host_with_answer(9.0, tasks={"general": TaskSettings(early_refresh=1.0)})
    host.jitter = 0.99
    lease = alice.leads("slow")
    host.passes(4.0)
    alice.completes(lease, "old")
    host.passes(9.0)
    bob = host.peer()
    bob.asks(Begin("slow", id=1))
    assert isinstance(bob.receives()[0], Hit)
    bob.asks(Begin("slow", id=2, max_age_seconds=10.0))
    assert bob.gets(Lease).stale_age_seconds == 9.0
    assert host.stats().early_refreshes == 1


def test_get_returns_no_entry_beyond_its_bound() -> None:
    """A ``get`` with ``max_age_seconds`` misses an entry of that age."""
    _, alice = host_with_answer(10.0)
    for max_age_seconds, kind in ((None, Hit), (10.5, Hit), (10.0, Miss), (0.0, Miss)):
        alice.asks(Get("key", id=1, max_age_seconds=max_age_seconds))
        assert isinstance(alice.receives()[0], kind)


def test_replayed_stream_obeys_the_bound() -> None:
    """A stored stream beyond the bound is not replayed; a stream in progress is followed from its beginning."""
    host = Host(lease_seconds=100.0)
    alice, bob = host.peer(), host.peer()
    lease = alice.leads("key", stream=True)
    alice.appends(lease, "a", "b")
    host.passes(30.0)
    bob.asks(Begin("key", id=2, stream=True, max_age_seconds=1.0))
    pieces = [reply for reply in bob.receives() if isinstance(reply, Chunk)]
    assert [chunk.age_seconds for chunk in pieces] == [0.0, 0.0]
    alice.completes(lease, None)
    host.passes(5.0)
    bob.receives()
    bob.asks(Begin("key", id=3, stream=True, max_age_seconds=10.0))
    assert bob.reads()[0] == ["a", "b"]
    assert bob.leads("key", 4, stream=True, max_age_seconds=5.0)


def test_similar_answer_obeys_the_bound() -> None:
    """An answer to a similar request is served only below the bound."""
    vector = struct.pack("<2f", math.cos(0.1), math.sin(0.1))
    host = Host(tasks={"general": TaskSettings(similar=True, similar_threshold=0.9)})
    alice = host.peer()
    alice.completes(alice.leads("one", vector=vector, group="g"), "old")
    host.passes(10.0)
    alice.asks(Begin("two", id=2, vector=vector, group="g", max_age_seconds=11.0))
    assert unpacked(alice.gets(Hit)) == "old"
    assert alice.leads("two", 3, vector=vector, group="g", max_age_seconds=10.0)


# With a store --------------------------------------------------------------------------------------------------------


def record(age: float) -> Record:
    """Return an entry of the store."""
    return Record(wire.pack("old"), 2.0, 300.0, 60.0, "default", age_seconds=age)


def test_record_goes_to_the_waiters_that_accept_its_age() -> None:
    """The others stay, and one of them computes the answer, which replaces the record."""
    host = Host(store="own")
    alice, bob, carol, dave = (host.peer() for _ in range(4))
    alice.asks(Begin("key", id=1))
    bob.asks(Begin("key", id=2, max_age_seconds=10.0))
    carol.asks(Begin("key", id=3, max_age_seconds=10.0))
    dave.asks(Begin("key", id=4, mode="only_if_cached", max_age_seconds=10.0))
    reader = host.peer()
    reader.asks(Get("key", id=5, max_age_seconds=10.0))
    host.answers(host.asked().ticket, Found(record(12.0)))
    assert alice.gets(Hit).age_seconds == 12.0
    assert dave.gets(Rejected).reason == "not_cached"
    assert isinstance(reader.receives()[0], Miss)
    lease = bob.gets(Lease)
    assert carol.receives() == [Pending(3)]
    bob.completes(lease.lease, "new")
    assert unpacked(carol.gets(Shared)) == "new"
    (write,) = host.wants()
    assert write.replace  # type: ignore[union-attr]  # the store's older record must not stay
    assert host.stats().waiters == 0


@pytest.mark.parametrize("fields", [{"max_age_seconds": 10.0}, {"mode": "refresh"}])
def test_too_old_record_of_a_shared_store_needs_the_claim(fields: dict[str, Any]) -> None:
    """If the record is too old for a caller, the claim alone is requested; another host's newer answer is accepted."""
    host = Host(store="shared")
    alice, bob = host.peer(), host.peer()
    alice.asks(Begin("key", id=1))
    bob.asks(Begin("key", id=2, **fields))
    host.answers(host.asked().ticket, Found(record(12.0)))
    assert unpacked(alice.gets(Hit)) == "old"
    assert bob.receives() == []
    question = host.asked()
    assert (question.claim, question.read_entry) == (True, False)
    host.answers(question.ticket, ClaimedRemotely(5.0))
    assert bob.receives() == [Pending(2)]
    host.passes(2.0)
    host.happens(KeyChanged(SCOPE, "key", "stored"))
    host.answers(host.asked().ticket, Found(record(0.5)))
    assert bob.gets(Shared).age_seconds == 0.5


def test_refresh_never_gets_the_record_that_it_refreshes() -> None:
    """After another host's claim has run out, the record that is still there does not answer a refresh."""
    host = Host(store="shared")
    alice = host.peer()
    alice.asks(Begin("key", id=1, mode="refresh"))
    host.answers(host.asked().ticket, ClaimedRemotely(5.0))
    host.passes(5.0)
    alice.receives()
    host.answers(host.asked().ticket, Found(record(100.0)))
    assert alice.receives() == []
    question = host.asked()
    assert not question.read_entry
    host.answers(question.ticket, Absent("claim"))
    alice.gets(Lease)


@pytest.mark.parametrize("answer", [Unavailable(), Found(record(15.0)), Found(record(3.0)), Absent()])
def test_answer_in_memory_goes_to_those_who_accept_it(answer: Any) -> None:
    """While the store is asked, memory's entry serves one caller; the other gets what the store has, if that is newer."""
    host = Host(store="own")
    alice, bob = host.peer(), host.peer()
    alice.asks(Begin("key", id=1, max_age_seconds=10.0))
    question = host.asked()
    alice.asks(wire.Put("key", packed("put"), id=2))
    alice.receives()
    host.passes(0.01)
    bob.asks(Begin("key", id=3, mode="refresh"))
    host.answers(question.ticket, answer)
    assert unpacked(alice.gets(Hit)) == "put"
    bob.gets(Lease)


# Answers that their own caller rejects ----------------------------------------------------------------------------------


def rejects(actor: Actor, lease: str, **usage: Any) -> None:
    """Report an answer that its caller finds invalid."""
    actor.asks(
        wire.Fail(lease, "ignored", "valid=", id=90, answered=True, invalid=True, usage=wire.Usage(**usage)),
    )
    assert wire.Ok(90) in actor.inbox
    actor.inbox.remove(wire.Ok(90))


def test_rejected_answer_elects_the_longest_waiting_caller() -> None:
    """It is billed, counts for the backend, and is neither stored nor shared; the next answer is."""
    breaker = BreakerSettings(min_calls=1, failure_rate=0.1)
    host = Host(backends={"default": BackendSettings(locality="local", breaker=breaker)})
    alice, bob, carol = host.peer(), host.peer(), host.peer()
    lease = alice.leads("key")
    bob.waits("key")
    carol.waits("key")
    rejects(alice, lease, cost_dollars=0.5)
    assert carol.receives() == []
    bob.completes(bob.gets(Lease).lease, "good", usage=wire.Usage(cost_dollars=0.25))
    assert unpacked(carol.gets(Shared)) == "good"
    alice.asks(Begin("key", id=2))
    assert unpacked(alice.gets(Hit)) == "good"
    total = host.report().total
    assert (total.upstream_calls, total.billed_dollars, total.failed) == (2, 0.75, 0)
    state = host.breakers()["default"]
    assert (state.state, state.calls, state.failures) == ("closed", 2, 0)
    assert host.stats().stored == 1


def test_after_max_elections_every_waiter_makes_its_own_call() -> None:
    """All waiters make their own calls at once, as after an answer that cannot be shared."""
    host = Host(max_elections=2)
    actors = [host.peer() for _ in range(5)]
    lease = actors[0].leads("key")
    for actor in actors[1:]:
        actor.waits("key")

    for number in range(2):
        rejects(actors[number], lease)
        lease = actors[number + 1].gets(Lease).lease

    rejects(actors[2], lease)
    for actor in actors[3:]:
        assert actor.gets(wire.Failed).kind == "ignored"

    assert host.stats().flights == 0


def test_invalid_means_nothing_without_an_answer() -> None:
    """Only an answered call can be invalid: a plain ``ignored`` still releases all waiters."""
    host = Host()
    alice, bob = host.peer(), host.peer()
    lease = alice.leads("key")
    bob.waits("key")
    alice.fails(lease, "ignored", invalid=True)
    assert bob.gets(wire.Failed).kind == "ignored"


def test_rejected_answer_leaves_the_stored_one() -> None:
    """A refresh whose answer is rejected changes nothing for other callers."""
    _, alice = host_with_answer(1.0)
    rejects(alice, alice.leads("key", 2, mode="refresh"))
    alice.asks(Begin("key", id=3))
    assert unpacked(alice.gets(Hit)) == "old"


# Samples ------------------------------------------------------------------------------------------------------------------


def test_samples_of_a_key_have_keys_of_their_own() -> None:
    """Each sample has a flight and an entry of its own; the first one has the key itself."""
    host = Host()
    actors = [host.peer() for _ in range(5)]
    leases = [actor.leads("key", sample=number) for number, actor in enumerate(actors)]
    for number, (actor, lease) in enumerate(zip(actors, leases, strict=True)):
        actor.completes(lease, number)

    for number, actor in enumerate(actors):
        actor.asks(Begin("key", id=2, sample=number))
        assert unpacked(actor.gets(Hit)) == number
        actor.asks(Get("key" if number == 0 else f"key#{number}", id=3))
        assert unpacked(actor.gets(Hit)) == number


def test_key_that_is_too_long_with_its_sample_is_a_bad_request() -> None:
    """No other message, nor any store, could name such a key."""
    alice = Host().peer()
    alice.asks(Begin("k" * 1022, id=1, sample=1))
    assert isinstance(alice.receives()[0], Lease)
    alice.asks(Begin("k" * 1022, id=2, sample=10))
    (reply,) = alice.receives()
    assert isinstance(reply, Error)
    assert reply.code == "bad_request"
