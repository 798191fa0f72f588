"""The cache as the engine uses it: on which terms an answer is kept, and what is counted and told of it."""

from sidecard.core import notes
from sidecard.core.cache import Cache, Stored
from sidecard.core.counters import Counters
from sidecard.core.effects import Effect, Tell
from sidecard.core.entries import ENTRY_OVERHEAD_BYTES, NO_USAGE, Entry, Terms, own_bytes
from sidecard.core.records import Record
from sidecard.core.scopes import covers
from sidecard.core.settings import EngineSettings
from sidecard_client.wire import Usage

_MAX_REMEMBERED = 4096


class Shelf:
    """Stores answers."""

    def __init__(self, settings: EngineSettings, count: Counters) -> None:
        self.cache = Cache(settings.cache_max_bytes)
        self.cache.limit(settings.namespace_max_bytes)
        self.settings = settings
        """May be replaced at any time."""
        self._count = count
        self._terms: dict[tuple[str, float, float, str, float, float], Terms] = {}
        self.trust = 0
        """See `Terms.trust`."""

    def store(self, key: str, value: bytes, now: float, terms: Terms, seconds: float) -> tuple[bool, list[Effect]]:
        """Store an answer; return whether an entry was made of it, and what is to be told."""
        outcome = self.cache.put(key, value, now, terms, seconds)
        self._count.stored += outcome.entry is not None
        return outcome.entry is not None, self._told(outcome, key, value, terms)

    def adopt(self, scope: str, key: str, record: Record, now: float) -> tuple[Entry, list[Effect]]:
        """Take an entry of the store into memory; return it, whether it found room or not, and what is to be told."""
        terms = self.terms(
            scope,
            record.ttl_seconds,
            record.window_seconds,
            record.backend,
            record.usage,
            record.tags,
            self.settings.stale_seconds,
        )
        outcome = self.cache.put(key, record.value, now, terms, record.seconds, record.age_seconds)
        entry = outcome.entry or Entry(key, record.value, now - record.age_seconds, record.seconds, terms)
        return entry, self._told(outcome, key, record.value, terms)

    def purge(self, namespace: str | None, tag: str | None, now: float) -> int:
        """Remove entries by namespace and tag; return how many were live."""
        scopes = [scope for scope in self.cache.scopes() if covers(namespace, scope)]
        return self.cache.purge(scopes, tag, now)

    def distrust(self) -> None:
        """From now on, every entry that is here is doubted."""
        self.trust += 1
        self._terms.clear()

    def _told(self, outcome: Stored, key: str, value: bytes, terms: Terms) -> list[Effect]:
        effects: list[Effect] = []
        if outcome.evicted:
            effects.append(Tell(notes.Evicted(outcome.evicted)))

        if outcome.too_large:
            self._count.refused_too_large += 1
            effects.append(Tell(notes.EntryRefused(key, len(value), self.cache.max_entry_bytes_in(terms.scope))))

        return effects

    def ttl_seconds(self, task: str, *asked: float | None) -> float:
        """Return how long an answer lives: the first of ``asked`` that says so, else the task's, else the default."""
        for ttl_seconds in asked:
            if ttl_seconds is not None:
                return ttl_seconds

        ttl_seconds = self.settings.task(task).ttl_seconds
        return self.settings.ttl_seconds if ttl_seconds is None else ttl_seconds

    def stale_seconds(self, task: str, asked: float | None) -> float:
        """Return for how long after that it may be served as stale: as ``asked``, else the task's, else the default."""
        if asked is None:
            asked = self.settings.task(task).stale_seconds

        return self.settings.stale_seconds if asked is None else asked

    def terms(
        self,
        scope: str,
        ttl_seconds: float,
        window_seconds: float,
        backend: str,
        usage: Usage,
        tags: tuple[str, ...],
        stale_seconds: float = 0.0,
        early_refresh: float = 0.0,
    ) -> Terms:
        """Return the terms of a new entry: one object for all entries that have the same and nothing of their own."""
        if not self.cache.caching:
            ttl_seconds = stale_seconds = early_refresh = 0.0

        if usage != NO_USAGE or tags:
            overhead_bytes = ENTRY_OVERHEAD_BYTES + own_bytes(backend, usage, tags)
            return Terms(
                scope,
                ttl_seconds,
                window_seconds,
                backend,
                usage,
                tags,
                overhead_bytes,
                self.trust,
                stale_seconds,
                early_refresh,
            )

        # Peers may invent as many of these as they like, so remembering them is bounded.
        names = (scope, ttl_seconds, window_seconds, backend, stale_seconds, early_refresh)
        terms = self._terms.get(names)
        if terms is None:
            if len(self._terms) >= _MAX_REMEMBERED:
                self._terms.clear()

            terms = self._terms[names] = Terms(
                scope,
                ttl_seconds,
                window_seconds,
                backend,
                trust=self.trust,
                stale_seconds=stale_seconds,
                early_refresh=early_refresh,
            )

        return terms
