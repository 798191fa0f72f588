"""Stored answers, and what many of them have in common."""

from itertools import chain
from typing import Protocol

from msgspec import Struct, structs

from sidecard.core.records import NO_USAGE
from sidecard_client.protocol.nesting import LISTS, count_of
from sidecard_client.protocol.wire import Usage

ENTRY_OVERHEAD_BYTES = 300
"""Cost of an entry beyond its key and value: this Struct, two string headers, two floats, and its slots in the table, the
eviction queue and the expiry wheel. Measured against the resident set by `tests.bench.scale`."""

TERMS_OVERHEAD_BYTES = 500
"""Additional cost of an entry whose terms (usage, tags) no other entry shares, beyond their texts."""

TAG_OVERHEAD_BYTES = 60
"""Cost of a tag beyond its text."""

MAX_RECENT_HITS = 3
"""Saturation of the hits since the eviction policy last examined the entry: the two bits of the S3-FIFO paper."""

MAX_EARLIER_HITS = 14
"""Saturation of the hits before that: the most that a ghost can remember (`sidecard.core.cache.ghost_queue`)."""

_RECENT_BITS = 2
_EARLIER_BITS = 4
_EARLIER_MASK = (1 << _EARLIER_BITS) - 1
_LEVEL_SHIFT = _RECENT_BITS + _EARLIER_BITS
LEVELS = 64
"""Levels of the eviction policy (`sidecard.core.cache.levels`)."""

SIZE_PREFIX_BYTES = 4
"""Length of the prefix of a compressed value that holds its original size."""

COMPRESSED = LEVELS << _LEVEL_SHIFT
"""Bit of `Entry.state`: the value is compressed (`sidecard.core.cache.compression`)."""

SEPARATE = 2 * COMPRESSED
"""Bit of `Entry.state`: the eviction policy keeps the entry in its scope's own partition."""

PUBLISHED = 2 * SEPARATE
"""Bit of `Entry.state`: the entry is in a view (`sidecard.core.cache.view`)."""

DEAD = 2 * PUBLISHED
"""Bit of `Entry.state`: the entry has left the cache. It is the highest one, so the state of a live entry is less."""

_KEPT = COMPRESSED | SEPARATE | PUBLISHED
"""The bits that neither a new level nor death changes."""

_STATES = tuple(range(DEAD))
"""One integer object per state of a live entry, shared by a million entries; Python would create one for each."""

AFTER_HIT = tuple(chain.from_iterable(zip(_STATES[1::4], _STATES[2::4], _STATES[3::4], _STATES[3::4], strict=True)))
"""The state after one more hit, by state. Only live entries are hit."""


HITS_AND_PUBLISHED = (1 << _LEVEL_SHIFT) - 1 | PUBLISHED
"""Mask of `Entry.state`. ``1 < state & HITS_AND_PUBLISHED < PUBLISHED``: at least two hits, and not published."""


class Insertion(Struct, frozen=True):
    """Result of `sidecard.core.cache.memory.MemoryCache.put`."""

    entry: "Entry | None"
    """None if the answer was too large, or its lifetime was 0."""
    too_large: bool = False
    evicted: int = 0


class PublishedEntries(Protocol):
    """The entries that are in views (`sidecard.core.cache.view`)."""

    def withdraw(self, entry: "Entry") -> None:
        """Withdraw an entry that leaves the cache, before it is emptied."""

    def withdraw_covered(self, namespace: str | None) -> None:
        """Withdraw all entries that a purge of ``namespace`` may hide; None means all."""


def chunk_count(value: bytes | memoryview) -> int:
    """Return how many chunks a stored value has as a stream, without creating them: one byte may be a chunk, at the cost of a hundred."""
    if not value or value[0] not in LISTS:
        return 1

    count, _ = count_of(value, value[0], 0)
    return min(count, len(value))  # a header may lie, and each chunk is at least a byte


def original_size(data: bytes) -> int:
    """Return the size in bytes that a compressed value had before compression."""
    return int.from_bytes(data[:SIZE_PREFIX_BYTES], "big")


def text_bytes(text: str) -> int:
    """Return the most bytes a text may take: Python uses up to four a character if one is not ASCII."""
    return len(text) if text.isascii() else 4 * len(text)


def terms_texts_bytes(backend: str, usage: Usage, tags: tuple[str, ...], task: str = "") -> int:
    """Return the charge for the texts of terms, whose lengths peers choose."""
    texts = text_bytes(backend) + text_bytes(usage.model or "") + text_bytes(task) + sum(map(text_bytes, tags))
    return texts + TAG_OVERHEAD_BYTES * len(tags)


def unshared_terms_bytes(backend: str, usage: Usage, tags: tuple[str, ...], task: str = "") -> int:
    """Return the charge for terms that no other entry shares."""
    return TERMS_OVERHEAD_BYTES + terms_texts_bytes(backend, usage, tags, task)


class RemovalListener(Protocol):
    """An index of entries, such as `sidecard.core.cache.similarity.SimilarityGroup`."""

    def entry_removed(self, entry: "Entry") -> None:
        """Drop an entry that leaves the cache. Called before the entry is emptied."""


