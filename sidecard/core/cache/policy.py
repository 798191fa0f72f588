"""Cache policy: what may be stored, for how long, and what is counted and noted about it."""

from sidecard.core import notes
from sidecard.core.cache.compression import Codec, Compression
from sidecard.core.cache.entry import (
    COMPRESSED,
    ENTRY_OVERHEAD_BYTES,
    TERMS_OVERHEAD_BYTES,
    Entry,
    Insertion,
    RemovalListener,
    Terms,
    unshared_terms_bytes,
)
from sidecard.core.cache.memory import MemoryCache
from sidecard.core.cache.purges import CachePurge
from sidecard.core.counters import Counters
from sidecard.core.effects import Effect, EmitNote
from sidecard.core.records import NO_USAGE, Record
from sidecard.core.settings import LiveSettings, TaskSettings
from sidecard_client.protocol.nesting import nesting_problem
from sidecard_client.protocol.wire import Usage

_MAX_SHARED_TERMS = 4096

_FREE_TERMS = 256
"""Shared terms that cost nothing. Beyond them, the first entry on new terms is charged for them and for the table of its
namespace, which may serve it alone: 700 bytes resident, measured, for an entry charged with 300."""

_TermsKey = tuple[str, float, float, str, float, float, str]
"""Scope, time to live, sharing window, backend, stale time, early refresh and task of terms that entries share."""


