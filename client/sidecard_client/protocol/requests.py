"""What a client sends. `sidecard docs protocol` describes each operation in full."""

from typing import Annotated

from msgspec import Meta, Raw, Struct

from sidecard_client.protocol.reported_usage import ReportedUsage
from sidecard_client.protocol.values import (
    DEFAULT_NAMESPACE,
    DEFAULT_TASK,
    MAX_MEASUREMENTS,
    MAX_PASSED,
    NO_VALUE,
    Aggregate,
    BatchNumber,
    BreakerAction,
    Context,
    Count,
    FailureKind,
    HitItems,
    HttpStatus,
    Key,
    LogLevel,
    MetricKind,
    Mode,
    Name,
    Namespace,
    PrefixBytes,
    Prefixes,
    RequestId,
    Route,
    SampleNumber,
    Seconds,
    SignatureBytes,
    Tags,
    Text,
    Trace,
    VectorBytes,
    VectorNumbers,
    Word,
)


class Request(Struct, frozen=True, omit_defaults=True, kw_only=True, tag_field="op"):
    """Base of all requests. Each reply echoes ``id``."""

    id: RequestId = 0


class Ping(Request, frozen=True, tag="ping"):
    """Check that the daemon replies. Reply: `Pong`."""


class Begin(Request, frozen=True, tag="begin"):
    """Ask whether a call must be made. Replies: `Pending`, `Chunk`, then one of `FINAL_REPLIES_OF_BEGIN`."""

    key: Key | None = None
    """None asks for a permit and a backend only: nothing is cached or shared."""
    namespace: Namespace = DEFAULT_NAMESPACE
    task: Name = DEFAULT_TASK
    backends: Annotated[tuple[Name, ...], Meta(max_length=16)] = ()
    wait_seconds: Seconds | None = None
    ttl_seconds: Seconds | None = None
    stale_seconds: Seconds | None = None
    mode: Mode = "use"
    route: Route | None = None
    """How ``backends`` are ordered; None is the task's setting, else ``order``."""
    stream: bool = False
    """Ask for the answer chunk by chunk, or for a lease of a call that answers chunk by chunk."""
    vector: VectorBytes | VectorNumbers | None = None
    """Embedding of the request's text, to find similar answers in ``group``."""
    trace: Trace = ""
    """The caller's span. Callers that share the answer receive the holder's (`Shared.trace`)."""
    embeds: bool = False
    """The caller can compute a vector if the daemon replies `VectorWanted`."""
    group: Key | None = None
    """Key of all requests that differ in their text alone; required with ``vector``."""
    batch: BatchNumber = 0
    """Begins of one connection with the same number above 0 are answered by common upstream calls, one after another: their
    leases share one permit, and a call's time is divided among its leases."""
    max_age_seconds: Seconds | None = None
    """This caller gets only answers younger than this. ``ttl_seconds``, if set, bounds their age too."""
    sample: SampleNumber = 0
    """Which of several answers to ``key`` is meant. Above 0 it means the key ``key#sample``; clients whose keys have it send 0."""
    signature: SignatureBytes | None = None
    """With ``vector``: what the text must have in common with a similar one (`sidecard_client.keys.guard.comparison`)."""
    context: Context = ""
    """Digest of the parts of the request that are outside ``key``. A ``fatal`` failure is shared only between equal contexts."""
    wanted: bool = False
    """If this caller becomes the holder, it is to be sent `Wanted`."""
    prefix: Prefixes = ()
    """Digests of the prompt's prefixes, the shortest first, for backends with ``prefix_affinity``; others ignore them."""
    has_prefix: bool = False
    """The caller can send ``prefix`` if the daemon replies `PrefixWanted`."""
    prefix_bytes: PrefixBytes = ()
    """Lengths of these prefixes in bytes, ascending; empty if unknown: then each counts as long enough."""


class Transcript(Struct, frozen=True):
    """Prompt and answer of a call for the call log, as redacted by the app."""

    prompt: Raw
    """``{"args": [...], "kwargs": {...}}``, or what the app's redaction returned."""
    answer: Raw
    """The call's value, or what the app's redaction returned. Repeats ``value``: msgspec has no optional `Raw`."""


class Append(Request, frozen=True, tag="append"):
    """Send the next chunk of a streamed answer. Replies: none, `StaleLease`, `Error`."""

    lease: Name
    chunk: Raw
    output: bool = True
    """False: the chunk precedes the model's output, such as an event that says that the request was received. Callers that
    wait for a prefix of this call go on waiting."""


