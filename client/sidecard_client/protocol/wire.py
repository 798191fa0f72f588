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

A connection beyond ``[limits] max_peers`` or ``max_peers_per_uid`` is closed; one that speaks JSON lines is told so first by an
``error`` of code ``unavailable`` and id 0.
Connections may be idle for as long as they like, but a message must be whole ``[limits] message_seconds`` after its first byte.
Who leaves more unread than ``max_outbox_bytes``, or reads too little for ``stall_seconds``, is closed; so is who holds most where
replies unread and messages that are not whole come to more than ``max_buffered_bytes`` for all peers together.
Many messages at once are served in turns with those of others, uids in turn: whoever sends few is not kept waiting.

A message that is well framed but wrong (unknown op, wrong type) gets an ``error`` and the connection stays open;
framing that is wrong gets an ``error`` and the connection is closed.
Decoders ignore fields that they do not know, so fields may be added, always with defaults, never with another type.

Requests and replies
====================
A request carries ``op`` and ``id`` (any 64-bit integer, echoed in each of its replies); a reply carries ``type`` and ``id``.
Replies may come in any order.
A `begin` that must wait is answered `Pending` at once (while the daemon only looks into its store, after 20 ms, within which
most looks have ended) and later by exactly one of `Hit`, `Shared`, `Lease`, `Rejected`, `Failed`, `Timeout`, `VectorWanted`,
`Error`;
while it waits its ``id`` must not be used for another `begin` on the connection.
A connection that ends gives back everything that it held: its leases count as lost, its waits are dropped.

``begin``
    "I am about to make this call. Must I?"
    `Hit`: no, here is the stored answer.
    `Shared`: no, here is the answer that somebody else has just fetched, on this host or on another with the same store.
    `Lease`: yes, make it on ``backend``, renew the lease every third of ``expires_in_seconds``, and say `complete` or `fail`.
    ``backends`` are tried in the order of ``route`` (``order``: as given); the lease says in ``passed_over`` why those before
    ``backend`` were not taken. Where none of them has room now but one will, the begin is `Pending` until a permit is free.
    `Rejected`: no, for ``reason``; on ``busy`` and ``draining`` the caller should make the call without the daemon.
    Where no backend may be called, ``backends`` says why for each and ``reason`` is the one that passes soonest.
    `Failed`: the holder's call failed in a way that the waiter shares; where ``kind`` is ``ignored`` the answer
    could not be shared and the caller should make its own call, for which it asks with a null key.
    `Timeout`: ``wait_seconds`` passed.
    A null ``key`` asks for permission and a backend only: nothing is cached and nothing is shared.
    ``mode`` ``refresh`` does not look at stored answers but joins a flight that is in progress;
    ``only_if_cached`` never waits and never leads: it gets a stored answer or ``rejected: not_cached``.
    ``stale_seconds`` says for how long after its time the answer is kept, and how old a stored one may be: see below.
    With ``stream`` the answer comes in pieces: see below.
    With ``embeds``, or with ``vector`` and ``group``, the answer to a similar request may do: see below.
``append``
    The next piece of the answer of a lease that was asked for with ``stream``; any value. There is no reply, unless it is
    refused: `StaleLease`, or `Error` where the lease is not a stream's.
