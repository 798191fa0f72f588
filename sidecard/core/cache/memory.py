"""The memory cache: entries under a byte budget, expired ones removed before live ones.

Everything that adds or removes an entry goes through `MemoryCache._insert` and `MemoryCache._remove`; the sums are kept there.
"""

from heapq import heappop, heappush

from msgspec import Struct

from sidecard.core.cache.entry import COMPRESSED, Entry, Terms
from sidecard.core.cache.eviction import EvictionPolicy, GreedyDual
from sidecard.core.scopes import namespace_of

SHARING_ONLY_BYTES = 16 * 1024 * 1024
"""Budget for finished answers inside the sharing window where caching is off (``max_bytes`` 0)."""

MAX_ENTRY_SHARE = 1 / 8
"""An entry larger than this share of the budget is refused: one answer must not drive out all others.
Precedent: memcached's item limit is 1/64 of its default memory, Varnish's transient storage takes what is too large."""

_EXPIRY_BATCH = 1000
"""Entries removed in one go (about a millisecond), so that a flood of them never stalls the serving loop."""


_SLACK = 64
"""Seconds without entries that the order may name before it is rebuilt."""


class Insertion(Struct, frozen=True):
    """What came of an insertion."""

    entry: Entry | None
    """None where the answer was too large, or would have been dead at once."""
    too_large: bool = False
    evicted: int = 0


class _Bucket:
    """The entries that expire within one second."""

    def __init__(self) -> None:
        self.entries: list[Entry] = []
        self.dead = 0


