"""Policies of tasks, and purges by task and by tag during flights."""

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


def test_uncached_task_is_shared_in_flight_only() -> None:
    """Waiters share the answer of an uncached task; the next caller leads, within the sharing window too."""
    host = host_of("never")
    alice, bob = host.peer(), host.peer()
    lease = alice.leads("key", task="rag", ttl_seconds=300.0)
    bob.waits("key", task="rag")
    assert not completed(alice, lease, ttl_seconds=300.0, deterministic=True)

    assert unpacked(bob.gets(wire.Shared)) == "answer"
    alice.leads("key", 2, task="rag")


def test_reload_to_uncached_ignores_stored_entries() -> None:
    """After a reload to ``never``, stored entries of the task are not served."""
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


def test_failure_of_uncached_task_is_not_remembered() -> None:
    """A failure of an uncached task is not remembered."""
    host = Host(tasks={"rag": TaskSettings(cache="never", failure_ttl_seconds=60.0)})
    alice = host.peer()
    alice.fails(alice.leads("key", task="rag"), "fatal")
    assert alice.receives() == [wire.Ok(98)]
    alice.leads("key", 2, task="rag")


@pytest.mark.parametrize("deterministic", [True, False])
def test_deterministic_task_stores_declared_answers_only(deterministic: bool) -> None:
    """A deterministic task stores only answers that their holders declare deterministic."""
    host = host_of("deterministic")
    alice, bob = host.peer(), host.peer()
    lease = alice.leads("key", task="rag")
    bob.waits("key", task="rag")
    assert completed(alice, lease, deterministic=deterministic) is deterministic
    assert unpacked(bob.gets(wire.Shared)) == "answer"
    alice.asks(Begin("key", id=2, task="rag"))

    assert isinstance(alice.receives()[0], wire.Hit if deterministic else wire.Lease)


def test_other_tasks_are_stored() -> None:
    """Other tasks' answers are stored."""
    host = host_of("never")
    alice = host.peer()
    assert completed(alice, alice.leads("key"))


def test_put_follows_its_tasks_policy() -> None:
    """A put obeys ``never`` and has its task's ttl."""
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


def test_uncached_task_claims_keys_and_writes_nothing() -> None:
    """An uncached task claims its keys among hosts and writes no entries."""
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


def test_purge_by_task_removes_its_entries() -> None:
    """A purge by task removes its entries, in one namespace or in all."""
    host = Host()
    alice = host.peer()
    for number, (task, namespace) in enumerate((("rag", "a"), ("rag", "b"), ("general", "a"))):
        assert completed(alice, alice.leads(f"key{number}", task=task, namespace=namespace))

    root = operator(host)
    root.asks(Purge(task="rag", namespace="a", id=1))
    root.asks(Purge(task="rag", id=2))
    root.asks(Purge(id=3))
    assert root.receives() == [Deleted(1, 1), Deleted(2, 1), Deleted(3, 1)]


def test_purge_by_task_and_tag_removes_matches_of_both() -> None:
    """A purge by task and tag removes entries that match both."""
    host = Host()
    alice = host.peer()
    for number, (task, tags) in enumerate((("rag", ("t",)), ("rag", ()), ("general", ("t",)))):
        assert completed(alice, alice.leads(f"key{number}", task=task), tags=tags)

    root = operator(host)
    root.asks(Purge(task="rag", tag="t", id=1))
    assert root.receives() == [Deleted(1, 1)]


def test_put_entry_belongs_to_its_task() -> None:
    """A put entry belongs to its task, or to the default task."""
    host = Host()
    alice, root = host.peer(), operator(host)
    alice.asks(Put("a", packed(1), task="rag"))
    alice.asks(Put("b", packed(1)))
    root.asks(Purge(task="rag", id=1))
    root.asks(Purge(task="general", id=2))
    assert root.receives() == [Deleted(1, 1), Deleted(2, 1)]


