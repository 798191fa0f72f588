"""Purges in progress: which entries they hide, and how many they have removed.

A purge of many entries hides them at once and removes them in batches. Entries carry the number of purges that preceded
them (`Terms.generation`), so an entry is hidden if a pending purge matches it and has a higher number. Interleavings:

- 1. purge; 2. `put` of a key that it hides; 3. the next batch. The new entry has the purge's number and stays.
- 1. purge; 2. `put`; 3. an equal purge. The first purge counts the old entry, the second one the new entry.
- 1. purge; 2. a hidden entry is replaced, evicted, or expires; 3. the next batch. The purge counts the entry at 2.
"""

from bisect import bisect_right
from collections import Counter, deque
from operator import attrgetter

from msgspec import Struct

from sidecard.core.cache.entry import Entry, Terms
from sidecard.core.scopes import namespace_of

MAX_FINISHED = 64
"""Purges that end in one batch: each has a reply."""

_generation = attrgetter("generation")


class CachePurge(Struct, eq=False):
    """A removal of the entries that match ``namespace`` (see `sidecard.core.scopes.covers`), ``tag`` and ``task``.

    None matches all. ``count`` is the number of removed entries that were live when the purge began, at ``began_at``.
    """

    namespace: str | None
    tag: str | None
    task: str | None
    generation: int
    began_at: float
    walk: int = 0
    """Number of the walk through all entries at whose end none is left that matches."""
    count: int = 0
    reported: int | None = None
    """How much of ``count`` a reply has reported; None if no peer requested the purge."""
    done: bool = False


class Purges:
    """The purges that have not removed all of their entries yet."""

    def __init__(self) -> None:
        self.generation = 0
        """How many purges there have been."""
        self.pending: dict[tuple[str | None, str | None, str | None], list[CachePurge]] = {}
        """By what they match, so that a lookup takes equally long for any number of purges. Equal ones oldest first."""
        self.walking: deque[CachePurge] = deque()
        """The purges that wait for a walk, oldest first."""
        self.steps = 0
        """What all searches of `hiding` have cost so far: a step for each set of terms and each of its tags."""
        self._namespaces: Counter[str | None] = Counter()
        self._tags: Counter[str | None] = Counter()
        self._tasks: Counter[str | None] = Counter()
        """Those that pending purges name: most terms name none of them, so few combinations are searched."""
        self._last: tuple[Terms | None, CachePurge | None] = None, None
        """The last terms that `hiding` examined, and its result: entries in a row often share their terms."""

    def add(self, namespace: str | None, tag: str | None, task: str | None, now: float) -> CachePurge:
        """Hide all present entries that match."""
        self.generation += 1
        self._last = None, None
        purge = CachePurge(namespace, tag, task, self.generation, now)
        self.pending.setdefault((namespace, tag, task), []).append(purge)
        self._namespaces[namespace] += 1
        self._tags[tag] += 1
        self._tasks[task] += 1
        return purge

    def await_walk(self, purge: CachePurge, number: int) -> None:
        """Have a purge ended by `finish` after a walk. The number of the walk is never less than that of an earlier purge."""
        purge.walk = number
        self.walking.append(purge)

    def hiding(self, terms: Terms) -> CachePurge | None:
        """Return the first purge that hides the entries with these terms."""
        if not self.pending or terms.generation == self.generation:
            return None

        last, purge = self._last
        if last is not terms:
            purge = self._find(terms)
            self._last = terms, purge

        return purge

    def count(self, entry: Entry) -> bool | None:
        """Count a hidden entry that leaves; return whether it was live when its purge began. None if it is not hidden."""
        purge = self.hiding(entry.terms)
        if purge is None:
            return None

        live = purge.began_at < entry.expires_at
        purge.count += live
        return live

    def end(self, purge: CachePurge) -> None:
        """End a purge that has removed all of its entries."""
        purge.done = True
        self._last = None, None
        purges = self.pending[purge.namespace, purge.tag, purge.task]
        purges.remove(purge)
        if not purges:
            del self.pending[purge.namespace, purge.tag, purge.task]

        _count_off(self._namespaces, purge.namespace)
        _count_off(self._tags, purge.tag)
        _count_off(self._tasks, purge.task)

    def finish(self, walks: int) -> list[CachePurge]:
        """End the next purges for which ``walks`` are enough, and return them, oldest first."""
        done: list[CachePurge] = []
        while self.walking and self.walking[0].walk <= walks and len(done) < MAX_FINISHED:
            done.append(self.walking.popleft())
            self.end(done[-1])

        return done

    def _find(self, terms: Terms) -> CachePurge | None:
        self.steps += 1 + len(terms.tags)
        namespaces = [name for name in (None, terms.scope, namespace_of(terms.scope)) if name in self._namespaces]
        tasks = [task for task in (None, terms.task) if task in self._tasks]
        first: CachePurge | None = None
        for tag in (None, *terms.tags):
            if tag not in self._tags:
                continue

            for namespace in namespaces:
                for task in tasks:
                    purges = self.pending.get((namespace, tag, task), ())
                    later = bisect_right(purges, terms.generation, key=_generation)
                    if later < len(purges) and (first is None or purges[later].generation < first.generation):
                        first = purges[later]

        return first


def _count_off(names: Counter[str | None], name: str | None) -> None:
    """Count one use of a name less, and forget a name that is not used any more."""
    names[name] -= 1
    if not names[name]:
        del names[name]
