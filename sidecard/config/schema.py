"""The sections of the configuration: each setting with its type, how it is read, its default, and where that comes from."""

from typing import Annotated, NamedTuple, get_args, get_type_hints

from msgspec import Struct

from sidecard.config import parsers as readings
from sidecard.config.parsers import Reading
from sidecard.core.settings import (
    BackendSettings,
    BudgetSettings,
    Cacheability,
    RetrySettings,
    SharedWith,
    TaskSettings,
    TimeoutsCount,
)
from sidecard_client.keys.normal_form import NORMAL_FORMS
from sidecard_client.protocol.wire import MAX_FRAME_BYTES, MAX_LINE_BYTES, Locality, Route

MAX_FRAME_BYTES_LIMIT = 2**25 - 1
"""Above this a frame's first byte could not be told from a JSON line's."""


class Socket(Struct, frozen=True):
    """Where apps find the daemon, and who may open it."""

    path: Annotated[str, readings.TEXT] = ""
    """Where nothing is said: what `sidecard_client.protocol.socket_path` finds."""
    mode: Annotated[int, readings.MODE] = 0o660
    group: Annotated[str | int | None, readings.GROUP] = None
    admit_unmapped: Annotated[bool, readings.FLAG] = False
    """Whether peers may connect whose uid has no number in the daemon's user namespace: the kernel calls all of them 65534,
    so they would share one private namespace."""


class Cache(Struct, frozen=True):
    """What is kept, and how long."""

    max_bytes: Annotated[int, readings.byte_size()] = 256 * 1024 * 1024
    """0 switches caching off; calls are still shared."""
    compress_min_bytes: Annotated[int, readings.byte_size()] = 0
    """Answers as large as this are kept compressed, in memory and in the store, where that makes them smaller. 0 is off: what is
    saved is paid for at each hit that is not asked for again soon (`sidecard.adapters.zstd`), and most hosts have the memory. 4 KiB is
    where it begins to pay. A 32nd of ``max_bytes`` beside it is for answers that were expanded lately."""
    ttl_seconds: Annotated[float, readings.seconds()] = 300.0
    stale_seconds: Annotated[float, readings.seconds()] = 0.0
    """How long after its time an answer may still be served, while another is fetched or where none can be.
    Precedents: RFC 5861's stale-while-revalidate and stale-if-error; Varnish's grace is 10 s."""
    sharing_window_seconds: Annotated[float, readings.seconds()] = 60.0


class Flights(Struct, frozen=True):
    """How long who may hold or wait."""

    lease_seconds: Annotated[float, readings.seconds(least=0.1)] = 15.0
    renew_seconds: Annotated[float | None, readings.seconds(least=0.01)] = None
    """Where not a third of the lease; below ``lease_seconds``."""
    wait_seconds: Annotated[float, readings.seconds()] = 120.0
    max_elections: Annotated[int, readings.count()] = 2
    max_waiters: Annotated[int, readings.count()] = 16384
    drain_seconds: Annotated[float, readings.seconds()] = 20.0
    """How long the flights in progress may go on after SIGTERM. Below systemd's own 90 s, above most calls."""


class Store(Struct, frozen=True):
    """The durable second tier."""

    url: Annotated[str | None, readings.STORE_URL] = None
    """Where nothing is said: a file in the state directory, if there is one."""
    max_bytes: Annotated[int, readings.byte_size(1024 * 1024)] = 1024 * 1024 * 1024
    """Of entries on disk. What a Redis server may hold is its own ``maxmemory``."""
    write_window_seconds: Annotated[float, readings.seconds(least=0.01)] = 1.0
    """How much a killed daemon may lose. Precedent: Redis' ``appendfsync everysec``."""
    username: Annotated[str, readings.WORD] = ""
    password: Annotated[str, readings.SECRET] = ""
    password_file: Annotated[str, readings.WORD] = ""
    """Read at each connection, so that the password may change."""
    ca_file: Annotated[str, readings.WORD] = ""
    """Whose certificates are believed; where nothing is said, the system's."""
    cert_file: Annotated[str, readings.WORD] = ""
    key_file: Annotated[str, readings.WORD] = ""
    timeout_seconds: Annotated[float, readings.seconds(least=0.01)] = 0.5
    """How long a Redis server may take, after which it counts as down. Below the clients' own patience."""
    share_breakers: Annotated[bool, readings.FLAG] = False
    """Whether a breaker that opens on one host opens on all that use the same Redis."""
    share_budgets: Annotated[bool, readings.FLAG] = False
    """Whether budgets count what all hosts spend that use the same Redis."""