class Terms(Struct, frozen=True, gc=False):
    """How an answer is kept: one object for all entries with equal fields. ``gc``: see `sidecard.core.cache.containers`."""

    scope: str
    ttl_seconds: float
    """Until this age the entry is a `Hit`."""
    window_seconds: float
    """Until this age it is still `Shared`, even if caching is off."""
    backend: str
    usage: Usage = NO_USAGE
    tags: tuple[str, ...] = ()

    overhead_bytes: int = ENTRY_OVERHEAD_BYTES
    """Charge of each entry beyond its key and value."""
    trust_epoch: int = 0
    """`CachePolicy.trust_epoch` when the entry was stored: an entry with an older one is doubted."""
    stale_seconds: float = 0.0
    """How long after ``ttl_seconds`` it may be served as stale."""
    early_refresh: float = 0.0
    """See `sidecard.core.settings.TaskSettings`."""
    task: str = ""
    """Empty if the store's record is of a version that did not keep it."""
    group: RemovalListener | None = None
    """The group in which similar requests find the entry."""
    fresh_seconds: float = 0.0
    """Derived: until this age it is a `Hit` or `Shared`."""
    direct_hit_seconds: float = 0.0
    """Derived: until this age it is served without any further decision."""
    lifetime_seconds: float = 0.0
    """Derived: it expires at this age."""
    generation: int = 0
    """`Purges.generation` when the entry was stored: only a later purge removes it."""

    def __post_init__(self) -> None:
        """Derive what every hit needs."""
        fresh_seconds = max(self.ttl_seconds, self.window_seconds)
        structs.force_setattr(self, "fresh_seconds", fresh_seconds)
        structs.force_setattr(self, "direct_hit_seconds", 0.0 if self.early_refresh else fresh_seconds)
        structs.force_setattr(self, "lifetime_seconds", max(fresh_seconds, self.ttl_seconds + self.stale_seconds))


class Entry(Struct, gc=False):
    """A stored answer. There may be millions: shared facts are in `Terms`, derived ones are not kept.

    ``stored_at`` is an instant of the monotonic clock. ``seconds`` is the duration of the call that made the answer, from
    its lease to its `complete`.
    """

    key: str
    value: bytes
    stored_at: float
    seconds: float
    terms: Terms
    state: int = 0
    """Recent hits (two bits), earlier hits (four), level (six), compressed, separate, published and dead (one each). One small
    integer for seven facts: with a million entries each further field costs 8 MB."""

    @property
    def dollars(self) -> float:
        """Cost of the call that made the answer."""
        return self.terms.usage.cost_dollars or 0.0

    @property
    def expires_at(self) -> float:
        """The instant from which the entry is not served any more."""
        return self.stored_at + self.terms.lifetime_seconds

    def is_fresh(self, now: float) -> bool:
        """Return whether the entry is not stale yet."""
        return now - self.stored_at < self.terms.fresh_seconds

    @property
    def charge(self) -> int:
        """Bytes of the budget that the entry takes."""
        return text_bytes(self.key) + len(self.value) + self.terms.overhead_bytes

    @property
    def compressed(self) -> bool:
        """Whether the value is compressed."""
        return self.state & COMPRESSED != 0

    @property
    def answer_bytes(self) -> int:
        """Size of the answer as it is served."""
        return original_size(self.value) if self.state & COMPRESSED else len(self.value)

    @property
    def alive(self) -> bool:
        """Whether the entry is in the cache."""
        return self.state < DEAD

    @property
    def level(self) -> int:
        """Level in the eviction policy."""
        return self.state >> _LEVEL_SHIFT & LEVELS - 1

    @property
    def earlier_hits(self) -> int:
        """Hits before the policy last examined the entry, at most `MAX_EARLIER_HITS`."""
        return self.state >> _RECENT_BITS & _EARLIER_MASK

    @property
    def recent_hits(self) -> int:
        """Hits since then, at most `MAX_RECENT_HITS`."""
        return self.state & MAX_RECENT_HITS

    def touch(self, hits: int = 1) -> None:
        """Count hits, unless the entry is dead: hits from a view are reported later."""
        more = min(hits, MAX_RECENT_HITS - (self.state & MAX_RECENT_HITS))
        if more and self.state < DEAD:
            self.state = _STATES[self.state + more]

    def set_level(self, hits: int, level: int) -> None:
        """Place the entry on a level; all of its hits so far become earlier ones."""
        examined = level << _LEVEL_SHIFT | min(hits, MAX_EARLIER_HITS) << _RECENT_BITS
        self.state = _STATES[self.state & _KEPT | examined]

    def set_separate(self, separate: bool) -> None:  # noqa: FBT001 - the one fact
        """Set whether the entry is in its scope's own partition."""
        self.state = _STATES[self.state & ~SEPARATE | (SEPARATE if separate else 0)]

    def set_published(self, published: bool) -> None:  # noqa: FBT001 - the one fact
        """Set whether the entry is in a view."""
        self.state = _STATES[self.state & ~PUBLISHED | (PUBLISHED if published else 0)]

    def mark_dead(self) -> None:
        """Mark the entry as removed from the cache."""
        self.state = self.state & _KEPT | DEAD

    def clear(self) -> None:
        """Free what a dead entry holds: its places in the wheel and in its level are dropped later."""
        self.key, self.value, self.seconds = "", b"", 0.0
