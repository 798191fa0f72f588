import gc

import pytest

from sidecard.core.cache import memory
from sidecard.core.cache.entry import ENTRY_OVERHEAD_BYTES, Insertion, Terms
from sidecard.core.cache.eviction import GreedyDual
from sidecard.core.cache.memory import SHARING_ONLY_BYTES, MemoryCache
from sidecard.core.records import NO_USAGE
from sidecard_client.protocol.wire import Usage


def terms(ttl: float = 100.0, window: float = 0.0, tags: tuple[str, ...] = ()) -> Terms:
    """Return terms that differ in what these tests vary."""
    return Terms("1000:default", ttl, window, "default", tags=tags)


def put(cache: MemoryCache, key: str, now: float = 0.0, size: int = 10, ttl: float = 100.0) -> Insertion:
    """Store ``size`` bytes under ``key``."""
    return cache.put(key, b"v" * size, now, terms(ttl), 1.0)


def sweep(cache: MemoryCache) -> int:
    """Do all pending work, in small batches; return their number."""
    cache.sweep_steps = 100
    batches = 0
    while cache.has_work:
        cache.sweep(0.0)
        batches += 1

    return batches


def get(cache: MemoryCache, key: str, now: float = 0.0) -> bytes | None:
    """Read a value."""
    entry = cache.get("1000:default", key, now)
    return None if entry is None else entry.value


def test_get_before_and_at_the_end_of_the_lifetime() -> None:
    """An entry expires exactly at the end of its lifetime."""
    cache = MemoryCache(10_000_000)
    put(cache, "key", now=10.0, ttl=5.0)

    assert get(cache, "key", 14.999) == b"v" * 10
    assert get(cache, "key", 15.0) is None
    assert (cache.count, cache.bytes, cache.expired) == (0, 0, 1)


def test_get_of_another_scope_is_a_miss() -> None:
    """Scopes share nothing but the budget."""
    cache = MemoryCache(10_000_000)
    put(cache, "key")

    assert cache.get("1001:default", "key", 0.0) is None


def test_put_charges_key_value_and_overhead() -> None:
    """The sum of bytes is exact."""
    cache = MemoryCache(10_000_000)
    put(cache, "key", size=100)
    put(cache, "other", size=1)

    assert cache.bytes == len("key") + 100 + len("other") + 1 + 2 * ENTRY_OVERHEAD_BYTES


def test_put_again_with_a_larger_value_replaces_the_charge() -> None:
    """Overwriting does not count the old value."""
    cache = MemoryCache(10_000_000)
    put(cache, "key", size=10)
    put(cache, "key", size=1000)

    assert cache.count == 1
    assert cache.bytes == len("key") + 1000 + ENTRY_OVERHEAD_BYTES
    assert get(cache, "key") == b"v" * 1000


def test_put_of_too_large_a_value_is_refused_and_removes_the_older_one() -> None:
    """One answer does not evict all others, and the out-of-date one is not served any more."""
    cache = MemoryCache(80_000)
    put(cache, "key", size=10)

    assert put(cache, "key", size=10_000).too_large
    assert get(cache, "key") is None
    assert (cache.count, cache.bytes) == (0, 0)


def test_put_with_a_lifetime_of_zero_stores_nothing() -> None:
    """Without time to live and sharing window, the entry could not be served."""
    cache = MemoryCache(10_000_000)

    assert put(cache, "key", ttl=0.0).entry is None
    assert cache.count == 0


def test_put_evicts_until_it_fits() -> None:
    """The budget holds after every insertion."""
    cache = MemoryCache(80_000)
    for number in range(1000):
        put(cache, f"key{number}", size=1000)
        assert cache.bytes <= 80_000

    assert cache.evicted == 1000 - cache.count