class Calls(Struct, frozen=True):
    """The call log: a row for each call."""

    enabled: Annotated[bool, readings.FLAG] = False
    url: Annotated[str, readings.CALLS_URL] = ""
    """Where nothing is said: a file in the state directory. Looked at where ``enabled`` alone: DATABASE_URL may be an app's."""
    prompts: Annotated[bool, readings.FLAG] = False
    """Whether what was asked and answered is kept too."""
    redact: Annotated[tuple[str, ...], readings.PATTERNS] = ()
    """Regular expressions of what is blotted out of prompts and answers before they are kept."""
    retention_days: Annotated[float, readings.number()] = 30.0
    """0 keeps rows whatever their age."""
    max_bytes: Annotated[int, readings.byte_size(1024 * 1024)] = 1024 * 1024 * 1024


class Metrics(Struct, frozen=True):
    """Whether metrics are collected."""

    enabled: Annotated[bool, readings.FLAG] = True


class Http(Struct, frozen=True):
    """The listener for people and scrapers; off where ``listen`` is empty."""

    listen: Annotated[str, readings.LISTEN] = ""
    """``127.0.0.1:9464``, ``[::1]:9464``, or the path of a Unix socket."""
    allow_remote: Annotated[bool, readings.FLAG] = False
    """Whether ``listen`` may be an address that other hosts reach: there is no password."""
    allow_hosts: Annotated[tuple[str, ...], readings.NAMES] = ()
    """Names, besides this host's own, that a request may ask for: a page elsewhere must not read through a browser here."""


class Push(Struct, frozen=True):
    """Where metrics are sent by hosts that nobody scrapes; off where ``url`` is empty."""

    url: Annotated[str, readings.PUSH_URL] = ""
    """Ends in ``/api/v1/import`` or ``/api/v1/import/prometheus`` (VictoriaMetrics), or in ``/api/v1/write`` (remote write)."""
    interval_seconds: Annotated[float, readings.seconds(least=0.1)] = 15.0
    """Precedent: Prometheus' own scrape interval in its example; vmagent's is a minute."""
    timeout_seconds: Annotated[float, readings.seconds(least=0.1)] = 10.0
    spool_max_bytes: Annotated[int, readings.byte_size()] = 256 * 1024 * 1024
    """Of what waits while the target is away; the oldest goes first. A day of some 1,000 series."""
    job: Annotated[str, readings.NAME] = "sidecard"
    instance: Annotated[str, readings.WORD] = ""
    """Where nothing is said: the host's name."""
    username: Annotated[str, readings.WORD] = ""
    password: Annotated[str, readings.SECRET] = ""
    password_file: Annotated[str, readings.WORD] = ""
    """Read at each request, so that the password may change."""
    bearer_token_file: Annotated[str, readings.WORD] = ""
    ca_file: Annotated[str, readings.WORD] = ""


class Sovereign(Struct, frozen=True):
    """Whether anything may leave this host."""

    enabled: Annotated[bool, readings.FLAG] = False
    allow: Annotated[tuple[str, ...], readings.ADDRESSES] = ()
    """Where the daemon's own connections may lead, besides this host and private networks."""


