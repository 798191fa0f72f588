"""Settings as they are found in files, the environment and flags, before they make a `sidecard.config.config.Config`."""

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from sidecard.config.parsers import parse_json
from sidecard.config.schema import FIXED, NAMED, NESTED, Setting
from sidecard.config.validation import Found, Path, disagreements

OLDER_NAMES = {
    "REDIS_URL": "store.url",
    "DATABASE_URL": "calls.url",
    "CACHE_TTL": "cache.ttl_seconds",
    "DEDUPLICATION_WINDOW": "cache.sharing_window_seconds",
    "METRICS_ENABLED": "metrics.enabled",
    "SOVEREIGN_MODE": "sovereign.enabled",
}

_NO_SETTINGS = frozenset({"SIDECARD_CONFIG", "SIDECARD_SOCKET"})


class Override(NamedTuple):
    """A setting given by a flag: its full name, its text, and the flag."""

    name: str
    text: str
    flag: str


class _Given(NamedTuple):
    """A value as it was found. ``where`` is its place in the words of an error."""

    value: Any
    is_text: bool
    where: str


_VARIABLES = {
    f"SIDECARD_{setting.section}_{setting.key}".upper(): setting
    for settings in FIXED.values()
    for setting in settings.values()
}
_TABLE_VARIABLES = {f"SIDECARD_{table}".upper(): table for table in NAMED}
_NAMES = [setting.name for setting in _VARIABLES.values()] + [
    f"{table}.NAME.{key}" for table, settings in NAMED.items() for key in settings
]