def test_expired_entries_are_removed_before_live_ones() -> None:
    """Room is made from entries that are dead anyway."""
    cache = MemoryCache(80_000)
    for number in range(30):
        put(cache, f"old{number}", now=0.0, size=1000, ttl=5.0)
    for number in range(30):
        put(cache, f"young{number}", now=1.0, size=1000, ttl=500.0)
    for number in range(30):
        put(cache, f"new{number}", now=7.0, size=1000, ttl=500.0)

    assert cache.evicted == 0
    assert cache.expired == 30
    assert get(cache, "young0", 7.0) is not None


def test_a_victim_that_had_just_expired_counts_as_expired() -> None:
    """Expiry is sorted by whole seconds; a victim in between may be dead."""
    cache = MemoryCache(8_000)
    for number in range(8):
        put(cache, f"old{number}", now=0.0, size=500, ttl=5.25)
    for number in range(8):
        put(cache, f"new{number}", now=5.5, size=500, ttl=500.0)

    assert cache.evicted == 0
    assert cache.expired == 16 - cache.count


def test_a_scan_leaves_popular_entries() -> None:
    """Entries with hits survive ten times the cache's size of entries without."""
    cache = MemoryCache(800_000)
    for number in range(100):
        put(cache, f"hot{number}", size=1000)
    for _ in range(3):
        for number in range(100):
            get(cache, f"hot{number}")
    for number in range(6000):
        put(cache, f"scan{number}", size=1000)

    assert sum(get(cache, f"hot{number}") is not None for number in range(100)) == 100


def test_a_key_that_returns_soon_after_its_eviction_survives_a_scan() -> None:
    """It is a ghost, so it skips the probation."""
    cache = MemoryCache(800_000)
    for number in range(500):
        put(cache, f"fill{number}", size=1000)
        get(cache, f"fill{number}")
        get(cache, f"fill{number}")
    for number in range(500):
        put(cache, f"more{number}", size=1000)
    assert get(cache, "more300") is None
    put(cache, "more300", size=1000)
    for number in range(200):
        put(cache, f"scan{number}", size=1000)

    assert get(cache, "more300") is not None


def test_delete_returns_whether_a_live_entry_was_removed() -> None:
    """Deleting twice, or an expired entry, returns false."""
    cache = MemoryCache(10_000_000)
    put(cache, "key", ttl=5.0)
    put(cache, "dead", ttl=5.0)

    assert cache.delete("1000:default", "key", 1.0)
    assert not cache.delete("1000:default", "key", 1.0)
    assert not cache.delete("1000:default", "dead", 6.0)
    assert (cache.count, cache.bytes) == (0, 0)


def test_purge_by_tag_leaves_the_rest() -> None:
    """Only entries with the tag are removed."""
    cache = MemoryCache(10_000_000)
    cache.put("tagged", b"v", 0.0, terms(tags=("weather",)), 1.0)
    put(cache, "plain")

    purge = cache.purge(None, "weather", 0.0)
    assert (purge.count, purge.done) == (1, True)
    assert get(cache, "plain") is not None


def test_expire_removes_many_entries_in_batches() -> None:
    """Mass expiry is spread over several ticks, and the next is due immediately until it is done."""
    cache = MemoryCache(100_000_000)
    for number in range(2500):
        put(cache, f"key{number}", ttl=5.0)

    assert cache.next_expiry() == 6.0
    assert cache.expire(5.9) == 0
    assert [cache.expire(6.0) for _ in range(10)] == [250] * 10
    assert cache.next_expiry() is None
    assert (cache.count, cache.bytes, cache.expired) == (0, 0, 2500)


def test_churn_of_one_key_leaves_no_dead_entries() -> None:
    """Overwriting a long-lived key keeps all tables small."""
    cache = MemoryCache(10_000_000)
    for _ in range(10_000):
        put(cache, "key", ttl=86_400.0)

    assert sum(len(bucket.entries) for bucket in cache.wheel.buckets.values()) <= 2
    assert isinstance(cache._policy, GreedyDual)
    assert sum(len(batch.entries) for level in cache._policy._common.levels.values() for batch in level.batches) < 200


