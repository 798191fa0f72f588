"""All settings of a daemon as one value, and a description of each setting."""

import types
from operator import attrgetter
from typing import Any, Literal, NamedTuple, Union, get_args, get_origin

from msgspec import Struct

from sidecard.config import parsers, schema
from sidecard.config.parsers import Parser
from sidecard.core.settings import (
    MIN_VIEW_BYTES,
    BackendSettings,
    BudgetSettings,
    EngineSettings,
    RetrySettings,
    TaskSettings,
    settings_of_unnamed,
)
from sidecard_client.keys.normal_form import NORMAL_FORMS
from sidecard_client.protocol.wire import DEFAULT_BACKEND


class Config(Struct, frozen=True):
    """All settings of a daemon. ``origins`` maps each setting's full name to where its value was found."""

    socket: schema.SocketSettings
    cache: schema.CacheSettings
    flights: schema.FlightSettings
    store: schema.StoreSettings
    calls: schema.CallLogSettings
    metrics: schema.MetricsSettings
    http: schema.HttpSettings
    push: schema.PushSettings
    sovereign: schema.SovereignSettings
    prices: schema.PriceSettings
    retries: RetrySettings
    operators: schema.OperatorSettings
    log: schema.LogSettings
    limits: schema.LimitSettings
    tasks: dict[str, TaskSettings]
    namespaces: dict[str, schema.NamespaceSettings]
    backends: dict[str, BackendSettings]
    budgets: dict[str, BudgetSettings]
    origins: dict[str, str]

    def engine_settings(self) -> EngineSettings:
        """Return the settings that the engine uses."""
        return EngineSettings(
            cache_max_bytes=self.cache.max_bytes,
            view_bytes=self.cache.view_bytes,
            view_max_entry_bytes=self.cache.view_max_entry_bytes,
            compress_min_bytes=self.cache.compress_min_bytes,
            ttl_seconds=self.cache.ttl_seconds,
            stale_seconds=self.cache.stale_seconds,
            sharing_window_seconds=self.cache.sharing_window_seconds,
            tasks=self.tasks,
            shared_namespaces={name: namespace.shared_with for name, namespace in self.namespaces.items()},
            namespace_max_bytes={
                name: namespace.max_bytes for name, namespace in self.namespaces.items() if namespace.max_bytes
            },
            lease_seconds=self.flights.lease_seconds,
            renew_seconds=self.flights.renew_seconds,
            max_call_seconds=self.flights.max_call_seconds,
            idle_seconds=self.flights.idle_seconds,
            wait_seconds=self.flights.wait_seconds,
            max_elections=self.flights.max_elections,
            max_waiters=self.flights.max_waiters,
            max_flights=self.limits.max_flights,
            # Leases without a key have no flight; they get as much room as those with one.
            max_leases=2 * self.limits.max_flights,
            max_memory_bytes=self.limits.max_memory_bytes,
            spare_share=self.limits.spare_share,
            forget_seconds=self.limits.forget_seconds,
            backends=self.backends,
            local_max_concurrent=schema.default_local_limit(),
            max_backends=self.limits.max_backends,
            budgets=self.budgets,
            retries=self.retries,
            sovereign=self.sovereign.enabled,
            share_budgets=self.store.share_budgets,
            metrics=self.metrics.enabled,
            max_series=self.limits.max_series,
            log_calls=self.calls.enabled,
            log_prompts=self.calls.prompts,
        )

    def shown(self) -> dict[str, Any]:
        """Return every setting by its full name, as plain types, without passwords."""
        fixed = {
            setting.name: _shown(getattr(self, section), setting)
            for section, settings in FIXED.items()
            for setting in settings.values()
        }
        named = {
            f"{table}.{name}.{setting.key}": _shown(entry, setting)
            for table, settings in NAMED.items()
            for name, entry in getattr(self, table).items()
            for setting in settings.values()
        }
        return fixed | named

    def warnings(self) -> list[str]:
        """Return a sentence for each setting that has less effect than an operator may expect."""
        sentences = []
        if self.calls.url and not self.calls.enabled:
            sentences.append("calls.url has no effect: set calls.enabled = true to log calls.")

        if self.push.url and not self.metrics.enabled:
            sentences.append("push.url pushes metrics of apps only: metrics.enabled is false.")

        most = self.cache.max_bytes // 4
        if self.cache.view_bytes > most and self.cache.view_bytes != schema.CacheSettings().view_bytes:
            sentences.append(
                f"cache.view_bytes is limited to {most} bytes, a quarter of cache.max_bytes. Lower it, or raise cache.max_bytes."
            )

        elif 0 < self.cache.view_bytes < MIN_VIEW_BYTES:
            sentences.append(
                f"cache.view_bytes has no effect: the smallest view takes {MIN_VIEW_BYTES} bytes. Raise it, or set 0 to disable views."
            )

        limits, default = self.limits, schema.LimitSettings().max_peers_per_uid
        if limits.max_peers < limits.max_peers_per_uid != default:
            sentences.append(
                f"limits.max_peers_per_uid has no effect: it is {limits.max_peers_per_uid}, and limits.max_peers is "
                f"{limits.max_peers}. Make it smaller, so that one uid cannot use most connections."
            )

        unnamed = self.backends.get(DEFAULT_BACKEND) or settings_of_unnamed(
            DEFAULT_BACKEND, schema.default_local_limit()
        )
        if self.sovereign.enabled and unnamed.locality == "local":
            sentences.append(
                "sovereign.enabled does not reject calls that name no backend, which count as local wherever they go: "
                f'to reject them, set backends.{DEFAULT_BACKEND}.locality = "remote".'
            )

        return sentences