``complete``
    The answer of a lease. Every waiter gets it, and it is stored unless ``store`` is false.
    An answer that is not stored is given to those who wait now and to nobody later.
    `Stored` says in ``stored`` whether an entry was made (false: null key, ``store`` false, too large, deleted meanwhile, or
    the task's policy is not to store it). ``deterministic`` says that the same request is meant to have the same answer
    (temperature 0, a seed, an embedding), which only the client knows: a task whose ``cache`` is ``deterministic`` stores no
    other answers, one whose ``cache`` is ``never`` stores none at all; calls in flight are shared in any case.
    `StaleLease`: the lease had ended before (expired, lost); nothing changed.
``fail``
    The call of a lease failed. ``transient`` and ``cancelled`` pass the lease to the longest-waiting waiter;
    ``fatal`` fails every waiter; ``ignored`` releases every waiter to make its own call.
    With ``next`` the same caller gets a `Lease` on another of its backends, if one is left that may be called,
    and the flight goes on. With ``retry`` as well, and kind ``transient``, it gets one on any of them again, after a
    back-off, where none is left and the host's retry budget allows. Either may be answered `Pending` first, as a begin is,
    and then ends as a begin does; `Ok` says that there is no other lease, and that the failure stands.
    ``retry_after_seconds`` closes the backend to everybody for so long, and does not count as a failure of it.
    ``ttl_seconds`` lets a ``fatal`` failure be remembered for so long (by this daemon, in memory): who asks meanwhile gets
    `Failed` and no lease. Nothing is remembered unless this, or the task's setting, says so; ``delete``, ``purge``, ``put`` and
    an answer end it.
    ``answered`` says of an ``ignored`` call that its backend did well, and ``usage`` what it cost.
    ``timeout`` says that the caller's patience ended, not the backend's call; what that counts as is the backend's setting.
``renew``
    Keeps a lease for another ``[flights] lease_seconds``. The `Ok` says in ``waiters`` who else wants the answer, so that
    a holder whose own caller has left knows whether to finish the call.
``cancel``
    Ends the own waiting ``begin`` of id ``target``, which then gets no further reply,
    or, where its lease was just granted, gives that lease back.
    Interleaving: 1. the daemon sends the lease; 2. the client, not yet having read it, sends ``cancel``; 3. the lease is void.
``get`` ``put`` ``delete``
    The stored entries, without flights. ``delete`` (and ``purge``) forbid a flight in progress to store its answer.
    A ``put`` is of a ``task``, whose time to live it has and whose ``cache`` ``never`` it obeys.
    Where there is a store, ``get`` looks there too, and ``delete`` and ``purge`` are answered when the store has done it, or
    after 300 ms: a store that takes longer does it later, and the count is then what memory had.
``breakers`` ``breaker``
    Shows the backends; sets a breaker, for operators.
    ``open`` keeps it open and ``disable`` keeps it from tripping, until ``auto`` (which leaves ``open`` by way of probes) or
    ``close`` (which closes it at once and forgets what was counted).
``purge``
    Operators only. Removes by namespace, tag and task what is of all that are named, or, with none of them, everything.
    An answer that is on its way meanwhile is not stored, where it is of what is removed: a call of that namespace and task that
    was made before, or whose answer then comes with that tag.
    Entries that were stored by versions before there was ``task`` have none.
``explain``
    What would be made of a begin, without making one. `Explained` tells the policy of ``task`` in ``namespace``, each value with
    the setting that it is from (``origin`` is where that was said, for operators), and, of ``key``, what memory has of it now.
    It counts nothing and asks no store.
``watch``
    Operators only. Answered `Pending` at once, and then by a `Note` for each fact that the daemon's log tells as well, or of
    those named in ``notes`` alone, until ``cancel`` of its ``id`` or the end of the connection. The ``id`` is not to be used
    for anything else meanwhile. Notes say no more than the log does: no prompt, no answer, no whole key.
    Who reads slowly is sent no more than some 80 KiB ahead, and 1,024 notes wait for it; beyond that they are left out, and
    a note ``left_out`` says how many. Nobody is closed for it. A half-closed JSON peer is told as long as it is connected.
``record``
    Brings what an app measured: for counters and histograms what is new since the last time, for gauges what is.
    There is no reply, unless ``acknowledge`` is set: then `Recorded` says how many measurements were dropped, because a name or
    a label cannot be, or a metric is of another kind already.
    At most `MAX_MEASUREMENTS` in one message.
    Label sets beyond ``[limits] max_series`` of a metric are added up under the label ``overflow``, and gauges among them dropped.
    A sender that cannot know whether its last message arrived repeats it with the same ``session`` and ``sequence``:
    1. a batch is taken; 2. the connection ends before the reply; 3. the batch comes again and changes nothing.
    Counts stay when the peer is gone; gauges vanish with its connection.
``metrics``
    All metrics, the daemon's own and the apps', as families of samples; any peer may ask.
``reload``
    Operators only. Reads the file and the environment anew, as SIGHUP does. Either all of it is right and holds, but for what only
    a restart can change and the reply names, or nothing changes and the reply says why.
    Peers, calls in flight, entries, queues, breakers and what budgets have spent stay; who is an operator is looked up
    when a peer connects.
``log``
    Operators only. Sets the level of the daemon's log until it is set again; with ``debug`` each answer is a line.

Old answers
===========
An answer is *stale* from the end of its ``ttl_seconds`` for the ``stale_seconds`` that it was stored with: those of the begin
whose lease it was, else the task's, else the daemon's. A begin with ``stale_seconds`` of its own takes none that is older; 0 is none
at all, and so is ``mode`` ``refresh``. Where a stale answer is there:
one caller gets the `Lease`, with ``stale_value`` in case that its call fails in a way that may pass;
everybody else gets a `Hit` with ``stale`` meanwhile, and so does ``only_if_cached``, and who would wait for a permit;
a `Rejected` brings it as ``stale_value`` too. Of a stream the value is the list of its pieces, and ``source`` is ``stale``.
``get`` knows no stale answers, and no store keeps them: they are of this daemon's memory.
A `Lease` may bring an answer that is not even stale: the task's ``early_refresh`` has one caller fetch it before its time.

Similar requests
================
Where ``[tasks.NAME] similar`` is set, the answer to another request may be served whose text says nearly the same.
A *vector* is what an embedding model made of a request's text, a *group* names all requests that are equal but for it (by
the recipe in ``keys.py``, or anything else that is a `Key`).
A ``begin`` with ``embeds`` says that its caller could bring both. `VectorWanted` is the answer where that would help: there is
no stored answer, nobody makes the call, and the task looks for similar ones and stores answers. It ends the begin; the caller
sends another one with ``vector`` and ``group``, or with neither where it has none. Who has them anyway may send them at once.