def test_deleted_entries_of_many_lifetimes_leave_no_buckets() -> None:
    """A peer that puts and deletes with ever new lifetimes fills no table."""
    cache = MemoryCache(10_000_000)
    put(cache, "stays", ttl=1000.0)
    for number in range(10_000):
        put(cache, "key", ttl=2000.0 + number)
        cache.delete("1000:default", "key", 0.0)

    assert len(cache.wheel.buckets) == 1
    assert len(cache.wheel.heap) < 100
    assert cache.next_expiry() == 1001.0
    cache.delete("1000:default", "stays", 0.0)
    assert cache.next_expiry() is None


@pytest.mark.parametrize("age", [0.0, 4.0])
def test_a_cache_of_no_bytes_keeps_answers_for_the_sharing_window(age: float) -> None:
    """With caching off, finished answers are shared within a budget of their own."""
    cache = MemoryCache(0)
    cache.put("key", b"v", 0.0, terms(ttl=0.0, window=5.0), 1.0)

    assert not cache.caching
    assert cache.budget == SHARING_ONLY_BYTES
    assert get(cache, "key", age) is not None
    assert get(cache, "key", 5.0) is None


def fill(cache: MemoryCache, scope: str, count: int, now: float = 0.0, room: str = "") -> None:
    """Store so many entries of 1,000 bytes in a scope."""
    for number in range(count):
        cache.put(f"{room}{number:05d}", b"v" * 1000, now, Terms(scope, 100.0, 0.0, "default"), 1.0)


def held(cache: MemoryCache, scope: str) -> int:
    """Return the bytes of a scope, summed over its entries."""
    return sum(entry.charge for entry in cache._tables[scope].values()) if scope in cache._tables else 0


def test_a_limited_namespace_evicts_within_itself() -> None:
    """Its excess is evicted from it; other namespaces lose no entry."""
    cache = MemoryCache(10_000_000)
    cache.limit({"team": 100_000})
    fill(cache, "1000:default", 500)
    fill(cache, "*:team", 500)

    assert len(cache._tables["1000:default"]) == 500
    assert 90_000 < held(cache, "*:team") <= 100_000
    assert cache.evicted == cache.evicted_within == 500 - len(cache._tables["*:team"])


def test_a_limit_applies_to_each_scope_of_the_namespace() -> None:
    """One uid's private namespace cannot fill another's of the same name."""
    cache = MemoryCache(10_000_000)
    cache.limit({"default": 100_000})
    fill(cache, "1000:default", 50)
    fill(cache, "1001:default", 500)

    assert len(cache._tables["1000:default"]) == 50
    assert held(cache, "1001:default") <= 100_000


def test_a_limited_namespace_keeps_popular_entries() -> None:
    """Within its limit, eviction works as in the whole cache."""
    cache = MemoryCache(10_000_000)
    cache.limit({"team": 100_000})
    fill(cache, "*:team", 20, room="hot")
    for number in range(20):
        assert cache.get("*:team", f"hot{number:05d}", 0.0) is not None

    fill(cache, "*:team", 200)
    assert sum(cache.get("*:team", f"hot{number:05d}", 0.0) is not None for number in range(20)) == 20


def test_a_limited_namespace_reserves_no_room() -> None:
    """If the whole cache is full, its entries are evicted as all others."""
    cache = MemoryCache(200_000)
    cache.limit({"team": 150_000})
    fill(cache, "*:team", 200)
    assert held(cache, "*:team") > 140_000
    fill(cache, "1000:default", 1000)

    assert cache.bytes <= 200_000
    assert held(cache, "*:team") < 50_000
    assert cache.evicted > cache.evicted_within > 0


def test_an_answer_too_large_for_its_namespace_is_refused() -> None:
    """The same share applies as for the whole cache."""
    cache = MemoryCache(10_000_000)
    cache.limit({"team": 80_000})
    large = Terms("*:team", 100.0, 0.0, "default")

    assert cache.max_entry_bytes_in("*:team") == 10_000
    assert cache.put("large", b"v" * 10_000, 0.0, large, 1.0).too_large
    assert not cache.put("large", b"v" * 9_000, 0.0, large, 1.0).too_large
    assert put(cache, "large", size=10_000).entry is not None


