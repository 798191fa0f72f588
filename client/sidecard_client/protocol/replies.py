"""What the daemon replies to calls and entry operations; `reports` has the replies about its state."""

from typing import Any

from msgspec import UNSET, Struct, UnsetType

from sidecard_client.protocol.reported_usage import Usage
from sidecard_client.protocol.values import (
    REPORT_HITS,
    REPORT_SECONDS,
    ErrorCode,
    FailureKind,
    PrefixAffinity,
    PrefixState,
    RejectionReason,
    Route,
    StoreState,
    StreamSource,
)


class Reply(Struct, frozen=True, tag_field="type"):
    """Base of all replies. ``id`` is the request's."""

    id: int


class Pong(Reply, frozen=True, tag="pong"):
    """The daemon replies. ``uptime_seconds`` counts from when it began to listen."""

    version: str
    protocol: int
    boot_id: str
    uptime_seconds: float


class Pending(Reply, frozen=True, tag="pending"):
    """The `Begin` waits and another reply follows. Sent immediately, so that the client can tell a hung daemon from a long wait."""


class VectorWanted(Reply, frozen=True, tag="vector_wanted"):
    """No stored answer, but a similar one may exist: repeat the begin with a vector, or without ``embeds``."""


class PrefixWanted(Reply, frozen=True, tag="prefix_wanted"):
    """No answer is stored, and a backend has ``prefix_affinity``: repeat the begin with ``prefix``, or without ``has_prefix``.

    So a caller computes no digests for a hit, nor for backends that have no use for them.
    """


class ValueReply(Reply, frozen=True, omit_defaults=True):
    """Base of the replies with an answer. ``saved_*``: duration and price of the call that produced it."""

    value: Any
    age_seconds: float
    stale: bool
    saved_seconds: float
    saved_dollars: float
    backend: str
    meta: Any
    """The `Usage` reported with the answer, as a map; empty if there was none."""


class Hit(ValueReply, frozen=True, tag="hit", omit_defaults=True):
    """A stored answer."""

    similarity: float | None = None
    """Cosine of the two vectors, if this is the answer to a similar request; None for an exact match."""


class Shared(ValueReply, frozen=True, tag="shared", omit_defaults=True):
    """The answer of another caller's flight. ``saved_seconds`` is less the time waited."""

    trace: str = ""
    """The holder's span, if it is traced."""


class Chunk(Reply, frozen=True, tag="chunk", omit_defaults=True):
    """The next chunk of a streamed answer. Only the first one carries the fields after ``chunk``."""

    chunk: Any
    source: StreamSource = ""
    age_seconds: float = 0.0
    backend: str = ""
    saved_dollars: float = 0.0
    """Known already for stored answers only."""
    similarity: float | None = None
    """As `Hit.similarity`."""


class End(Reply, frozen=True, tag="end", omit_defaults=True):
    """The answer is complete: its last `Chunk` was sent. The fields are those of `Hit` and `Shared`."""

    source: StreamSource
    age_seconds: float
    stale: bool
    saved_seconds: float
    saved_dollars: float
    backend: str
    meta: Any
    trace: str = ""
    similarity: float | None = None


class Lease(Reply, frozen=True, tag="lease", omit_defaults=True):
    """Permission to make the call on ``backend``. ``attempt`` counts the leases of this flight, from 1."""

    lease: str
    backend: str
    expires_in_seconds: float
    attempt: int
    route: Route = "order"
    """How the backend was chosen."""
    passed_over: dict[str, RejectionReason] = {}
    """Backends that the route preferred, each with the reason why it could not be called."""
    log: bool = False
    """Send the prompt and the answer for the call log (`Complete.spoken`)."""
    stale_value: Any = UNSET
    """A stored answer to return if the call fails transiently; left out if there is none. It is stale, unless the lease refreshes
    it early."""
    stale_age_seconds: float = 0.0
    stale_backend: str = ""
    waiters: int = 0
    """How many callers wait for the lease's answer already, if its begin had ``wanted``. Then no `Wanted` follows."""
    idle_seconds: float = 0.0
    """If its begin had ``wanted``: how long its stream may stay unread while no caller waits for it; 0 is not known."""
    prefix: bool = False
    """The backend processes a prefix of the prompt for the first time: send `Started` at the first output, if the holder can tell."""


class Wanted(Reply, frozen=True, tag="wanted"):
    """Sent to the holder of a lease when the first caller waits for its answer, if its begin had ``wanted``.

    ``id`` is the request's that the `Lease` answered. Sent again only after a reply to `Renew` has reported no waiters.
    """

    lease: str


class Rejected(Reply, frozen=True, tag="rejected"):
    """No answer and no permission, for ``reason``. ``backends`` has the reason of each, if they are the cause."""

    reason: RejectionReason
    retry_after_seconds: float | None = None
    backends: dict[str, RejectionReason] = {}
    stale_value: Any = UNSET
    """A stale answer, if the caller may use one; left out if there is none."""
    stale_age_seconds: float = 0.0
    stale_backend: str = ""
    status: int | UnsetType = UNSET
    """With ``breaker_open``: the HTTP status with which the backend requested a pause, if its caller reported one. Also while
    probes decide whether the pause is over."""


