"""Eviction: the entry with the lowest refetch cost x hits / size leaves first.

GreedyDual (Young 1994; with sizes Cao and Irani, "Cost-aware WWW proxy caching algorithms", USITS 1997; with frequency
Cherkasova, "GDSF", 1998): an entry is due at L plus its value, the entry due first is evicted, and L becomes the instant at
which that one was due. L only rises, so every entry without hits is due some day, whatever cost was reported for it: it
outlives usual new entries at most `MAX_UNUSED_PRIORITY` times.

The value of an entry is its priority (`sidecard.core.cache.priority`) times its hits. Three differences from those papers:

- A hit only increments a counter. An entry with hits that becomes due stays, at a new value from now on. (As in S3-FIFO,
  SIEVE and the rest of the CLOCK family.)
- A new entry has only a part of its priority, `PROBATION`, until its first hit: a scan of keys that are requested once
  leaves the rest alone, as with S3-FIFO's small queue. That queue's size needs no setting here.
- A key that returns soon after its eviction is a ghost (`sidecard.core.cache.ghost_queue`) and keeps the hits that it had.

If all entries have equal cost and size, this is a policy of hits alone: `python -m tests.bench.eviction` compares.
Scopes with a limit of their own (``namespaces.NAME.max_bytes``) have a `Partition` each; all partitions share one L. An
eviction for the whole cache takes the first due of any partition, one for a scope's limit the first due in its own.
"""

from collections.abc import Callable, Iterator

from sidecard.core.cache.entry import MAX_RECENT_HITS, SEPARATE, Entry
from sidecard.core.cache.ghost_queue import GhostQueue
from sidecard.core.cache.levels import Partition, level_of
from sidecard.core.cache.priority import Priorities

PROBATION = 0.2
"""Share of its priority that a new entry has until its first hit. Measured: with 0.15 a power law and disk blocks have up to
half a percent more hits, with 0.25 chats and dollars gain as much; at 0.4 scans hurt."""

MAX_UNUSED_PRIORITY = 64.0
"""Highest priority of an entry without hits. Without this bound, up to 2 % more dollars would be saved, and a cache filled
with invented costs would last four times as long; 32 would save 2 to 7 % less."""

_MAX_PASSED = 200
"""Entries with hits that are passed over for one victim, which takes 1 ms. Usual caches pass over a few."""

_REMOVAL_STEPS = 8
"""What the removal of an entry counts, in steps: passing one takes 0.15 us."""


