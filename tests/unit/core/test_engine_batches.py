"""Purges of many entries: hidden at once, removed in batches, answered when all are removed."""

from typing import Any

import pytest

from sidecard.core.effects import StorePurge
from sidecard.core.events import EntriesPurged, Removed, Tick, WorkContinued
from sidecard.core.flights.requests.deadlines import MAX_DUE
from sidecard.core.flights.requests.disconnect import BATCH, MAX_AT_ONCE
from sidecard.core.flights.store.status import PATIENCE_SECONDS
from sidecard_client.protocol import wire
from sidecard_client.protocol.wire import Deleted, Get, Purge, Put
from tests.host import Actor, Host, packed

ENTRIES = 2000


class FilledHost(Host):
    """A host with many entries of one peer, half of them tagged, whose purges take several batches."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.engine._policy.cache.inline_entries = 0
        self.alice, self.root = self.peer(), self.peer(uid=0, operator=True)
        for number in range(ENTRIES):
            self.alice.asks(Put(f"key{number}", packed(number), id=1, tags=("even" if number % 2 == 0 else "odds",)))

        self.alice.receives()
        self.wants()


def has(actor: Actor, key: str) -> bool:
    """Return whether a get finds the key."""
    actor.asks(Get(key, id=7))
    (reply,) = actor.receives()
    return isinstance(reply, wire.Hit)


def test_purge_hides_all_entries_before_its_first_batch() -> None:
    """No get, begin or explain sees a purged entry, though memory still has it."""
    host = FilledHost()
    host.root.asks(Purge(id=1))

    assert host.stats().cache_entries == ENTRIES
    assert not has(host.alice, "key0")
    host.alice.leads("key1")
    assert host.root.receives() == []


def test_purge_is_answered_after_its_last_batch_with_an_exact_count() -> None:
    """The reply counts every entry; by then none is left."""
    host = FilledHost()
    host.root.asks(Purge(id=1))
    batches = host.works()

    assert batches > 3
    assert host.root.receives() == [Deleted(1, ENTRIES)]
    assert (host.stats().cache_entries, host.stats().cache_bytes, host.stats().deleted) == (0, 0, ENTRIES)


def test_purge_by_tag_keeps_the_others() -> None:
    """Only entries with the tag are hidden and removed."""
    host = FilledHost()
    host.root.asks(Purge(tag="even", id=1))

    assert (has(host.alice, "key0"), has(host.alice, "key1")) == (False, True)
    host.works()
    assert host.root.receives() == [Deleted(1, ENTRIES // 2)]
    assert has(host.alice, "key1")


def test_purge_hides_what_an_earlier_one_did_not() -> None:
    """1. purge by tag; 2. a get of an entry with another tag; 3. purge of all; 4. the same get."""
    host = FilledHost()
    host.root.asks(Purge(tag="even", id=1))
    assert has(host.alice, "key1")
    host.root.asks(Purge(id=2))

    assert not has(host.alice, "key1")


def test_put_after_purge_survives_its_batches() -> None:
    """1. purge; 2. put of the same key; 3. batches. The new entry stays, and the purge still counts the old one."""
    host = FilledHost()
    host.root.asks(Purge(id=1))
    host.alice.asks(Put("key0", packed("new"), id=2))
    host.alice.receives()
    host.works()

    assert has(host.alice, "key0")
    assert host.stats().cache_entries == 1
    assert host.root.receives() == [Deleted(1, ENTRIES)]


def test_second_purge_counts_what_was_stored_since_the_first() -> None:
    """1. purge; 2. put; 3. an equal purge, in the middle of the batches. Each entry is counted once, by the first that hides it."""
    host = FilledHost()
    host.root.asks(Purge(id=1))
    host.happens(WorkContinued())
    host.alice.asks(Put("key0", packed("new"), id=2))
    host.root.asks(Purge(id=2))
    host.alice.receives()
    assert not has(host.alice, "key0")
    host.works()

    assert host.root.receives() == [Deleted(1, ENTRIES), Deleted(2, 1)]
    assert host.stats().cache_entries == 0


def test_purge_during_another_one_removes_what_that_one_passed() -> None:
    """1. purge by tag; 2. half of its batches pass entries without the tag; 3. purge of all. None of them is left."""
    host = FilledHost()
    host.root.asks(Purge(tag="even", id=1))
    host.happens(WorkContinued())
    host.happens(WorkContinued())
    host.root.asks(Purge(id=2))
    host.works()

    assert host.root.receives() == [Deleted(1, ENTRIES // 2), Deleted(2, ENTRIES // 2)]
    assert host.stats().cache_entries == 0


def test_eviction_prefers_no_hidden_entry_for_its_hits() -> None:
    """1. hits; 2. purge; 3. batches and evictions in turns. A hidden entry with hits is evicted and counted, not moved."""
    host = FilledHost(cache_max_bytes=2_000_000)
    cache = host.engine._policy.cache
    for number in range(ENTRIES):
        cache.get("1000:default", f"key{number}", host.now)

    kept = cache.count
    host.root.asks(Purge(id=1))
    cache.sweep_steps = 20
    for _ in range(50):
        cache.sweep(host.now)
        cache._evict(host.now)

    host.works()
    assert host.root.receives() == [Deleted(1, kept)]
    assert (cache.count, cache.evicted) == (0, 0)


def test_slow_purge_is_answered_with_its_count_so_far() -> None:
    """Clients do not wait long; the reply says that removal goes on, and later batches are counted in stats."""
    host = FilledHost()
    host.root.asks(Purge(id=1))
    host.happens(WorkContinued())
    host.now += PATIENCE_SECONDS
    host.happens(Tick())
    (reply,) = host.root.receives()

    assert isinstance(reply, Deleted)
    assert reply.in_progress
    assert 0 < reply.count < ENTRIES
    host.works()
    assert host.root.receives() == []
    assert host.stats().deleted == ENTRIES


def test_purge_of_a_lost_peer_goes_on() -> None:
    """Its entries are removed and counted; there is nobody to answer."""
    host = FilledHost()
    host.root.asks(Purge(id=1))
    host.root.dies()
    host.works()

    assert (host.stats().cache_entries, host.stats().deleted) == (0, ENTRIES)


@pytest.mark.parametrize("store_first", [True, False])
def test_purge_waits_for_store_and_memory(store_first: bool) -> None:
    """The store is asked at once, so that a kill in between leaves nothing on disk; the reply waits for both."""
    host = FilledHost(store="own")
    host.root.asks(Purge(id=1))
    (purge,) = host.wants()
    assert isinstance(purge, StorePurge)
    if store_first:
        host.answers(purge.ticket, Removed(ENTRIES + 5))
        assert host.root.receives() == []
        host.works()
    else:
        host.works()
        assert host.root.receives() == []
        host.answers(purge.ticket, Removed(ENTRIES + 5))

    assert host.root.receives() == [Deleted(1, ENTRIES + 5)]


def test_purge_by_another_host_is_removed_in_batches() -> None:
    """And hidden at once, as one of this host."""
    host = FilledHost(store="shared")
    host.happens(EntriesPurged(None, "even"))

    cache = host.engine._policy.cache
    assert cache.peek("1000:default", "key0") is None
    assert cache.count == ENTRIES
    assert host.works() > 2
    assert cache.count == ENTRIES // 2


def test_caching_switched_off_hides_entries_at_once() -> None:
    """A reload with ``max_bytes`` 0 serves nothing more, and removes in batches."""
    host = FilledHost()
    host.reads(cache_max_bytes=0)

    assert not has(host.alice, "key0")
    assert host.stats().cache_entries == ENTRIES
    host.works()
    assert host.stats().cache_entries == 0


def test_batch_is_bounded() -> None:
    """No single batch removes more than some hundreds of entries, or passes more than some thousands."""
    host = FilledHost()
    host.root.asks(Purge(id=1))
    before = ENTRIES
    while host.engine.has_work:
        host.happens(WorkContinued())
        now = host.engine._policy.cache.count
        assert before - now <= 500
        before = now


def test_thousands_of_deadlines_at_one_instant_take_several_ticks() -> None:
    """Each tick handles some; the next one is due at once."""
    host = Host()
    host.peer().leads("key")
    waiters = [host.peer() for _ in range(2000)]
    for waiter in waiters:
        waiter.asks(wire.Begin("key", id=1, wait_seconds=5))
        assert [type(reply) for reply in waiter.receives()] == [wire.Pending]

    host.now += 5
    ticks = 0
    while (due := host.engine.next_deadline()) is not None and due <= host.now:
        before = host.stats().timeouts
        host.happens(Tick())
        assert host.stats().timeouts - before <= MAX_DUE
        ticks += 1

    assert ticks >= 2000 / MAX_DUE
    assert all(isinstance(waiter.receives()[0], wire.Timeout) for waiter in waiters)


def test_a_lost_peer_with_many_calls_is_forgotten_in_batches() -> None:
    """Each batch ends few calls; others take them over, never the lost peer; at the end nothing of it is left."""
    host = Host()
    lost, other = host.peer(), host.peer()
    for number in range(1000):
        lost.asks(wire.Begin(f"key{number}", id=number))
        (lost if number % 2 else other).asks(wire.Begin(f"key{number}", id=10_000 + number))

    lost.receives()
    other.receives()
    lost.dies()
    batches = 0
    while host.engine.has_work:
        before = host.stats().lost
        host.happens(WorkContinued())
        assert host.stats().lost - before <= BATCH
        batches += 1

    assert batches >= (1000 - MAX_AT_ONCE) / BATCH
    assert host.stats().lost == 1000
    assert host.stats().left == 500
    assert (host.stats().leases, host.stats().waiters) == (500, 0)
    assert [type(reply) for reply in other.receives()] == [wire.Lease] * 500
    assert lost.receives() == []


def test_what_happens_between_the_batches_of_a_lost_peer() -> None:
    """Its calls are in progress for others until their batch: a newcomer waits, a waiter may leave."""
    host = Host()
    lost, other, newcomer = host.peer(), host.peer(), host.peer()
    for number in range(600):
        lost.asks(wire.Begin(f"key{number}", id=number))

    other.waits("key599")
    lost.dies()
    newcomer.waits("key598")
    other.asks(wire.Cancel(id=2, target=1))
    other.dies()
    host.works()

    assert isinstance(newcomer.receives()[-1], wire.Lease)
    assert (host.stats().leases, host.stats().waiters, host.stats().lost) == (1, 0, 600)
