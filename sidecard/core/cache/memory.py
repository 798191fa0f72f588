"""The memory cache: entries under a byte budget. Expired entries are removed before live ones.

Only `MemoryCache._insert` and `MemoryCache._unlink` add and remove entries, so the sums are kept there.
"""

from collections.abc import Callable

from sidecard.core.cache.containers import EntryTable
from sidecard.core.cache.entry import AFTER_HIT, COMPRESSED, PUBLISHED, Entry, Insertion, PublishedEntries, Terms
from sidecard.core.cache.eviction import GreedyDual
from sidecard.core.cache.expiry import COMPACTION_STEPS, ExpiryWheel
from sidecard.core.cache.purges import CachePurge, Purges
from sidecard.core.scopes import covers, namespace_of

SHARING_ONLY_BYTES = 16 * 1024 * 1024
"""Budget for finished answers inside the sharing window if caching is off (``max_bytes`` 0)."""

MAX_ENTRY_SHARE = 1 / 8
"""Maximum share of the limit for one entry: one answer must not evict all others. Precedent: memcached's 1/64 of its memory."""

_BATCH = 250
"""Entries removed at a time, which takes 1 to 2 ms, so that mass removal never stalls the serving loop."""

MAX_EXCESS_BYTES = 16 * 1024 * 1024
"""How much above its budget the cache may be while `sweep` makes room for an answer that takes the place of very many."""

_WALK_STEPS = 100
"""Part of a batch, after which the cost of searching for purges is counted: it depends on the entries' tags."""

_SEARCH_STEPS = 1
"""What a search for purges counts for each tag, in steps."""

SWEEP_STEPS = 2000
"""Default length of a batch of a purge, in entries passed; a removed one counts as several. It takes 0.3 to 1 ms."""


