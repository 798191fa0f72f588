"""The sections of the configuration: each setting with its type, its parser, its default and its description.

The docstring of a setting is its description in the documentation and in ``sidecard config example``, which are generated;
its first sentence must make sense alone. The core defines backends, budgets, retries and tasks (`sidecard.core.settings`).
"""

import os
from typing import Annotated

from msgspec import Struct

from sidecard.config import parsers
from sidecard.core.settings import SharedWith, local_limit
from sidecard_client.protocol.wire import MAX_FRAME_BYTES, MAX_LINE_BYTES

MAX_FRAME_BYTES_LIMIT = 2**25 - 1
"""Above this, a frame's first byte could not be distinguished from that of a JSON line."""

MIB = 1024 * 1024


def default_local_limit() -> int:
    """Return the default limit of a local backend on this host.

    Of all its processors: those of the daemon's own unit or container are not the model server's.
    """
    return local_limit(os.cpu_count() or 1)


class SocketSettings(Struct, frozen=True):
    """The Unix socket for apps. A socket passed in by systemd takes precedence."""

    path: Annotated[str, parsers.SOCKET_PATH] = ""
    """Path of the socket. Default: ``$RUNTIME_DIRECTORY/sidecard.sock``, for root ``/run/sidecard/sidecard.sock``, else
    ``$XDG_RUNTIME_DIR/sidecard.sock``, else ``/tmp/sidecard-UID/sidecard.sock``."""
    mode: Annotated[int, parsers.MODE] = 0o660
    """File permissions of the socket."""
    group: Annotated[str | int | None, parsers.GROUP] = None
    """Group whose members may connect, by name or number."""
    admit_unmapped: Annotated[bool, parsers.FLAG] = False
    """Whether peers may connect whose uid is not mapped into the daemon's user namespace. The kernel reports uid 65534 for
    all of them, so they share one private namespace."""


class CacheSettings(Struct, frozen=True):
    """The memory cache."""

    max_bytes: Annotated[int, parsers.byte_size()] = 256 * MIB
    """Memory for keys, values and the measured overhead of each entry. 0 disables caching; calls are still shared."""
    view_bytes: Annotated[int, parsers.byte_size()] = 32 * MIB
    """Shared memory for views, in which clients read answers without asking the daemon. It is part of ``max_bytes``, and takes at
    most a quarter of it. 0 disables views."""
    view_max_entry_bytes: Annotated[int, parsers.byte_size()] = 64 * 1024
    """Maximum size of an answer in a view, with its facts. Larger ones are served over the socket."""
    compress_min_bytes: Annotated[int, parsers.byte_size()] = 0
    """Minimum size of answers that are compressed; 0 disables compression. They are compressed in memory and in the store, if
    that makes them smaller. Hits on entries that are not hot then take longer; compression is worth that from 4 KiB. A 32nd
    of ``max_bytes`` is used in addition for recently decompressed answers."""
    ttl_seconds: Annotated[float, parsers.seconds()] = 300.0
    """How long an answer is served, unless its task or its call sets another time. If ``sharing_window_seconds`` is longer, the answer
    is served until the end of that window."""
    stale_seconds: Annotated[float, parsers.seconds()] = 0.0
    """How much longer than ``ttl_seconds`` an answer may be served while another is fetched, or if none can be fetched. Precedents: RFC
    5861's stale-while-revalidate and stale-if-error; Varnish's grace is 10 s."""
    sharing_window_seconds: Annotated[float, parsers.seconds()] = 60.0
    """How long a finished answer is shared, even if nothing is cached or ``ttl_seconds`` is shorter. Does not apply
    to calls with ``ttl=`` or ``max_age=``."""