class CachePolicy:
    """Stores answers. ``codec`` compresses large ones if the settings ask for it."""

    def __init__(self, settings: LiveSettings, count: Counters, codec: Codec | None = None) -> None:
        self.cache = MemoryCache(settings.now.cache_max_bytes)
        self.cache.limit(settings.now.namespace_max_bytes)
        self.compression = Compression(codec, self.cache)
        self.settings = settings
        self._count = count
        self._shared_terms: dict[_TermsKey, Terms] = {}
        self.trust_epoch = 0
        """How often invalidations of other hosts may have been missed; see `Terms.trust_epoch`."""

    def store(
        self, key: str, value: bytes, now: float, terms: Terms, seconds: float
    ) -> tuple[Entry | None, list[Effect]]:
        """Store an answer; return its entry, or None if it was not stored, and the notes."""
        compressed = False
        if self.settings.now.compress_min_bytes:
            value, compressed = self._compressed(value)

        insertion = self.cache.put(key, value, now, terms, seconds, compressed=compressed)
        self._count.stored += insertion.entry is not None
        noted = insertion.evicted or insertion.too_large
        return insertion.entry, self._notes(insertion, key, value, terms) if noted else []

    def adopt(self, scope: str, key: str, record: Record, now: float) -> tuple[Entry | None, list[Effect]]:
        """Copy a store's record into memory; return its entry, even if it was too large to keep, and the notes.

        The entry is None if the record's value is damaged or nested too deep.
        """
        found = self._compressed_of(record)
        if found is None:
            return None, []

        self._count.store_hits += 1
        kept, compressed = found
        terms = self.terms(
            scope,
            record.ttl_seconds,
            record.window_seconds,
            record.backend,
            record.usage,
            record.tags,
            self.settings.now.stale_seconds,
            task=record.task,
        )
        insertion = self.cache.put(key, kept, now, terms, record.seconds, record.age_seconds, compressed=compressed)
        entry = insertion.entry
        if entry is None:
            state = COMPRESSED if compressed else 0
            entry = Entry(key, kept, now - record.age_seconds, record.seconds, terms, state)

        return entry, self._notes(insertion, key, kept, terms)

    def _compressed(self, value: bytes) -> tuple[bytes, bool]:
        """Return the value to keep, and whether it is compressed."""
        smaller = self.compression.compress(value, self.settings.now.compress_min_bytes)
        return (value, False) if smaller is None else (smaller, True)

    def _compressed_of(self, record: Record) -> tuple[bytes, bool] | None:
        """Return the value of a record to keep, and whether it is compressed; None if it is damaged or nested too deep."""
        value = self.compression.decompress(record.value) if record.compressed else record.value
        if value is None or nesting_problem(value) is not None:
            return None

        if not record.compressed:
            return self._compressed(value)

        # The record's value is reused unchanged: the same codec, perhaps in another version, compressed it.
        wanted = 0 < self.settings.now.compress_min_bytes <= len(value)
        return (record.value, True) if wanted else (value, False)

    def purge(self, namespace: str | None, tag: str | None, now: float, task: str | None = None) -> CachePurge:
        """Hide the entries of a namespace, tag and task at once; `MemoryCache.sweep` removes them."""
        return self.cache.purge(namespace, tag, now, task)

    def doubt_all(self) -> None:
        """Doubt every entry that is in memory now."""
        self.trust_epoch += 1
        if self.cache.published is not None:
            self.cache.published.withdraw_covered(None)

        self._shared_terms.clear()

    def _notes(self, insertion: Insertion, key: str, value: bytes, terms: Terms) -> list[Effect]:
        effects: list[Effect] = []
        if insertion.evicted:
            effects.append(EmitNote(notes.Evicted(insertion.evicted)))

        if insertion.too_large:
            self._count.refused_too_large += 1
            effects.append(EmitNote(notes.EntryRefused(key, len(value), self.cache.max_entry_bytes_in(terms.scope))))

        return effects

    def ttl_seconds(self, task: TaskSettings, *requested: float | None) -> float:
        """Return an answer's time to live: the first of ``requested`` that is set, else the task's, else the default."""
        for ttl_seconds in (*requested, task.ttl_seconds):
            if ttl_seconds is not None:
                return ttl_seconds

        return self.settings.now.ttl_seconds

    def stale_seconds(self, task: TaskSettings, requested: float | None) -> float:
        """Return how long it may be served as stale: ``requested`` if set, else the task's, else the default."""
        stale_seconds = task.stale_seconds if requested is None else requested
        return self.settings.now.stale_seconds if stale_seconds is None else stale_seconds

    def terms(  # noqa: PLR0917 - the facts in which entries differ
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
        group: RemovalListener | None = None,
        group_bytes: int = 0,
    ) -> Terms:
        """Return the terms of a new entry: one shared object unless it has usage, tags or a group of its own.

        ``group_bytes`` is the entry's charge for its place in the group.
        """
        if not self.cache.caching:
            ttl_seconds = stale_seconds = early_refresh = 0.0

        key = (scope, ttl_seconds, window_seconds, backend, stale_seconds, early_refresh, task)
        if usage != NO_USAGE or tags or group is not None:
            extra_bytes = unshared_terms_bytes(backend, usage, tags, task) + group_bytes
            return self._terms(key, extra_bytes, usage, tags, group)

        terms = self._shared_terms.get(key)
        if (
            terms is not None
            and terms.generation == self.cache.generation
            and terms.overhead_bytes == ENTRY_OVERHEAD_BYTES
        ):
            return terms

        extra_bytes = 0
        if terms is None:
            # Peers may invent any number of terms, so the table is bounded.
            if len(self._shared_terms) >= _MAX_SHARED_TERMS:
                self._shared_terms.clear()

            if len(self._shared_terms) >= _FREE_TERMS:
                extra_bytes = TERMS_OVERHEAD_BYTES

        terms = self._shared_terms[key] = self._terms(key, extra_bytes)
        return terms

    def _terms(
        self,
        key: _TermsKey,
        extra_bytes: int,
        usage: Usage = NO_USAGE,
        tags: tuple[str, ...] = (),
        group: RemovalListener | None = None,
    ) -> Terms:
        scope, ttl_seconds, window_seconds, backend, stale_seconds, early_refresh, task = key
        return Terms(
            scope,
            ttl_seconds,
            window_seconds,
            backend,
            usage,
            tags,
            ENTRY_OVERHEAD_BYTES + extra_bytes,
            self.trust_epoch,
            stale_seconds,
            early_refresh,
            task,
            group,
            generation=self.cache.generation,
        )
