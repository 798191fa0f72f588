"""The cache against a dict: what it serves, what it counts, and what it evicts first."""

import tracemalloc
from collections.abc import Callable
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from sidecard.core.cache.entry import ENTRY_OVERHEAD_BYTES, SIZE_PREFIX_BYTES, Entry, Terms
from sidecard.core.cache.eviction import GreedyDual
from sidecard.core.cache.memory import MemoryCache
from sidecard.core.cache.policy import CachePolicy
from sidecard.core.counters import Counters
from sidecard.core.scopes import covers
from sidecard.core.settings import EngineSettings, LiveSettings
from sidecard_client.protocol.wire import Usage
from tests.thoroughness import cases

Place = tuple[str, str]

SCOPES = ["1000:default", "1001:default", "*:team"]
PLACES = st.tuples(st.sampled_from(SCOPES), st.sampled_from([f"key-{number}" for number in range(12)]))
POLICY = CachePolicy(LiveSettings(EngineSettings(cache_max_bytes=2_000_000)), Counters())
"""Makes terms as the engine makes them."""
PLAIN = (Usage(), ())
COSTLY = (Usage(cost_dollars=0.5), ())
TAGGED = (Usage(), ("red",))

Extras = tuple[Usage, tuple[str, ...]]

SIZES = st.sampled_from([0, 5, 60, 200, 400, 900])
TTLS = st.sampled_from([0.0, 0.5, 3.0, 3.0, 20.0])
WINDOWS = st.sampled_from([0.0, 0.0, 1.5, 10.0])
EXTRAS = st.sampled_from([PLAIN, PLAIN, COSTLY, TAGGED])


@dataclass
class Kept:
    """An entry as the model remembers it."""

    value: bytes
    charge: int
    expires: float
    tags: tuple[str, ...]
    before: int | None
    """How large it was before it was compressed."""


