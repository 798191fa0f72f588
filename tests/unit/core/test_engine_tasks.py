"""Policies of tasks: what may be stored, whatever callers say; and purges by task and by tag, with calls in flight."""

from typing import Any

import pytest

from sidecard.core.effects import StorePurge, StoreRead, StoreWrite
from sidecard.core.events import Absent, EntriesPurged, Found
from sidecard.core.flights.flight import MAX_VOIDED_TAGS
from sidecard.core.records import Record
from sidecard.core.settings import Cacheability, TaskSettings
from sidecard_client.protocol import wire
from sidecard_client.protocol.wire import Begin, Complete, Deleted, Miss, Purge, Put, Rejected, Stored
from tests.host import Actor, Host, packed, unpacked


def host_of(cache: Cacheability, **settings: Any) -> Host:
    """Return a host whose task ``rag`` has this policy."""
    return Host(tasks={"rag": TaskSettings(cache=cache)}, **settings)


def completed(actor: Actor, lease: str, **fields: Any) -> bool:
    """Bring an answer and return whether it was stored."""
    actor.asks(Complete(lease, packed("answer"), id=90, **fields))
    (stored,) = (reply for reply in actor.receives() if isinstance(reply, Stored))
    return stored.stored


def operator(host: Host) -> Actor:
    """Return a peer that may purge."""
    return host.peer(uid=0, operator=True)


# What may be stored ------------------------------------------------------------------------------------------------


def test_a_task_that_is_never_stored_is_shared_in_flight() -> None:
    """Who waits has the answer; who comes a moment later makes the call anew, the sharing window notwithstanding."""
    host = host_of("never")
    alice, bob = host.peer(), host.peer()
    lease = alice.leads("key", task="rag", ttl_seconds=300.0)
    bob.waits("key", task="rag")
    assert not completed(alice, lease, ttl_seconds=300.0, deterministic=True)

    assert unpacked(bob.gets(wire.Shared)) == "answer"
    alice.leads("key", 2, task="rag")


def test_what_was_stored_before_a_task_was_not_is_not_served() -> None:
    """The settings are read again: from then on each begin is a call, and only that."""
    host = Host()
    alice = host.peer()
    assert completed(alice, alice.leads("key", task="rag"))
    host.reads(tasks={"rag": TaskSettings(cache="never")})
    lease = alice.leads("key", 2, task="rag")
    alice.asks(Begin("key", id=3, task="rag", mode="only_if_cached"))

    assert alice.gets(Rejected).reason == "not_cached"
    assert not completed(alice, lease)
    alice.asks(Begin("key", id=4))
    assert unpacked(alice.gets(wire.Hit)) == "answer"


def test_a_failure_of_a_task_that_is_never_stored_is_not_remembered() -> None:
    """It is no more stored than an answer."""
    host = Host(tasks={"rag": TaskSettings(cache="never", failure_ttl_seconds=60.0)})
    alice = host.peer()
    alice.fails(alice.leads("key", task="rag"), "fatal")
    assert alice.receives() == [wire.Ok(98)]
    alice.leads("key", 2, task="rag")


@pytest.mark.parametrize("deterministic", [True, False])
def test_a_deterministic_task_stores_what_is_meant_to_have_one_answer(deterministic: bool) -> None:
    """The holder knows; what it does not call so is shared in flight alone, as with ``never``."""
    host = host_of("deterministic")
    alice, bob = host.peer(), host.peer()
    lease = alice.leads("key", task="rag")
    bob.waits("key", task="rag")
    assert completed(alice, lease, deterministic=deterministic) is deterministic
    assert unpacked(bob.gets(wire.Shared)) == "answer"
    alice.asks(Begin("key", id=2, task="rag"))

    assert isinstance(alice.receives()[0], wire.Hit if deterministic else wire.Lease)


def test_other_tasks_are_stored_as_ever() -> None:
    """Whatever their requests are."""
    host = host_of("never")
    alice = host.peer()
    assert completed(alice, alice.leads("key"))


def test_a_put_obeys_never_and_has_the_time_of_its_task() -> None:
    """It has no request that could be deterministic: who puts something means it."""
    tasks = {
        "off": TaskSettings(cache="never"),
        "exact": TaskSettings(cache="deterministic", ttl_seconds=7.0),
    }
    host = Host(tasks=tasks)
    alice = host.peer()
    alice.asks(Put("key", packed(1), id=1, task="off"))
    alice.asks(Put("exact", packed(1), id=2, task="exact"))
    assert alice.receives() == [Stored(1, stored=False), Stored(2, stored=True)]
    host.passes(7.0)
    alice.asks(wire.Get("exact", id=3))
    assert alice.receives() == [Miss(3)]