class Setting(NamedTuple):
    """One setting: its section, its key there, and its parser. The key of a setting in a nested table contains a dot."""

    section: str
    key: str
    parser: Parser

    @property
    def name(self) -> str:
        """The full name, as in errors and ``config show``."""
        return f"{self.section}.{self.key}"

    @property
    def variable(self) -> str:
        """The environment variable of a setting in a section with fixed keys."""
        return f"SIDECARD_{self.section}_{self.key}".upper()


START_ONLY_SECTIONS = ("socket", "store", "calls", "metrics", "http", "push", "prices")
START_ONLY_SETTINGS = {"log": ("format",), "limits": ("max_backends", "max_series")}
"""Settings that a running daemon cannot change, because it was opened or sized with them."""

_PARSERS = {
    "retries.share": parsers.number(0.0, 1.0),
    "retries.window_seconds": parsers.seconds(least=1.0),
    "backends.weight": parsers.number(above=True),
    "backends.prefix_lifetime_seconds": parsers.seconds(least=1.0),
    "backends.slots": parsers.count(1, 1024),
    "backends.breaker.window_seconds": parsers.seconds(least=0.01),
    "backends.breaker.window_calls": parsers.count(1, 100_000),
    "backends.breaker.min_calls": parsers.count(1),
    "backends.breaker.failure_rate": parsers.RATE,
    "backends.breaker.slow_rate": parsers.RATE,
    "backends.breaker.open_seconds": parsers.seconds(least=0.01),
    "backends.breaker.max_open_seconds": parsers.seconds(least=0.01),
    "backends.breaker.probes": parsers.count(1, 1000),
    "backends.breaker.probe_seconds": parsers.seconds(least=0.01),
    "tasks.normalize": parsers.choices(*NORMAL_FORMS),
    "tasks.early_refresh": parsers.number(0.0, 10.0),
    "tasks.similar_threshold": parsers.number(0.0, 1.0, above=True),
    "tasks.similar_max_entries": parsers.count(1, 1_000_000),
    "tasks.backends": parsers.NAMES,
    "budgets.period_seconds": parsers.seconds(least=1.0),
    "budgets.task": parsers.NAME,
    "budgets.backend": parsers.NAME,
}
"""Parsers of settings that the core defines, unless their type and the unit in their name imply one."""

_BY_TYPE: dict[type, Parser] = {bool: parsers.FLAG, int: parsers.count(), float: parsers.number()}
_SECONDS = parsers.seconds()


def _settings(section: str, shape: type[Struct], prefix: str = "") -> dict[str, Setting]:
    settings: dict[str, Setting] = {}
    for field, hint in shape.__annotations__.items():
        if isinstance(hint, type) and issubclass(hint, Struct):
            settings |= _settings(section, hint, f"{field}.")
        else:
            key = prefix + field
            settings[key] = Setting(section, key, _PARSERS.get(f"{section}.{key}") or _parser(key, hint))

    return settings


def _parser(key: str, hint: Any) -> Parser:
    """Return the parser in an annotation, or the one that the type and the unit in the name imply."""
    # X or None: None is the default of an optional setting.
    kind = get_args(hint)[0] if get_origin(hint) in {Union, types.UnionType} else hint
    if hasattr(kind, "__metadata__"):
        parser: Parser = kind.__metadata__[0]
        return parser

    if get_origin(kind) is Literal:
        return parsers.choice(*get_args(kind))

    if key.endswith("_seconds"):
        return _SECONDS

    return _BY_TYPE[kind]


_FIELDS: dict[str, Any] = Config.__annotations__
SECTIONS: dict[str, type[Struct]] = {name: hint for name, hint in _FIELDS.items() if isinstance(hint, type)}
TABLES: dict[str, type[Struct]] = {
    name: get_args(_FIELDS[name])[1] for name in ("tasks", "namespaces", "backends", "budgets")
}
"""Sections whose keys are names that the operator chooses, each with settings of its own."""

FIXED = {section: _settings(section, shape) for section, shape in SECTIONS.items()}
NAMED = {table: _settings(table, shape) for table, shape in TABLES.items()}
NESTED = {
    table: frozenset(nested for nested, dot, _ in (key.partition(".") for key in settings) if dot)
    for table, settings in NAMED.items()
}
"""For each of `TABLES`, the tables within its tables."""


def _shown(entry: Struct, setting: Setting) -> Any:
    return setting.parser.show(attrgetter(setting.key)(entry))
