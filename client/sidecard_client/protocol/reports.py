"""What the daemon replies about its own state: statistics, backends, health, settings."""

# ruff: noqa: RUF012 - msgspec copies the mutable defaults of its Structs

from typing import Any, Literal

from msgspec import Struct

from sidecard_client.protocol.ledgers import Report
from sidecard_client.protocol.metrics import Metrics
from sidecard_client.protocol.replies import Reply
from sidecard_client.protocol.values import (
    BreakerState,
    Locality,
    PrefixAffinity,
    StoreState,
)


class Stats(Reply, frozen=True, tag="stats"):
    """Gauges of this moment and counters since the daemon started.

    Every `Begin` ends in exactly one of the counters, so at any moment
    ``begins = hits + shared + leases_first + failed + rejected + timeouts + left + waiters + vectors_wanted
    + prefixes_wanted``.
    A caller that gets a further lease after a failure ended its begin with the first lease.
    """

    version: str
    boot_id: str
    uptime_seconds: float
    draining: bool
    peers: int
    """Open connections."""
    flights: int
    """Keys being computed here, read from the store, or awaited from another host."""
    leases: int
    """Live leases, including those without a key."""
    waiters: int
    """Begins that wait for an answer or for a permit."""
    queued: int
    """Callers that wait for a backend's permit or for a retry's back-off, including those that failed before."""
    permits: int
    """Permits in use of all backends: one for each lease."""
    cache_entries: int
    cache_bytes: int
    """Keys, values and the fixed cost per entry."""
    cache_max_bytes: int
    stream_bytes: int
    """Size of streams in flight or still being read."""
    streams: int
    """Begins that are receiving the chunks of an answer."""
    begins: int
    """`Begin` requests accepted."""
    hits: int
    """Begins that ended with a stored answer."""
    stale_hits: int
    """Of ``hits``, answers past their lifetime, served during a refresh or a wait for a permit."""
    similar_hits: int
    """Of ``hits``, answers to a similar request."""
    stale_given: int
    """Leases and rejections that carried an answer past its lifetime."""
    early_refreshes: int
    """Leases that refresh an answer within its lifetime."""
    misses: int
    """Reads of a stored answer that found none."""
    shared: int
    """Begins that ended with the answer of another caller's flight."""
    leases_first: int
    """Begins that ended with a `Lease`."""
    leases_granted: int
    """Leases of all kinds: first ones, elections, next backends."""
    reelections: int
    """Leases passed to a waiter because the holder failed, hung or disconnected."""
    completed: int
    """Leases ended by `Complete`."""
    next_backends: int
    """Leases granted to a caller whose call on another backend failed."""
    retries: int
    """Leases granted to a caller on a backend that failed it before."""
    retries_refused: int
    """Retries rejected because the retry budget was spent."""
    breakers_opened: int
    stale_leases: int
    """Messages rejected because their lease was not current."""
    lost: int
    """Leases ended because the holder disconnected."""
    expired: int
    """Leases ended because the holder did not renew."""
    failed_transient: int
    failed_fatal: int
    failed_ignored: int
    failed_cancelled: int
    """Leases ended by `Fail`, by kind."""
    failed: int
    """Begins that ended in `Failed`."""
    failed_again: int
    """Of ``failed``, those that ended by a remembered failure."""
    rejected: int
    """Begins that ended in `Rejected`."""
    rejected_busy: int
    rejected_draining: int
    rejected_not_cached: int
    rejected_breaker_open: int
    rejected_saturated: int
    rejected_sovereign: int
    rejected_budget: int
    timeouts: int
    """Begins that ended in `Timeout`."""
    left: int
    """Waiting begins that were canceled or whose connection ended."""
    stored: int
    """Entries made."""
    refused_too_large: int
    """Answers not stored because they exceed the size limit of an entry."""
    chunks_taken: int
    """Chunks of streams received from holders."""
    chunks_sent: int
    """Chunks of streams sent to followers."""
    streams_broken: int
    """Of ``failed``, followers whose stream failed after its first chunk."""
    vectors_wanted: int
    """Begins that ended in `VectorWanted`; each is followed by another one."""
    vectors: int
    """Entries that similar requests can find."""
    evicted: int
    """Live entries removed to make room, in the cache or in a namespace with a limit of its own."""
    expired_entries: int
    """Entries removed at the end of their lifetime."""
    deleted: int
    """Entries removed by `Delete` and `Purge`."""
    breakers: dict[str, BreakerState] = {}
    """By backend."""
    store: StoreState = "none"
    """``read_only``: the store answers reads but accepts no writes. The fields below are 0 without a store."""
    store_reads: int = 0
    """Keys read from the store."""
    store_hits: int = 0
    """Of ``store_reads``, those that found an entry."""
    store_unanswered: int = 0
    """Of ``store_reads``, those that failed or timed out."""
    store_entries: int = 0
    """Entries on disk; 0 for a shared store, whose entries are not this host's alone."""
    store_bytes: int = 0
    store_pending: int = 0
    """Pending writes: entries and removals."""
    store_pending_bytes: int = 0
    store_written: int = 0
    store_dropped: int = 0
    """Entries not written because too many writes were pending."""
    store_refused: int = 0
    """Entries that a shared store refused: their claim passed to another host, or another entry has the key."""
    store_evicted: int = 0
    """Live entries removed from disk to make room."""
    store_faults: int = 0
    """Failures of the store, of all kinds."""
    claims: int = 0
    """Keys that this host is computing for all hosts."""
    awaited: int = 0
    """Keys that another host is computing and callers here wait for."""
    cache_compressed_entries: int = 0
    """Of ``cache_entries``, those with a compressed answer."""
    cache_compressed_bytes: int = 0
    """Compressed size of these answers, included in ``cache_bytes``. A `Hit` carries them uncompressed."""
    cache_uncompressed_bytes: int = 0
    """Uncompressed size of the same answers."""
    evicted_by_limits: int = 0
    """Of ``evicted``, those that exceeded their namespace's ``[namespaces.NAME] max_bytes``."""
    similar_refused: dict[str, int] = {}
    """Answers with a near vector that were not served, by the difference of the texts
    (`sidecard_client.keys.guard.comparison.Difference`)."""
    memory_by_kind: dict[str, int] = {}
    """Bytes that peers make the daemon hold besides entries: ``requests`` (waiting, and those of leases, with their flights),
    ``streams``, ``app_metrics``, ``buffers`` (unread replies and incomplete messages)."""
    memory_by_uid: dict[str, int] = {}
    """The same bytes by uid: operators get the uids that hold most, other peers their own."""
    prefixes_wanted: int = 0
    """Begins that ended in `PrefixWanted`; each is followed by another one."""
    views: int = 0
    """Views that clients may read: one for each namespace whose clients asked for it."""
    view_bytes: int = 0
    """Size of the files of all views, and of retired ones that clients still have. Entries have that much less of ``cache_max_bytes``."""
    view_entries: int = 0
    """Entries that are published."""
    view_hits: int = 0
    """Of ``hits``, those that clients read from a view."""
    view_publications: int = 0
    view_withdrawals: int = 0
    """How often entries were published, and withdrawn."""