class Complete(Request, frozen=True, tag="complete"):
    """Send the answer of a lease. Replies: `Stored`, `StaleLease`."""

    lease: Name
    value: Raw = NO_VALUE
    """Required, except for a stream."""
    usage: ReportedUsage | None = None
    ttl_seconds: Seconds | None = None
    store: bool = True
    tags: Tags = ()
    spoken: Transcript | None = None
    """Only if the `Lease` asked for it with ``log``."""
    deterministic: bool = False
    """The same request is meant to get the same answer (temperature 0, a seed, an embedding)."""
    not_stored: Word = ""
    """Without ``store``, or without a key: why, for the counters: one of `NOT_STORED_REASONS`."""


class Fail(Request, frozen=True, tag="fail"):
    """Report that the call of a lease failed. Replies: `Ok`, `StaleLease`; with ``next`` also those of a `Begin`."""

    lease: Name
    kind: FailureKind = "transient"
    message: Text = ""
    retry_after_seconds: Seconds | None = None
    """With ``transient``: closes the backend to all callers for so long, at most an hour, without counting as its failure."""
    next: bool = False
    """Ask for a lease on another of the call's backends."""
    retry: bool = False
    """With ``next``: allow a backend that already failed, after a back-off."""
    timeout: bool = False
    """The caller gave up; the backend's call did not end."""
    answered: bool = False
    """With ``ignored``: the backend did answer, but the answer cannot be shared."""
    usage: ReportedUsage | None = None
    """With ``answered``."""
    invalid: bool = False
    """With ``answered``: the caller finds the answer invalid, so the next waiter makes the call."""
    ttl_seconds: Seconds | None = None
    """How long a ``fatal`` failure is remembered for the key. None is the task's setting, else 0."""
    detail: Raw = NO_VALUE
    """What the waiters get as `Failed.detail`, such as the refused response. Up to `MAX_DETAIL_BYTES`; beyond, it is dropped."""
    status: HttpStatus | None = None
    """HTTP status of the failure. With ``retry_after_seconds``, callers get it as `Rejected.status` while the backend is closed."""
    not_stored: Word = ""
    """With ``answered``: why the answer can be neither stored nor shared, as `Complete.not_stored`."""


class Started(Request, frozen=True, tag="started"):
    """Report the first output of a lease's call, as the first `Append` with ``output`` does. Replies: none, `StaleLease`."""

    lease: Name


class Renew(Request, frozen=True, tag="renew"):
    """Keep a lease alive. Replies: `Ok`, `StaleLease`."""

    lease: Name


class Cancel(Request, frozen=True, tag="cancel"):
    """Withdraw an own waiting `Begin`. Reply: `Ok`, also if no request of that id waits."""

    target: RequestId


class Get(Request, frozen=True, tag="get"):
    """Read an entry. Replies: `Hit`, `Miss`."""

    key: Key
    namespace: Namespace = DEFAULT_NAMESPACE
    max_age_seconds: Seconds | None = None
    """An entry of this age or older is a `Miss`."""


class Put(Request, frozen=True, tag="put"):
    """Write an entry. Reply: `Stored`."""

    key: Key
    value: Raw
    namespace: Namespace = DEFAULT_NAMESPACE
    ttl_seconds: Seconds | None = None
    tags: Tags = ()
    task: Name = DEFAULT_TASK


class Delete(Request, frozen=True, tag="delete"):
    """Remove an entry. Reply: `Deleted` (0 or 1)."""

    key: Key
    namespace: Namespace = DEFAULT_NAMESPACE


class Purge(Request, frozen=True, tag="purge"):
    """Remove all entries that match every given field; operators only. Reply: `Deleted`."""

    namespace: Namespace | None = None
    tag: Name | None = None
    task: Name | None = None


class GetView(Request, frozen=True, tag="view"):
    """Ask for the view of an own namespace: memory with its published entries (msgpack connections only).

    Reply: `View`, with one file descriptor.
    """

    namespace: Namespace = DEFAULT_NAMESPACE


class RecordHits(Request, frozen=True, tag="hits"):
    """Report hits that were read from a view, on the connection that received it. No reply, unless refused.

    Each item is a publication, how often it was read, and when first and last, on ``CLOCK_BOOTTIME``. Together they have at most
    `MAX_HIT_ITEMS` items and `MAX_REPORTED_HITS` hits. An item whose publication is unknown, or was withdrawn more than a second ago, is dropped.
    """

    namespace: Namespace = DEFAULT_NAMESPACE
    hits: HitItems = ()
    """Those of calls: a `Begin`."""
    streams: HitItems = ()
    """Those of streamed calls: a `Begin` with ``stream``."""
    gets: HitItems = ()
    """Those of `Get`."""