def test_a_task_that_is_not_stored_claims_its_keys_over_hosts_and_writes_nothing() -> None:
    """Hosts share calls in flight of it, as far as their claims go, and no answers."""
    host = host_of("never", store="shared")
    alice = host.peer()
    alice.asks(Begin("key", id=1, task="rag"))
    ask = host.asked()
    assert (ask.claim, ask.read_entry) == (True, False)
    host.answers(ask.ticket, Absent("claim"))
    lease = next(reply for reply in alice.receives() if isinstance(reply, wire.Lease))
    assert not completed(alice, lease.lease)
    assert not [effect for effect in host.wants() if isinstance(effect, StoreWrite)]


# Purges by task ----------------------------------------------------------------------------------------------------


def test_a_purge_by_task_removes_what_is_of_it() -> None:
    """In the named namespace, or in all."""
    host = Host()
    alice = host.peer()
    for number, (task, namespace) in enumerate((("rag", "a"), ("rag", "b"), ("general", "a"))):
        assert completed(alice, alice.leads(f"key{number}", task=task, namespace=namespace))

    root = operator(host)
    root.asks(Purge(task="rag", namespace="a", id=1))
    root.asks(Purge(task="rag", id=2))
    root.asks(Purge(id=3))
    assert root.receives() == [Deleted(1, 1), Deleted(2, 1), Deleted(3, 1)]


def test_a_purge_by_task_and_tag_removes_what_is_of_both() -> None:
    """Not what is of one alone."""
    host = Host()
    alice = host.peer()
    for number, (task, tags) in enumerate((("rag", ("t",)), ("rag", ()), ("general", ("t",)))):
        assert completed(alice, alice.leads(f"key{number}", task=task), tags=tags)

    root = operator(host)
    root.asks(Purge(task="rag", tag="t", id=1))
    assert root.receives() == [Deleted(1, 1)]


def test_a_put_is_of_its_task() -> None:
    """Of the default's where it names none."""
    host = Host()
    alice, root = host.peer(), operator(host)
    alice.asks(Put("a", packed(1), task="rag"))
    alice.asks(Put("b", packed(1)))
    root.asks(Purge(task="rag", id=1))
    root.asks(Purge(task="general", id=2))
    assert root.receives() == [Deleted(1, 1), Deleted(2, 1)]


def test_the_store_is_told_the_task_of_a_purge_and_of_an_entry() -> None:
    """It has entries that memory has not."""
    host = Host(store="own")
    alice, root = host.peer(), operator(host)
    alice.asks(Begin("key", id=1, task="rag"))
    host.answers(host.asked().ticket, Absent())
    lease = alice.gets(wire.Lease)
    assert completed(alice, lease.lease)
    (write,) = host.wants()
    assert isinstance(write, StoreWrite)
    assert write.record.task == "rag"
    root.asks(Purge(tag="t", task="rag", id=1))
    assert host.wants() == [StorePurge(2, None, "t", "rag")]


def test_an_entry_from_the_store_keeps_its_task() -> None:
    """Memory takes it over with it; one of an earlier version has none."""
    host = Host(store="own")
    alice, root = host.peer(), operator(host)
    for key, task in (("new", "rag"), ("old", "")):
        alice.asks(Begin(key, id=1, task="rag"))
        record = Record(bytes(packed(1)), 1.0, 300.0, 60.0, "b", task=task)
        host.answers(host.asked().ticket, Found(record))

    root.asks(Purge(task="rag", id=1))
    host.wants()
    assert host.stats().cache_entries == 1


# Purges with calls in flight ---------------------------------------------------------------------------------------


def test_a_call_made_before_its_task_is_purged_is_not_stored() -> None:
    """1. the call is made; 2. the task is purged; 3. the answer comes: its waiters get it, the cache does not."""
    host = Host()
    alice, bob = host.peer(), host.peer()
    lease = alice.leads("key", task="rag")
    bob.waits("key", task="rag")
    other = alice.leads("other", 2)
    operator(host).asks(Purge(task="rag", id=1))

    assert not completed(alice, lease)
    assert unpacked(bob.gets(wire.Shared)) == "answer"
    assert completed(alice, other)