A ``vector`` is an array of numbers, or their bytes as little-endian float 32; 1 to `MAX_DIMENSIONS` of them, all finite and
not all 0. All vectors of a group have as many as its first one; where that is not so, or there is no ``group``, the answer is
``error: bad_request``. A begin that finds its own answer, or joins a call, has its vector not looked at; nor has any begin of
a task that does not look for similar ones.

What is looked for is the answer whose vector is nearest by the cosine, at least ``similar_threshold``, among the answers of
the same namespace (of the same uid, unless it is shared), task, group, and ``stream`` or not, that are in their time.
A `Hit` of it, or the pieces of it, have the cosine as ``similarity``; no entry is made under the key that was asked for, so
nothing is ever served that is similar to something that is similar. ``mode`` ``refresh`` looks for none.
Calls in flight are shared by those of the same key alone.
The answer to a begin with a vector, once it is complete, may be found by it, until it leaves the memory of this daemon:
no store keeps vectors.

Streams
=======
A ``begin`` with ``stream`` that is not to make the call gets `Chunk` after `Chunk` and then `End`, where others get `Hit` or
`Shared`: of a stored answer at once, of one in flight as it comes, after what it missed, having been told `Pending`.
The first `Chunk` says where the answer is from, `End` says all of it. A stream is whole only with its `End`: any other end
(`Failed`, `Timeout`, `Rejected`, that of the connection) after a `Chunk` is a broken stream, whose pieces are to be discarded.

Its holder says ``append`` for each piece and then ``complete``, whose ``value`` is left out (and is not looked at): what is
stored is the list of the pieces. So ``get`` of a stream is that list, and so is the answer to a ``begin`` without ``stream``;
a ``begin`` with ``stream`` that meets another value gets the elements of a list one by one, and anything else as one piece.

A stream that breaks (its holder fails, hangs or vanishes) ends in `Failed` for those who have had a piece of it; of those who
have not one is elected, as ever. ``fail`` with ``next`` breaks it as well. Nothing of it is stored.
``wait_seconds`` limits the wait for the first piece, and then for each further one.
Pieces that are too many for the daemon (16 MiB a stream, half the cache's budget for all) end its sharing: its readers get
`Failed` of kind ``ignored``, and the holder goes on alone.
Who reads slowly is sent no more than some 256 KiB at a time, and is waited for by nobody.
Streams are followed within a host. Hosts that share a store share the answer once it is whole.

What is told beside a call
==========================
``begin`` and `Shared` have ``trace``, a W3C ``traceparent``: the caller's span, and that of the holder whose answer it is.
It is passed on, shown as exemplar and written to the call log; nothing depends on it.
A `Lease` with ``log`` asks its holder for ``spoken`` in `complete`: the operator keeps what is said in a call log.
A holder that does not tell it has its call logged without.

What one uid may have
=====================
The bounds of flights, leases, waiters, queues and apps' metrics are for all uids together; beyond them ``[limits] spare_share``
of each is for uids that have little in it. Beyond that the answer is ``rejected`` with ``busy``, or ``saturated`` of a queue.

Namespaces
==========
A namespace is private to the peer's uid unless ``[namespaces.NAME] shared_with`` in the daemon's config says otherwise.
With ``max_bytes`` there, each scope of that name holds so much in memory at most; what is too much is evicted within it.
Operators may name one uid's namespace as ``UID:NAME``; for ``purge`` a plain ``NAME`` means that name of every uid.

Leases and fences
=================
A lease is an opaque string. It names the daemon's run and a sequence number (its *fence*): after a restart, an expiry or a
loss it is not current any more, and whatever arrives with it changes nothing and is answered `StaleLease`.
"""

import re
from collections.abc import Callable
from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, Meta, Raw, Struct

PROTOCOL_VERSION = 1

MAX_FRAME_BYTES = 16 * 1024 * 1024
"""Default limit of a msgpack frame. Precedents: Redis 512 MB bulk, memcached 1 MB item, gRPC 4 MiB message, Kafka 1 MiB."""

MAX_LINE_BYTES = 1024 * 1024
"""Limit of a JSON line. Lines are for people and scripts; larger values travel in msgpack."""

FRAME_HEADER_BYTES = 4

MAX_MEASUREMENTS = 2048
"""Of one `RecordMetrics`: some 20 ms, in which nobody else is served. A frame would hold half a million, and take seconds."""

MAX_DIMENSIONS = 4096
"""Of a vector. Precedents: OpenAI's text-embedding-3-large has 3072, the largest open models 4096, small ones 384.
A frame would hold two million, and a begin that waits keeps it."""

DEFAULT_NAMESPACE = "default"
DEFAULT_TASK = "general"
DEFAULT_BACKEND = "default"

LOCAL_BACKENDS = frozenset({"local", DEFAULT_BACKEND})
"""Backends that are local unless the daemon's config says otherwise, as are those named by a loopback address (`is_local`);
whatever else nobody has declared may be anywhere."""

_LOOPBACK = re.compile(r"(?:localhost|127(?:\.\d{1,3}){3}|\[::1\])(?::\d+)?(?:[/#].*)?", re.DOTALL)


def is_local(backend: str) -> bool:
    """Tell whether a backend that nobody has declared is on this host: by its name, or by its address (`http`)."""
    return backend in LOCAL_BACKENDS or _LOOPBACK.fullmatch(backend) is not None


Seconds = Annotated[float, Meta(ge=0, le=366 * 86400)]
Name = Annotated[str, Meta(min_length=1, max_length=128)]
Namespace = Annotated[str, Meta(min_length=1, max_length=160)]
Key = Annotated[str, Meta(min_length=1, max_length=1024)]
Tags = Annotated[tuple[Name, ...], Meta(max_length=16)]
Text = Annotated[str, Meta(max_length=4096)]
Trace = Annotated[str, Meta(max_length=128)]
"""A span's name as W3C Trace Context writes it: ``00-<trace id>-<span id>-<flags>``; empty where nobody traces."""
Count = Annotated[int, Meta(ge=0, le=2**53)]
Dollars = Annotated[float, Meta(ge=0, le=1e9)]
RequestId = Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)]