def test_store_gets_task_of_purge_and_entry() -> None:
    """The store gets the task of a purge and of an entry."""
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


def test_entry_from_store_keeps_its_task() -> None:
    """An entry from the store keeps its task; one of an earlier version has none."""
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


def test_call_started_before_purge_by_task_is_not_stored() -> None:
    """1. A call starts; 2. its task is purged; 3. its answer reaches the waiters and is not stored."""
    host = Host()
    alice, bob = host.peer(), host.peer()
    lease = alice.leads("key", task="rag")
    bob.waits("key", task="rag")
    other = alice.leads("other", 2)
    operator(host).asks(Purge(task="rag", id=1))

    assert not completed(alice, lease)
    assert unpacked(bob.gets(wire.Shared)) == "answer"
    assert completed(alice, other)


def test_call_started_after_purge_is_stored() -> None:
    """A call that starts after a purge is stored."""
    host = Host()
    alice = host.peer()
    operator(host).asks(Purge(task="rag", tag="t", id=1))
    assert completed(alice, alice.leads("key", task="rag"), tags=("t",))


@pytest.mark.parametrize(("tags", "stored"), [(("t",), False), (("s", "t"), False), (("s",), True), ((), True)])
def test_call_started_before_purge_by_tag_is_stored_unless_tagged(
    tags: tuple[str, ...], stored: bool
) -> None:  # fmt: skip
    """A call that started before a purge by tag is stored unless its answer bears the tag."""
    host = Host()
    alice = host.peer()
    lease = alice.leads("key")
    operator(host).asks(Purge(tag="t", id=1))
    assert completed(alice, lease, tags=tags) is stored


def test_purged_tag_is_remembered_over_election() -> None:
    """1. A tag is purged; 2. the holder is lost; 3. the next holder's answer with that tag is not stored."""
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
def test_purge_by_tag_voids_matching_flights_only(fields: dict[str, Any], stored: bool) -> None:
    """A purge by tag voids flights that match its namespace and task."""
    host = Host()
    alice = host.peer()
    lease = alice.leads("key", task="rag", namespace="team")
    operator(host).asks(Purge(tag="t", id=1, **fields))
    assert completed(alice, lease, tags=("t",)) is stored


def test_waiter_of_purged_task_voids_flight() -> None:
    """A waiter's task counts: 1. it is purged; 2. the holder is lost; 3. the waiter's answer is not stored."""
    host = Host()
    alice, bob = host.peer(), host.peer()
    lease = alice.leads("key")
    bob.waits("key", task="rag")
    operator(host).asks(Purge(task="rag", id=1))
    assert not completed(alice, lease)


def test_too_many_purged_tags_void_flight() -> None:
    """More purged tags than a flight remembers prevent storing altogether."""
    host = Host()
    alice, root = host.peer(), operator(host)
    lease = alice.leads("key")
    for number in range(MAX_VOIDED_TAGS + 1):
        root.asks(Purge(tag=f"t{number}", id=1))

    assert not completed(alice, lease)


def test_failure_after_purge_by_tag_is_not_remembered() -> None:
    """A failure after a purge by any tag is not remembered."""
    host = Host()
    alice = host.peer()
    lease = alice.leads("key")
    operator(host).asks(Purge(tag="t", id=1))
    alice.fails(lease, "fatal", ttl_seconds=60.0)
    assert alice.receives() == [wire.Ok(98)]
    alice.leads("key", 2)


def test_remote_purge_by_task_removes_entries_from_memory() -> None:
    """Another host's purge by task removes that task's entries from memory."""
    host = Host(store="shared")
    alice = host.peer()
    for key, task in (("a", "rag"), ("b", "general")):
        alice.asks(Put(key, packed(1), task=task))

    host.happens(EntriesPurged(None, None, "rag"))
    assert host.stats().cache_entries == 1


def test_remote_purge_voids_flights() -> None:
    """Another host's purge voids flights, by tag and by task."""
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
