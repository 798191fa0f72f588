"""The memory cache: entries under a byte budget. Expired entries are removed before live ones.

Only `MemoryCache._insert` and `MemoryCache._unlink` add and remove entries, so the sums are kept there.
"""

from heapq import heappop, heappush
from math import inf

from msgspec import Struct

from sidecard.core.cache.entry import AFTER_HIT, COMPRESSED, Entry, Terms
from sidecard.core.cache.eviction import GreedyDual
from sidecard.core.scopes import namespace_of

SHARING_ONLY_BYTES = 16 * 1024 * 1024
"""Budget for finished answers inside the sharing window if caching is off (``max_bytes`` 0)."""

MAX_ENTRY_SHARE = 1 / 8
"""Maximum share of the budget for one entry; a larger one is refused, since one answer must not evict all others.
Precedent: memcached's item limit is 1/64 of its default memory, Varnish's transient storage takes what is too large."""

_BATCH = 1000
"""Entries removed at a time (about a millisecond), so that mass expiry never stalls the serving loop."""

_SLACK = 64
"""Seconds without entries that the heap may hold before it is rebuilt."""


class Insertion(Struct, frozen=True):
    """Result of `MemoryCache.put`."""

    entry: Entry | None
    """None if the answer was too large, or its lifetime was 0."""
    too_large: bool = False
    evicted: int = 0


class _Bucket(Struct, eq=False):
    """The entries that expire within one second."""

    entries: list[Entry] = []
    dead: int = 0