VectorBytes = Annotated[bytes, Meta(min_length=4, max_length=4 * MAX_DIMENSIONS)]
"""A vector as little-endian float 32: 384 numbers are 1.5 KB so, 3.5 KB as an array, and take the daemon
0.2 us to read, not 18."""
VectorNumbers = Annotated[tuple[float, ...], Meta(min_length=1, max_length=MAX_DIMENSIONS)]

NO_VALUE = Raw(b"")
"""Of a `Complete` that brings none."""

Mode = Literal["use", "refresh", "only_if_cached"]
FailureKind = Literal["transient", "fatal", "ignored", "cancelled"]
RejectionReason = Literal["breaker_open", "saturated", "busy", "sovereign", "budget", "draining", "not_cached"]
Route = Literal["order", "cheapest", "fastest", "least_busy", "weighted"]
StreamSource = Literal["", "cache", "stale", "shared"]
BreakerAction = Literal["open", "close", "auto", "disable"]
BreakerState = Literal["closed", "open", "half_open", "forced_open", "disabled"]
Locality = Literal["local", "remote"]
StoreState = Literal["none", "up", "read_only", "down"]
MetricKind = Literal["counter", "gauge", "histogram"]
Aggregate = Literal["sum", "max", "min", "last", "each"]
LogLevel = Literal["debug", "info", "warning", "error"]
ErrorCode = Literal["bad_request", "unknown_op", "too_large", "denied", "unavailable", "internal"]


class Usage(Struct, frozen=True, omit_defaults=True):
    """What a call used, as its caller reports it; comes back as ``meta`` of the entry."""

    model: Name | None = None
    prompt_tokens: Count | None = None
    completion_tokens: Count | None = None
    cost_dollars: Dollars | None = None
    """Where it is left out, the daemon's price for backend and model, if it has one."""
    first_chunk_seconds: Seconds | None = None
    """From the call's start to the first piece of the answer: how busy the backend was, whatever the answer's length."""


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
    route: Route | None = None
    """How ``backends`` are ordered; None is the task's setting, else ``order``."""
    stream: bool = False
    """The answer is wanted piece by piece; the lease, if it comes to that, is for a call whose answer comes so."""
    vector: VectorBytes | VectorNumbers | None = None
    """What the request's text means, for the answers of its ``group`` that are similar."""
    trace: Trace = ""
    """The caller's span. Those who share the answer are told the holder's (`Shared.trace`)."""
    embeds: bool = False
    """The caller can bring a vector, should one be wanted."""
    group: Key | None = None
    """The requests among which a similar one may be looked for; together with ``vector``."""


class Spoken(Struct, frozen=True):
    """What was said in a call, for the call log, in the form in which it may be kept."""

    prompt: Raw
    """The request: ``{"args": [...], "kwargs": {...}}``, or what the app's redaction made of it."""
    answer: Raw
    """The call's value, or what the app's redaction made of it. Told once more, because msgspec has no optional `Raw`."""


class Append(Request, frozen=True, tag="append"):
    """Brings the next piece of the answer of a stream's lease. Replies: none, `StaleLease`, `Error`."""

    lease: Name
    chunk: Raw


class Complete(Request, frozen=True, tag="complete"):
    """Brings the answer of a lease. Replies: `Stored`, `StaleLease`."""

    lease: Name
    value: Raw = NO_VALUE
    """To be left out of a stream's lease alone."""
    usage: Usage | None = None
    ttl_seconds: Seconds | None = None
    store: bool = True
    tags: Tags = ()
    spoken: Spoken | None = None
    """Only where the `Lease` asked for it."""
    deterministic: bool = False
    """Whether the same request is meant to have the same answer, as far as the client knows."""


