"""Every setting there is, and the one place that reads files and the environment.

A setting comes from the first of these that has it:

1. a flag: ``--socket``, ``--log-level``, ``--log-format``, ``--set SECTION.KEY=VALUE``,
   ``--set TABLE.NAME.KEY=VALUE``, ``--set backends.NAME.breaker.KEY=VALUE``
2. the environment: ``SIDECARD_SECTION_KEY``, whole tables as JSON (``SIDECARD_TASKS='{"rag": {"ttl_seconds": 60}}'``)
3. the environment names of older deployments, `OLDER_NAMES`
4. the TOML file: ``--config``, else ``$SIDECARD_CONFIG``, else `DEFAULT_FILE` if there is one
5. its default

An environment variable that is empty counts as not set.
Nothing is guessed: what is unknown or unreadable is an error, and all errors are told at once.
"""

from collections.abc import Callable, Iterable, Mapping
from operator import attrgetter
from pathlib import Path
from typing import Any

from msgspec import Struct, structs

from sidecard.config.schema import (
    FIXED,
    NAMED,
    SECTIONS,
    TABLES,
    Cache,
    Calls,
    Flights,
    Http,
    Limits,
    Log,
    Metrics,
    Namespace,
    Operators,
    Prices,
    Push,
    Setting,
    Socket,
    Sovereign,
    Store,
)
from sidecard.config.sources import Gathering, Override, is_utf8
from sidecard.config.store_url import NONE
from sidecard.config.validation import backend_settings
from sidecard.core.operations.policies import DEFAULT_ORIGIN
from sidecard.core.settings import (
    BackendSettings,
    BudgetSettings,
    EngineSettings,
    RetrySettings,
    TaskSettings,
    settings_of_unnamed,
)
from sidecard.errors import ConfigError
from sidecard_client.protocol import socket_path as paths
from sidecard_client.protocol.wire import DEFAULT_BACKEND

DEFAULT_FILE = Path("/etc/sidecard/sidecard.toml")

ADDRESSES = (("store", "url"), ("calls", "url"), ("push", "url"))
"""The settings that hold an address which the daemon itself opens."""


