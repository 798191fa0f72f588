"""Generate the documentation of all settings from the schema: a Markdown reference and an example file.

Descriptions are the docstrings of settings, read from the source.
"""

import ast
import inspect
import json
import textwrap
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

from msgspec import NODEFAULT, Struct, structs

from sidecard.config.model import (
    FIXED,
    NAMED,
    SECTIONS,
    START_ONLY_SECTIONS,
    START_ONLY_SETTINGS,
    TABLES,
    Setting,
)
from sidecard.config.schema import MIB
from sidecard.config.sources import LEGACY_VARIABLES

WIDTH = 110
"""Characters of a comment line in the example file."""

EXAMPLE_NAMES = {"tasks": "rag", "namespaces": "team", "backends": "cloud", "budgets": "day"}
"""For each table of named items, the name in the example file."""

EXAMPLES = {
    "socket.path": "/run/sidecard/sidecard.sock",
    "socket.group": "sidecard",
    "flights.renew_seconds": 5,
    "store.url": "redis://localhost:6379/0",
    "calls.url": "postgresql:///sidecard",
    "calls.redact": ["[0-9]{16}"],
    "http.listen": "127.0.0.1:9464",
    "push.url": "http://127.0.0.1:8428/api/v1/import",
    "sovereign.allow": ["redis.example.org"],
    "operators.uids": [1000],
    "operators.gids": [27],
    "tasks.ttl_seconds": 3600,
    "tasks.stale_seconds": 600,
    "tasks.early_refresh": 1,
    "tasks.failure_ttl_seconds": 10,
    "tasks.similar": True,
    "tasks.backends": ["local", "cloud"],
    "tasks.route": "cheapest",
    "namespaces.shared_with": [1000, "gid:27"],
    "namespaces.max_bytes": "64 MiB",
    "backends.max_concurrent": 8,
    "backends.requests_per_minute": 500,
    "backends.tokens_per_minute": 200_000,
    "backends.input_dollars_per_million_tokens": 0.15,
    "backends.output_dollars_per_million_tokens": 0.6,
    "backends.cached_input_dollars_per_million_tokens": 0.075,
    "backends.cache_write_dollars_per_million_tokens": 0.15,
    "backends.prefix_affinity": "provider",
    "backends.prefix_family": "anthropic",
    "backends.prefix_min_tokens": 1024,
    "backends.prefix_lifetime_seconds": 300,
    "backends.prefix_hold_seconds": 10,
    "backends.slots": 4,
    "budgets.dollars": 5,
    "budgets.task": "rag",
    "budgets.backend": "cloud",
    "budgets.hard": True,
}
"""Values in the example file that are not the default."""

START_ONLY = " Takes effect at the next start only."

_TABLE_HEAD = "| setting | value | default | description | environment |\n|---|---|---|---|---|"


def markdown() -> str:
    """Return a table for each section: key, valid values, default, description, environment variable."""
    return "\n\n".join(_markdown_section(section, shape) for section, shape in (SECTIONS | TABLES).items()) + "\n"


def example_toml() -> str:
    """Return a settings file with every setting, commented out."""
    head = (
        "# All settings of sidecard. Generated from sidecard/config/schema.py.\n"
        "# Uncomment what you change; `sidecard config check` reports errors.\n"
        "# Each setting is also an environment variable (SIDECARD_CACHE_TTL_SECONDS=60) and a flag\n"
        "# (--set cache.ttl_seconds=60); both take precedence over this file.\n"
        "# `sidecard reload`, SIGHUP or `systemctl reload sidecard` load it again without losing a connection or an entry;\n"
        "# settings marked (start) take effect at the next start only.\n"
    )
    return head + "".join(_example_section(section, shape) for section, shape in (SECTIONS | TABLES).items())