class Fail(Request, frozen=True, tag="fail"):
    """Says that the call of a lease failed. Replies: `Ok`, `StaleLease`; with ``next`` also those of a `Begin`."""

    lease: Name
    kind: FailureKind = "transient"
    message: Text = ""
    retry_after_seconds: Seconds | None = None
    next: bool = False
    retry: bool = False
    timeout: bool = False
    answered: bool = False
    """With ``ignored``: the backend did answer, and only the answer cannot be given to others."""
    usage: Usage | None = None
    """With ``answered``."""
    ttl_seconds: Seconds | None = None
    """Of a ``fatal`` failure: for how long the daemon is to give it to whoever asks. None is the task's setting, else 0."""


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
    task: Name = DEFAULT_TASK


class Delete(Request, frozen=True, tag="delete"):
    """Removes an entry. Reply: `Deleted` (0 or 1)."""

    key: Key
    namespace: Namespace = DEFAULT_NAMESPACE


class Purge(Request, frozen=True, tag="purge"):
    """Removes many entries; operators only. Reply: `Deleted`."""

    namespace: Namespace | None = None
    tag: Name | None = None
    task: Name | None = None


class Explain(Request, frozen=True, tag="explain"):
    """Asks for the policy of a task and, with ``key``, what is known of it. Reply: `Explained`."""

    task: Name = DEFAULT_TASK
    namespace: Namespace = DEFAULT_NAMESPACE
    key: Key | None = None


class Watch(Request, frozen=True, tag="watch"):
    """Asks for notes as they are made; operators only. Replies: `Pending`, `Note` after `Note`."""

    notes: Annotated[tuple[Name, ...], Meta(max_length=64)] = ()
    """Names of those that are wanted; empty is all."""


class GetStats(Request, frozen=True, tag="stats"):
    """Asks for counters and gauges. Reply: `Stats`."""


class GetReport(Request, frozen=True, tag="report"):
    """Asks for rates, savings and spending. Reply: `Report`."""


class GetHealth(Request, frozen=True, tag="health"):
    """Asks whether the daemon is fit to serve. Reply: `Health`."""


class GetConfig(Request, frozen=True, tag="config"):
    """Asks for the running settings; operators only. Reply: `Settings`."""


class Measurement(Struct, frozen=True, omit_defaults=True, kw_only=True):
    """What happened to one metric of an app since it was told last, under one set of labels."""

    name: str
    kind: MetricKind
    value: float = 1.0
    """Counter: what to add. Gauge: what it is now. Histogram: one observation; with ``counts``, the sum of all."""
    labels: Annotated[dict[str, str], Meta(max_length=32)] = {}
    help: str = ""
    aggregate: Aggregate = "sum"
    """Gauges: how the values of several workers become one; ``each`` keeps them apart by a label ``worker``, the pid."""
    bounds: Annotated[tuple[float, ...], Meta(max_length=256)] = ()
    """Histograms: upper bounds of the buckets, rising, without infinity. Empty is the daemon's own."""
    counts: Annotated[tuple[int, ...], Meta(max_length=257)] = ()
    """Histograms: observations per bucket, each counted once, with one more than there are ``bounds`` for the rest."""


class RecordMetrics(Request, frozen=True, tag="record"):
    """Brings measurements. No reply, unless ``acknowledge``: then `Recorded`."""

    metrics: Annotated[tuple[Measurement, ...], Meta(max_length=MAX_MEASUREMENTS)] = ()
    acknowledge: bool = False
    session: Trace = ""
    """Names the sender's buffer; with it, a ``sequence`` that is not above the last one taken changes nothing."""
    sequence: Count = 0
    dropped: Count = 0
    """What the sender itself had to drop since it said so last."""


class GetMetrics(Request, frozen=True, tag="metrics"):
    """Asks for all metrics, the daemon's and the apps'. Reply: `Metrics`."""


class SetLog(Request, frozen=True, tag="log"):
    """Sets what the daemon's log says from now on; operators only. Reply: `Ok`."""

    level: LogLevel


class Reload(Request, frozen=True, tag="reload"):
    """Lets the daemon read its settings again; operators only. Reply: `Reloaded`."""


class GetBreakers(Request, frozen=True, tag="breakers"):
    """Asks how the backends are. Reply: `Breakers`."""


class SetBreaker(Request, frozen=True, tag="breaker"):
    """Sets one backend's breaker; operators only. Reply: `Ok`."""

    backend: Name
    action: BreakerAction


AnyRequest = (
    Ping
    | Begin
    | Append
    | Complete
    | Fail
    | Renew
    | Cancel
    | Get
    | Put
    | Delete
    | Purge
    | Explain
    | Watch
    | GetStats
    | GetReport
    | GetHealth
    | GetConfig
    | GetBreakers
    | SetBreaker
    | RecordMetrics
    | GetMetrics
    | SetLog
    | Reload
)


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


class VectorWanted(Reply, frozen=True, tag="vector_wanted"):
    """There is no answer under the begin's key, but maybe a similar one: ask again, with a vector, or without ``embeds``."""


