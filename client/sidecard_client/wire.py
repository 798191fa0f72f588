"""The protocol between an app and the sidecard daemon: every message there is, and how bytes carry it.

This module is the only definition. Both sides import these Structs; nobody defines a second copy.

Connection
==========
A Unix stream socket.
The kernel says who the peer is (``SO_PEERCRED``); no message can claim another identity.
The first byte that a client sends chooses the encoding for the whole connection:

``0x00`` or ``0x01``
    *msgpack*: a 4-byte big-endian length, then one msgpack map of that many bytes, in both directions.
    The daemon refuses lengths above ``[limits] max_frame_bytes`` (16 MiB, so that the first byte tells).
``{``, space, tab, carriage return, line feed
    *JSON lines*: one JSON object a line, replies one a line, at most `MAX_LINE_BYTES` a line.
    ``id`` may be left out (it is 0 then).
    Bytes are written ``{"$bytes": "<base64>"}``.
    The last line may lack its line feed, and a client that half-closes still gets every outstanding reply.

Anything else is answered with one JSON ``error`` line and the connection is closed.

A message that is well framed but wrong (unknown op, wrong type) gets an ``error`` and the connection stays open;
framing that is wrong gets an ``error`` and the connection is closed.
Decoders ignore fields that they do not know, so fields may be added, always with defaults, never with another type.

Requests and replies
====================
A request carries ``op`` and ``id`` (any 64-bit integer, echoed in each of its replies); a reply carries ``type`` and ``id``.
Replies may come in any order.
A `begin` that must wait is answered `Pending` at once and later by exactly one of
`Hit`, `Shared`, `Lease`, `Rejected`, `Failed`, `Timeout`, `Error`;
while it waits its ``id`` must not be used for another `begin` on the connection.
A connection that ends gives back everything that it held: its leases count as lost, its waits are dropped.

``begin``
    "I am about to make this call. Must I?"
    `Hit`: no, here is the stored answer.
    `Shared`: no, here is the answer that somebody else has just fetched.
    `Lease`: yes, make it on ``backend``, renew the lease every third of ``expires_in_seconds``, and say `complete` or `fail`.
    `Rejected`: no, for ``reason``; on ``busy`` and ``draining`` the caller should make the call without the daemon.
    `Failed`: the holder's call failed in a way that the waiter shares; where ``kind`` is ``ignored`` the answer
    could not be shared and the caller should make the call itself.
    `Timeout`: ``wait_seconds`` passed.
    A null ``key`` asks for permission and a backend only: nothing is cached and nothing is shared.
    ``mode`` ``refresh`` does not look at stored answers but joins a flight that is in progress;
    ``only_if_cached`` never waits and never leads: it gets a stored answer or ``rejected: not_cached``.
``complete``
    The answer of a lease. Every waiter gets it, and it is stored unless ``store`` is false.
    An answer that is not stored is given to those who wait now and to nobody later.
    `Stored` says in ``stored`` whether an entry was made (false: null key, ``store`` false, too large, or deleted meanwhile).
    `StaleLease`: the lease had ended before (expired, lost); nothing changed.
``fail``
    The call of a lease failed. ``transient`` and ``cancelled`` pass the lease to the longest-waiting waiter;
    ``fatal`` fails every waiter; ``ignored`` releases every waiter to make its own call.
    With ``next`` the same caller gets a `Lease` on its next backend, if it has one left, and the flight goes on.
``renew``
    Keeps a lease for another ``[flights] lease_seconds``.
``cancel``
    Ends the own waiting ``begin`` of id ``target``, which then gets no further reply,
    or, where its lease was just granted, gives that lease back.
    Interleaving: 1. the daemon sends the lease; 2. the client, not yet having read it, sends ``cancel``; 3. the lease is void.
``get`` ``put`` ``delete``
    The stored entries, without flights. ``delete`` (and ``purge``) forbid a flight in progress to store its answer.
``purge``
    Operators only. Removes by namespace, by tag, by both, or, with neither, everything.

Namespaces
==========
A namespace is private to the peer's uid unless ``[namespaces.NAME] shared_with`` in the daemon's config says otherwise.
Operators may name one uid's namespace as ``UID:NAME``; for ``purge`` a plain ``NAME`` means that name of every uid.

Leases and fences
=================
A lease is an opaque string. It names the daemon's run and a sequence number (its *fence*): after a restart, an expiry or a
loss it is not current any more, and whatever arrives with it changes nothing and is answered `StaleLease`.
"""