def test_expired_entries_of_a_limited_namespace_are_removed_before_live_ones() -> None:
    """As in the whole cache."""
    cache = MemoryCache(10_000_000)
    cache.limit({"team": 100_000})
    for number in range(60):
        cache.put(f"old{number}", b"v" * 1000, 0.0, Terms("*:team", 5.0, 0.0, "default"), 1.0)

    fill(cache, "*:team", 60, now=10.0)
    assert (cache.evicted, cache.expired) == (0, 60)


def test_a_new_limit_holds_after_a_few_batches() -> None:
    """The excess is evicted batch by batch; other namespaces lose no entry."""
    cache = MemoryCache(10_000_000)
    fill(cache, "*:team", 3000)
    fill(cache, "1000:default", 1000)
    cache.limit({"team": 100_000})
    cache.sweep(0.0)
    assert cache.has_work
    assert held(cache, "*:team") > 100_000
    fill(cache, "*:team", 1, room="put meanwhile")
    sweep(cache)

    assert held(cache, "*:team") <= 100_000
    assert len(cache._tables["1000:default"]) == 1000
    assert cache.evicted == cache.evicted_within


def test_a_removed_limit_no_longer_applies() -> None:
    """And entries leave in the same order as before."""
    cache = MemoryCache(10_000_000)
    cache.limit({"team": 100_000})
    fill(cache, "*:team", 500)
    kept = len(cache._tables["*:team"])
    cache.limit({})
    fill(cache, "*:team", 1000, room="more")
    sweep(cache)

    assert len(cache._tables["*:team"]) == kept + 1000
    assert cache.max_entry_bytes_in("*:team") == cache.max_entry_bytes
    assert len(cache._tables["*:team"]) == kept + 1000
    assert not cache._policy._partitions


def test_what_left_holds_nothing() -> None:
    """Its place in the wheel may be dropped much later; keys would be 5 MB of a cache of 64 MB."""
    cache = MemoryCache(10_000_000)
    entries = [put(cache, f"key {number}").entry for number in range(3)]
    before = cache.bytes
    cache.delete("1000:default", "key 0", 0.0)
    put(cache, "key 1")

    for entry in entries[:2]:
        assert entry is not None
        assert (entry.alive, entry.key, entry.value, entry.seconds) == (False, "", b"", 0.0)

    assert entries[2] is not None
    assert entries[2].key == "key 2"
    assert cache.removed_bytes == 2 * before // 3


def test_seconds_of_long_lifetimes_are_few() -> None:
    """Entries with a lifetime each share what is kept per second, and leave at most one part in 2048 late."""
    cache = MemoryCache(2**30)
    lifetimes = [4096 * 1.0001**number for number in range(20_000)]
    for number, lifetime in enumerate(lifetimes):
        cache.put(str(number), b"v", 0.0, terms(lifetime), 1.0)

    assert len(cache.wheel.buckets) < 8000
    for second in cache.wheel.buckets:
        assert all(
            0 <= second - entry.expires_at <= 1 + entry.expires_at / 2048
            for entry in cache.wheel.buckets[second].entries
        )


@pytest.mark.parametrize("kind", ["alike", "used", "long", "scopes"])
def test_the_collector_sees_no_more_of_many_entries_than_of_few(kind: str) -> None:
    """A garbage collection visits what it tracks, and stops the daemon meanwhile."""
    few, many = (_tracked(kind, count) for count in (100, 5000))

    assert many - few < 50