class FlightSettings(Struct, frozen=True):
    """Calls in progress: leases and waiters."""

    lease_seconds: Annotated[float, parsers.seconds(least=0.1)] = 15.0
    """A holder that does not renew its lease for this time loses it. A holder that dies loses it immediately."""
    renew_seconds: Annotated[float | None, parsers.seconds(least=0.01)] = None
    """How often holders renew their leases. Default: a third of ``lease_seconds``."""
    max_call_seconds: Annotated[float, parsers.seconds(least=0.1)] = 3600.0
    """A call that takes longer loses its lease, even if its process renews it: the backend's permit is released, and another
    caller makes the call. Its own caller still gets its answer, which is not shared."""
    idle_seconds: Annotated[float, parsers.seconds(least=0.1)] = 300.0
    """A stream that has begun and produces nothing for this time loses its lease likewise. Longer than a model's pauses."""
    wait_seconds: Annotated[float, parsers.seconds()] = 120.0
    """How long a caller without a deadline of its own waits."""
    max_elections: Annotated[int, parsers.count()] = 2
    """How often a failed holder is replaced. With 2, the failure of the third holder is shared."""
    max_waiters: Annotated[int, parsers.count()] = 16384
    """Maximum number of callers that wait at the same time, for answers or permits."""
    drain_seconds: Annotated[float, parsers.seconds()] = 20.0
    """How long calls in progress may continue after SIGTERM. Longer than most calls, and below systemd's own 90 s."""


class StoreSettings(Struct, frozen=True):
    """The durable second tier behind the memory cache."""

    url: Annotated[str | None, parsers.STORE_URL] = None
    """Address of the store. Default: the file store.db in the state directory, if there is one."""
    max_bytes: Annotated[int, parsers.byte_size(MIB)] = 1024 * MIB
    """Size limit of the entries in a store file. A Redis server has its own ``maxmemory``."""
    write_window_seconds: Annotated[float, parsers.seconds(least=0.01)] = 1.0
    """How many seconds of writes a killed daemon may lose; for SQLite only. Precedent: Redis' ``appendfsync everysec``."""
    username: Annotated[str, parsers.TEXT] = ""
    """Redis user."""
    password: Annotated[str, parsers.SECRET] = ""
    """Redis password."""
    password_file: Annotated[str, parsers.PATH] = ""
    """File with the Redis password, read at each connection, so that the password may change."""
    ca_file: Annotated[str, parsers.PATH] = ""
    """Certificates of trusted authorities for ``rediss://``. Default: the system's."""
    cert_file: Annotated[str, parsers.PATH] = ""
    """Client certificate for ``rediss://``."""
    key_file: Annotated[str, parsers.PATH] = ""
    """Private key of the client certificate."""
    timeout_seconds: Annotated[float, parsers.seconds(least=0.01)] = 0.5
    """A Redis server that takes longer counts as down. Keep it at or below the clients' own ``daemon_timeout``."""
    share_breakers: Annotated[bool, parsers.FLAG] = False
    """Whether a breaker that opens on one host opens on all hosts with the same Redis."""
    share_budgets: Annotated[bool, parsers.FLAG] = False
    """Whether budgets count the spending of all hosts with the same Redis."""


class CallLogSettings(Struct, frozen=True):
    """The call log: one row per call."""

    enabled: Annotated[bool, parsers.FLAG] = False
    """Whether calls are logged."""
    url: Annotated[str, parsers.CALLS_URL] = ""
    """Database of the call log, used only if ``enabled``. Default: the file calls.sqlite in the state directory."""
    prompts: Annotated[bool, parsers.FLAG] = False
    """Whether prompts and answers are logged too."""
    redact: Annotated[tuple[str, ...], parsers.PATTERNS] = ()
    """Regular expressions of texts that are removed from logged prompts and answers."""
    retention_days: Annotated[float, parsers.number()] = 30.0
    """Rows older than this are deleted. 0 keeps all rows."""
    max_bytes: Annotated[int, parsers.byte_size(MIB)] = 1024 * MIB
    """Size limit of the call log; the oldest rows are deleted first."""


class MetricsSettings(Struct, frozen=True):
    """The daemon's own metrics."""

    enabled: Annotated[bool, parsers.FLAG] = True
    """Whether the daemon measures itself. Metrics of apps are exposed in any case."""