class GreedyDual:
    """Partitions of levels, ghosts, and one inflation L.

    ``is_hidden`` returns whether an entry is waiting for its removal in a walk: it then leaves without a ghost.
    """

    def __init__(self, is_hidden: Callable[[Entry], bool] = lambda _: False) -> None:
        self._is_hidden = is_hidden
        self._common = Partition()
        self._partitions: dict[str, Partition] = {}
        self._has_own: Callable[[str], bool] | None = None
        self._inflation = 0.0
        self._priorities = Priorities()
        self._ghosts = GhostQueue()
        self._count = 0
        self.passed = 0
        """How many entries were passed over so far, in the choice of victims."""
        self._walk: Iterator[Entry | None] | None = None
        self.walks_done = 0
        self.walks_wanted = 0

    def admit(self, entry: Entry, charge: int) -> None:
        """Add a new entry of ``charge`` bytes, with its earlier hits if it is a ghost."""
        self._count += 1
        priority = self._priorities.learn(entry, charge)
        hits = self._ghosts.recall(entry.terms.scope, entry.key)
        # The return of a ghost is one more hit.
        hits = 0 if hits is None else hits + 1
        entry.set_level(hits, _level(hits, priority))
        self._push(entry)

    def forget(self, entry: Entry) -> bool:
        """Drop an entry that left for another reason, before it is emptied; its place in the queue becomes a tombstone.

        Return whether `walk` should drop some tombstones.
        """
        partition, level = self._partition(entry), entry.level
        entry.mark_dead()
        self._count -= 1
        needs_walk = partition.count_dead(level)
        if self._partitions:
            self._drop_empty(entry.terms.scope)

        if needs_walk and self._walk is None:
            self.want_walk()

        return needs_walk

    def victim(self, scope: str | None = None) -> Entry:
        """Choose and drop the entry to evict, of a scope if given, which must have a partition. Raises `LookupError` if none.

        An entry that is passed over loses its recent hits. After `_MAX_PASSED` of them the next one leaves, hits or not: in a cache
        whose entries were all hit since the last eviction, the first without hits is far away.
        """
        limit = self.passed + _MAX_PASSED
        while True:
            partition, level = self._first_due(scope)
            entry = partition.pop(level)
            recent_hits, hidden = entry.state & MAX_RECENT_HITS, self._is_hidden(entry)
            if hidden or not recent_hits or self.passed >= limit:
                break

            self.passed += 1

            hits = entry.earlier_hits + recent_hits
            entry.set_level(hits, _level(hits, self._priorities.of(entry)))
            self._push(entry)

        self._count -= 1
        if not hidden:
            self._ghosts.remember(entry.terms.scope, entry.key, entry.earlier_hits, self._count)

        entry.mark_dead()
        if self._partitions:
            self._drop_empty(entry.terms.scope)

        return entry

    def partition(self, has_own: Callable[[str], bool]) -> None:
        """Give each scope for which ``has_own`` is true its own partition; every entry keeps the time that it had left.

        Present entries move in the next walk.
        """
        self._has_own = has_own
        self.want_walk()

    def has_partition(self, scope: str) -> bool:
        """Return whether a scope has entries in a partition of its own."""
        return scope in self._partitions

    def separate_scopes(self) -> list[str]:
        """Return the scopes that have entries in a partition of their own."""
        return list(self._partitions)

    def want_walk(self) -> int:
        """Have all present entries passed by a walk; return the number of the walk at whose end they have been."""
        self.walks_wanted = self.walks_done + (1 if self._walk is None else 2)
        return self.walks_wanted

    def walk(self, steps: int) -> list[Entry]:
        """Continue the walk through all entries, if one is wanted; return the hidden entries that it met, which have left.

        A walk also drops what dead entries have left behind, and moves entries to their partitions. An entry that is
        inserted or moved during the walk may be missed: it is neither hidden nor misplaced.
        """
        removed: list[Entry] = []
        while steps > 0 and self.walks_done < self.walks_wanted:
            if self._walk is None:
                self._walk = self._pass_all()

            for entry in self._walk:
                steps -= 1
                if entry is not None:
                    self._count -= 1
                    entry.mark_dead()
                    removed.append(entry)
                    steps -= _REMOVAL_STEPS

                if steps <= 0:
                    break
            else:
                self._walk = None
                self.walks_done += 1

        return removed

    def _pass_all(self) -> Iterator[Entry | None]:
        """Pass every entry; yield the hidden ones, and None for each of the others."""
        for scope, partition in [("", self._common), *self._partitions.items()]:
            for left in partition.walk(self._leaves):
                if left is None:
                    yield None
                    continue

                entry, due = left
                self._drop_empty(scope)
                if self._is_hidden(entry):
                    yield entry
                else:
                    target = self._place(entry)
                    target.at(entry.level).add(entry, due - partition.inflation + target.inflation)
                    yield None

    def _leaves(self, entry: Entry) -> bool:
        """Return whether a walk takes an entry out of its partition."""
        return self._is_hidden(entry) or (entry.state & SEPARATE != 0) != self._is_separate(entry.terms.scope)

    def _is_separate(self, scope: str) -> bool:
        return self._has_own is not None and self._has_own(scope)

    def _push(self, entry: Entry) -> None:
        partition = self._common if self._has_own is None else self._place(entry)
        partition.push(entry, self._inflation)

    def _place(self, entry: Entry) -> Partition:
        """Return the partition for an entry that is in none, created if it is the scope's first entry, and mark the entry."""
        scope = entry.terms.scope
        separate = self._is_separate(scope)
        entry.set_separate(separate)
        if not separate:
            return self._common

        partition = self._partitions.get(scope)
        if partition is None:
            partition = self._partitions[scope] = Partition()

        return partition

    def _partition(self, entry: Entry) -> Partition:
        """Return the partition that an entry is in."""
        return self._partitions[entry.terms.scope] if entry.state & SEPARATE else self._common

    def _first_due(self, scope: str | None) -> tuple[Partition, int]:
        """Return where the next victim is, and raise L to its due: for all, or within the scope's partition alone."""
        if scope is not None:
            partition = self._partitions.get(scope)
            if partition is None:
                raise LookupError(scope)

            due, level = partition.next_due()
            partition.inflation += max(0.0, due - partition.inflation - self._inflation)
            return partition, level

        if not self._count:
            raise LookupError

        if not self._partitions:
            partition = self._common
            due, level = partition.next_due()
        else:
            partitions = [each for each in (self._common, *self._partitions.values()) if each.levels]
            nexts = [(each.next_due(), each) for each in partitions]
            (due, level), partition = min(nexts, key=lambda pair: pair[0][0] - pair[1].inflation)

        self._inflation = max(self._inflation, due - partition.inflation)
        return partition, level

    def _drop_empty(self, scope: str) -> None:
        """Drop the partition of a scope that has no entry any more."""
        partition = self._partitions.get(scope)
        if partition is not None and not partition.levels:
            del self._partitions[scope]


def _level(hits: int, priority: float) -> int:
    """Return the level of an entry with so many hits."""
    return level_of(hits * priority if hits else PROBATION * min(priority, MAX_UNUSED_PRIORITY))