def test_a_call_made_after_a_purge_is_stored() -> None:
    """A purge is of what was before it."""
    host = Host()
    alice = host.peer()
    operator(host).asks(Purge(task="rag", tag="t", id=1))
    assert completed(alice, alice.leads("key", task="rag"), tags=("t",))


@pytest.mark.parametrize(("tags", "stored"), [(("t",), False), (("s", "t"), False), (("s",), True), ((), True)])
def test_a_call_made_before_a_tag_is_purged_is_stored_without_that_tag_alone(
    tags: tuple[str, ...], stored: bool
) -> None:  # fmt: skip
    """Which tags it bears is known only when it comes; an answer of something else is as good as ever."""
    host = Host()
    alice = host.peer()
    lease = alice.leads("key")
    operator(host).asks(Purge(tag="t", id=1))
    assert completed(alice, lease, tags=tags) is stored


def test_a_purged_tag_is_remembered_over_an_election() -> None:
    """1. a tag is purged; 2. the holder dies; 3. the next one's call may have begun from what was known before."""
    host = Host()
    alice, bob = host.peer(), host.peer()
    alice.leads("key")
    bob.waits("key")
    operator(host).asks(Purge(tag="t", id=1))
    alice.dies()
    assert not completed(bob, bob.gets(wire.Lease).lease, tags=("t",))


@pytest.mark.parametrize(
    ("fields", "stored"),
    [
        ({"namespace": "other"}, True),
        ({"task": "other"}, True),
        ({"task": "rag"}, False),
        ({"namespace": "team"}, False),
    ],
)
def test_a_purge_by_tag_reaches_the_calls_of_its_namespace_and_task(fields: dict[str, Any], stored: bool) -> None:
    """All that it names must fit."""
    host = Host()
    alice = host.peer()
    lease = alice.leads("key", task="rag", namespace="team")
    operator(host).asks(Purge(tag="t", id=1, **fields))
    assert completed(alice, lease, tags=("t",)) is stored


def test_a_waiter_of_a_purged_task_makes_the_flight_one_of_it() -> None:
    """A key that callers choose may be of several tasks: 1. purged; 2. the holder dies; 3. the waiter's answer would be stored."""
    host = Host()
    alice, bob = host.peer(), host.peer()
    lease = alice.leads("key")
    bob.waits("key", task="rag")
    operator(host).asks(Purge(task="rag", id=1))
    assert not completed(alice, lease)


def test_too_many_purged_tags_void_the_flight_altogether() -> None:
    """A table of theirs would have no bound."""
    host = Host()
    alice, root = host.peer(), operator(host)
    lease = alice.leads("key")
    for number in range(MAX_VOIDED_TAGS + 1):
        root.asks(Purge(tag=f"t{number}", id=1))

    assert not completed(alice, lease)


def test_a_failure_told_after_any_tag_was_purged_is_not_remembered() -> None:
    """Nobody knows which tags the answer would have had."""
    host = Host()
    alice = host.peer()
    lease = alice.leads("key")
    operator(host).asks(Purge(tag="t", id=1))
    alice.fails(lease, "fatal", ttl_seconds=60.0)
    assert alice.receives() == [wire.Ok(98)]
    alice.leads("key", 2)


def test_another_hosts_purge_by_task_removes_what_memory_has_of_it() -> None:
    """And nothing else."""
    host = Host(store="shared")
    alice = host.peer()
    for key, task in (("a", "rag"), ("b", "general")):
        alice.asks(Put(key, packed(1), task=task))

    host.happens(EntriesPurged(None, None, "rag"))
    assert host.stats().cache_entries == 1


def test_another_hosts_purge_reaches_calls_in_flight_as_ones_own() -> None:
    """By tag, and by task."""
    host = Host(store="shared")
    alice = host.peer()
    leases = {}
    for key, task in (("a", "rag"), ("b", "general"), ("c", "general")):
        alice.asks(Begin(key, id=1, task=task))
        ask = host.asked()
        assert isinstance(ask, StoreRead)
        host.answers(ask.ticket, Absent("claim"))
        leases[key] = next(reply for reply in alice.receives() if isinstance(reply, wire.Lease)).lease

    host.happens(EntriesPurged(None, None, "rag"))
    host.happens(EntriesPurged(None, "t"))
    assert not completed(alice, leases["a"])
    assert not completed(alice, leases["b"], tags=("t",))
    assert completed(alice, leases["c"])