class Explain(Request, frozen=True, tag="explain"):
    """Ask for a task's policy and the state of ``key`` in memory. Reply: `Explained`."""

    task: Name = DEFAULT_TASK
    namespace: Namespace = DEFAULT_NAMESPACE
    key: Key | None = None
    context: Context | None = None
    """Whose remembered failure is shown, as `Begin.context`; None is the latest of any."""
    prefix: Prefixes = ()
    """As `Begin.prefix`: show which of these each backend with ``prefix_affinity`` has processed."""


class Watch(Request, frozen=True, tag="watch"):
    """Subscribe to notes; operators only. Replies: `Pending`, then one `Note` after another."""

    notes: Annotated[tuple[Name, ...], Meta(max_length=64)] = ()
    """Names of the wanted notes; empty is all."""


class GetStats(Request, frozen=True, tag="stats"):
    """Ask for counters and gauges. Reply: `Stats`."""


class GetReport(Request, frozen=True, tag="report"):
    """Ask for rates, savings and spending. Reply: `Report`."""


class GetHealth(Request, frozen=True, tag="health"):
    """Ask for the daemon's status and problems. Reply: `Health`."""


class GetConfig(Request, frozen=True, tag="config"):
    """Ask for the running settings; operators only. Reply: `Settings`."""


class Measurement(Struct, frozen=True, omit_defaults=True, kw_only=True):
    """The change of one metric of an app, under one set of labels, since the last report."""

    name: str
    kind: MetricKind
    value: float = 1.0
    """Counter: the increment. Gauge: the current value. Histogram: one observation; with ``counts``, their sum."""
    labels: Annotated[dict[str, str], Meta(max_length=32)] = {}
    help: str = ""
    aggregate: Aggregate = "sum"
    """Gauges: how the workers' values are combined; ``each`` keeps them apart by a label ``worker``, the pid."""
    bounds: Annotated[tuple[float, ...], Meta(max_length=256)] = ()
    """Histograms: upper bounds of the buckets, ascending, without infinity. Empty is the daemon's default."""
    counts: Annotated[tuple[int, ...], Meta(max_length=257)] = ()
    """Histograms: observations per bucket, not cumulative; one more than ``bounds``, for the rest."""


class Passed(Struct, frozen=True, omit_defaults=True, kw_only=True):
    """Requests that an intercepting client passed to the upstream without asking the daemon, since its last report."""

    reason: Word
    """Why, one of `PASSED_REASONS`."""
    family: Word = ""
    """The API family that recognized them; empty if none did."""
    task: Name = DEFAULT_TASK
    count: Count = 1


class RecordMetrics(Request, frozen=True, tag="record"):
    """Send measurements, and counts of passed requests. No reply, unless ``acknowledge``: then `Recorded`."""

    metrics: Annotated[tuple[Measurement, ...], Meta(max_length=MAX_MEASUREMENTS)] = ()
    acknowledge: bool = False
    session: Trace = ""
    """Names the sender. The daemon ignores a ``sequence`` of a session that is not above its last one."""
    sequence: Count = 0
    dropped: Count = 0
    """Updates that the sender itself dropped since its last message."""
    passed: Annotated[tuple[Passed, ...], Meta(max_length=MAX_PASSED)] = ()


class GetMetrics(Request, frozen=True, tag="metrics"):
    """Ask for all metrics, the daemon's and the apps'. Reply: `Metrics`."""


class SetLog(Request, frozen=True, tag="log"):
    """Set the level of the daemon's log; operators only. Reply: `Ok`."""

    level: LogLevel


class Reload(Request, frozen=True, tag="reload"):
    """Read the settings again; operators only. Reply: `Reloaded`."""


class GetBreakers(Request, frozen=True, tag="breakers"):
    """Ask for the state of all backends. Reply: `Breakers`."""


class SetBreaker(Request, frozen=True, tag="breaker"):
    """Set the breaker of one backend; operators only. Reply: `Ok`."""

    backend: Name
    action: BreakerAction


AnyRequest = (
    Ping | Begin | Append | Started | Complete | Fail | Renew | Cancel
    | Get | Put | Delete | Purge | Explain | GetView | RecordHits
    | Watch | GetStats | GetReport | GetHealth | GetConfig | GetBreakers | SetBreaker
    | RecordMetrics | GetMetrics | SetLog | Reload
)  # fmt: skip