class Hit(Reply, frozen=True, tag="hit", omit_defaults=True):
    """A stored answer. ``saved_seconds`` and ``saved_dollars`` are what the entry's own call took."""

    value: Any
    age_seconds: float
    stale: bool
    saved_seconds: float
    saved_dollars: float
    backend: str
    meta: Any
    """The `Usage` that came with the answer, as a map; empty where none came."""
    similarity: float | None = None
    """Of an answer to a similar request: the cosine of both vectors. None where it is the request's own."""


class Shared(Reply, frozen=True, tag="shared", omit_defaults=True):
    """The answer of a flight that somebody else led. ``saved_seconds`` is that call's time less the time waited."""

    value: Any
    age_seconds: float
    stale: bool
    saved_seconds: float
    saved_dollars: float
    backend: str
    meta: Any
    trace: str = ""
    """The holder's span, where it is traced."""


class Chunk(Reply, frozen=True, tag="chunk", omit_defaults=True):
    """The next piece of an answer. What follows ``chunk`` is told with the first one."""

    chunk: Any
    source: StreamSource = ""
    age_seconds: float = 0.0
    backend: str = ""
    saved_dollars: float = 0.0
    """Where it is known already: of stored answers."""
    similarity: float | None = None
    """As `Hit.similarity`."""


class End(Reply, frozen=True, tag="end", omit_defaults=True):
    """The last `Chunk` was sent: the answer is whole. The fields are those of `Hit` and `Shared`."""

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
    """By what the backend was chosen."""
    passed_over: dict[str, RejectionReason] = {}
    """The backends that the route preferred, and why they could not be called."""
    log: bool = False
    """The operator keeps what is said: send it along (`Complete.spoken`)."""
    stale_value: Any = UNSET
    """An older answer, for a caller whose call fails in a way that may pass; left out where there is none."""
    stale_age_seconds: float = 0.0
    stale_backend: str = ""


class Rejected(Reply, frozen=True, tag="rejected"):
    """No answer and no permission, for ``reason``. ``backends`` says why for each, where that was the reason."""

    reason: RejectionReason
    retry_after_seconds: float | None = None
    backends: dict[str, RejectionReason] = {}
    stale_value: Any = UNSET
    """An older answer, which is better than none; left out where there is none."""
    stale_age_seconds: float = 0.0
    stale_backend: str = ""


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


class Ok(Reply, frozen=True, tag="ok", omit_defaults=True):
    """Done."""

    waiters: int = 0
    """To a `Renew`: how many wait for the lease's answer."""


class Miss(Reply, frozen=True, tag="miss"):
    """No live entry has this key."""


class Deleted(Reply, frozen=True, tag="deleted"):
    """``count`` entries were removed."""

    count: int


class PolicyValue(Struct, frozen=True):
    """One value of a task's policy."""

    value: Any
    setting: str
    """The full name of the setting that it is from: the task's own, or the one for all tasks."""
    origin: str = ""
    """Where that was said (``default``, a file, the environment, a flag); empty for who is no operator."""


class EntryState(Struct, frozen=True):
    """An entry as it lies in memory."""

    age_seconds: float
    ttl_left_seconds: float
    """Until it is no `Hit` any more; 0 where it is none already."""
    stale_left_seconds: float
    """For so long it may still be served as stale, once it is no `Hit`."""
    stale: bool
    size_bytes: int
    """As it counts against the cache."""
    call_seconds: float
    """How long the call took that made it."""
    backend: str
    task: str
    """Empty of entries that a store kept for a version without it."""
    tags: tuple[str, ...]
    usage: Usage


class Explained(Reply, frozen=True, tag="explained", omit_defaults=True):
    """A task's policy, and what there is of a key."""

    task: str
    scope: str
    """The namespace's real place: ``1000:default`` is private to uid 1000, ``*:team`` is shared."""
    policy: dict[str, PolicyValue]
    """By the names of ``[tasks.NAME]``."""
    entry: EntryState | None = None
    """None also where only a store has one, or where no ``key`` was asked for."""
    waiters: int | None = None
    """Of the flight in progress; None where there is none."""
    failure: str | None = None
    """The failure that is remembered of the key, as whoever asks would be told."""
    store: StoreState = "none"


class Note(Reply, frozen=True, tag="note"):
    """A fact, by the name and with the fields of `sidecard.core.notes`, in small letters: ``breaker_opened``."""

    note: str
    at_seconds: float
    """Of the Unix epoch."""
    fields: dict[str, Any]