class HttpSettings(Struct, frozen=True):
    """The HTTP listener with dashboard, metrics, health and summary. It has no password."""

    listen: Annotated[str, parsers.LISTEN] = ""
    """Address or socket path to listen on; empty disables HTTP."""
    allow_remote: Annotated[bool, parsers.FLAG] = False
    """Whether ``listen`` may be an address that other hosts can reach."""
    allow_hosts: Annotated[tuple[str, ...], parsers.NAMES] = ()
    """Host names, besides this host's own, that requests may use. Others are rejected, so that a foreign web page cannot read
    through a browser."""


class PushSettings(Struct, frozen=True):
    """Pushing metrics, for hosts that no server scrapes."""

    url: Annotated[str, parsers.PUSH_URL] = ""
    """Where metrics are sent: a path that ends in ``/api/v1/import`` or ``/api/v1/import/prometheus`` (VictoriaMetrics), or in
    ``/api/v1/write`` (Prometheus remote write). Empty disables pushing."""
    interval_seconds: Annotated[float, parsers.seconds(least=0.1)] = 15.0
    """Time between two pushes. Precedents: Prometheus' example scrapes every 15 s, vmagent every minute."""
    timeout_seconds: Annotated[float, parsers.seconds(least=0.1)] = 10.0
    """How long the target may take to reply."""
    spool_max_bytes: Annotated[int, parsers.byte_size()] = 256 * MIB
    """Size limit of metrics kept on disk while the target is unreachable; the oldest are dropped first. A day of about 1,000
    series."""
    job: Annotated[str, parsers.NAME] = "sidecard"
    """Label ``job`` of pushed metrics."""
    instance: Annotated[str, parsers.TEXT] = ""
    """Label ``instance`` of pushed metrics. Default: the host's name."""
    username: Annotated[str, parsers.TEXT] = ""
    """User for HTTP basic authentication."""
    password: Annotated[str, parsers.SECRET] = ""
    """Password for HTTP basic authentication."""
    password_file: Annotated[str, parsers.PATH] = ""
    """File with the password, read at each request, so that the password may change."""
    bearer_token_file: Annotated[str, parsers.PATH] = ""
    """File with a bearer token, read at each request."""
    ca_file: Annotated[str, parsers.PATH] = ""
    """Certificates of trusted authorities. Default: the system's."""


class SovereignSettings(Struct, frozen=True):
    """Sovereign mode: no lease on a remote backend, and no connection of the daemon's own outside this host and private networks."""

    enabled: Annotated[bool, parsers.FLAG] = False
    """Whether sovereign mode is on."""
    allow: Annotated[tuple[str, ...], parsers.ADDRESSES] = ()
    """Names, addresses and networks that the daemon may connect to in addition."""


class PriceSettings(Struct, frozen=True):
    """Prices of calls whose cost no client reports, on backends without a configured price."""

    table: Annotated[bool, parsers.FLAG] = False
    """Whether public prices of models are used (``pip install 'sidecard[prices]'``). Costs 0.4 s of the start and 30 MB."""


class OperatorSettings(Struct, frozen=True):
    """Who may purge, set breakers and read everything, besides root and the daemon's own user. Applied when a peer connects."""

    uids: Annotated[tuple[int, ...], parsers.IDS] = ()
    """User ids of operators."""
    gids: Annotated[tuple[int, ...], parsers.IDS] = ()
    """Group ids of operators."""


class LogSettings(Struct, frozen=True):
    """The daemon's log on standard error."""

    level: Annotated[str, parsers.choice("debug", "info", "warning", "error")] = "info"
    """Lowest level that is logged. ``sidecard log-level``, SIGUSR1 (debug) and SIGUSR2 (back to this) change it until it is set
    again, or a reload changes ``log.level``."""
    format: Annotated[str, parsers.choice("auto", "console", "json")] = "auto"
    """Format of log lines; ``auto`` is ``console`` on a terminal and ``json`` otherwise."""