from collections.abc import Callable
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Raw, Struct

PROTOCOL_VERSION = 1

MAX_FRAME_BYTES = 16 * 1024 * 1024
"""Default limit of a msgpack frame. Precedents: Redis 512 MB bulk, memcached 1 MB item, gRPC 4 MiB message, Kafka 1 MiB."""

MAX_LINE_BYTES = 1024 * 1024
"""Limit of a JSON line. Lines are for people and scripts; larger values travel in msgpack."""

FRAME_HEADER_BYTES = 4

DEFAULT_NAMESPACE = "default"
DEFAULT_TASK = "general"
DEFAULT_BACKEND = "default"

Seconds = Annotated[float, Meta(ge=0, le=366 * 86400)]
Name = Annotated[str, Meta(min_length=1, max_length=128)]
Namespace = Annotated[str, Meta(min_length=1, max_length=160)]
Key = Annotated[str, Meta(min_length=1, max_length=1024)]
Tags = Annotated[tuple[Name, ...], Meta(max_length=16)]
Text = Annotated[str, Meta(max_length=4096)]
Count = Annotated[int, Meta(ge=0, le=2**53)]
Dollars = Annotated[float, Meta(ge=0, le=1e9)]
RequestId = Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)]

Mode = Literal["use", "refresh", "only_if_cached"]
FailureKind = Literal["transient", "fatal", "ignored", "cancelled"]
RejectionReason = Literal["breaker_open", "saturated", "busy", "sovereign", "budget", "draining", "not_cached"]
ErrorCode = Literal["bad_request", "unknown_op", "too_large", "denied", "unavailable", "internal"]


class Usage(Struct, frozen=True, omit_defaults=True):
    """What a call used, as its caller reports it; comes back as ``meta`` of the entry."""

    model: Name | None = None
    prompt_tokens: Count | None = None
    completion_tokens: Count | None = None
    cost_dollars: Dollars | None = None


class Request(Struct, frozen=True, omit_defaults=True, kw_only=True, tag_field="op"):
    """What a client sends. ``id`` comes back in each reply."""

    id: RequestId = 0


class Ping(Request, frozen=True, tag="ping"):
    """Asks whether the daemon answers. Reply: `Pong`."""


class Begin(Request, frozen=True, tag="begin"):
    """Asks whether a call must be made. Replies: see the module's text."""

    key: Key | None = None
    namespace: Namespace = DEFAULT_NAMESPACE
    task: Name = DEFAULT_TASK
    backends: Annotated[tuple[Name, ...], Meta(max_length=16)] = ()
    wait_seconds: Seconds | None = None
    ttl_seconds: Seconds | None = None
    stale_seconds: Seconds | None = None
    mode: Mode = "use"
    stream: bool = False
    vector: tuple[float, ...] | None = None


class Complete(Request, frozen=True, tag="complete"):
    """Brings the answer of a lease. Replies: `Stored`, `StaleLease`."""

    lease: Name
    value: Raw
    usage: Usage | None = None
    ttl_seconds: Seconds | None = None
    store: bool = True
    tags: Tags = ()


class Fail(Request, frozen=True, tag="fail"):
    """Says that the call of a lease failed. Replies: `Ok`, `Lease` (with ``next``), `StaleLease`."""

    lease: Name
    kind: FailureKind = "transient"
    message: Text = ""
    retry_after_seconds: Seconds | None = None
    next: bool = False


class Renew(Request, frozen=True, tag="renew"):
    """Keeps a lease alive. Replies: `Ok`, `StaleLease`."""

    lease: Name


class Cancel(Request, frozen=True, tag="cancel"):
    """Takes an own waiting `Begin` back. Reply: `Ok`, also where nothing of that id waits."""

    target: RequestId


class Get(Request, frozen=True, tag="get"):
    """Reads an entry. Replies: `Hit`, `Miss`."""

    key: Key
    namespace: Namespace = DEFAULT_NAMESPACE


class Put(Request, frozen=True, tag="put"):
    """Writes an entry. Reply: `Stored`."""

    key: Key
    value: Raw
    namespace: Namespace = DEFAULT_NAMESPACE
    ttl_seconds: Seconds | None = None
    tags: Tags = ()


class Delete(Request, frozen=True, tag="delete"):
    """Removes an entry. Reply: `Deleted` (0 or 1)."""

    key: Key
    namespace: Namespace = DEFAULT_NAMESPACE