class MemoryCache:
    """Entries by scope and key. ``now`` is an instant of the monotonic clock, in seconds, and never steps back."""

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self.caching = max_bytes > 0
        self.budget = max_bytes or SHARING_ONLY_BYTES
        self.max_entry_bytes = int(self.budget * MAX_ENTRY_SHARE)
        self.bytes = 0
        self.reserved = 0
        """Bytes of the budget that streams use; at most half of it."""
        self.count = 0
        self.compressed_count = 0
        self.compressed_bytes = 0
        """Size of the compressed values as kept; ``uncompressed_bytes`` is their size as served."""
        self.uncompressed_bytes = 0
        self.evicted = 0
        self.evicted_within = 0
        """Those of ``evicted`` that left because of their own namespace's limit."""
        self.expired = 0
        self._tables: dict[str, dict[str, Entry]] = {}
        self._policy = GreedyDual()
        self.no_expiry_before = inf
        """Lower bound of `next_expiry`, which makes it exact."""
        self._wheel: dict[int, _Bucket] = {}
        self._wheel_heap: list[int] = []
        self._limits: dict[str, int] = {}
        """Bytes by namespace. Usually empty, which costs an insertion one check."""
        self._limited_bytes: dict[str, int] = {}
        """Bytes in use, by scope with a limit."""

    def limit(self, limits: dict[str, int]) -> None:
        """Set limits for single namespaces; `shrink` removes the excess.

        ``limits`` are bytes by namespace, for each of its scopes (the private one of a uid, or the shared one). A change
        regroups all entries, which takes a few microseconds each.
        """
        if limits == self._limits:
            return

        self._limits = limits
        self._policy.partition(self._is_limited)
        self._limited_bytes = {
            scope: sum(entry.charge for entry in table.values())
            for scope, table in self._tables.items()
            if self._is_limited(scope)
        }

    def max_entry_bytes_in(self, scope: str) -> int:
        """Return how large an entry of a scope may be."""
        limit = self._limits.get(namespace_of(scope)) if self._limits else None
        return self.max_entry_bytes if limit is None else min(self.max_entry_bytes, int(limit * MAX_ENTRY_SHARE))

    def resize(self, max_bytes: int, now: float) -> None:
        """Set another budget; `shrink` removes the excess. 0 empties the cache immediately."""
        self.max_bytes = max_bytes
        self.caching = max_bytes > 0
        if not self.caching:
            self.purge(self.scopes(), None, now)

        self.budget = max(self._target_bytes, self.bytes)
        self.max_entry_bytes = int(self._target_bytes * MAX_ENTRY_SHARE)

    def shrink(self, now: float) -> bool:
        """Evict a batch of the excess after `resize` or `limit`; return whether more remains."""
        for _ in range(_BATCH):
            if self.bytes <= self._target_bytes:
                break

            self.evicted += self._evict(now)

        self.budget = max(self._target_bytes, self.bytes)
        for scope in list(self._limited_bytes):
            self._make_room_within(scope, 0, now)

        return self.budget > self._target_bytes or any(self._excess(scope) > 0 for scope in self._limited_bytes)

    @property
    def _target_bytes(self) -> int:
        return self.max_bytes or SHARING_ONLY_BYTES

    def get(self, scope: str, key: str, now: float) -> Entry | None:
        """Return an entry, fresh or stale, and count a hit; an expired one is removed."""
        table = self._tables.get(scope)
        if table is None:
            return None

        entry = table.get(key)
        if entry is None:
            return None

        if now - entry.stored_at >= entry.terms.lifetime_seconds:
            self._remove(entry)
            self.expired += 1
            return None

        entry.state = AFTER_HIT[entry.state]  # `Entry.touch`, without its call: every hit passes here
        return entry

    def peek(self, scope: str, key: str) -> Entry | None:
        """Return an entry, expired or not, without counting a hit."""
        return self._tables.get(scope, {}).get(key)

    def put(
        self,
        key: str,
        value: bytes,
        now: float,
        terms: Terms,
        seconds: float,
        age_seconds: float = 0.0,
        *,
        compressed: bool = False,
    ) -> Insertion:
        """Replace the key's entry, removing expired entries and then victims until the new one fits.

        Even if the new answer cannot be kept, the old one is removed, because it is outdated. ``age_seconds`` is the
        age that the answer already has.
        """
        table = self._tables.get(terms.scope)
        if table is not None and key in table:
            self._remove(table[key])

        if terms.lifetime_seconds <= 0:
            return Insertion(None)

        entry = Entry(key, value, now - age_seconds, seconds, terms, COMPRESSED if compressed else 0)
        charge = entry.charge
        if charge > (self.max_entry_bytes_in(terms.scope) if self._limits else self.max_entry_bytes):
            return Insertion(None, too_large=True)

        evicted = self._make_room_within(terms.scope, charge, now) if self._limits else 0
        if self.bytes + self.reserved + charge > self.budget:
            evicted += self._make_room(charge, now)

        self._insert(entry, charge)
        return Insertion(entry, evicted=evicted)

    def make_room_for_reserved(self, now: float) -> None:
        """Evict entries until the reserved bytes fit into the budget."""
        if self.bytes + self.reserved > self.budget:
            self._make_room(0, now)

    def delete(self, scope: str, key: str, now: float) -> bool:
        """Remove an entry; return whether it was still live."""
        entry = self._tables.get(scope, {}).get(key)
        if entry is None:
            return False

        self._remove(entry)
        if now >= entry.expires_at:
            self.expired += 1
            return False

        return True

    def purge(self, scopes: list[str], tag: str | None, now: float, task: str | None = None) -> int:
        """Remove the entries of ``scopes``, only those with ``tag`` and of ``task`` if given; return how many were live."""
        removed = 0
        for scope in scopes:
            entries = list(self._tables.get(scope, {}).values())
            removed += sum(
                self.delete(scope, entry.key, now)
                for entry in entries
                if (tag is None or tag in entry.terms.tags) and (task is None or task == entry.terms.task)
            )

        return removed

    def scopes(self) -> list[str]:
        """Return the scopes that have entries."""
        return list(self._tables)

    def next_expiry(self) -> float | None:
        """Return the instant, to the second, at which the next entry will have expired; None if the cache is empty."""
        heap = self._wheel_heap
        while heap and heap[0] not in self._wheel:
            heappop(heap)

        self.no_expiry_before = heap[0] if heap else inf
        return float(heap[0]) if heap else None

    def expire(self, now: float) -> int:
        """Remove a batch of expired entries; return how many."""
        removed = 0
        while removed < _BATCH and (second := self.next_expiry()) is not None and second <= now:
            bucket = self._wheel[int(second)]
            while bucket.entries and removed < _BATCH:
                entry = bucket.entries.pop()
                if entry.alive:
                    self._policy.forget(entry)
                    self._unlink(entry)
                    entry.value = b""
                    removed += 1
                else:
                    bucket.dead -= 1

            if not bucket.entries:
                del self._wheel[int(second)]

        self.expired += removed
        return removed

    def _make_room(self, charge: int, now: float) -> int:
        evicted = 0
        while self.bytes + self.reserved + charge > self.budget and self.count:
            if self.expire(now):
                continue

            evicted += self._evict(now)

        self.evicted += evicted
        return evicted

    def _make_room_within(self, scope: str, charge: int, now: float) -> int:
        """Make room in a scope with a limit: at most one batch. `shrink` removes the rest after a limit was lowered."""
        evicted = 0
        for _ in range(_BATCH):
            if self._excess(scope) + charge <= 0 or scope not in self._limited_bytes:
                break

            if not self.expire(now):
                evicted += self._evict(now, scope)

        self.evicted += evicted
        self.evicted_within += evicted
        return evicted

    def _excess(self, scope: str) -> int:
        """Return the bytes that a scope holds above its limit; negative if there is room."""
        limit = self._limits.get(namespace_of(scope))
        return -self.budget if limit is None else self._limited_bytes.get(scope, 0) - limit

    def _is_limited(self, scope: str) -> bool:
        return namespace_of(scope) in self._limits

    def _evict(self, now: float, scope: str | None = None) -> bool:
        """Remove the policy's victim, of a scope or of all; return whether it was live."""
        victim = self._policy.victim(scope)
        self._unlink(victim)
        self._discard(victim)
        if now < victim.expires_at:
            return True

        # The wheel sorts by whole seconds, so it had not expired this one yet.
        self.expired += 1
        return False

    def _insert(self, entry: Entry, charge: int) -> None:
        scope = entry.terms.scope
        self._tables.setdefault(scope, {})[entry.key] = entry
        self.bytes += charge
        self.count += 1
        if self._limits and self._is_limited(scope):
            self._limited_bytes[scope] = self._limited_bytes.get(scope, 0) + charge

        if entry.state & COMPRESSED:
            self._count_compressed(entry, 1)

        self._policy.admit(entry, charge)
        second = _expiry_second(entry)
        bucket = self._wheel.get(second)
        if bucket is None:
            bucket = self._wheel[second] = _Bucket()
            heappush(self._wheel_heap, second)
            self.no_expiry_before = min(self.no_expiry_before, second)
            if len(self._wheel_heap) > 2 * len(self._wheel) + _SLACK:
                self._wheel_heap = sorted(self._wheel)

        bucket.entries.append(entry)

    def _remove(self, entry: Entry) -> None:
        self._policy.forget(entry)
        self._unlink(entry)
        self._discard(entry)

    def _unlink(self, entry: Entry) -> None:
        """Take an entry out of its table, the sums and its group."""
        scope = entry.terms.scope
        table = self._tables[scope]
        del table[entry.key]
        if self._limited_bytes and scope in self._limited_bytes:
            self._limited_bytes[scope] -= entry.charge

        if not table:
            del self._tables[scope]
            self._limited_bytes.pop(scope, None)

        self.bytes -= entry.charge
        self.count -= 1
        if entry.state & COMPRESSED:
            self._count_compressed(entry, -1)

        if entry.terms.group is not None:
            entry.terms.group.entry_removed(entry)

    def _count_compressed(self, entry: Entry, by: int) -> None:
        self.compressed_count += by
        self.compressed_bytes += by * len(entry.value)
        self.uncompressed_bytes += by * entry.answer_bytes

    def _discard(self, entry: Entry) -> None:
        """Free a dead entry's value, and rebuild its bucket of the wheel once half of it is dead."""
        second = _expiry_second(entry)
        bucket = self._wheel[second]
        bucket.dead += 1
        entry.value = b""
        if 2 * bucket.dead > len(bucket.entries):
            bucket.entries = [other for other in bucket.entries if other.alive]
            bucket.dead = 0
            # Peers choose lifetimes freely, so an empty bucket must not wait for its second.
            if not bucket.entries:
                del self._wheel[second]


def _expiry_second(entry: Entry) -> int:
    """Return the first whole second at which the entry has certainly expired."""
    return int(entry.stored_at + entry.terms.lifetime_seconds) + 1