class Stats(Reply, frozen=True, tag="stats"):
    """Gauges of this moment and counters since the daemon began.

    Every `Begin` ends in exactly one of the counters, so at any moment
    ``begins = hits + shared + leases_first + failed + rejected + timeouts + left + waiters + vectors_wanted``.
    (A caller that gets a further lease after a failure has had the end of its begin with the first one.)
    """

    version: str
    boot_id: str
    uptime_seconds: float
    draining: bool
    peers: int
    """Connections open now."""
    flights: int
    """Keys that are being computed now, looked for in the store, or awaited from another host."""
    leases: int
    """Leases alive now, those without a key included."""
    waiters: int
    """Begins that wait now, for an answer or for a permit."""
    queued: int
    """Callers that wait for a backend's permit or for a retry's time, those that have failed before included."""
    permits: int
    """Permits of all backends that are out: one for each lease."""
    cache_entries: int
    cache_bytes: int
    """Keys, values and the fixed cost per entry."""
    cache_max_bytes: int
    stream_bytes: int
    """Of the streams in flight, and of those that somebody still reads; room that the cache does not have."""
    streams: int
    """Begins that are being sent the pieces of an answer now."""
    begins: int
    """`Begin` requests taken."""
    hits: int
    """Ended by a stored answer."""
    stale_hits: int
    """Of these, by one beyond its time, while another was fetched or waited for a permit."""
    similar_hits: int
    """Of the hits, by the answer to a similar request."""
    stale_given: int
    """Leases and rejections that brought an answer beyond its time along."""
    early_refreshes: int
    """Leases for a call whose answer was stored and still in its time."""
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
    next_backends: int
    """Leases given to a caller whose call on another backend had failed."""
    retries: int
    """Leases given to a caller for a backend that had failed it before."""
    retries_refused: int
    """Retries for which the budget had nothing left."""
    breakers_opened: int
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
    failed_again: int
    """Of these, by a failure that was remembered."""
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
    """Waiting begins that were cancelled or whose connection ended."""
    stored: int
    """Entries made."""
    refused_too_large: int
    """Answers not stored because they were larger than an entry may be."""
    chunks_taken: int
    """Pieces of streams that holders have brought."""
    chunks_sent: int
    """Pieces of streams that readers were sent."""
    streams_broken: int
    """Readers whose stream ended in a failure after its first piece. They are among ``failed``."""
    vectors_wanted: int
    """Begins that ended in `VectorWanted`; each is followed by another one."""
    vectors: int
    """Entries that may be served to similar requests now."""
    evicted: int
    """Live entries removed to make room, be it in the cache or in a namespace that has a limit of its own."""
    expired_entries: int
    """Entries removed because their time had passed."""
    deleted: int
    """Entries removed by `Delete` and `Purge`."""
    breakers: dict[str, BreakerState] = {}
    """By backend."""
    store: StoreState = "none"
    """``read_only``: it answers, but takes nothing at the moment. Counters and gauges that follow are 0 without a store."""
    store_reads: int = 0
    """Keys that the store was asked for."""
    store_hits: int = 0
    """Of those, the ones for which it had an entry."""
    store_unanswered: int = 0
    """Questions to the store that it did not answer, or not in time."""
    store_entries: int = 0
    """Entries on disk; 0 for a shared store, which is not ours to count."""
    store_bytes: int = 0
    store_pending: int = 0
    """Entries and removals that are to be written."""
    store_pending_bytes: int = 0
    store_written: int = 0
    store_dropped: int = 0
    """Entries that were not written because too many were waiting."""
    store_refused: int = 0
    """Entries that a shared store did not take, because their claim had passed to another host or their key has another one."""
    store_evicted: int = 0
    """Live entries removed from disk to make room."""
    store_faults: int = 0
    """Failures of the store, of all kinds."""
    claims: int = 0
    """Keys that this host computes for all hosts now."""
    awaited: int = 0
    """Keys that are being computed by another host, as far as callers wait for them."""
    cache_compressed_entries: int = 0
    """Those of ``cache_entries`` whose answers are kept compressed."""
    cache_compressed_bytes: int = 0
    """Of these answers, as they are kept; they are in ``cache_bytes``. A `Hit` has them as they came."""
    cache_uncompressed_bytes: int = 0
    """Of the same answers, as they are served."""
    evicted_by_limits: int = 0
    """Of ``evicted``, those that left because their namespace may hold no more (``[namespaces.NAME] max_bytes``)."""


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
    """Leases whose backend answered, the answers that came late or could not be shared included."""
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
    similar_hits: int = 0
    """Of the hits, by the answer to a similar request. What they saved is in ``saved_by_cache``: what that request's call took,
    which is not known of this one's."""
    saved_by_similar_seconds: float = 0.0
    """Of ``saved_by_cache_seconds``, what these saved."""
    saved_by_similar_dollars: float = 0.0
    """Of ``saved_by_cache_dollars``."""


class BackendSpending(Struct, frozen=True):
    """What one backend, or one model of it, was asked for and billed."""

    calls: int
    seconds: float
    dollars: float
    prompt_tokens: int
    completion_tokens: int
    saved_dollars: float
    """What its answers saved those who did not have to ask again."""


class BudgetState(Struct, frozen=True):
    """How much of a budget's current period is spent. Periods are aligned to the epoch: a day ends at midnight UTC."""

    dollars: float
    spent_dollars: float
    reserved_dollars: float
    """What the calls in progress are expected to cost."""
    period_seconds: float
    resets_in_seconds: float
    hard: bool


