"""Load all settings: the only place that reads settings files and environment variables.

A setting is taken from the first of these sources that has it:

1. a flag: ``--socket``, ``--log-level``, ``--log-format``, ``--set SECTION.KEY=VALUE``,
   ``--set TABLE.NAME.KEY=VALUE``, ``--set backends.NAME.breaker.KEY=VALUE``
2. the environment: ``SIDECARD_SECTION_KEY``, whole tables as JSON (``SIDECARD_TASKS='{"rag": {"ttl_seconds": 60}}'``)
3. the environment names of existing deployments, `sidecard.config.sources.LEGACY_VARIABLES`
4. the TOML file: ``--config``, else ``$SIDECARD_CONFIG``, else `DEFAULT_FILE` if it exists
5. its default

An empty environment variable counts as not set. Unknown and invalid settings are errors, all reported together.
"""

import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from msgspec import Struct, structs

from sidecard.config.model import SECTIONS, TABLES, Config
from sidecard.config.sources import Override, SettingsCollector, is_utf8
from sidecard.config.store_url import NONE
from sidecard.config.validation import backend_settings
from sidecard.core.operations.policies import DEFAULT_ORIGIN
from sidecard.errors import ConfigError
from sidecard_client.protocol import socket_path as paths

DEFAULT_FILE = Path("/etc/sidecard/sidecard.toml")

OUTBOUND_URLS = (("store", "url"), ("calls", "url"), ("push", "url"))
"""The settings with an address that the daemon itself connects to."""


def load(path: Path | None, environ: Mapping[str, str], overrides: Iterable[Override] = ()) -> Config:
    """Load all settings. ``path`` is the file of ``--config``; with None the environment chooses it.

    Raises `ConfigError` with all problems.
    """
    collector = SettingsCollector()
    file = _file(path, environ)
    if file is not None:
        try:
            collector.add_toml(str(file), file.read_text(encoding="utf-8-sig"))
        except OSError as error:
            collector.problems.append(f"{file}: cannot be read ({error.strerror}); name a readable file, or none")
        except UnicodeDecodeError:
            collector.problems.append(f"{file}: is not UTF-8, as TOML must be")

    collector.add_environment(environ)
    for override in overrides:
        collector.add_override(override)

    return assemble(collector, environ)


def _file(path: Path | None, environ: Mapping[str, str]) -> Path | None:
    if path is not None:
        return path

    if environ.get("SIDECARD_CONFIG"):
        return Path(environ["SIDECARD_CONFIG"])

    return DEFAULT_FILE if DEFAULT_FILE.exists() else None


def assemble(collector: SettingsCollector, environ: Mapping[str, str]) -> Config:
    """Return the settings that were collected, with defaults for the others. Raises `ConfigError` with all problems."""
    values = collector.values()
    socket_path = ""
    try:
        socket_path = paths.listening_socket(values.get(("socket", "path")), environ)
    except ValueError as error:
        collector.problems.append(str(error))

    listen = values.get(("http", "listen"), "")
    if "/" in listen and os.path.abspath(listen) == os.path.abspath(socket_path):  # noqa: PTH100 - without resolving links
        place = collector.place(("http", "listen"))
        collector.problems.append(
            f"{place}: http.listen is {listen}, which is the daemon's own socket; choose another path, or an address"
        )

    if not is_utf8(socket_path):
        collector.problems.append(f"the socket's path {socket_path!r} is not UTF-8: choose another with --socket")

    if values.get(("sovereign", "enabled"), False):
        collector.problems += [
            f"{collector.origin(path)}: {problem}"
            for path, problem in outbound_problems(
                lambda *path: values.get(path), values.get(("sovereign", "allow"), ())
            )
        ]

    if collector.problems:
        raise ConfigError(collector.problems)

    fixed: dict[str, Any] = {
        section: shape(**{path[1]: value for path, value in values.items() if path[0] == section})
        for section, shape in SECTIONS.items()
    }
    fixed["socket"] = structs.replace(fixed["socket"], path=socket_path)
    named: dict[str, Any] = {
        table: {name: _entry(table, name, values) for name in collector.names(table)} for table in TABLES
    }
    config = Config(**fixed, **named, origins={})
    origins = dict.fromkeys(config.shown(), DEFAULT_ORIGIN)
    return structs.replace(config, origins=origins | {".".join(path): collector.origin(path) for path in values})


def _entry(table: str, name: str, values: Mapping[tuple[str, ...], Any]) -> Struct:
    given = {path[2]: value for path, value in values.items() if path[:2] == (table, name)}
    return backend_settings(name, given) if table == "backends" else TABLES[table](**given)


def outbound_problems(value: Callable[[str, str], Any], allow: tuple[str, ...]) -> list[tuple[tuple[str, str], str]]:
    """Return each setting with an address that sovereign mode forbids, and the problem; ``value(section, key)`` reads one."""
    from sidecard.config.sovereignty import outbound_problem  # noqa: PLC0415 - rarely enabled, and it would slow down every start

    found = []
    for path in OUTBOUND_URLS:
        address = value(*path) or ""
        # DATABASE_URL may be an app's: without calls.enabled the daemon does not connect to it.
        used = address.lower() not in NONE and (path[0] != "calls" or value("calls", "enabled"))
        problem = outbound_problem(".".join(path), address, allow) if used else None
        if problem:
            found.append((path, problem))

    return found
