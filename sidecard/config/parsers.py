"""Parse the value of one setting: from TOML, where it has a type, or from text (environment variables, flags).

A `Parser` describes valid values in ``expects``, so that every error can.
"""

import os
import re
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

from sidecard.config import store_url
from sidecard.config.redaction import redacted
from sidecard.config.units import bytes_in, seconds_in
from sidecard.core.settings import SharedWith
from sidecard_client.call.sovereign import WORDS

MAX_SECONDS = 366 * 86400.0
MAX_COUNT = 2**53
MAX_NUMBER = 1e9
MAX_NAME_CHARACTERS = 128
MAX_NAMES = 16
"""Bounds of `Seconds`, `Count`, `Dollars`, `Name` and `Begin.backends` in `sidecard_client.protocol.wire`."""

MAX_ID = 2**32 - 2
"""The largest uid or gid; 2^32-1 means "none" to the kernel."""

MAX_REAL = 1e300
"""Above every bound. Larger values, infinity and NaN are rejected before they are compared with a bound."""

MAX_PORT = 65535

PUSH_PATHS = ("/api/v1/import", "/api/v1/import/prometheus", "/api/v1/write")
"""The path of a push target shows its format: these are the paths of VictoriaMetrics and of remote write."""

_VARIABLE = re.compile(r"\$(?:\w|\{)")
_PERMISSION_BITS = 0o777

_Number = TypeVar("_Number", int, float)


def _same(value: Any) -> Any:
    return value


def _masked(_: Any) -> str:
    return "***"


class AdviceError(ValueError):
    """An invalid value with advice of its own, which quotes nothing of the value."""


class Parser(NamedTuple):
    """One kind of value. ``check`` and ``from_text`` raise `ValueError` for values that are not as ``expects`` says.

    `AdviceError` adds a sentence to what is expected.
    """

    expects: str
    check: Callable[[Any], Any]
    """Turns a value of a TOML type into the setting's value."""
    from_text: Callable[[str], Any] = str
    """Turns text into what ``check`` takes."""
    show: Callable[[Any], Any] = _same
    """Turns the setting's value into plain types that may be shown."""
    mask: Callable[[Any], Any] = _same
    """Turns an invalid value into what its error may show."""


def count(least: int = 0, most: int = MAX_COUNT) -> Parser:
    """A whole number between ``least`` and ``most``."""
    return Parser(
        f"a whole number, {_bounds(least, most)}", lambda value: _within(_whole(value), least, most), _number_from_text
    )


def seconds(least: float = 0.0) -> Parser:
    """A duration of at least ``least`` seconds, as a number or as text with units."""
    expects = f'a number of seconds, {_bounds(least, MAX_SECONDS)}, or text such as "5m" or "1h30m"'
    return Parser(expects, lambda value: float(_within(_real(seconds_in(value)), least, MAX_SECONDS)))


def number(least: float = 0.0, most: float = MAX_NUMBER, *, above: bool = False) -> Parser:
    """A number between ``least`` and ``most``; with ``above``, larger than ``least``."""

    def check(value: Any) -> float:
        real = float(_within(_real(value), least, most))
        return real if real > least or not above else _invalid()

    bounds = f"above {least:.15g} and at most {most:.15g}" if above else _bounds(least, most)
    return Parser(f"a number, {bounds}", check, _number_from_text)


def byte_size(least: int = 0, most: int = MAX_COUNT) -> Parser:
    """A number of bytes, or text with a unit."""

    def check(value: Any) -> int:
        size = bytes_in(value) if isinstance(value, str) else _whole(value)
        return int(_within(size, least, most))

    return Parser(f'a number of bytes such as 268435456, "256MiB" or "256M", {_bounds(least, most)}', check)


def choice(*words: str) -> Parser:
    """One of ``words``."""
    expects = "one of " + ", ".join(f'"{word}"' for word in words)

    def check(value: Any) -> str:
        word = value.lower() if isinstance(value, str) else value
        return str(word) if word in words else _invalid()

    return Parser(expects, check)


def choices(*words: str) -> Parser:
    """A list of some of ``words``, in any order, each once."""

    def check(value: Any) -> tuple[str, ...]:
        if not all(word in words for word in _list(value)):
            raise ValueError

        return tuple(word for word in words if word in value)

    return Parser(f"a list of any of {', '.join(map(repr, words))}", check, _names_from_text, list)