class Prices(Struct, frozen=True):
    """What calls cost whose cost nobody reports, on backends that have no price."""

    table: Annotated[bool, readings.FLAG] = False
    """Whether `sidecard.adapters.prices` knows it, by the model's name: 0.4 s of the start and 30 MB."""


class Operators(Struct, frozen=True):
    """Who may purge and look at everything, besides root and the daemon's own user."""

    uids: Annotated[tuple[int, ...], readings.IDS] = ()
    gids: Annotated[tuple[int, ...], readings.IDS] = ()


class Log(Struct, frozen=True):
    """What is said, and in which form. ``auto`` is ``console`` on a terminal and ``json`` otherwise."""

    level: Annotated[str, readings.choice("debug", "info", "warning", "error")] = "info"
    format: Annotated[str, readings.choice("auto", "console", "json")] = "auto"


class Limits(Struct, frozen=True):
    """Bounds on what peers may cost."""

    max_frame_bytes: Annotated[int, readings.byte_size(1024, MAX_FRAME_BYTES_LIMIT)] = MAX_FRAME_BYTES
    max_line_bytes: Annotated[int, readings.byte_size(1024, 2**30)] = MAX_LINE_BYTES
    max_peers: Annotated[int, readings.count(1)] = 4096
    max_peers_per_uid: Annotated[int, readings.count(1)] = 4096
    """As ``max_peers``: on most hosts all workers are one user. Precedent: Redis maxclients 10000, memcached -c 1024."""
    max_outbox_bytes: Annotated[int, readings.byte_size(65536)] = 32 * 1024 * 1024
    """Replies that a peer has not read. Precedent: Redis client-output-buffer-limit pubsub 32 MiB."""
    stall_seconds: Annotated[float, readings.seconds(least=0.1)] = 30.0
    """How long a peer may leave replies unread before it is closed."""
    max_buffered_bytes: Annotated[int, readings.byte_size(1024 * 1024)] = 256 * 1024 * 1024
    """Of all peers together: replies unread, and messages that have come in part. Precedent: Redis' maxmemory-clients, which
    is off by default; a quarter of the 1 GiB that the units give."""
    message_seconds: Annotated[float, readings.seconds(least=0.1)] = 30.0
    """How long a message may take from its first byte to its last; a peer that takes longer is closed, after twice as long at
    the latest. Precedents: nginx' client_header_timeout 60 s, Apache's RequestReadTimeout 20 s."""
    max_flights: Annotated[int, readings.count(1)] = 16384
    max_series: Annotated[int, readings.count(1)] = 1000
    """Label sets of one metric of the apps. What happens beyond is added up under the label ``overflow="true"``."""
    max_backends: Annotated[int, readings.count(1)] = 256
    spare_share: Annotated[float, readings.number(0.0, 10.0)] = 0.25
    """On top of ``max_flights``, ``max_waiters``, ``max_queue`` and the bounds of apps' metrics, for uids that have little there,
    so that nobody can shut all others out (`sidecard.core.shares`). On a host where all is one uid it is never used."""


class Namespace(Struct, frozen=True):
    """Who uses a namespace together, and how much it may hold."""

    shared_with: Annotated[SharedWith, readings.SHARED_WITH] = SharedWith()
    max_bytes: Annotated[int, readings.byte_size()] = 0
    """Of the cache: what one scope of this name may hold, a uid's private one or the shared one. 0 is no limit but the cache's."""


# How the settings are read that the core defines, with their defaults, and that are not told twice.