class MemoryCache:
    """Entries by scope and key. ``now`` is an instant of the monotonic clock, in seconds, and never steps back."""

    def __init__(self, max_bytes: int, policy: EvictionPolicy | None = None) -> None:
        self.max_bytes = max_bytes
        self.caching = max_bytes > 0
        self.budget = max_bytes or SHARING_ONLY_BYTES
        self.max_entry_bytes = int(self.budget * MAX_ENTRY_SHARE)
        self.bytes = 0
        self.reserved = 0
        """Bytes of the budget that something else uses; at most half of it."""
        self.count = 0
        self.compressed_count = 0
        self.compressed_bytes = 0
        """Of the values of these, as they are kept; ``uncompressed_bytes`` as they are served."""
        self.uncompressed_bytes = 0
        self.evicted = 0
        self.evicted_within = 0
        """Of these, those that left for the limit of their own namespace."""
        self.expired = 0
        self._tables: dict[str, dict[str, Entry]] = {}
        self._policy: EvictionPolicy = policy or GreedyDual()
        self._wheel: dict[int, _Bucket] = {}
        self._wheel_order: list[int] = []
        self._limits: dict[str, int] = {}
        """By namespace. None is the rule, and costs an insertion one look at an empty dict."""
        self._held: dict[str, int] = {}
        """Bytes by scope, of those that have a limit."""

    def limit(self, limits: dict[str, int]) -> None:
        """Have other limits for single namespaces; what is too much leaves by `shrink`.

        ``limits`` are bytes by namespace: each of its scopes, the private one of a uid or the shared one, may hold so much.
        Where they change, all entries are sorted anew, a few microseconds each.
        """
        if limits == self._limits:
            return

        self._limits = limits
        self._policy.set_apart(self._is_limited)
        self._held = {
            scope: sum(entry.charge for entry in table.values())
            for scope, table in self._tables.items()
            if self._is_limited(scope)
        }

    def max_entry_bytes_in(self, scope: str) -> int:
        """Return how large an entry of a scope may be."""
        limit = self._limits.get(namespace_of(scope)) if self._limits else None
        return self.max_entry_bytes if limit is None else min(self.max_entry_bytes, int(limit * MAX_ENTRY_SHARE))

    def resize(self, max_bytes: int, now: float) -> None:
        """Have another budget from now on; what is too much leaves by `shrink`. 0 empties the cache at once."""
        self.max_bytes = max_bytes
        self.caching = max_bytes > 0
        if not self.caching:
            self.purge(self.scopes(), None, now)

        self.budget = max(self._wanted_bytes, self.bytes)
        self.max_entry_bytes = int(self._wanted_bytes * MAX_ENTRY_SHARE)

    def shrink(self, now: float) -> bool:
        """Evict a batch of what is too much since `resize` or `limit`; tell whether there is more."""
        for _ in range(_EXPIRY_BATCH):
            if self.bytes <= self._wanted_bytes:
                break

            self.evicted += self._evict(now)

        self.budget = max(self._wanted_bytes, self.bytes)
        for scope in list(self._held):
            self._make_room_within(scope, 0, now)

        return self.budget > self._wanted_bytes or any(self._excess(scope) > 0 for scope in self._held)

    @property
    def _wanted_bytes(self) -> int:
        return self.max_bytes or SHARING_ONLY_BYTES

    def get(self, scope: str, key: str, now: float) -> Entry | None:
        """Return the entry if anybody may still be served it, be it stale; an expired one is removed on the way."""
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

        entry.touch()
        return entry

    def peek(self, scope: str, key: str) -> Entry | None:
        """Return the entry as it is, without serving it to anybody."""
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
        """Store an answer in place of the key's older one, removing expired entries and then victims until it fits.

        An answer that may not be stored still removes the older one: what the key meant has changed.
        ``age_seconds`` is how old the answer is already.
        """
        older = self._tables.get(terms.scope, {}).get(key)
        if older is not None:
            self._remove(older)

        if terms.lifetime_seconds <= 0:
            return Insertion(None)

        entry = Entry(key, value, now - age_seconds, seconds, terms, COMPRESSED if compressed else 0)
        charge = entry.charge
        if charge > self.max_entry_bytes_in(terms.scope):
            return Insertion(None, too_large=True)

        evicted = self._make_room_within(terms.scope, charge, now) if self._limits else 0
        evicted += self._make_room(charge, now)
        self._insert(entry, charge)
        return Insertion(entry, evicted=evicted)

    def give_way(self, now: float) -> None:
        """Make room for what is reserved."""
        if self.bytes + self.reserved > self.budget:
            self._make_room(0, now)

    def delete(self, scope: str, key: str, now: float) -> bool:
        """Remove an entry; tell whether somebody could still have been served it."""
        entry = self._tables.get(scope, {}).get(key)
        if entry is None:
            return False

        self._remove(entry)
        if now >= entry.expires_at:
            self.expired += 1
            return False

        return True

    def purge(self, scopes: list[str], tag: str | None, now: float, task: str | None = None) -> int:
        """Remove the entries of ``scopes`` (those with ``tag``, of ``task``, if these are named); return how many were live."""
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
        """Return the instant at which some entry will have expired, to the second; None for an empty cache."""
        order = self._wheel_order
        while order and order[0] not in self._wheel:
            heappop(order)

        return float(order[0]) if order else None

    def expire(self, now: float) -> int:
        """Remove entries that have expired, at most a batch of them; return how many."""
        removed = 0
        while removed < _EXPIRY_BATCH and (second := self.next_expiry()) is not None and second <= now:
            bucket = self._wheel[int(second)]
            while bucket.entries and removed < _EXPIRY_BATCH:
                entry = bucket.entries.pop()
                if entry.alive:
                    self._leave_table(entry)
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
        """Make room in a scope that has a limit. A batch at most: what a lower limit has left over goes by `shrink`."""
        evicted = 0
        for _ in range(_EXPIRY_BATCH):
            if self._excess(scope) + charge <= 0 or scope not in self._held:
                break

            if not self.expire(now):
                evicted += self._evict(now, scope)

        self.evicted += evicted
        self.evicted_within += evicted
        return evicted

    def _excess(self, scope: str) -> int:
        """Return what a scope has too much of; below 0 it is room that is left."""
        limit = self._limits.get(namespace_of(scope))
        return -self.budget if limit is None else self._held.get(scope, 0) - limit

    def _is_limited(self, scope: str) -> bool:
        return namespace_of(scope) in self._limits

    def _evict(self, now: float, scope: str | None = None) -> bool:
        """Remove the policy's victim, of a scope or of all; tell whether it was live."""
        victim = self._policy.victim(scope)
        self._drop(victim)
        self._bury(victim)
        if now < victim.expires_at:
            return True

        # Within the second, to which expiry is sorted.
        self.expired += 1
        return False

    def _insert(self, entry: Entry, charge: int) -> None:
        self._tables.setdefault(entry.terms.scope, {})[entry.key] = entry
        self.bytes += charge
        self.count += 1
        if self._limits and self._is_limited(entry.terms.scope):
            self._held[entry.terms.scope] = self._held.get(entry.terms.scope, 0) + charge

        if entry.state & COMPRESSED:
            self._count_compressed(entry, 1)

        self._policy.admit(entry)
        second = _expiry_second(entry)
        bucket = self._wheel.get(second)
        if bucket is None:
            bucket = self._wheel[second] = _Bucket()
            heappush(self._wheel_order, second)
            if len(self._wheel_order) > 2 * len(self._wheel) + _SLACK:
                self._wheel_order = sorted(self._wheel)

        bucket.entries.append(entry)

    def _remove(self, entry: Entry) -> None:
        self._leave_table(entry)
        self._bury(entry)

    def _leave_table(self, entry: Entry) -> None:
        self._policy.forget(entry)
        self._drop(entry)

    def _drop(self, entry: Entry) -> None:
        scope = entry.terms.scope
        table = self._tables[scope]
        del table[entry.key]
        if self._held and scope in self._held:
            self._held[scope] -= entry.charge

        if not table:
            del self._tables[scope]
            self._held.pop(scope, None)

        self.bytes -= entry.charge
        self.count -= 1
        if entry.state & COMPRESSED:
            self._count_compressed(entry, -1)

        if entry.terms.group is not None:
            entry.terms.group.forget(entry)

    def _count_compressed(self, entry: Entry, by: int) -> None:
        self.compressed_count += by
        self.compressed_bytes += by * len(entry.value)
        self.uncompressed_bytes += by * entry.answer_bytes

    def _bury(self, entry: Entry) -> None:
        """Free what a dead entry holds; its wheel's bucket, once half dead, is rebuilt without the dead."""
        second = _expiry_second(entry)
        bucket = self._wheel[second]
        bucket.dead += 1
        entry.value = b""
        if 2 * bucket.dead > len(bucket.entries):
            bucket.entries = [other for other in bucket.entries if other.alive]
            bucket.dead = 0
            # Peers choose lifetimes as they like, so buckets of the dead must not wait for their second to come.
            if not bucket.entries:
                del self._wheel[second]


def _expiry_second(entry: Entry) -> int:
    """Return the first whole second at which the entry has certainly expired."""
    return int(entry.expires_at) + 1