class Gathering:
    """Values and problems so far. What is taken later replaces what was taken before."""

    def __init__(self) -> None:
        self._given: dict[Path, _Given] = {}
        self._tables: dict[Path, str] = {}
        self.problems: list[str] = []

    def take_toml(self, source: str, text: str) -> None:
        """Take a file's text; ``source`` is the file's name."""
        import tomllib  # noqa: PLC0415 - most daemons have no file, and a start counts its milliseconds

        try:
            tree = tomllib.loads(text)
        except RecursionError:
            self.problems.append(f"{source}: is nested too deep to be read")
            return
        except ValueError as error:  # TOML's own, and Python's of a number with thousands of digits
            self.problems.append(f"{source}: is not TOML: {error}")
            return

        for section, body in tree.items():
            where = f"{source}: {section}"
            if section not in FIXED and section not in NAMED:
                self._unknown(where, section, [*FIXED, *NAMED])
            elif not isinstance(body, dict):
                self.problems.append(f"{where} is {_seen(body)}; it should be a table, written [{section}]")
            elif section in NAMED:
                self._take_table(section, body, where)
            else:
                for key, value in body.items():
                    self._take((section, key), _Given(value, is_text=False, where=f"{where}.{key}"))

    def take_environment(self, environ: Mapping[str, str]) -> None:
        """Take what the environment says, older names first."""
        for variable, name in OLDER_NAMES.items():
            if environ.get(variable):
                section, key = name.split(".")
                self._take((section, key), _Given(environ[variable], is_text=True, where=_variable(variable)))

        for variable, text in environ.items():
            if not variable.startswith("SIDECARD_") or variable in _NO_SETTINGS or not text:
                continue

            where = _variable(variable)
            if variable in _VARIABLES:
                setting = _VARIABLES[variable]
                self._take((setting.section, setting.key), _Given(text, is_text=True, where=where))
            elif variable in _TABLE_VARIABLES:
                self._take_json(_TABLE_VARIABLES[variable], text, where)
            else:
                self._unknown(where, variable, [*_VARIABLES, *_TABLE_VARIABLES, *_NO_SETTINGS])

        if environ.get("SIDECARD_SOCKET"):
            given = _Given(environ["SIDECARD_SOCKET"], is_text=True, where=_variable("SIDECARD_SOCKET"))
            self._take(("socket", "path"), given)

    def take_override(self, override: Override) -> None:
        """Take a flag."""
        section, *names = override.name.split(".")
        where = f"flag {override.flag}"
        given = _Given(override.text, is_text=True, where=where)
        if section in FIXED and len(names) == 1:
            self._take((section, names[0]), given)
        elif section in NAMED and len(names) > 1:
            # The name of a task or backend may have dots; a key has none but for the one after a nested table's name.
            key_parts = 2 if len(names) > 2 and names[-2] in NESTED[section] else 1  # noqa: PLR2004 - name, table, key
            self._take((section, ".".join(names[:-key_parts]), ".".join(names[-key_parts:])), given)
        else:
            self._unknown(where, override.name, _NAMES)

    def _take_json(self, table: str, text: str, where: str) -> None:
        try:
            body = parse_json(text)
        except ValueError:
            body = None

        if isinstance(body, dict):
            self._take_table(table, body, where)
        else:
            example = f'{{"NAME": {{"{next(iter(NAMED[table]))}": ...}}}}'
            self.problems.append(f"{where} is no table; it should be a table as JSON, such as {example}")

    def _take_table(self, table: str, body: dict[str, Any], where: str) -> None:
        for name, entry in body.items():
            if not isinstance(entry, dict):
                self.problems.append(f"{where}: {table}.{name} is {_seen(entry)}; it should be a table of settings")
                continue

            place = f"{where}.{name}"
            # Also a table without settings says that there is one of that name.
            self._tables.setdefault((table, name), place)
            for key, value in entry.items():
                if key in NESTED[table]:
                    self._take_nested((table, name, key), value, f"{place}.{key}")
                else:
                    self._take((table, name, key), _Given(value, is_text=False, where=f"{place}.{key}"))

    def _take_nested(self, path: Path, body: Any, where: str) -> None:
        table, name, nested = path
        if not isinstance(body, dict):
            self.problems.append(f"{where} is {_seen(body)}; it should be a table, written [{table}.{name}.{nested}]")
            return

        for key, value in body.items():
            self._take((table, name, f"{nested}.{key}"), _Given(value, is_text=False, where=f"{where}.{key}"))

    def _take(self, path: Path, given: _Given) -> None:
        section, key = path[0], path[-1]
        if given.is_text and not is_utf8(given.value):
            self.problems.append(
                f"{given.where}: {section}.{key} is not UTF-8, as all that is logged and shown must be"
            )
            return

        known = FIXED.get(section) or NAMED[section]
        if key in known:
            self._given[path] = given
            if section in NAMED:
                self._tables.setdefault(path[:2], given.where)
        else:
            own = path[:-1]
            self._unknown(given.where, ".".join(path), [".".join((*own, name)) for name in known] + _NAMES)

    def _unknown(self, where: str, name: str, known: Iterable[str]) -> None:
        import difflib  # noqa: PLC0415 - as tomllib

        # A unit that was left off is the commonest slip. Cut-off 0: whatever is nearest is named, however far.
        known = list(known)
        longer = [candidate for candidate in known if candidate.startswith(name)]
        nearest = difflib.get_close_matches(name, longer or known, n=1, cutoff=0.0)[0]
        self.problems.append(f"{_place(where, name)}: there is no setting {name}; the nearest known one is {nearest}")

    def values(self) -> dict[Path, Any]:
        """Read everything that was taken. What cannot be read is added to ``problems`` and left out."""
        values: dict[Path, Any] = {}
        unreadable: set[Path] = set()
        for path, given in self._given.items():
            reading = _setting(path).reading
            try:
                values[path] = reading.read(reading.parse(given.value) if given.is_text else given.value)
            except ValueError:
                unreadable.add(path)
                name, shown = ".".join(path), reading.mask(given.value)
                place = _place(given.where, name)
                self.problems.append(f"{place}: {name} is {shown!r}; it should be {reading.expects}")

        self.problems += disagreements(Found(values, unreadable, self._tables, self.place))
        return values

    def tables(self, table: str) -> list[str]:
        """Return the names of what ``table`` has, sorted."""
        return sorted(path[1] for path in self._tables if path[0] == table)

    def origin(self, path: Path) -> str:
        """Say where the value of ``path`` was found."""
        return self._given[path].where

    def place(self, path: Path) -> str:
        """Say the same at the head of a sentence that begins with the setting."""
        return _place(self._given[path].where, ".".join(path))


def _place(where: str, name: str) -> str:
    """Return ``where`` without the setting's name, in which the place of what is in a file ends: the sentence has it."""
    return where.removesuffix(f": {name}")


def _seen(value: Any) -> str:
    """Return what an error may show of a value whose place has none: text, and whatever may hold some, can be a secret."""
    return repr(value) if isinstance(value, int | float) else "text" if isinstance(value, str) else "no table"


def is_utf8(text: str) -> bool:
    """Tell whether text has a UTF-8 form; what the kernel hands over may be any bytes."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False

    return True


def _setting(path: Path) -> Setting:
    return (FIXED.get(path[0]) or NAMED[path[0]])[path[-1]]


def _variable(name: str) -> str:
    return f"environment variable {name}"
