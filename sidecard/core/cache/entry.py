"""A stored answer."""

from typing import Protocol

from msgspec import Struct, structs

from sidecard_client.protocol.wire import Usage

ENTRY_OVERHEAD_BYTES = 300
"""What an entry costs beside its key's and value's own bytes: this Struct, two string headers, two floats, its slots in
the table, the queue and the expiry wheel. Measured against the resident set by `sidecard bench --full`."""

TERMS_OVERHEAD_BYTES = 500
"""What terms of its own (a usage, tags) cost an entry on top, beside their texts."""

TAG_OVERHEAD_BYTES = 60
"""What a tag costs beside its text."""

NO_USAGE = Usage()

MAX_ASKED = 3
"""Saturation of the hits between two looks of the policy: the two bits of the S3-FIFO paper."""

MAX_TIMES = 14
"""Saturation of the hits in all: what a ghost can remember (`sidecard.core.cache.ghost_queue`)."""

_ASKED_BITS = 2
_TIMES_BITS = 4
_TIMES_MASK = (1 << _TIMES_BITS) - 1
_LEVEL_SHIFT = _ASKED_BITS + _TIMES_BITS
LEVELS = 64
"""Of the policy (`sidecard.core.cache.levels`)."""

SIZE_BYTES = 4
"""Of a compressed value, which begin it: how large it was."""

COMPRESSED = LEVELS << _LEVEL_SHIFT
"""In `Entry.state`: the value is what `sidecard.core.cache.compression` has made of it."""

_DEAD = 2 * COMPRESSED

_STATES = tuple(range(_DEAD))
"""Each living state's one integer: a million entries share these, where Python would make a new one for each."""

_AFTER_HIT = tuple(_STATES[state + (state & MAX_ASKED < MAX_ASKED)] for state in _STATES)
"""By state, that after one more hit. Only what is in the cache is hit."""


def size_before(data: bytes) -> int:
    """Return how large a value was before it was compressed."""
    return int.from_bytes(data[:SIZE_BYTES], "big")


def text_bytes(text: str) -> int:
    """Return the most that a text may take: Python keeps up to four bytes a character where one is not ASCII."""
    return len(text) if text.isascii() else 4 * len(text)


def own_bytes(backend: str, usage: Usage, tags: tuple[str, ...], task: str = "") -> int:
    """Return what terms that no other entry shares are charged."""
    texts = text_bytes(backend) + text_bytes(usage.model or "") + text_bytes(task) + sum(map(text_bytes, tags))
    return TERMS_OVERHEAD_BYTES + texts + TAG_OVERHEAD_BYTES * len(tags)


class RemovalListener(Protocol):
    """Entries that are found together (`sidecard.core.cache.similarity.SimilarityGroup`)."""

    def forget(self, entry: "Entry") -> None:
        """Learn that an entry has left the cache. Called before it is emptied."""
        ...


class Terms(Struct, frozen=True):
    """On what terms an answer is kept: what many entries have in common, so that they share one object."""

    scope: str
    ttl_seconds: float
    """Until this age the entry is a `Hit`."""
    window_seconds: float
    """Until this age it is still `Shared`, even where nothing is cached."""
    backend: str
    usage: Usage = NO_USAGE
    tags: tuple[str, ...] = ()

    overhead_bytes: int = ENTRY_OVERHEAD_BYTES
    """What each entry on these terms is charged beside its key and value."""
    trust: int = 0
    """How often, when it was stored, news of other hosts had been missed: after the next time it is doubted."""
    stale_seconds: float = 0.0
    """For so long after ``ttl_seconds`` it may be served as stale."""
    early_refresh: float = 0.0
    """See `sidecard.core.settings.TaskSettings`."""
    task: str = ""
    """Empty where an earlier version's store does not tell."""
    group: RemovalListener | None = None
    """Those among which it is found by similar requests."""
    fresh_seconds: float = 0.0
    """Derived: until this age it is a `Hit` or `Shared`."""
    calm_seconds: float = 0.0
    """Derived: until this age there is nothing to decide, it is served."""
    lifetime_seconds: float = 0.0
    """Derived: at this age it leaves."""

    def __post_init__(self) -> None:
        """Derive what every hit looks at."""
        fresh_seconds = max(self.ttl_seconds, self.window_seconds)
        structs.force_setattr(self, "fresh_seconds", fresh_seconds)
        structs.force_setattr(self, "calm_seconds", 0.0 if self.early_refresh else fresh_seconds)
        structs.force_setattr(self, "lifetime_seconds", max(fresh_seconds, self.ttl_seconds + self.stale_seconds))


class Entry(Struct, gc=False):
    """A stored answer. There may be millions, so what is equal is in `Terms` and what can be derived is not kept.

    ``stored_at`` is an instant of the monotonic clock. ``seconds`` is how long the call took that made the answer, from the
    lease to its `complete`.
    """

    key: str
    value: bytes
    stored_at: float
    seconds: float
    terms: Terms
    state: int = 0
    """Hits since the policy last looked (two bits), those before (four), the level of the policy (six), and whether the value
    is compressed, and the entry dead. One small integer for five facts: at a million entries each further field is 8 MB."""

    @property
    def dollars(self) -> float:
        """What the call cost that made the answer."""
        return self.terms.usage.cost_dollars or 0.0

    @property
    def expires_at(self) -> float:
        """From this instant on nobody is served it."""
        return self.stored_at + self.terms.lifetime_seconds

    def is_fresh(self, now: float) -> bool:
        """It is no stale answer yet."""
        return now - self.stored_at < self.terms.fresh_seconds

    @property
    def charge(self) -> int:
        """The bytes that it counts for."""
        return text_bytes(self.key) + len(self.value) + self.terms.overhead_bytes

    @property
    def compressed(self) -> bool:
        """The value is not the answer itself."""
        return self.state & COMPRESSED != 0

    @property
    def answer_bytes(self) -> int:
        """How large the answer is that it serves."""
        return size_before(self.value) if self.state & COMPRESSED else len(self.value)

    @property
    def alive(self) -> bool:
        """In the cache."""
        return self.state < _DEAD

    @property
    def level(self) -> int:
        """Where the policy has it (`sidecard.core.cache.eviction`)."""
        return self.state >> _LEVEL_SHIFT & LEVELS - 1

    @property
    def times(self) -> int:
        """Hits before the policy last looked, at most `MAX_TIMES`."""
        return self.state >> _ASKED_BITS & _TIMES_MASK

    @property
    def asked(self) -> int:
        """Hits since then, at most `MAX_ASKED`."""
        return self.state & MAX_ASKED

    def touch(self) -> None:
        """Count a hit."""
        self.state = _AFTER_HIT[self.state]

    def settle(self, times: int, level: int) -> None:
        """Be looked at: so many hits until now, and another level."""
        looked_at = level << _LEVEL_SHIFT | min(times, MAX_TIMES) << _ASKED_BITS
        self.state = _STATES[self.state & COMPRESSED | looked_at]

    def die(self) -> None:
        """Leave the cache."""
        self.state = self.state & COMPRESSED | _DEAD