class CacheMachine(RuleBasedStateMachine):
    """Writes, reads and removals over a budget of a dozen entries, while time passes in eighths of seconds."""

    @initialize(max_bytes=st.sampled_from([3_000, 8_000, 100_000]))
    def start(self, max_bytes: int) -> None:
        """Start empty."""
        self.cache = MemoryCache(max_bytes)
        self.kept: dict[Place, Kept] = {}
        self.limits: dict[str, int] = {}
        self.now = 50.0
        self.made = 0
        self.made_entries = 0
        self.left = 0
        """Entries that were deleted, purged or replaced."""

    @rule(
        place=PLACES,
        size=SIZES,
        ttl_seconds=TTLS,
        window_seconds=WINDOWS,
        extras=EXTRAS,
        before=st.sampled_from([None, None, 1000, 70_000]),
    )
    def put(
        self, place: Place, size: int, ttl_seconds: float, window_seconds: float, extras: Extras, before: int | None
    ) -> None:
        """Store, and see that only what had to go went. ``before`` is the size of what was compressed."""
        self._put(place, size, ttl_seconds, window_seconds, extras, before)

    @rule(
        places=st.lists(PLACES, min_size=6, max_size=16),
        size=SIZES,
        ttl_seconds=TTLS,
        pause_seconds=st.sampled_from([0.0, 0.125]),
        reads=st.booleans(),
    )
    def fill(self, places: list[Place], size: int, ttl_seconds: float, pause_seconds: float, reads: bool) -> None:
        """Store so many that some must go, perhaps asking for each once."""
        for place in places:
            self._put(place, size, ttl_seconds, 0.0, PLAIN)
            self.now += pause_seconds
            if reads:
                self._get(place)

    def _put(
        self,
        place: Place,
        size: int,
        ttl_seconds: float,
        window_seconds: float,
        extras: Extras,
        before: int | None = None,
    ) -> None:
        usage, tags = extras
        self.made += 1
        header = b"" if before is None else before.to_bytes(SIZE_PREFIX_BYTES, "big")
        value = header + str(self.made).encode() + b"v" * size
        terms = POLICY.terms(place[0], ttl_seconds, window_seconds, "default", usage, tags)
        charge = Entry(place[1], value, self.now, 1.0, terms).charge
        assert charge >= len(place[1]) + len(value) + ENTRY_OVERHEAD_BYTES
        evicted_before, held_before = self.cache.evicted, self._held()
        outcome = self.cache.put(place[1], value, self.now, terms, 1.0, compressed=before is not None)

        self.left += place in held_before
        self.kept.pop(place, None)
        lifetime = max(ttl_seconds, window_seconds)
        limit = self.limits.get(place[0].partition(":")[2], self.cache.budget)
        assert outcome.too_large == (lifetime > 0 and charge > min(self.cache.budget, limit) // 8)
        assert (outcome.entry is not None) == (lifetime > 0 and not outcome.too_large)
        assert outcome.evicted == self.cache.evicted - evicted_before

        gone = self.kept.keys() - self._held()
        victims = self.live().keys() & gone
        assert len(victims) == outcome.evicted, "only live entries are evicted, and all that are gone were"
        there = [(of, kept.charge) for of, kept in self.kept.items() if not self._swept(kept)]
        needed = sum(size for _, size in there) + charge
        within = sum(size for of, size in there if of[0] == place[0]) + charge
        assert not victims or needed > self.cache.budget or within > limit, "expired ones would have made room"
        assert outcome.entry is None or needed <= self.cache.budget or within <= limit or victims
        if needed <= self.cache.budget:
            assert all(of[0] == place[0] for of in victims), "another scope gave way for a limit that is not its own"
        for lost in gone:
            del self.kept[lost]

        if outcome.entry is not None:
            self.made_entries += 1
            assert (outcome.entry.value, outcome.entry.charge) == (value, charge)
            self.kept[place] = Kept(value, charge, self.now + lifetime, tags, before)

    @rule(places=st.lists(PLACES, min_size=1, max_size=12))
    def get(self, places: list[Place]) -> None:
        """Read what is live, and nothing else."""
        for place in places:
            self._get(place)

    def _get(self, place: Place) -> None:
        kept = self.live().get(place)
        entry = self.cache.get(*place, self.now)
        assert (None if entry is None else entry.value) == (None if kept is None else kept.value)

    @rule(place=PLACES)
    def delete(self, place: Place) -> None:
        """Remove an entry; the cache returns whether it was live."""
        live = place in self.live()
        self.left += live
        assert self.cache.delete(*place, self.now) == live
        self.kept.pop(place, None)

    @rule(namespace=st.sampled_from([None, "default", "team", *SCOPES]), tag=st.sampled_from([None, "red"]))
    def purge(self, namespace: str | None, tag: str | None) -> None:
        """Remove many entries; the cache returns how many were live."""
        meant = [
            place
            for place, kept in self.kept.items()
            if covers(namespace, place[0]) and (tag is None or tag in kept.tags)
        ]
        count = len(self.live().keys() & set(meant))
        self.left += count
        purge = self.cache.purge(namespace, tag, self.now)
        assert (purge.count, purge.done) == (count, True)
        for place in meant:
            del self.kept[place]

    @rule(max_bytes=st.sampled_from([3_000, 8_000, 100_000]))
    def resize(self, max_bytes: int) -> None:
        """Have another budget: what is too much goes, and nothing where there is room."""
        evicted_before, held_before = self.cache.evicted, self._held()
        fits = self.cache.bytes <= max_bytes
        self.cache.resize(max_bytes, self.now)
        while self.cache.has_work:
            self.cache.sweep(self.now)

        assert self.cache.bytes <= self.cache.budget == max_bytes
        gone = held_before - self._held()
        assert len(self.live().keys() & gone) == self.cache.evicted - evicted_before
        assert not (fits and gone)
        for lost in gone:
            del self.kept[lost]

    @rule(seconds=st.sampled_from([0.125, 0.5, 1.0, 4.0, 30.0]))
    def wait(self, seconds: float) -> None:
        """Time passes."""
        self.now += seconds

    @rule()
    def expire(self) -> None:
        """The tick removes what expired before this second, and asks to be called again for the rest."""
        self.cache.expire(self.now)
        assert not any(self._swept(kept) for place, kept in self.kept.items() if place in self._held())
        due = self.cache.next_expiry()
        assert due is None or due > self.now

    @precondition(lambda machine: machine.kept)
    @rule()
    def wait_until_empty(self) -> None:
        """The cache names an instant for as long as it has entries; at the last of them it is empty."""
        for _ in range(200):
            due = self.cache.next_expiry()
            if due is None:
                break

            self.now = max(self.now, due)
            self.cache.expire(self.now)

        assert (self.cache.count, self.cache.bytes, self._held()) == (0, 0, set())

    @invariant()
    def the_sums_are_exact(self) -> None:
        """Bytes are those of the entries there are; every entry made is still there or left in exactly one way."""
        cache = self.cache
        entries = [entry for table in cache._tables.values() for entry in table.values()]
        assert cache.bytes == sum(entry.charge for entry in entries)
        assert cache.bytes <= cache.budget
        assert cache.count == len(entries)
        assert self.made_entries == cache.count + cache.evicted + cache.expired + self.left

    @invariant()
    def what_is_compressed_is_counted(self) -> None:
        """With what it takes, and what it would take."""
        cache = self.cache
        compressed = [kept for place, kept in self.kept.items() if place in self._held() and kept.before is not None]
        assert cache.compressed_count == len(compressed)
        assert cache.compressed_bytes == sum(len(kept.value) for kept in compressed)
        assert cache.uncompressed_bytes == sum(kept.before or 0 for kept in compressed)

    @invariant()
    def what_is_live_is_there(self) -> None:
        """Nothing leaves but by eviction, removal or expiry."""
        assert self.live().keys() <= self._held()
        assert all(table for table in self.cache._tables.values()), "an empty scope is kept"

    @invariant()
    def what_left_takes_no_room(self) -> None:
        """The tables beside the entries are bounded by the entries, however many came and went."""
        cache = self.cache
        assert (cache.next_expiry() is None) == (cache.count == 0)
        assert len(cache.wheel.buckets) <= cache.count
        assert len(cache.wheel.heap) <= 2 * cache.count + 100
        assert sum(len(bucket.entries) for bucket in cache.wheel.buckets.values()) <= 2 * cache.count

    @rule(limits=st.dictionaries(st.sampled_from(["default", "team"]), st.sampled_from([4_000, 9_000]), max_size=2))
    def limit(self, limits: dict[str, int]) -> None:
        """Have other limits for namespaces: what is too much there goes, and nothing elsewhere."""
        evicted_before, held_before = self.cache.evicted, self._held()
        self.cache.limit(limits)
        self.limits = limits
        while self.cache.has_work:
            self.cache.sweep(self.now)

        gone = held_before - self._held()
        assert {scope.partition(":")[2] for scope, _ in gone} <= limits.keys() | {
            place[0].partition(":")[2] for place, kept in self.kept.items() if self._swept(kept)
        }
        assert len(self.live().keys() & gone) == self.cache.evicted - evicted_before
        for lost in gone:
            self.kept.pop(lost, None)

    @invariant()
    def limits_of_namespaces_hold(self) -> None:
        """In each scope of their name; what the cache counts of them is what is there."""
        for scope, table in self.cache._tables.items():
            limit = self.limits.get(scope.partition(":")[2])
            charge = sum(entry.charge for entry in table.values())
            assert limit is None or charge <= limit
            assert self.cache._scope_bytes[scope] == charge

        assert self.cache._scope_bytes.keys() == self.cache._tables.keys()

    @invariant()
    def the_policy_knows_who_is_there(self) -> None:
        """Its partitions have the same entries as the cache, each in its own, and tombstones that are bounded."""
        policy = self.cache._policy
        assert isinstance(policy, GreedyDual)
        assert policy._count == self.cache.count
        partitions = {"": policy._common, **policy._partitions}
        for name, partition in partitions.items():
            for number, level in partition.levels.items():
                inside = [entry for batch in level.batches for entry in batch.entries]
                alive = [entry for entry in inside if entry.alive]
                assert len(alive) == level.alive > 0
                assert len(inside) - len(alive) == level.dead
                assert all(entry.level == number for entry in alive)
                assert all((entry.terms.scope if name else "") == name for entry in alive)
                dues = [batch.due for batch in level.batches]
                assert dues == sorted(dues)

        assert (
            sum(level.alive for partition in partitions.values() for level in partition.levels.values())
            == self.cache.count
        )
        assert all(partition.levels for partition in policy._partitions.values())

    def live(self) -> dict[Place, Kept]:
        """Return the entries that may be served now."""
        return {place: kept for place, kept in self.kept.items() if self.now < kept.expires}

    def _swept(self, kept: Kept) -> bool:
        """Return whether the second in which the entry expired has passed: expiry is noticed to the second."""
        return int(kept.expires) + 1 <= self.now

    def _held(self) -> set[Place]:
        return {(scope, entry.key) for scope, table in self.cache._tables.items() for entry in table.values()}


TestCacheAgainstModel = pytest.mark.timeout(600)(CacheMachine.TestCase)  # shrinking a failure takes its time
TestCacheAgainstModel.settings = settings(max_examples=cases(50), stateful_step_count=50, deadline=None, database=None)


def test_lifetimes_of_the_dead_leave_nothing_behind() -> None:
    """A peer that writes one key again and again, each time for another number of seconds, fills no table."""
    cache = MemoryCache(100_000)
    for seconds in range(1, 2000):
        cache.put("key", b"value", 0.0, POLICY.terms("scope", float(seconds), 0.0, "default", Usage(), ()), 0.0)

    assert (cache.count, len(cache.wheel.buckets)) == (1, 1)
    assert len(cache.wheel.heap) < 200
    assert cache.next_expiry() == 2000.0


@given(live=st.integers(0, 20), dead=st.integers(8, 20), newcomers=st.integers(1, 40))
@settings(deadline=None, database=None)
def test_expired_entries_leave_before_live_ones(live: int, dead: int, newcomers: int) -> None:
    """As many newcomers as there are dead entries find room at no live entry's cost."""
    brief, lasting = (POLICY.terms("scope", ttl_seconds, 0.0, "default", Usage(), ()) for ttl_seconds in (1.0, 100.0))
    cache = MemoryCache((live + dead) * Entry("live-00", b"value", 0.0, 0.0, lasting).charge)
    for number in range(live):
        cache.put(f"live-{number:02d}", b"value", 0.0, lasting, 0.0)

    for number in range(dead):
        cache.put(f"dead-{number:02d}", b"value", 0.0, brief, 0.0)

    evicted = [cache.put(f"late-{number:02d}", b"value", 3.0, lasting, 0.0).evicted for number in range(newcomers)]
    assert sum(evicted) == max(0, newcomers - dead)
    assert cache.expired == dead


def _wide(number: int) -> tuple[str, Terms]:
    return f"{number:05d}" + "\N{GRINNING FACE}" * 1000, POLICY.terms("scope", 100.0, 0.0, "default", Usage(), ())


def _tagged(number: int) -> tuple[str, Terms]:
    tags = tuple(f"{number:05d}-{place:02d}".ljust(128, "x") for place in range(16))
    return f"key-{number}", POLICY.terms("scope", 100.0, 0.0, "default", Usage(), tags)


def _metered(number: int) -> tuple[str, Terms]:
    usage = Usage(f"{number:05d}".ljust(128, "x"), 1000 + number, 2000 + number, 0.125 * number)
    backend = f"{number:05d}".ljust(128, "x")
    return f"key-{number}", POLICY.terms("scope", 100.0 + number, 0.5 * number, backend, usage, ())


@pytest.mark.parametrize("shape", [_wide, _tagged, _metered])
def test_entries_take_no_more_memory_than_they_are_charged(shape: Callable[[int], tuple[str, Terms]]) -> None:
    """A peer that sends the costliest keys, tags and usages that the protocol allows fills the budget, not the machine."""
    cache = MemoryCache(2_000_000)
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        for number in range(400):
            key, terms = shape(number)
            cache.put(key, b"v" * 100, 0.0, terms, 1.0)

        taken = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()

    assert cache.count == 400
    assert taken <= 1.1 * cache.bytes