def _bounds(least: float, most: float) -> str:
    return f"at least {least:.15g}" if most == MAX_COUNT else f"between {least:.15g} and {most:.15g}"


def _invalid() -> Any:
    raise ValueError


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else _invalid()


def _text(value: Any) -> str:
    return value if isinstance(value, str) and "\0" not in value else _invalid()


def _path(value: Any) -> str:
    """Expand ``~/``, which a shell expands only at the beginning of a word."""
    text = _text(value)
    if _VARIABLE.search(text):
        raise AdviceError("variables are not expanded: write the whole path")

    return os.path.expanduser(text) if text.startswith("~/") else text  # noqa: PTH111 - text, as given


def _some_path(value: Any) -> str:
    return _path(value) or _invalid()


def _shown_address(value: Any) -> Any:
    """Return an invalid address; only a URL can contain a password."""
    return redacted(value) if isinstance(value, str) and ("@" in value or "://" in value) else value


def _some_text(value: Any) -> str:
    return _text(value) or _invalid()


def _store_url(value: Any) -> str:
    url = _with_home(_text(value))
    store_url.parse(url)
    return url


def _with_home(url: str) -> str:
    """Expand ``~/`` in the path of a SQLite file."""
    scheme, colon, rest = url.partition(":")
    return f"{scheme}{colon}{_path(rest)}" if scheme.lower() == "sqlite" and rest.startswith(("~/", "$")) else url


def _push_url(value: Any) -> str:
    path = _text(value).partition("?")[0]
    if value and not (path.startswith(("http://", "https://")) and path.rstrip("/").endswith(PUSH_PATHS)):
        raise ValueError

    return str(value)


def _listen(value: Any) -> str:
    """Check a path, or a host and a port; `sidecard.config.validation` decides which hosts are allowed."""
    if _text(value).startswith("unix:"):
        raise AdviceError("write the path of a socket without unix:")

    if "://" in value:
        raise AdviceError("write host and port alone, without a scheme")

    if value and "/" not in value:
        host, _, port = value.rpartition(":")
        if port.isdecimal() and not host:
            raise AdviceError("add the host, such as 127.0.0.1, before the port")

        if ":" not in value:
            raise AdviceError("add the port after the host, or a slash if it is a path")

        if not host or not port.isdecimal() or (":" in host and not (host.startswith("[") and host.endswith("]"))):
            raise ValueError

        _within(int(port), 0, MAX_PORT)

    return _path(value)


def _patterns(value: Any) -> tuple[str, ...]:
    for item in _list(value):
        try:
            re.compile(item if isinstance(item, str) else _invalid())
        except (re.error, OverflowError, RecursionError):
            raise ValueError from None

    return tuple(value)


def _flag(value: Any) -> bool:
    return value if isinstance(value, bool) else _invalid()


def _flag_from_text(text: str) -> bool:
    try:
        return WORDS[text.strip().lower()]
    except KeyError:
        raise ValueError from None


def _mode(value: Any) -> int:
    return _within(int(value, 8) if isinstance(value, str) else _whole(value), 0, _PERMISSION_BITS)


def _group(value: Any) -> str | int:
    if isinstance(value, str) and not value.isdecimal():
        return _some_text(value)

    return _within(int(value) if isinstance(value, str) else _whole(value), 0, MAX_ID)


def _ids(value: Any) -> tuple[int, ...]:
    return tuple(_within(_whole(item), 0, MAX_ID) for item in _list(value))


def _name(value: Any) -> str:
    return value if isinstance(value, str) and 1 <= len(value) <= MAX_NAME_CHARACTERS else _invalid()


def _names(value: Any) -> tuple[str, ...]:
    return tuple(map(_name, value)) if len(_list(value)) <= MAX_NAMES else _invalid()


def _addresses(value: Any) -> tuple[str, ...]:
    from sidecard.config.sovereignty import parse_allowed  # noqa: PLC0415 - rarely set, and it would slow down every start

    for item in _list(value):
        parse_allowed(_some_text(item))

    return tuple(value)