class Report(Reply, frozen=True, tag="report"):
    """The ledger, in total and per task, since the daemon began, or since the state directory's ledger did."""

    uptime_seconds: float
    total: Ledger
    tasks: dict[str, Ledger]
    backends: dict[str, BackendSpending] = {}
    models: dict[str, BackendSpending] = {}
    """By ``backend/model``."""
    budgets: dict[str, BudgetState] = {}
    ledger_seconds: float = 0.0
    """How long the ledger has been kept, by the wall clock."""
    breakers: dict[str, BreakerState] = {}
    """As they stand now, by backend."""


class BackendState(Struct, frozen=True):
    """One backend as it stands."""

    state: BreakerState
    locality: Locality
    generation: int
    """Counts the breaker's changes of state: outcomes of calls of an older one change nothing."""
    cause: str
    """Why it is not closed, as a sentence; empty where it is."""
    retry_after_seconds: float | None
    """When the next call may get through, where none may now."""
    calls: int
    """In the window, as are the two that follow."""
    failures: int
    slow: int
    opened: int
    """Times that the breaker opened."""
    permits: int
    """Calls in progress."""
    limit: int | None
    """Most calls in progress; None is no limit. An adaptive one moves."""
    queued: int
    """Callers that wait for a permit."""
    max_queue: int
    latency_seconds: float | None
    """Of its answers, the older ones fading; None before the first."""
    dollars_per_call: float | None


class Breakers(Reply, frozen=True, tag="breakers"):
    """Every backend that is configured or in use."""

    backends: dict[str, BackendState]


class Health(Reply, frozen=True, tag="health"):
    """``status`` is ``ok`` or ``draining``; ``reasons`` says, in sentences, what is not fine."""

    status: Literal["ok", "draining"]
    reasons: list[str]
    version: str
    boot_id: str
    uptime_seconds: float
    breakers: dict[str, BreakerState] = {}
    store: StoreState = "none"


class Settings(Reply, frozen=True, tag="config"):
    """Every setting by its full name (``cache.max_bytes``), with its value and where it came from."""

    settings: dict[str, Any]
    origins: dict[str, str]


class Reloaded(Reply, frozen=True, tag="reloaded"):
    """The settings were read again. With ``problems``, in sentences, all stays as it was."""

    changed: dict[str, Any]
    """What holds from now on and did not before, by full name; None for what is not set any more."""
    needs_restart: list[str]
    """Full names of settings that differ from the running ones, which hold until the daemon is restarted."""
    problems: list[str]


class Recorded(Reply, frozen=True, tag="recorded"):
    """The measurements were taken; ``dropped`` of them could not be kept (bad name or value, too many series)."""

    dropped: int


class Exemplar(Struct, frozen=True):
    """One observation that stands for its bucket: where to look for a call that took so long."""

    labels: dict[str, str]
    value: float
    at_seconds: float
    """Of the Unix epoch."""


class Sample(Struct, frozen=True, omit_defaults=True):
    """One number of a metric, named as it is exposed (``_total``, ``_bucket``, ``_sum``, ``_count`` included)."""

    name: str
    value: float
    labels: dict[str, str] = {}
    exemplar: Exemplar | None = None


class Family(Struct, frozen=True):
    """One metric with all its samples. ``name`` is without the ``_total`` of counters, as OpenMetrics has it."""

    name: str
    kind: MetricKind
    help: str
    samples: list[Sample]


class Metrics(Reply, frozen=True, tag="metrics"):
    """Everything there is to expose."""

    families: list[Family]


class Error(Reply, frozen=True, tag="error"):
    """The request was not served. ``message`` says what to change."""

    code: ErrorCode
    message: str


AnyReply = (
    Pong
    | Pending
    | VectorWanted
    | Hit
    | Shared
    | Chunk
    | End
    | Lease
    | Rejected
    | Failed
    | Timeout
    | Stored
    | StaleLease
    | Ok
    | Miss
    | Deleted
    | Explained
    | Note
    | Stats
    | Report
    | Health
    | Settings
    | Breakers
    | Reloaded
    | Recorded
    | Metrics
    | Error
)

FINAL_REPLIES_OF_BEGIN = (Hit, Shared, End, Lease, Rejected, Failed, Timeout, VectorWanted, Error)

pack = msgspec.msgpack.Encoder().encode
"""Message to msgpack map, without its frame header."""

unpack_request: Callable[[bytes | memoryview], AnyRequest] = msgspec.msgpack.Decoder(AnyRequest).decode
"""Msgpack map to request. Raises `msgspec.DecodeError`, `msgspec.ValidationError` or `RecursionError`."""

unpack_reply: Callable[[bytes | memoryview], AnyReply] = msgspec.msgpack.Decoder(AnyReply).decode
"""Msgpack map to reply; ``value`` becomes plain objects. Raises as `unpack_request` does."""


def tag_of(kind: type[Request] | type[Reply]) -> str:
    """Return a message's name on the wire: its ``op``, or its ``type``."""
    return str(kind.__struct_config__.tag)