class LimitSettings(Struct, frozen=True):
    """Bounds on the resources that peers may use. Sizes and times apply to connections made afterwards."""

    max_frame_bytes: Annotated[int, parsers.byte_size(1024, MAX_FRAME_BYTES_LIMIT)] = MAX_FRAME_BYTES
    """Size limit of one msgpack message."""
    max_line_bytes: Annotated[int, parsers.byte_size(1024, 2**30)] = MAX_LINE_BYTES
    """Size limit of one JSON line."""
    max_peers: Annotated[int, parsers.count(1)] = 5120
    """Maximum number of connections. The last eighth is for uids with fewer than 16 connections, and the last 32nd for operators.
    Lowered at the start, with a warning, if the host allows fewer descriptors."""
    max_peers_per_uid: Annotated[int, parsers.count(1)] = 4096
    """Maximum number of connections of one uid. All workers of most hosts run as one user. Precedents: Redis maxclients 10000,
    memcached -c 1024."""
    max_outbox_bytes: Annotated[int, parsers.byte_size(65536)] = 32 * MIB
    """Maximum size of unread replies of one peer; a peer with more is closed. Precedent: Redis client-output-buffer-limit pubsub 32 MiB."""
    stall_seconds: Annotated[float, parsers.seconds(least=0.1)] = 30.0
    """How long a peer may leave replies unread before it is closed."""
    max_buffered_bytes: Annotated[int, parsers.byte_size(MIB)] = 256 * MIB
    """Maximum size of unread replies and incomplete messages of all peers together; above it, the peers that hold most are closed. Precedent:
    Redis' maxmemory-clients, off by default. A quarter of the 1 GiB that the systemd units grant."""
    max_memory_bytes: Annotated[int, parsers.byte_size(MIB)] = 128 * MIB
    """Maximum memory for what peers make the daemon hold besides the cache and buffers: half of it for waiting and held requests,
    three eighths for streams, an eighth for the apps' metrics. A uid may use three quarters of each; the rest is for uids that use
    at most a sixteenth. Beyond it, callers are rejected as ``busy`` and make their own calls, and samples are dropped."""
    message_seconds: Annotated[float, parsers.seconds(least=0.1)] = 30.0
    """How long a message may take from its first byte to its last. A slower peer is closed, at the latest after twice this
    time. Precedents: nginx' client_header_timeout 60 s, Apache's RequestReadTimeout 20 s."""
    max_flights: Annotated[int, parsers.count(1)] = 16384
    """Maximum number of keys that are computed at the same time. Leases are limited to twice this number."""
    max_series: Annotated[int, parsers.count(1)] = 1000
    """Maximum number of label sets of one app metric. Further ones are added up under the label ``overflow="true"``."""
    max_backends: Annotated[int, parsers.count(1)] = 256
    """Maximum number of known backends. The least recently used backend without configuration of the uid that named most of them
    makes room for a new one."""
    forget_seconds: Annotated[float, parsers.seconds(least=1.0)] = 7 * 86400.0
    """How long names of backends, models and tasks are remembered that are neither configured nor used. Their sums then belong to
    ``(other)``."""
    spare_share: Annotated[float, parsers.number(0.0, 10.0)] = 0.25
    """Additional room above ``max_flights``, the limit of leases, ``max_waiters``, ``max_queue`` and the bounds of app metrics, as
    a share of each, for uids that use little. It prevents one uid from excluding all others; 0 is no room. Never used on a host
    with one uid."""


class NamespaceSettings(Struct, frozen=True):
    """A namespace. Namespaces are private to a uid unless shared."""

    shared_with: Annotated[SharedWith, parsers.SHARED_WITH] = SharedWith()
    """Who shares the namespace."""
    max_bytes: Annotated[int, parsers.byte_size()] = 0
    """Memory for the namespace's entries (for a private one, of each uid). 0 is no limit but the cache's. An answer larger than
    an eighth of it is not stored."""