class MemoryCache:
    """Entries by scope and key. ``now`` is an instant of the monotonic clock, in seconds, and never steps back."""

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self.caching = max_bytes > 0
        self.budget = max_bytes or SHARING_ONLY_BYTES
        self.max_entry_bytes = int(self.budget * MAX_ENTRY_SHARE)
        self.bytes = self.count = self.compressed_count = 0
        self.compressed_bytes = self.uncompressed_bytes = 0
        """Size of the compressed values as kept, and as served."""
        self.evicted = self.expired = 0
        self.evicted_within = 0
        """Those of ``evicted`` that left because of their own namespace's limit."""
        self.removed_bytes = 0
        """Charges of all entries that ever left."""
        self._tables: dict[str, EntryTable] = {}
        self._purges = Purges()
        self.inline_entries = _BATCH
        """A purge among at most so many entries removes them immediately. For tests: 0 forces batches."""
        self.sweep_steps = SWEEP_STEPS
        """Length of a batch of `sweep`. For tests: 1 has other events happen between any two entries."""
        self._pending = self._purges.pending
        """The same object: the hot path checks whether it is empty."""
        self._policy = GreedyDual(self.is_hidden)
        self.wheel = ExpiryWheel()
        self.published: PublishedEntries | None = None
        """The entries that are in views."""
        self.reserved_bytes = 0
        """Bytes of ``max_bytes`` that views take, in files and tables."""
        self._limits: dict[str, int] = {}
        """Bytes by namespace. Usually empty, which costs an insertion one check."""
        self._scope_bytes: dict[str, int] = {}
        """Bytes in use, by scope."""
        self._excess_may_remain = False
        """A budget or limit was lowered, and `sweep` has not yet removed all of the excess."""

    @property
    def generation(self) -> int:
        """The number of purges so far, which the terms of new entries must have."""
        return self._purges.generation

    @property
    def has_work(self) -> bool:
        """Whether `sweep` has entries to pass or to remove."""
        policy = self._policy
        return self._excess_may_remain or policy.walks_done < policy.walks_wanted or bool(self._purges.walking)

    def limit(self, limits: dict[str, int]) -> None:
        """Set limits for single namespaces; `sweep` removes the excess.

        ``limits`` are bytes by namespace, for each of its scopes (the private one of a uid, or the shared one). They hold
        for new entries at once, and for all once `sweep` has passed every entry.
        """
        if limits != self._limits:
            self._limits = limits
            self._policy.partition(self._is_limited)
            self._excess_may_remain = True

    def max_entry_bytes_in(self, scope: str) -> int:
        """Return how large an entry of a scope may be."""
        limit = self._limits.get(namespace_of(scope)) if self._limits else None
        return self.max_entry_bytes if limit is None else min(self.max_entry_bytes, int(limit * MAX_ENTRY_SHARE))

    def resize(self, max_bytes: int, now: float) -> None:
        """Set another budget; `sweep` removes the excess. 0 hides all entries at once."""
        self.max_bytes = max_bytes
        self.caching = max_bytes > 0
        if not self.caching:
            self.purge(None, None, now)

        self.max_entry_bytes = int((max_bytes or SHARING_ONLY_BYTES) * MAX_ENTRY_SHARE)
        self.reserve(self.reserved_bytes)

    def reserve(self, size: int) -> None:
        """Leave ``size`` bytes of the budget, at most half, to views; `sweep` removes the excess."""
        self.reserved_bytes = size
        self.budget = max(self._target_bytes, self.bytes)
        self._excess_may_remain = True

    def sweep(self, now: float) -> list[CachePurge]:
        """Do a batch of the pending work: purges, moves to other partitions, excess. Return the purges that have ended."""
        policy = self._policy
        if policy.walks_done < policy.walks_wanted:
            self._remove_hidden(self.sweep_steps)
        elif self._excess_may_remain:
            self._excess_may_remain = False
            self._remove_excess(now, _BATCH)

        return self._purges.finish(policy.walks_done) if self._pending else []

    def _remove_excess(self, now: float, batch: int) -> None:
        """Remove a batch of the excess."""
        _, batch = self._evict_while(lambda: self.bytes > self._target_bytes, now, batch)
        self.budget = max(self._target_bytes, self.bytes)
        if self._limits:
            for scope in self._policy.separate_scopes():
                before = self.count
                self._make_room_within(scope, 0, now, batch)
                batch -= before - self.count
                if batch <= 0:
                    break

        self._excess_may_remain |= batch <= 0

    @property
    def _target_bytes(self) -> int:
        whole = self.max_bytes or SHARING_ONLY_BYTES
        return max(whole - self.reserved_bytes, whole // 2)

    def get(self, scope: str, key: str, now: float) -> Entry | None:
        """Return an entry, fresh or stale, and count a hit; an expired one is removed."""
        table = self._tables.get(scope)
        if table is None:
            return None

        # `EntryTable.get`, without its call
        entry = (table.shards[hash(key) & table.mask] if table.mask else table.only).get(key)
        if entry is None or (self._pending and self.is_hidden(entry)):
            return None

        if now - entry.stored_at >= entry.terms.lifetime_seconds:
            self._remove(entry)
            self.expired += 1
            return None

        entry.state = AFTER_HIT[entry.state]  # `Entry.touch`, without its call: every hit passes here
        return entry

    def peek(self, scope: str, key: str) -> Entry | None:
        """Return an entry, expired or not, without counting a hit."""
        table = self._tables.get(scope)
        entry = None if table is None else table.get(key)
        return None if entry is None or self.is_hidden(entry) else entry

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

        At most a batch is removed. If that is not enough for a large answer among very many small ones, `sweep` removes the
        rest; until then further answers of that kind are not kept.
        """
        table = self._tables.get(terms.scope)
        if table is not None and (older := table.get(key)) is not None:
            self._remove(older)

        if terms.lifetime_seconds <= 0:
            return Insertion(None)

        entry = Entry(key, value, now - age_seconds, seconds, terms, COMPRESSED if compressed else 0)
        charge = entry.charge
        if charge > (self.max_entry_bytes_in(terms.scope) if self._limits else self.max_entry_bytes):
            return Insertion(None, too_large=True)

        evicted = self._make_room_within(terms.scope, charge, now) if self._limits else 0
        if self.bytes + charge > self.budget:
            evicted += self._make_room(charge, now)
            if self.bytes + charge > self.budget:
                if self.bytes + charge > self._target_bytes + MAX_EXCESS_BYTES:
                    return Insertion(None, evicted=evicted)

                self.budget = self.bytes + charge
                self._excess_may_remain = True

        self._insert(entry, charge)
        return Insertion(entry, evicted=evicted)

    def delete(self, scope: str, key: str, now: float) -> bool:
        """Remove an entry; return whether it was still live."""
        entry = self.peek(scope, key)
        if entry is None:
            return False

        self._remove(entry)
        if now >= entry.expires_at:
            self.expired += 1
            return False

        return True

    def purge(self, namespace: str | None, tag: str | None, now: float, task: str | None = None) -> CachePurge:
        """Hide all entries that match (see `CachePurge`). Few are removed immediately, many by `sweep`."""
        if self.published is not None:
            self.published.withdraw_covered(namespace)

        purge = self._purges.add(namespace, tag, task, now)
        few = len(self._tables) <= self.inline_entries
        tables = [table for scope, table in self._tables.items() if covers(namespace, scope)] if few else []
        if few and sum(map(len, tables)) <= self.inline_entries:
            for entry in [entry for table in tables for entry in table.values()]:
                if self._purges.hiding(entry.terms) is purge:
                    self._remove(entry)

            self._purges.end(purge)
        else:
            self._purges.await_walk(purge, self._policy.want_walk())

        return purge

    def scopes(self) -> list[str]:
        """Return the scopes that have entries."""
        return list(self._tables)

    def next_expiry(self) -> float | None:
        """Return the instant, to the second, at which the next entry will have expired; None if the cache is empty."""
        second = self.wheel.next_second()
        return None if second is None else float(second)

    def expire(self, now: float) -> int:
        """Remove a batch of expired entries; return how many."""
        removed = 0
        for entry in self.wheel.expired(now, _BATCH):
            self._policy.forget(entry)
            if not self._unlink(entry):
                self.expired += 1

            entry.clear()
            removed += 1

        return removed

    def _make_room(self, charge: int, now: float) -> int:
        if self._pending:
            # As after a purge in one go, hidden entries leave before live ones; but a put takes the time of one batch only.
            self._remove_hidden(self.sweep_steps)

        return self._evict_while(lambda: self.bytes + charge > self.budget and self.count > 0, now, _BATCH)[0]

    def _evict_while(
        self, needed: Callable[[], bool], now: float, batch: int, scope: str | None = None
    ) -> tuple[int, int]:
        """Remove expired entries, and then victims, for one batch at most; return how many were evicted, and the batch's rest."""
        evicted = 0
        while batch > 0 and needed():
            expired = self.expire(now) if self.wheel.no_expiry_before <= now else 0
            batch -= expired
            if not expired:
                passed = self._policy.passed
                evicted += self._evict(now, scope)
                batch -= 1 + (self._policy.passed - passed) // 2

        self.evicted += evicted
        return evicted, batch

    def _make_room_within(self, scope: str, charge: int, now: float, batch: int = _BATCH) -> int:
        """Make room in a scope with a limit: at most one batch. `sweep` removes the rest."""
        exceeds = lambda: self._excess(scope) + charge > 0 and self._policy.has_partition(scope)  # noqa: E731 - short
        evicted, left = self._evict_while(exceeds, now, batch, scope)
        self.evicted_within += evicted
        if left <= 0:
            self._excess_may_remain = True

        return evicted

    def _excess(self, scope: str) -> int:
        """Return the bytes that a scope holds above its limit; negative if there is room."""
        limit = self._limits.get(namespace_of(scope))
        return -self.budget if limit is None else self._scope_bytes.get(scope, 0) - limit

    def _is_limited(self, scope: str) -> bool:
        return namespace_of(scope) in self._limits

    def is_hidden(self, entry: Entry) -> bool:
        """Return whether a pending purge hides an entry."""
        return bool(self._pending) and self._purges.hiding(entry.terms) is not None

    def _evict(self, now: float, scope: str | None = None) -> bool:
        """Remove the policy's victim, of a scope or of all; return whether it was live, and hidden by no purge."""
        victim = self._policy.victim(scope)
        hidden = self._unlink(victim)
        self._discard(victim)
        if hidden:
            return False

        if now < victim.expires_at:
            return True

        # The wheel sorts by whole seconds, so it had not expired this one yet.
        self.expired += 1
        return False

    def _insert(self, entry: Entry, charge: int) -> None:
        scope = entry.terms.scope
        table = self._tables.get(scope)
        if table is None:
            table = self._tables[scope] = EntryTable()

        table.add(entry)
        self.bytes += charge
        self.count += 1
        self._scope_bytes[scope] = self._scope_bytes.get(scope, 0) + charge
        if entry.state & COMPRESSED:
            self._count_compressed(entry, 1)

        self._policy.admit(entry, charge)
        self.wheel.add(entry)

    def _remove(self, entry: Entry) -> None:
        compact = self._policy.forget(entry)
        self._unlink(entry)
        self._discard(entry)
        if compact:
            self._remove_hidden(COMPACTION_STEPS)

    def _remove_hidden(self, steps: int) -> None:
        """Continue the policy's walk; the entries that leave it are hidden."""
        policy, purges = self._policy, self._purges
        while steps > 0 and policy.walks_done < policy.walks_wanted:
            searched = purges.steps
            for entry in policy.walk(min(steps, _WALK_STEPS)):
                self._unlink(entry)
                self._discard(entry)

            steps -= _WALK_STEPS + _SEARCH_STEPS * (purges.steps - searched)

    def _unlink(self, entry: Entry) -> bool:
        """Take an entry out of its table, the sums and its group; return whether a purge hid it, and count it for that."""
        live = self._purges.count(entry) if self._pending else None
        if live is False:
            self.expired += 1

        scope, charge = entry.terms.scope, entry.charge
        table = self._tables[scope]
        del table[entry.key]
        if table.count:
            self._scope_bytes[scope] -= charge
        else:
            del self._tables[scope], self._scope_bytes[scope]

        self.bytes -= charge
        self.removed_bytes += charge
        self.count -= 1
        if entry.state & (COMPRESSED | PUBLISHED):
            if entry.state & COMPRESSED:
                self._count_compressed(entry, -1)
            elif self.published is not None:
                self.published.withdraw(entry)

        if entry.terms.group is not None:
            entry.terms.group.entry_removed(entry)

        return live is not None

    def _count_compressed(self, entry: Entry, by: int) -> None:
        self.compressed_count += by
        self.compressed_bytes += by * len(entry.value)
        self.uncompressed_bytes += by * entry.answer_bytes

    def _discard(self, entry: Entry) -> None:
        """Free what a dead entry holds."""
        self.wheel.discard(entry)
        entry.clear()