def _markdown_section(section: str, shape: type[Struct]) -> str:
    title = f"[{section}]" if section in SECTIONS else f"[{section}.NAME]"
    restart = START_ONLY if section in START_ONLY_SECTIONS else ""
    rows = [_TABLE_HEAD]
    for setting, default, description in _documented(section, shape):
        if section in SECTIONS:
            legacy = [variable for variable, name in LEGACY_VARIABLES.items() if name == setting.name]
            variables = ", ".join(f"`{variable}`" for variable in (setting.variable, *legacy))
        else:
            variables = f"in `SIDECARD_{section.upper()}` (JSON)"

        note = START_ONLY if setting.key in START_ONLY_SETTINGS.get(section, ()) else ""
        cells = (
            f"`{setting.key}`",
            setting.parser.expects,
            _markdown_default(setting, default),
            description + note,
            variables,
        )
        rows.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")

    return f"### `{title}`\n\n{_plain(shape.__doc__ or '')}{restart}\n\n" + "\n".join(rows)


def _example_section(section: str, shape: type[Struct]) -> str:
    named = section in TABLES
    title = f"#[{section}.{EXAMPLE_NAMES[section]}]" if named else f"[{section}]"
    start = "  # (start)" if section in START_ONLY_SECTIONS else ""
    lines = ["", *_comment(_plain(shape.__doc__ or "")), f"{title}{start}"]
    nested = ""
    for setting, default, description in _documented(section, shape):
        table, dot, key = setting.key.rpartition(".")
        if dot and table != nested:
            nested = table
            lines += ["", f"{title.removesuffix(']')}.{table}]"]

        mark = " (start)" if setting.key in START_ONLY_SETTINGS.get(section, ()) else ""
        value = EXAMPLES.get(f"{section}.{setting.key}", _shown_default(setting, default))
        expects = setting.parser.expects
        words = f" {expects[0].upper()}{expects[1:]}." if expects.startswith(("one of", "a list of any")) else ""
        lines += [*_comment(description + words + mark), f"#{key} = {json.dumps(value, ensure_ascii=False)}"]

    return "\n".join(lines) + "\n"


def _documented(section: str, shape: type[Struct]) -> Iterator[tuple[Setting, Any, str]]:
    """Yield each setting of a section with its default and its description."""
    for setting in (FIXED.get(section) or NAMED[section]).values():
        owner, key = shape, setting.key
        nested, dot, inner = key.partition(".")
        if dot:
            owner, key = type(_defaults(shape)[nested]), inner

        yield setting, _defaults(owner)[key], _descriptions(owner)[key]


def _defaults(shape: type[Struct]) -> dict[str, Any]:
    return {
        field.name: field.default_factory() if field.default_factory is not NODEFAULT else field.default
        for field in structs.fields(shape)
    }


def _descriptions(shape: type[Struct]) -> dict[str, str]:
    """Return the docstring of each field. Raises `KeyError` in `_documented` for one without."""
    body = next(node.body for node in ast.walk(ast.parse(inspect.getsource(shape))) if isinstance(node, ast.ClassDef))
    return {
        field.target.id: _plain(text.value.value)
        for field, text in pairwise(body)
        if isinstance(field, ast.AnnAssign)
        and isinstance(field.target, ast.Name)
        and isinstance(text, ast.Expr)
        and isinstance(text.value, ast.Constant)
        and isinstance(text.value.value, str)
    }


def _plain(docstring: str) -> str:
    return " ".join(docstring.split()).replace("``", "`")


def _comment(text: str) -> list[str]:
    return [f"# {line}" for line in textwrap.wrap(text, WIDTH, break_long_words=False, break_on_hyphens=False)]


def _markdown_default(setting: Setting, default: Any) -> str:
    if default is NODEFAULT:
        return "required"

    shown = _shown_default(setting, default)
    return "unset" if shown is None or shown == "" else f"`{json.dumps(shown)}`"


def _shown_default(setting: Setting, default: Any) -> Any:
    if default is NODEFAULT or default is None:
        return None

    shown = setting.parser.show(default)
    if setting.key.endswith("_bytes") and shown and shown % 1024 == 0:
        unit, name = next(unit for unit in ((1024 * MIB, "GiB"), (MIB, "MiB"), (1024, "KiB")) if shown % unit[0] == 0)
        return f"{shown // unit} {name}"

    return int(shown) if isinstance(shown, float) and shown.is_integer() else shown