class Config(Struct, frozen=True):
    """All settings of a daemon. ``origins`` says for each full name where its value came from."""

    socket: Socket
    cache: Cache
    flights: Flights
    store: Store
    calls: Calls
    metrics: Metrics
    http: Http
    push: Push
    sovereign: Sovereign
    prices: Prices
    retries: RetrySettings
    operators: Operators
    log: Log
    limits: Limits
    tasks: dict[str, TaskSettings]
    namespaces: dict[str, Namespace]
    backends: dict[str, BackendSettings]
    budgets: dict[str, BudgetSettings]
    origins: dict[str, str]

    def engine_settings(self) -> EngineSettings:
        """Return the engine's share of the settings."""
        return EngineSettings(
            cache_max_bytes=self.cache.max_bytes,
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
            wait_seconds=self.flights.wait_seconds,
            max_elections=self.flights.max_elections,
            max_waiters=self.flights.max_waiters,
            max_flights=self.limits.max_flights,
            # Leases without a key have no flight; they get as much room as those that have one.
            max_leases=2 * self.limits.max_flights,
            spare_share=self.limits.spare_share,
            backends=self.backends,
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

    def unmet(self) -> list[str]:
        """Say, one sentence each, what is set that this version cannot do, or does not do as far as one might think."""
        sentences = []
        if self.calls.url and not self.calls.enabled:
            sentences.append("calls.url is set: calls are logged there once calls.enabled is true.")

        if self.push.url and not self.metrics.enabled:
            sentences.append(
                "push.url is set, but metrics.enabled is false: the daemon pushes what apps tell and no more."
            )

        if self.sovereign.enabled and self._of_unnamed_backend().locality == "local":
            sentences.append(
                f"sovereign.enabled is set: calls that name no backend count as local, wherever they go; to refuse them, "
                f'set backends.{DEFAULT_BACKEND}.locality = "remote".'
            )

        return sentences

    def _of_unnamed_backend(self) -> BackendSettings:
        return self.backends.get(DEFAULT_BACKEND) or settings_of_unnamed(DEFAULT_BACKEND)


START_ONLY_SECTIONS = ("socket", "store", "calls", "metrics", "http", "push", "prices")
START_ONLY_SETTINGS = {"log": ("format",), "limits": ("max_backends", "max_series")}
"""What a running daemon cannot change: what was opened, or sized, with it."""


class Reconfiguration(Struct, frozen=True):
    """What comes of settings that a running daemon has read again."""

    config: Config
    """What holds from now on."""
    changed: dict[str, Any]
    """The settings among them that did not hold before, by full name, as shown; None for what is not set any more."""
    needs_restart: list[str]
    """Full names of those that were read and do not hold, because only a start can change them."""


def reconfigured(running: Config, read: Config) -> Reconfiguration:
    """Return what a running daemon goes by once it has read other settings.

    Raises `ConfigError` where sovereign mode comes on and an address that is open may lead out.
    """
    kept: dict[str, Any] = {section: getattr(running, section) for section in START_ONLY_SECTIONS}
    for section, keys in START_ONLY_SETTINGS.items():
        older = {key: getattr(getattr(running, section), key) for key in keys}
        kept[section] = structs.replace(getattr(read, section), **older)

    config = structs.replace(read, **kept)
    needs_restart = [
        setting.name
        for section, settings in FIXED.items()
        for setting in settings.values()
        if _value(read, section, setting.key) != _value(config, section, setting.key)
    ]
    origins = {
        name: running.origins[name] if name in needs_restart else origin for name, origin in read.origins.items()
    }
    config = structs.replace(config, origins=origins)
    if config.sovereign.enabled:
        problems = _leading_out(lambda *path: _value(config, *path), config.sovereign.allow)
        if problems:
            raise ConfigError([f"a restart is needed: {sentence}" for _, sentence in problems])

    before, after = running.shown(), config.shown()
    changed = {name: value for name, value in after.items() if name not in before or before[name] != value}
    return Reconfiguration(config, changed | {name: None for name in before if name not in after}, needs_restart)


def load(path: Path | None, environ: Mapping[str, str], overrides: Iterable[Override] = ()) -> Config:
    """Read all settings. ``path`` is the file of ``--config``; `None` leaves the choice to the environment.

    Raises `ConfigError` with everything that is wrong.
    """
    gathering = Gathering()
    file = _file(path, environ)
    if file is not None:
        try:
            gathering.take_toml(str(file), file.read_text(encoding="utf-8"))
        except OSError as error:
            gathering.problems.append(f"{file}: cannot be read ({error.strerror}); name a file that can, or none")
        except UnicodeDecodeError:
            gathering.problems.append(f"{file}: is not UTF-8, as TOML must be")

    gathering.take_environment(environ)
    for override in overrides:
        gathering.take_override(override)

    return _assemble(gathering, environ)


def _file(path: Path | None, environ: Mapping[str, str]) -> Path | None:
    if path is not None:
        return path

    if environ.get("SIDECARD_CONFIG"):
        return Path(environ["SIDECARD_CONFIG"])

    return DEFAULT_FILE if DEFAULT_FILE.exists() else None


def _assemble(gathering: Gathering, environ: Mapping[str, str]) -> Config:
    values = gathering.values()
    socket_path = ""
    try:
        socket_path = paths.listening_socket(values.get(("socket", "path")), environ)
    except ValueError as error:
        gathering.problems.append(str(error))

    if not is_utf8(socket_path):
        gathering.problems.append(f"the socket's path {socket_path!r} is not UTF-8: choose another with --socket")

    gathering.problems += _exposures(values, gathering)
    if gathering.problems:
        raise ConfigError(gathering.problems)

    fixed: dict[str, Any] = {
        section: shape(**{path[1]: value for path, value in values.items() if path[0] == section})
        for section, shape in SECTIONS.items()
    }
    fixed["socket"] = structs.replace(fixed["socket"], path=socket_path)
    named: dict[str, Any] = {
        table: {name: _entry(table, name, values) for name in gathering.tables(table)} for table in TABLES
    }
    config = Config(**fixed, **named, origins={})
    origins = dict.fromkeys(config.shown(), DEFAULT_ORIGIN)
    return structs.replace(config, origins=origins | {".".join(path): gathering.origin(path) for path in values})


def _entry(table: str, name: str, values: Mapping[tuple[str, ...], Any]) -> Struct:
    given = {path[2]: value for path, value in values.items() if path[:2] == (table, name)}
    return backend_settings(name, given) if table == "backends" else TABLES[table](**given)


def _exposures(values: Mapping[tuple[str, ...], Any], gathering: Gathering) -> list[str]:
    """Say which of the daemon's own connections a sovereign one may not open."""
    if not values.get(("sovereign", "enabled"), False):
        return []

    complaints = _leading_out(lambda *path: values.get(path), values.get(("sovereign", "allow"), ()))
    return [f"{gathering.origin(path)}: {sentence}" for path, sentence in complaints]


def _leading_out(value: Callable[[str, str], Any], allow: tuple[str, ...]) -> list[tuple[tuple[str, str], str]]:
    """Return the settings whose address a sovereign daemon must not open, each with why; ``value`` says what is set."""
    from sidecard.config.sovereignty import complaint  # noqa: PLC0415 - most daemons are not, and a start counts its milliseconds

    found = []
    for path in ADDRESSES:
        address = value(*path) or ""
        # DATABASE_URL may be an app's: without calls.enabled nobody opens it.
        opened = address.lower() not in NONE and (path[0] != "calls" or value("calls", "enabled"))
        sentence = complaint(".".join(path), address, allow) if opened else None
        if sentence:
            found.append((path, sentence))

    return found


def _value(config: Config, section: str, key: str) -> Any:
    return attrgetter(key)(getattr(config, section))


def _shown(entry: Struct, setting: Setting) -> Any:
    return setting.reading.show(attrgetter(setting.key)(entry))
