"""Collect settings from files, the environment and flags, before they become a `sidecard.config.model.Config`."""

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from sidecard.config.model import FIXED, NAMED, NESTED, Setting
from sidecard.config.parsers import AdviceError, parse_json
from sidecard.config.validation import SettingPath, Values, conflicts

LEGACY_VARIABLES = {
    "REDIS_URL": "store.url",
    "DATABASE_URL": "calls.url",
    "CACHE_TTL": "cache.ttl_seconds",
    "DEDUPLICATION_WINDOW": "cache.sharing_window_seconds",
    "METRICS_ENABLED": "metrics.enabled",
    "SOVEREIGN_MODE": "sovereign.enabled",
}
"""Environment variables that existing deployments set, and the settings that they set."""

_OTHER_VARIABLES = frozenset({"SIDECARD_CONFIG", "SIDECARD_SOCKET"})


MAX_SHOWN = 3
"""Names in one error."""


class Override(NamedTuple):
    """A setting given by a flag: its full name, its text, and the flag."""

    name: str
    text: str
    flag: str


class _RawValue(NamedTuple):
    """A value as it was found. ``where`` is its place, in the words of an error."""

    value: Any
    is_text: bool
    where: str


_VARIABLES = {setting.variable: setting for settings in FIXED.values() for setting in settings.values()}
_TABLE_VARIABLES = {f"SIDECARD_{table}".upper(): table for table in NAMED}
_NAMES = [setting.name for setting in _VARIABLES.values()] + [
    f"{table}.NAME.{key}" for table, settings in NAMED.items() for key in settings
]


class SettingsCollector:
    """Values and problems so far. A value added later replaces one added before."""

    def __init__(self) -> None:
        self._raw: dict[SettingPath, _RawValue] = {}
        self._tables: dict[SettingPath, str] = {}
        self.problems: list[str] = []

    def add_toml(self, source: str, text: str) -> None:
        """Add the text of a file; ``source`` is the file's name."""
        import tomllib  # noqa: PLC0415 - most daemons have no file, and it would slow down every start

        try:
            tree = tomllib.loads(text)
        except RecursionError:
            self.problems.append(f"{source}: is nested too deeply to be read")
            return
        except ValueError as error:  # TOML's own, and Python's for a number with thousands of digits
            self.problems.append(f"{source}: is not TOML: {error}{_advice_on_toml(str(error), text)}")
            return

        for section, body in tree.items():
            where = f"{source}: {section}"
            if section not in FIXED and section not in NAMED:
                self._unknown(where, section, [*FIXED, *NAMED] if isinstance(body, dict) else _NAMES)
            elif not isinstance(body, dict):
                written = f"[{section}.NAME]" if section in NAMED else f"[{section}]"
                self.problems.append(f"{where} is {_described(body)}; it should be a table, written {written}")
            elif section in NAMED:
                self._add_table(section, body, where)
            else:
                for key, value in body.items():
                    self._add((section, key), _RawValue(value, is_text=False, where=f"{where}.{key}"))

    def add_environment(self, environ: Mapping[str, str]) -> None:
        """Add the environment's variables, legacy ones first."""
        for variable, name in LEGACY_VARIABLES.items():
            if environ.get(variable):
                section, key = name.split(".")
                self._add((section, key), _RawValue(environ[variable], is_text=True, where=_variable(variable)))

        for variable, text in environ.items():
            if not variable.startswith("SIDECARD_") or variable in _OTHER_VARIABLES or not text:
                continue

            where = _variable(variable)
            if variable in _VARIABLES:
                setting = _VARIABLES[variable]
                self._add((setting.section, setting.key), _RawValue(text, is_text=True, where=where))
            elif variable in _TABLE_VARIABLES:
                self._add_json(_TABLE_VARIABLES[variable], text, where)
            elif table := next((table for table in _TABLE_VARIABLES if variable.startswith(f"{table}_")), None):
                self.problems.append(
                    f"{where}: there is no setting {variable}; a table is one variable with JSON, "
                    f"such as {table}='{{\"NAME\": {{...}}}}'"
                )
            else:
                self._unknown(where, variable, [*_VARIABLES, *_TABLE_VARIABLES, *_OTHER_VARIABLES])

        if environ.get("SIDECARD_SOCKET"):
            raw = _RawValue(environ["SIDECARD_SOCKET"], is_text=True, where=_variable("SIDECARD_SOCKET"))
            self._add(("socket", "path"), raw)

    def add_override(self, override: Override) -> None:
        """Add a flag."""
        section, *names = override.name.split(".")
        where = f"flag {override.flag}"
        raw = _RawValue(override.text, is_text=True, where=where)
        if section in FIXED and len(names) == 1:
            self._add((section, names[0]), raw)
        elif section in NAMED and len(names) > 1:
            # The name of a task or backend may contain dots; a key contains one only after a nested table's name.
            key_parts = 2 if len(names) > 2 and names[-2] in NESTED[section] else 1  # noqa: PLR2004 - name, table, key
            self._add((section, ".".join(names[:-key_parts]), ".".join(names[-key_parts:])), raw)
        else:
            self._unknown(where, override.name, _NAMES)

    def _add_json(self, table: str, text: str, where: str) -> None:
        try:
            body = parse_json(text)
        except ValueError:
            body = None

        if isinstance(body, dict):
            self._add_table(table, body, where)
        else:
            example = f'{{"NAME": {{"{next(iter(NAMED[table]))}": ...}}}}'
            self.problems.append(f"{where} is not a table; it should be a table as JSON, such as {example}")

    def _add_table(self, table: str, body: dict[str, Any], where: str) -> None:
        for name, entry in body.items():
            if not isinstance(entry, dict):
                problem = f"{table}.{name} is {_described(entry)}; it should be a table of settings"
                self.problems.append(f"{where}: {problem}")
                continue

            place = f"{where}.{name}"
            # A table without settings also declares an item of that name.
            self._tables.setdefault((table, name), place)
            for key, value in entry.items():
                if key in NESTED[table]:
                    self._add_nested((table, name, key), value, f"{place}.{key}")
                else:
                    self._add((table, name, key), _RawValue(value, is_text=False, where=f"{place}.{key}"))

    def _add_nested(self, path: SettingPath, body: Any, where: str) -> None:
        table, name, nested = path
        if not isinstance(body, dict):
            should = f"it should be a table, written [{table}.{name}.{nested}]"
            self.problems.append(f"{where} is {_described(body)}; {should}")
            return

        for key, value in body.items():
            self._add((table, name, f"{nested}.{key}"), _RawValue(value, is_text=False, where=f"{where}.{key}"))

    def _add(self, path: SettingPath, raw: _RawValue) -> None:
        section, key = path[0], path[-1]
        if raw.is_text and not is_utf8(raw.value):
            self.problems.append(f"{raw.where}: {section}.{key} is not UTF-8; everything logged and shown must be")
            return

        known = FIXED.get(section) or NAMED[section]
        if key in known:
            self._raw[path] = raw
            if section in NAMED:
                self._tables.setdefault(path[:2], raw.where)
        else:
            own = path[:-1]
            self._unknown(raw.where, ".".join(path), [".".join((*own, name)) for name in known] + _NAMES)

    def _unknown(self, where: str, name: str, known: Iterable[str]) -> None:
        import difflib  # noqa: PLC0415 - for errors only, and it would slow down every start

        # The most frequent mistakes are a missing unit suffix, and a setting in the wrong section.
        known = list(dict.fromkeys(known))
        with_unit = [candidate for candidate in known if candidate.startswith(name)]
        ends = _ends_of(name)
        in_other_sections = [candidate for candidate in known if ends and candidate.endswith(ends)]
        if in_other_sections and not with_unit:
            nearest = in_other_sections[:MAX_SHOWN]
        else:
            # Cutoff 0: the nearest name is shown however far it is.
            nearest = difflib.get_close_matches(name, with_unit or known, n=1, cutoff=0.0)

        are = "one is" if len(nearest) == 1 else "ones are"
        self.problems.append(
            f"{_place(where, name)}: there is no setting {name}; the nearest known {are} {' and '.join(nearest)}"
        )

    def values(self) -> dict[SettingPath, Any]:
        """Parse everything that was added. Invalid values are left out and reported in ``problems``."""
        values: dict[SettingPath, Any] = {}
        invalid: set[SettingPath] = set()
        for path, raw in self._raw.items():
            parser = _setting(path).parser
            try:
                values[path] = parser.check(parser.from_text(raw.value) if raw.is_text else raw.value)
            except ValueError as error:
                invalid.add(path)
                name, shown = ".".join(path), parser.mask(raw.value)
                advice = f": {error}" if isinstance(error, AdviceError) else ""
                self.problems.append(
                    f"{_place(raw.where, name)}: {name} is {shown!r}; it should be {parser.expects}{advice}"
                )

        self.problems += conflicts(Values(values, invalid, self._tables, self.place))
        return values

    def names(self, table: str) -> list[str]:
        """Return the names declared in ``table``, sorted."""
        return sorted(path[1] for path in self._tables if path[0] == table)

    def origin(self, path: SettingPath) -> str:
        """Return where the value of ``path`` was found."""
        return self._raw[path].where

    def place(self, path: SettingPath) -> str:
        """Return the same for the beginning of a sentence that goes on with the setting's name."""
        return _place(self._raw[path].where, ".".join(path))


