"""The sections of the configuration: each setting with its type, how it is read, its default, and where that comes from."""

from typing import Annotated, NamedTuple, get_args, get_type_hints

from msgspec import Struct

from sidecard import readings
from sidecard.core.settings import SharedWith
from sidecard.readings import Reading
from sidecard_client.wire import MAX_FRAME_BYTES, MAX_LINE_BYTES

MAX_FRAME_BYTES_LIMIT = 2**25 - 1
"""Above this a frame's first byte could not be told from a JSON line's."""


class Socket(Struct, frozen=True):
    """Where apps find the daemon, and who may open it."""

    path: Annotated[str, readings.TEXT] = ""
    """Where nothing is said: what `sidecard_client.paths` finds."""
    mode: Annotated[int, readings.MODE] = 0o660
    group: Annotated[str | int | None, readings.GROUP] = None


class Cache(Struct, frozen=True):
    """What is kept, and how long."""

    max_bytes: Annotated[int, readings.byte_size()] = 256 * 1024 * 1024
    """0 switches caching off; calls are still shared."""
    ttl_seconds: Annotated[float, readings.seconds()] = 300.0
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

    url: Annotated[str, readings.URL] = ""


class Calls(Struct, frozen=True):
    """The log of calls."""

    url: Annotated[str, readings.URL] = ""


class Metrics(Struct, frozen=True):
    """Whether metrics are collected."""

    enabled: Annotated[bool, readings.FLAG] = True


class Sovereign(Struct, frozen=True):
    """Whether anything may leave this host."""

    enabled: Annotated[bool, readings.FLAG] = False


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
    max_flights: Annotated[int, readings.count(1)] = 16384


class Task(Struct, frozen=True):
    """Policy of one kind of work."""

    ttl_seconds: Annotated[float | None, readings.seconds()] = None


class Namespace(Struct, frozen=True):
    """Who uses a namespace together."""

    shared_with: Annotated[SharedWith, readings.SHARED_WITH] = SharedWith()


class Setting(NamedTuple):
    """One setting: its section, its key there, and how it is read."""

    section: str
    key: str
    reading: Reading

    @property
    def name(self) -> str:
        """The full name, as errors and ``config show`` have it."""
        return f"{self.section}.{self.key}"


def _settings_of(section: str, shape: type[Struct]) -> dict[str, Setting]:
    hints = get_type_hints(shape, include_extras=True)
    return {key: Setting(section, key, get_args(hint)[1]) for key, hint in hints.items()}


SECTIONS: dict[str, type[Struct]] = {
    "socket": Socket,
    "cache": Cache,
    "flights": Flights,
    "store": Store,
    "calls": Calls,
    "metrics": Metrics,
    "sovereign": Sovereign,
    "operators": Operators,
    "log": Log,
    "limits": Limits,
}
TABLES: dict[str, type[Struct]] = {"tasks": Task, "namespaces": Namespace}
"""Sections whose keys are names that the operator chooses, each with settings of its own."""

FIXED = {section: _settings_of(section, shape) for section, shape in SECTIONS.items()}
NAMED = {table: _settings_of(table, shape) for table, shape in TABLES.items()}

OF_LATER_VERSIONS = frozenset(
    {
        "backends", "budgets", "http", "push",
        "cache.stale_seconds", "store.write_window_seconds", "store.max_bytes", "sovereign.allow", "limits.max_series",
        "calls.enabled", "calls.prompts", "calls.retention_days", "calls.max_bytes",
        "tasks.stale_seconds", "tasks.backends", "tasks.route", "namespaces.max_bytes",
    }
)  # fmt: skip
"""What the design names and this version cannot do."""