class Failed(Reply, frozen=True, tag="failed"):
    """The flight that this caller waited for failed. ``kind``, ``message`` and ``detail`` are the last holder's."""

    kind: FailureKind
    message: str
    detail: Any = UNSET
    """`Fail.detail`; left out if there was none."""


class Timeout(Reply, frozen=True, tag="timeout"):
    """``wait_seconds`` passed before the flight ended."""

    waited_seconds: float


class Stored(Reply, frozen=True, tag="stored", omit_defaults=True):
    """The answer or entry was accepted; ``stored`` is whether an entry was made of it."""

    stored: bool
    not_stored: str = ""
    """In reply to `Complete`: why no entry was made, as one of `NOT_STORED_REASONS`."""


class StaleLease(Reply, frozen=True, tag="stale_lease"):
    """The lease is not current: it ended, or belongs to another run or peer. Nothing changed."""


class Ok(Reply, frozen=True, tag="ok", omit_defaults=True):
    """The request was carried out."""

    waiters: int = 0
    """In reply to `Renew`: how many callers wait for the lease's answer."""


class Miss(Reply, frozen=True, tag="miss"):
    """No live entry has this key."""


class View(Reply, frozen=True, tag="view", omit_defaults=True):
    """A view; the descriptor of its file accompanies this message (``SCM_RIGHTS``). Layout: `sidecard_client.protocol.view`."""

    view: int
    """Its number, never reused within a run of the daemon."""
    layout: int
    size: int
    """Bytes of the file."""
    now_seconds: float
    """The daemon's ``CLOCK_BOOTTIME`` as it replies: on a client's own clock it lies between request and reply."""
    logs_calls: bool = False
    """The daemon keeps a call log, whose rows have the trace ids of their callers. Hits from a view have none."""
    report_seconds: float = REPORT_SECONDS
    """Report hits (`RecordHits`) within this time of the first one."""
    report_hits: int = REPORT_HITS
    """Report hits earlier if there are this many."""


class Deleted(Reply, frozen=True, tag="deleted"):
    """``count`` entries were removed.

    ``in_progress``: a purge of very many entries has hidden all of them, and goes on to remove and to count them.
    """

    count: int
    in_progress: bool = False


class Recorded(Reply, frozen=True, tag="recorded"):
    """The measurements were accepted, except for ``dropped`` of them (invalid name or value, too many series)."""

    dropped: int
    problem: str = ""
    """What is wrong with the latest number that was out of range: its field, its value and the range."""


class PolicyValue(Struct, frozen=True):
    """One value of a task's policy."""

    value: Any
    setting: str
    """Full name of the setting that it comes from: the task's own, or the one for all tasks."""
    origin: str = ""
    """Where the setting is set (``default``, a file, the environment, a flag); operators only, else empty."""


class EntryState(Struct, frozen=True):
    """An entry in memory."""

    age_seconds: float
    ttl_left_seconds: float
    """Remaining lifetime; 0 if it has passed."""
    stale_left_seconds: float
    """How long it may be served as stale after its lifetime."""
    stale: bool
    size_bytes: int
    """Its share of the cache's limit."""
    call_seconds: float
    """Duration of the call that made it."""
    backend: str
    task: str
    """Empty for entries stored by a version that did not record it."""
    tags: tuple[str, ...]
    usage: Usage


class BackendPrefixes(Struct, frozen=True):
    """What a backend knows of a request's prefixes."""

    affinity: PrefixAffinity
    min_tokens: int
    """Shorter prefixes are ignored."""
    states: tuple[PrefixState, ...]
    """One for each of `Explain.prefix`."""


class Explained(Reply, frozen=True, tag="explained", omit_defaults=True):
    """A task's policy, and the state of a key."""

    task: str
    scope: str
    """The resolved namespace: ``1000:default`` is private to uid 1000, ``*:team`` is shared."""
    policy: dict[str, PolicyValue]
    """By the names of ``[tasks.NAME]``."""
    entry: EntryState | None = None
    """None without a ``key``, and if only the store has an entry."""
    waiters: int | None = None
    """Waiters of the flight in progress; None if there is no flight."""
    failure: str | None = None
    """The remembered failure of the key, as the next caller would receive it."""
    store: StoreState = "none"
    prefixes: dict[str, BackendPrefixes] = {}
    """By backend with ``prefix_affinity``; empty without `Explain.prefix`."""


class Error(Reply, frozen=True, tag="error"):
    """The request was not served. ``message`` says what to change."""

    code: ErrorCode
    message: str


CallReply = (
    Pong | Pending | VectorWanted | PrefixWanted | Hit | Shared | Chunk | End | Lease | Wanted | Rejected | Failed
    | Timeout | Stored | StaleLease | Ok | Miss | Deleted | Recorded | Explained | View | Error
)  # fmt: skip

FINAL_REPLIES_OF_BEGIN = (Hit, Shared, End, Lease, Rejected, Failed, Timeout, VectorWanted, PrefixWanted, Error)