def _ends_of(name: str) -> tuple[str, ...]:
    """Return how the full names of the same key in other sections end; nothing if the name has only one part."""
    if name.startswith("SIDECARD_"):
        return (name.removeprefix("SIDECARD"),)

    return (f".{name.rpartition('.')[2]}",)


def _advice_on_toml(error: str, text: str) -> str:
    """Return advice if the line of a syntax error has text without quotes. Its value may be a secret and is not shown."""
    import re  # noqa: PLC0415 - for errors only

    at = re.search(r"at line (\d+)", error)
    lines = text.splitlines()
    line = lines[int(at[1]) - 1] if at and int(at[1]) <= len(lines) else ""
    found = re.fullmatch(r"\s*([\w.-]+)\s*=\s*([^\s\"'\[{].*)", line)
    return f'; text needs quotes: {found[1]} = "..."' if found else ""


def _place(where: str, name: str) -> str:
    """Return ``where`` without the setting's name at its end: the sentence repeats it."""
    return where.removesuffix(f": {name}")


def _described(value: Any) -> str:
    """Describe a misplaced value. Text, and anything that may contain some, can be a secret and is not shown."""
    return repr(value) if isinstance(value, int | float) else "text" if isinstance(value, str) else "not a table"


def is_utf8(text: str) -> bool:
    """Return whether text has a UTF-8 form; environment variables may contain any bytes."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False

    return True


def _setting(path: SettingPath) -> Setting:
    return (FIXED.get(path[0]) or NAMED[path[0]])[path[-1]]


def _variable(name: str) -> str:
    return f"environment variable {name}"