_RETRIES = {
    "share": readings.number(0.0, 1.0),
    "floor_per_second": readings.number(),
    "window_seconds": readings.seconds(least=1.0),
    "backoff_seconds": readings.seconds(),
    "max_backoff_seconds": readings.seconds(),
}
_BACKENDS = {
    "locality": readings.choice(*get_args(Locality)),
    "max_concurrent": readings.count(),
    "max_queue": readings.count(),
    "adaptive": readings.FLAG,
    "requests_per_minute": readings.number(),
    "tokens_per_minute": readings.number(),
    "input_dollars_per_million_tokens": readings.number(),
    "output_dollars_per_million_tokens": readings.number(),
    "weight": readings.number(above=True),
    "timeouts": readings.choice(*get_args(TimeoutsCount)),
    "breaker.window_seconds": readings.seconds(least=0.01),
    "breaker.window_calls": readings.count(1, 100_000),
    "breaker.min_calls": readings.count(1),
    "breaker.failure_rate": readings.RATE,
    "breaker.slow_rate": readings.RATE,
    "breaker.slow_seconds": readings.seconds(),
    "breaker.slow_first_chunk_seconds": readings.seconds(),
    "breaker.open_seconds": readings.seconds(least=0.01),
    "breaker.max_open_seconds": readings.seconds(least=0.01),
    "breaker.probes": readings.count(1, 1000),
    "breaker.probe_seconds": readings.seconds(least=0.01),
    "breaker.enabled": readings.FLAG,
}
_TASKS = {
    "ttl_seconds": readings.seconds(),
    "stale_seconds": readings.seconds(),
    "cache": readings.choice(*get_args(Cacheability)),
    "normalize": readings.choices(*NORMAL_FORMS),
    "early_refresh": readings.number(0.0, 10.0),
    "failure_ttl_seconds": readings.seconds(),
    "similar": readings.FLAG,
    "similar_threshold": readings.number(0.0, 1.0, above=True),
    "similar_max_entries": readings.count(1, 1_000_000),
    "backends": readings.NAMES,
    "route": readings.choice(*get_args(Route)),
}
_BUDGETS = {
    "dollars": readings.number(),
    "period_seconds": readings.seconds(least=1.0),
    "task": readings.NAME,
    "backend": readings.NAME,
    "hard": readings.FLAG,
}


class Setting(NamedTuple):
    """One setting: its section, its key there, and how it is read. The key of a nested table's has a dot."""

    section: str
    key: str
    reading: Reading

    @property
    def name(self) -> str:
        """The full name, as errors and ``config show`` have it."""
        return f"{self.section}.{self.key}"


def _settings_of(section: str, shape: type[Struct]) -> dict[str, Setting]:
    hints = get_type_hints(shape, include_extras=True)
    return _settings(section, {key: get_args(hint)[1] for key, hint in hints.items()})


def _settings(section: str, read: dict[str, Reading]) -> dict[str, Setting]:
    return {key: Setting(section, key, reading) for key, reading in read.items()}


SECTIONS: dict[str, type[Struct]] = {
    "socket": Socket,
    "cache": Cache,
    "flights": Flights,
    "store": Store,
    "calls": Calls,
    "metrics": Metrics,
    "http": Http,
    "push": Push,
    "sovereign": Sovereign,
    "prices": Prices,
    "retries": RetrySettings,
    "operators": Operators,
    "log": Log,
    "limits": Limits,
}
TABLES: dict[str, type[Struct]] = {
    "tasks": TaskSettings,
    "namespaces": Namespace,
    "backends": BackendSettings,
    "budgets": BudgetSettings,
}
"""Sections whose keys are names that the operator chooses, each with settings of its own."""

_OF_THE_CORE = {"retries": _RETRIES, "tasks": _TASKS, "backends": _BACKENDS, "budgets": _BUDGETS}


def _all_settings(shapes: dict[str, type[Struct]]) -> dict[str, dict[str, Setting]]:
    return {
        section: _settings(section, _OF_THE_CORE[section]) if section in _OF_THE_CORE else _settings_of(section, shape)
        for section, shape in shapes.items()
    }


FIXED = _all_settings(SECTIONS)
NAMED = _all_settings(TABLES)
NESTED = {
    table: frozenset(nested for nested, dot, _ in (key.partition(".") for key in settings) if dot)
    for table, settings in NAMED.items()
}
"""For each of `TABLES`, the tables within its tables."""