def _tracked(kind: str, count: int) -> int:
    """Return how many objects the collector tracks for a cache of so many entries, a third of which was replaced or expired."""
    gc.collect()
    before = len(gc.get_objects())
    cache = MemoryCache(count * 1500)
    for number in range(count + count // 3):
        scope = f"{number}:default" if kind == "scopes" else "1000:default"
        lifetime = 300.0 + 1000 * number if kind == "long" else 300.0
        used = kind == "used"
        usage = Usage(model="m", prompt_tokens=number, cost_dollars=0.1) if used else NO_USAGE
        kept = Terms(scope, lifetime, 60.0, "cloud", usage, (f"tag {number}",) if used else ())
        cache.put(str(number % count), b"v" * 100, number / 100, kept, 1.0)

    gc.collect()
    assert cache.count > count // 2
    return len(gc.get_objects()) - before


def full_of_small_entries() -> MemoryCache:
    """Return a full cache of 8 MB with 25,000 entries, of which an eighth is as large as one entry may be."""
    cache = MemoryCache(8_000_000)
    for number in range(26_000):
        put(cache, f"small{number}")

    assert not cache.has_work
    return cache


def test_large_answer_takes_the_place_of_small_ones_in_batches() -> None:
    """It is kept at once, and what it evicts leaves batch by batch."""
    cache = full_of_small_entries()
    before = cache.count
    assert put(cache, "large", size=900_000).entry is not None
    assert before - cache.count <= 250
    assert 8_000_000 < cache.bytes <= 9_000_000
    assert cache.has_work
    put(cache, "small again")
    assert sweep(cache) > 3

    assert cache.bytes <= cache.budget == 8_000_000
    assert get(cache, "large") is not None


def test_cache_exceeds_its_budget_by_a_bounded_excess(monkeypatch: pytest.MonkeyPatch) -> None:
    """Large answers that come faster than room is made for them are not kept; later ones are again."""
    monkeypatch.setattr(memory, "MAX_EXCESS_BYTES", 2_000_000)
    cache = full_of_small_entries()
    kept = [put(cache, f"large{number}", size=900_000).entry is not None for number in range(20)]
    assert kept[:2] == [True, True]
    assert not all(kept)
    assert cache.bytes <= cache.budget <= 10_000_000
    sweep(cache)

    assert put(cache, "later", size=900_000).entry is not None


def test_put_into_a_cache_whose_entries_were_all_hit_takes_no_longer() -> None:
    """The search for a victim without hits ends after some hundreds of entries; no batch is longer for it."""
    cache = full_of_small_entries()
    for number in range(26_000):
        get(cache, f"small{number}")

    for size in (10, 900_000):
        before = cache._policy.passed
        assert put(cache, f"new{size}", size=size).entry is not None
        assert cache._policy.passed - before <= 1000

    while cache.has_work:
        before = cache._policy.passed
        cache.sweep(0.0)
        assert cache._policy.passed - before <= 1000

    assert cache.bytes <= cache.budget == 8_000_000


def test_what_views_take_is_missing_from_the_budget() -> None:
    """At most half of it, though: retired files that clients keep must not end the cache. The largest entry stays the same."""
    cache = full_of_small_entries()
    largest = cache.max_entry_bytes
    cache.reserve(1_000_000)
    sweep(cache)
    assert cache.bytes <= cache.budget == 7_000_000
    cache.reserve(7_000_000)
    sweep(cache)
    assert cache.bytes <= cache.budget == 4_000_000
    assert cache.max_entry_bytes == largest
    cache.resize(16_000_000, 0.0)
    assert cache.budget == 9_000_000
    cache.reserve(0)
    sweep(cache)
    assert cache.budget == 16_000_000


def test_hits_that_are_reported_later_count_until_three() -> None:
    """And not for an entry that has left the cache, whose places are about to be reused."""
    cache = MemoryCache(1_000_000)
    entry = put(cache, "key").entry
    assert entry is not None
    for hits, recent in ((1, 1), (1, 2), (5, 3), (1, 3)):
        entry.touch(hits)
        assert entry.recent_hits == recent

    cache.delete("1000:default", "key", 0.0)
    state = entry.state
    entry.touch(2)
    assert entry.state == state