class Purge(Request, frozen=True, tag="purge"):
    """Removes many entries; operators only. Reply: `Deleted`."""

    namespace: Namespace | None = None
    tag: Name | None = None


class GetStats(Request, frozen=True, tag="stats"):
    """Asks for counters and gauges. Reply: `Stats`."""


class GetReport(Request, frozen=True, tag="report"):
    """Asks for rates, savings and spending. Reply: `Report`."""


class GetHealth(Request, frozen=True, tag="health"):
    """Asks whether the daemon is fit to serve. Reply: `Health`."""


class GetConfig(Request, frozen=True, tag="config"):
    """Asks for the running settings; operators only. Reply: `Settings`."""


AnyRequest = (
    Ping
    | Begin
    | Complete
    | Fail
    | Renew
    | Cancel
    | Get
    | Put
    | Delete
    | Purge
    | GetStats
    | GetReport
    | GetHealth
    | GetConfig
)

OPS_OF_LATER_VERSIONS = frozenset({"append", "record", "breakers", "breaker", "watch"})
"""Ops that the protocol reserves and this version answers with ``error: unavailable``."""


class Reply(Struct, frozen=True, tag_field="type"):
    """What the daemon sends. ``id`` is the request's."""

    id: int


class Pong(Reply, frozen=True, tag="pong"):
    """The daemon answers. ``uptime_seconds`` counts since it began to listen."""

    version: str
    protocol: int
    boot_id: str
    uptime_seconds: float


class Pending(Reply, frozen=True, tag="pending"):
    """The `Begin` waits; its end follows. Sent at once, so that a hanging daemon differs from a long wait."""


class Hit(Reply, frozen=True, tag="hit"):
    """A stored answer. ``saved_seconds`` and ``saved_dollars`` are what the entry's own call took."""

    value: Any
    age_seconds: float
    stale: bool
    saved_seconds: float
    saved_dollars: float
    backend: str
    meta: Any
    """The `Usage` that came with the answer, as a map; empty where none came."""


class Shared(Reply, frozen=True, tag="shared"):
    """The answer of a flight that somebody else led. ``saved_seconds`` is that call's time less the time waited."""

    value: Any
    age_seconds: float
    stale: bool
    saved_seconds: float
    saved_dollars: float
    backend: str
    meta: Any


class Lease(Reply, frozen=True, tag="lease"):
    """Permission to make the call on ``backend``. ``attempt`` counts the leases of this flight, from 1."""

    lease: str
    backend: str
    expires_in_seconds: float
    attempt: int


class Rejected(Reply, frozen=True, tag="rejected"):
    """No answer and no permission, for ``reason``."""

    reason: RejectionReason
    retry_after_seconds: float | None = None


class Failed(Reply, frozen=True, tag="failed"):
    """The flight that this caller waited for has failed. ``kind`` and ``message`` are the last holder's."""

    kind: FailureKind
    message: str


class Timeout(Reply, frozen=True, tag="timeout"):
    """``wait_seconds`` passed before the flight ended."""

    waited_seconds: float


class Stored(Reply, frozen=True, tag="stored"):
    """The answer or entry was taken; ``stored`` says whether an entry was made of it."""

    stored: bool


class StaleLease(Reply, frozen=True, tag="stale_lease"):
    """The lease is not current: it ended before, or belongs to another run or peer. Nothing changed."""


class Ok(Reply, frozen=True, tag="ok"):
    """Done."""


class Miss(Reply, frozen=True, tag="miss"):
    """No live entry has this key."""


class Deleted(Reply, frozen=True, tag="deleted"):
    """``count`` entries were removed."""

    count: int


