"""A purge in batches is equivalent to a purge in one go, for every observer, whatever happens between its batches."""

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from sidecard.core.cache.memory import MemoryCache
from sidecard.core.cache.policy import CachePolicy
from sidecard.core.cache.purges import CachePurge
from sidecard.core.counters import Counters
from sidecard.core.records import NO_USAGE
from sidecard.core.settings import EngineSettings, LiveSettings
from tests.thoroughness import cases

Place = tuple[str, str]

SCOPES = ["1000:default", "1001:default", "*:team"]
PLACES = st.tuples(st.sampled_from(SCOPES), st.sampled_from([f"key-{number}" for number in range(8)]))
NAMESPACES = st.sampled_from([None, "default", "team", "1000:default"])
TAGS = st.sampled_from([(), (), ("red",), ("red", "blue")])
TASKS = st.sampled_from(["general", "rag"])


def policy_of(max_bytes: int) -> CachePolicy:
    """Return an empty cache with its policy, which makes terms as the engine does."""
    return CachePolicy(LiveSettings(EngineSettings(cache_max_bytes=max_bytes)), Counters())


class PurgeMachine(RuleBasedStateMachine):
    """One cache removes in batches, another one at once; both get the same requests."""

    @initialize()
    def start(self) -> None:
        """Start empty, with room for all entries."""
        self.batched, self.instant = policy_of(10_000_000), policy_of(10_000_000)
        self.batched.cache.inline_entries = 0
        self.now = 50.0
        self.made = 0
        self.purges: list[tuple[CachePurge, int]] = []

    @rule(place=PLACES, ttl_seconds=st.sampled_from([0.5, 3.0, 3.0, 20.0]), tags=TAGS, task=TASKS)
    def put(self, place: Place, ttl_seconds: float, tags: tuple[str, ...], task: str) -> None:
        """Store in both."""
        self.made += 1
        for policy in (self.batched, self.instant):
            terms = policy.terms(place[0], ttl_seconds, 0.0, "default", NO_USAGE, tags, task=task)
            policy.store(place[1], str(self.made).encode(), self.now, terms, 1.0)

    @rule(places=st.lists(PLACES, min_size=1, max_size=24))
    def get(self, places: list[Place]) -> None:
        """Read from both, and count hits."""
        for place in places:
            found = [policy.cache.get(*place, self.now) for policy in (self.batched, self.instant)]
            values = [None if entry is None else entry.value for entry in found]
            assert values[0] == values[1]

    @rule(place=PLACES)
    def delete(self, place: Place) -> None:
        """Remove one entry from both."""
        assert self.batched.cache.delete(*place, self.now) == self.instant.cache.delete(*place, self.now)

    @rule(namespace=NAMESPACES, tag=st.sampled_from([None, None, "red", "blue"]), task=st.sampled_from([None, "rag"]))
    def purge(self, namespace: str | None, tag: str | None, task: str | None) -> None:
        """Purge both."""
        begun = self.batched.purge(namespace, tag, self.now, task)
        done = self.instant.purge(namespace, tag, self.now, task)
        assert done.done
        self.purges.append((begun, done.count))

    @rule(steps=st.integers(1, 12))
    def sweep(self, steps: int) -> None:
        """Do one batch."""
        self.batched.cache.sweep_steps = steps
        self.batched.cache.sweep(self.now)

    @rule(limits=st.dictionaries(st.sampled_from(["default", "team"]), st.just(1_000_000), max_size=2))
    def limit(self, limits: dict[str, int]) -> None:
        """Regroup entries in both, while purges are in progress."""
        for policy in (self.batched, self.instant):
            policy.cache.limit(limits)

    @rule(seconds=st.sampled_from([0.125, 0.5, 1.0, 4.0]), expires=st.booleans())
    def wait(self, seconds: float, expires: bool) -> None:
        """Time passes."""
        self.now += seconds
        if expires:
            self.batched.cache.expire(self.now)
            self.instant.cache.expire(self.now)

    @invariant()
    def nobody_sees_a_difference(self) -> None:
        """Every entry is found in both, or in none."""
        for scope in SCOPES:
            for number in range(8):
                found = [policy.cache.peek(scope, f"key-{number}") for policy in (self.batched, self.instant)]
                live = [None if one is None or one.expires_at <= self.now else one.value for one in found]
                assert live[0] == live[1]

    @invariant()
    def sums_are_exact(self) -> None:
        """Bytes and counts are those of the entries that are held, hidden ones included."""
        cache = self.batched.cache
        entries = [entry for table in cache._tables.values() for entry in table.values()]
        assert (cache.count, cache.bytes) == (len(entries), sum(entry.charge for entry in entries))
        assert cache._policy._count == cache.count
        assert all(purge.count <= count for purge, count in self.purges)
        assert cache.has_work or not cache._pending

    def teardown(self) -> None:
        """Once all batches are done, nothing of a purge is left, and each counted what an instant one counts."""
        if not hasattr(self, "batched"):
            return

        while self.batched.cache.has_work:
            self.batched.cache.sweep(self.now)

        assert [purge.count for purge, _ in self.purges] == [count for _, count in self.purges]
        assert all(purge.done for purge, _ in self.purges)
        for policy in (self.batched, self.instant):
            _expire_all(policy.cache, self.now)

        batched, instant = self.batched.cache, self.instant.cache
        assert (batched.count, batched.bytes, batched.expired) == (instant.count, instant.bytes, instant.expired)


TestBatchedPurges = pytest.mark.timeout(600)(PurgeMachine.TestCase)  # shrinking a failure takes its time
TestBatchedPurges.settings = settings(max_examples=cases(50), stateful_step_count=40, deadline=None, database=None)


def _expire_all(cache: MemoryCache, now: float) -> None:
    """Remove what has expired: the wheel notices it to the second, a read at once."""
    for scope, key in [(scope, entry.key) for scope, table in cache._tables.items() for entry in table.values()]:
        cache.get(scope, key, now)