def _shared_with(value: Any) -> SharedWith:
    if value == "all":
        return SharedWith(everyone=True)

    uids, gids = set[int](), set[int]()
    for item in _list(value):
        kind, _, id_text = item.partition(":") if isinstance(item, str) else ("uid", "", str(_whole(item)))
        if kind not in {"uid", "gid"} or not id_text.isdecimal():
            raise ValueError

        (uids if kind == "uid" else gids).add(_within(int(id_text), 0, MAX_ID))

    return SharedWith(uids=frozenset(uids), gids=frozenset(gids))


def _show_shared_with(value: SharedWith) -> Any:
    return "all" if value.everyone else [*sorted(value.uids), *(f"gid:{gid}" for gid in sorted(value.gids))]


def _shared_with_from_text(text: str) -> Any:
    return "all" if text.strip().strip('"') == "all" else _ids_from_text(text)


def _names_from_text(text: str) -> Any:
    if text.strip().startswith("["):
        return parse_json(text)

    return [item.strip() for item in text.split(",") if item.strip()]


def _ids_from_text(text: str) -> Any:
    if text.strip().startswith("["):
        return parse_json(text)

    return [int(item) if item.isdecimal() else item for item in _names_from_text(text)]


def parse_json(text: str) -> Any:
    """Return the value of JSON text.

    Raises `ValueError`, also for strings without a UTF-8 form, which could not be logged.
    """
    import json  # noqa: PLC0415 - rarely needed, and it would slow down every start

    try:
        value = json.loads(text)
        json.dumps(value, ensure_ascii=False).encode()
    except RecursionError:
        raise ValueError from None

    return value


def _number_from_text(text: str) -> int | float:
    try:
        return int(text)
    except ValueError:
        return float(text)


def _real(value: Any) -> float:
    # An integer may be larger than any float.
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) <= MAX_REAL:
        raise ValueError

    return value


def _whole(value: Any) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) else _invalid()


def _within(value: _Number, least: float, most: float) -> _Number:
    return value if least <= value <= most else _invalid()


def _redacted_items(value: Any) -> Any:
    return [redacted(item) if isinstance(item, str) else item for item in value] if isinstance(value, list) else "***"


TEXT = Parser("text", _text)
PATH = Parser('the path of a file, or "" for none', _path)
SOCKET_PATH = Parser("the path of a socket", _some_path)
SECRET = Parser("text", _text, show=lambda text: "***" if text else "", mask=_masked)
NAME = Parser(f"a name of 1 to {MAX_NAME_CHARACTERS} characters", _name)
NAMES = Parser(
    f'a list of at most {MAX_NAMES} names such as ["local", "cloud"], each of 1 to {MAX_NAME_CHARACTERS} characters',
    _names,
    _names_from_text,
    list,
)
ADDRESSES = Parser(
    'a list of host names, IP addresses and networks such as ["redis.internal", "100.64.0.7", "2001:db8::/32"]',
    _addresses,
    _names_from_text,
    list,
    _redacted_items,
)
RATE = number(0.0, 1.0, above=True)
FLAG = Parser("true or false", _flag, _flag_from_text)
CALLS_URL = Parser(
    'sqlite:PATH, postgresql://USER@HOST:PORT/DATABASE, or "" for the state directory',
    lambda value: _with_home(_text(value)),
    show=redacted,
    mask=_masked,
)
STORE_URL = Parser(store_url.EXPECTS, _store_url, show=lambda url: url and redacted(url), mask=_masked)
PUSH_URL = Parser(
    f'http://HOST:PORT or https://HOST:PORT with a path that ends in {" or ".join(PUSH_PATHS)}, or "" for none',
    _push_url,
    show=redacted,
    mask=_masked,
)
LISTEN = Parser(
    'an address such as "127.0.0.1:9464" or "[::1]:9464", the path of a socket, or "" for none',
    _listen,
    mask=_shown_address,
)
PATTERNS = Parser(
    'a list of regular expressions such as ["[0-9]{16}"]',
    _patterns,
    lambda text: parse_json(text) if text else [],
    list,
)
MODE = Parser('file permissions, as text "0660" or as the octal number 0o660', _mode, show=lambda mode: f"{mode:04o}")
GROUP = Parser("the name of a group or its number", _group)
IDS = Parser("a list of whole numbers such as [1000, 1001]", _ids, _ids_from_text, list)
SHARED_WITH = Parser(
    '"all", or a list of uids (1000) and gids ("gid:1000")', _shared_with, _shared_with_from_text, _show_shared_with
)