class Stats(Reply, frozen=True, tag="stats"):
    """Gauges of this moment and counters since the daemon began.

    Every `Begin` ends in exactly one of the counters, so at any moment
    ``begins = hits + shared + leases_first + failed + rejected + timeouts + left + waiters``.
    """

    version: str
    boot_id: str
    uptime_seconds: float
    draining: bool
    peers: int
    """Connections open now."""
    flights: int
    """Keys that are being computed now."""
    leases: int
    """Leases alive now, those without a key included."""
    waiters: int
    """Begins that wait now."""
    cache_entries: int
    cache_bytes: int
    """Keys, values and the fixed cost per entry."""
    cache_max_bytes: int
    begins: int
    """`Begin` requests taken."""
    hits: int
    """Ended by a stored answer."""
    misses: int
    """Looked for a stored answer of their key and found none."""
    shared: int
    """Ended by an answer that another caller fetched."""
    leases_first: int
    """Ended by a `Lease`."""
    leases_granted: int
    """Leases of all kinds: first ones, elections, next backends."""
    reelections: int
    """Leases that passed to a waiter because the holder failed, hung or vanished."""
    completed: int
    """Leases ended by `Complete`."""
    stale_leases: int
    """Messages refused because their lease was not current."""
    lost: int
    """Leases ended because the holder's connection ended."""
    expired: int
    """Leases ended because the holder did not renew."""
    failed_transient: int
    failed_fatal: int
    failed_ignored: int
    failed_cancelled: int
    """Leases ended by `Fail`, by kind."""
    failed: int
    """Begins that ended in `Failed`."""
    rejected: int
    """Begins that ended in `Rejected`."""
    rejected_busy: int
    rejected_draining: int
    rejected_not_cached: int
    timeouts: int
    """Begins that ended in `Timeout`."""
    left: int
    """Waiting begins that were cancelled or whose connection ended."""
    stored: int
    """Entries made."""
    refused_too_large: int
    """Answers not stored because they were larger than an entry may be."""
    evicted: int
    """Live entries removed to make room."""
    expired_entries: int
    """Entries removed because their time had passed."""
    deleted: int
    """Entries removed by `Delete` and `Purge`."""


class Ledger(Struct, frozen=True):
    """What one task's calls asked for, cost and saved.

    The four sums are never mixed: ``served = billed + saved_by_cache + saved_by_sharing`` in dollars, and the same in
    seconds but for ``waited_seconds``, the time that sharing callers spent waiting.
    All seconds are measured from the lease to its `Complete`, of the entries actually served.
    """

    calls: int
    """Begins with a key that ended in an answer or in a lease."""
    hits: int
    shared: int
    upstream_calls: int
    """Leases that ended in `Complete`, refused late ones included: the backend was asked."""
    hit_rate: float
    """``hits / calls``"""
    deduplication_rate: float
    """``shared / calls``"""
    average_latency_reduction: float
    """``(saved_by_cache_seconds + saved_by_sharing_seconds) / served_seconds``: 0.4 means 40 % less time."""
    average_saved_seconds: float
    """Seconds saved per call."""
    served_seconds: float
    billed_seconds: float
    saved_by_cache_seconds: float
    saved_by_sharing_seconds: float
    waited_seconds: float
    served_dollars: float
    billed_dollars: float
    saved_by_cache_dollars: float
    saved_by_sharing_dollars: float


class Report(Reply, frozen=True, tag="report"):
    """The ledger, in total and per task, since the daemon began."""

    uptime_seconds: float
    total: Ledger
    tasks: dict[str, Ledger]


class Health(Reply, frozen=True, tag="health"):
    """``status`` is ``ok`` or ``draining``; ``reasons`` says, in sentences, what is not fine."""

    status: Literal["ok", "draining"]
    reasons: list[str]
    version: str
    boot_id: str
    uptime_seconds: float


class Settings(Reply, frozen=True, tag="config"):
    """Every setting by its full name (``cache.max_bytes``), with its value and where it came from."""

    settings: dict[str, Any]
    origins: dict[str, str]


class Error(Reply, frozen=True, tag="error"):
    """The request was not served. ``message`` says what to change."""

    code: ErrorCode
    message: str


AnyReply = (
    Pong
    | Pending
    | Hit
    | Shared
    | Lease
    | Rejected
    | Failed
    | Timeout
    | Stored
    | StaleLease
    | Ok
    | Miss
    | Deleted
    | Stats
    | Report
    | Health
    | Settings
    | Error
)

FINAL_REPLIES_OF_BEGIN = (Hit, Shared, Lease, Rejected, Failed, Timeout, Error)

pack = msgspec.msgpack.Encoder().encode
"""Message to msgpack map, without its frame header."""

unpack_request: Callable[[bytes | memoryview], AnyRequest] = msgspec.msgpack.Decoder(AnyRequest).decode
"""Msgpack map to request. Raises `msgspec.DecodeError`, `msgspec.ValidationError` or `RecursionError`."""

unpack_reply: Callable[[bytes | memoryview], AnyReply] = msgspec.msgpack.Decoder(AnyReply).decode
"""Msgpack map to reply; ``value`` becomes plain objects. Raises as `unpack_request` does."""
