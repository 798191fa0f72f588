"""The cache as the engine uses it: on which terms an answer is kept, and what is counted and told of it."""

from sidecard.core import notes
from sidecard.core.cache.compression import Codec, Compression
from sidecard.core.cache.entry import (
    COMPRESSED,
    ENTRY_OVERHEAD_BYTES,
    NO_USAGE,
    TERMS_OVERHEAD_BYTES,
    Entry,
    RemovalListener,
    Terms,
    own_bytes,
)
from sidecard.core.cache.memory import Insertion, MemoryCache
from sidecard.core.counters import Counters
from sidecard.core.effects import Effect, Tell
from sidecard.core.records import Record
from sidecard.core.scopes import covers
from sidecard.core.settings import EngineSettings
from sidecard_client.protocol.wire import Usage

_MAX_REMEMBERED = 4096

_MANY = 256
"""Terms that are shared from the first entry on. Where there are more, the first entry on new ones is charged for them, and
for the table of its namespace, which they may have to themselves: 700 bytes resident, measured, of an entry charged with 300."""

_Names = tuple[str, float, float, str, float, float, str]
"""Scope, time to live, sharing window, backend, stale time, early refresh and task of terms that entries share."""


class CachePolicy:
    """Stores answers. ``codec`` is what compresses large ones, should the settings ask for it."""

    def __init__(self, settings: EngineSettings, count: Counters, codec: Codec | None = None) -> None:
        self.cache = MemoryCache(settings.cache_max_bytes)
        self.cache.limit(settings.namespace_max_bytes)
        self.compression = Compression(codec, self.cache)
        self.settings = settings
        """May be replaced at any time."""
        self._count = count
        self._terms: dict[_Names, Terms] = {}
        self.trust = 0
        """See `Terms.trust`."""

    def store(
        self, key: str, value: bytes, now: float, terms: Terms, seconds: float
    ) -> tuple[Entry | None, list[Effect]]:
        """Store an answer; return the entry that was made of it, if one was, and what is to be told."""
        kept, compressed = self._kept(value)
        outcome = self.cache.put(key, kept, now, terms, seconds, compressed=compressed)
        self._count.stored += outcome.entry is not None
        return outcome.entry, self._told(outcome, key, kept, terms)

    def _kept(self, value: bytes) -> tuple[bytes, bool]:
        """Return what is kept of a value, and whether that is compressed."""
        smaller = self.compression.compressed(value, self.settings.compress_min_bytes)
        return (value, False) if smaller is None else (smaller, True)

    def _kept_of(self, record: Record) -> tuple[bytes, bool] | None:
        """Return what is kept of a record's value; None where that is damaged."""
        if not record.compressed:
            return self._kept(record.value)

        value = self.compression.expanded(record.value)
        if value is None:
            return None

        # Not compressed once more: what has made the record's value is this or another version of the same.
        wanted = 0 < self.settings.compress_min_bytes <= len(value)
        return (record.value, True) if wanted else (value, False)

    def adopt(self, scope: str, key: str, record: Record, now: float) -> tuple[Entry | None, list[Effect]]:
        """Take an entry of the store into memory; return it, whether it found room or not, and what is to be told.

        None where its value is damaged.
        """
        found = self._kept_of(record)
        if found is None:
            return None, []

        kept, compressed = found
        terms = self.terms(
            scope,
            record.ttl_seconds,
            record.window_seconds,
            record.backend,
            record.usage,
            record.tags,
            self.settings.stale_seconds,
            task=record.task,
        )
        outcome = self.cache.put(key, kept, now, terms, record.seconds, record.age_seconds, compressed=compressed)
        entry = outcome.entry
        if entry is None:
            state = COMPRESSED if compressed else 0
            entry = Entry(key, kept, now - record.age_seconds, record.seconds, terms, state)

        return entry, self._told(outcome, key, kept, terms)

    def purge(self, namespace: str | None, tag: str | None, now: float, task: str | None = None) -> int:
        """Remove entries by namespace, tag and task; return how many were live."""
        scopes = [scope for scope in self.cache.scopes() if covers(namespace, scope)]
        return self.cache.purge(scopes, tag, now, task)

    def distrust(self) -> None:
        """From now on, every entry that is here is doubted."""
        self.trust += 1
        self._terms.clear()

    def _told(self, outcome: Insertion, key: str, value: bytes, terms: Terms) -> list[Effect]:
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

    def terms(  # noqa: PLR0917 - what entries differ in
        self,
        scope: str,
        ttl_seconds: float,
        window_seconds: float,
        backend: str,
        usage: Usage,
        tags: tuple[str, ...],
        stale_seconds: float = 0.0,
        early_refresh: float = 0.0,
        task: str = "",
        *,
        group: RemovalListener | None = None,
        group_bytes: int = 0,
    ) -> Terms:
        """Return the terms of a new entry: one object for all entries that have the same and nothing of their own.

        ``group_bytes`` is what the entry costs there.
        """
        if not self.cache.caching:
            ttl_seconds = stale_seconds = early_refresh = 0.0

        if usage != NO_USAGE or tags or group is not None:
            overhead_bytes = ENTRY_OVERHEAD_BYTES + own_bytes(backend, usage, tags, task) + group_bytes
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
                task,
                group,
            )

        names = (scope, ttl_seconds, window_seconds, backend, stale_seconds, early_refresh, task)
        terms = self._terms.get(names)
        if terms is not None and terms.overhead_bytes == ENTRY_OVERHEAD_BYTES:
            return terms

        return self._shared(names, are_new=terms is None)

    def _shared(self, names: _Names, *, are_new: bool) -> Terms:
        """Return terms that the entries to come share; the first one on new terms may have to pay for them."""
        overhead_bytes = ENTRY_OVERHEAD_BYTES
        if are_new:
            # Peers may invent as many of these as they like, so remembering them is bounded.
            if len(self._terms) >= _MAX_REMEMBERED:
                self._terms.clear()

            if len(self._terms) >= _MANY:
                overhead_bytes += TERMS_OVERHEAD_BYTES

        scope, ttl_seconds, window_seconds, backend, stale_seconds, early_refresh, task = names
        terms = self._terms[names] = Terms(
            scope,
            ttl_seconds,
            window_seconds,
            backend,
            overhead_bytes=overhead_bytes,
            trust=self.trust,
            stale_seconds=stale_seconds,
            early_refresh=early_refresh,
            task=task,
        )
        return terms