class BackendState(Struct, frozen=True):
    """One backend: its breaker, permits and queue."""

    state: BreakerState
    locality: Locality
    generation: int
    """Counts the breaker's state changes. Outcomes of calls from an older generation are ignored."""
    cause: str
    """Why the breaker is not closed, as a sentence; empty if it is."""
    retry_after_seconds: float | None
    """Until the next call is allowed; None if one is allowed now, or if an operator holds the breaker open."""
    calls: int
    """In the window, as ``failures`` and ``slow``."""
    failures: int
    slow: int
    opened: int
    """How often the breaker opened."""
    permits: int
    """Calls in progress."""
    limit: int | None
    """Maximum of calls in progress; None is no limit. An adaptive limit moves."""
    queued: int
    """Callers that wait for a permit."""
    max_queue: int
    latency_seconds: float | None
    """Exponential moving average; None before the first answer."""
    dollars_per_call: float | None
    prefix_affinity: PrefixAffinity = "off"
    warm_prefixes: int = 0
    """Prefixes that it has processed and keeps, as far as the daemon knows."""
    held: int = 0
    """Of ``queued``, callers that are held while another call processes one of their prefixes."""
    cached_prompt_share: float | None = None
    """Share of the prompt tokens since the daemon started that it read from its own cache, in answers that report them; None
    without such an answer."""


class Breakers(Reply, frozen=True, tag="breakers"):
    """Every backend that is configured or in use."""

    backends: dict[str, BackendState]


class LongCall(Struct, frozen=True):
    """A call that made no progress until its lease ended, or that has been in progress for long."""

    task: str
    backend: str
    uid: int
    pid: int
    """0 if the process is unknown."""
    seconds: float
    """Since its lease was granted."""
    expired: bool
    """Its lease has ended by ``flights.max_call_seconds`` or ``flights.idle_seconds``, and its holder has not reported since."""


class Health(Reply, frozen=True, tag="health"):
    """``reasons`` lists the problems, one sentence each; empty if there are none."""

    status: Literal["ok", "draining"]
    reasons: list[str]
    version: str
    boot_id: str
    uptime_seconds: float
    breakers: dict[str, BreakerState] = {}
    store: StoreState = "none"
    long_calls: list[LongCall] = []
    """The longest first, at most 32."""


class Settings(Reply, frozen=True, tag="config"):
    """Every setting by its full name (``cache.max_bytes``), with its value and its origin."""

    settings: dict[str, Any]
    origins: dict[str, str]


class Reloaded(Reply, frozen=True, tag="reloaded"):
    """The settings were read again. If ``problems`` is not empty, nothing changed."""

    changed: dict[str, Any]
    """Values that took effect, by full name; None for settings that are no longer set."""
    needs_restart: list[str]
    """Full names of settings whose new value takes effect at the next start."""
    problems: list[str]
    """One sentence each."""


class Note(Reply, frozen=True, tag="note"):
    """A fact of the daemon's log: a class of `sidecard.core.notes` in snake case (``breaker_opened``), with its fields."""

    note: str
    at_seconds: float
    """Unix time."""
    fields: dict[str, Any]


StateReply = (
    Note | Stats | Report | Health | Settings | Breakers | Reloaded | Metrics
)  # fmt: skip
