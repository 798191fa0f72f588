"""How the value of one setting is read: from TOML, where it has a type, and from text (environment, flags).

A `Reading` says in ``expects`` what would be right, so that each error can.
"""

import re
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

from sidecard.config import store_url
from sidecard.core.settings import SharedWith
from sidecard_client.call.sovereign import WORDS

MAX_SECONDS = 366 * 86400.0
"""As `sidecard_client.protocol.wire.Seconds`."""

MAX_ID = 2**32 - 2
"""The largest uid or gid; 2^32-1 means "none" to the kernel."""

MAX_COUNT = 2**53
"""As `sidecard_client.protocol.wire.Count`."""

MAX_NUMBER = 1e9
"""As `sidecard_client.protocol.wire.Dollars`."""

MAX_NAME_CHARACTERS = 128
"""As `sidecard_client.protocol.wire.Name`."""

MAX_REAL = 1e300
"""Above every bound here; what is larger, infinite or no number is refused before it is compared with one."""

MAX_PORT = 65535

PUSH_PATHS = ("/api/v1/import", "/api/v1/import/prometheus", "/api/v1/write")
"""What a target takes shows in its path, as these servers have it."""

MAX_NAMES = 16
"""As `sidecard_client.protocol.wire.Begin.backends`."""

_UNITS = {"": 1, "b": 1} | {
    name: base**power
    for power, letter in enumerate("kmgt", 1)
    for name, base in ((f"{letter}ib", 1024), (f"{letter}b", 1000))
}
_BYTE_SIZE = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([a-z]*)\s*", re.IGNORECASE)
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*")
_HOST = re.compile(r"(?:\[[0-9A-Fa-f:.%]*\]|[\w.%-]*)(?::\d*)?")
"""One, with its port, which is a number: ``redis://me:secret/0`` lacks an ``@``, and what it shows must not be the rest."""
_PATH = re.compile(r"[\w.~:/%,+-]*")
_PERMISSION_BITS = 0o777


_Number = TypeVar("_Number", int, float)


class Reading(NamedTuple):
    """One kind of value. ``read`` and ``parse`` raise `ValueError` where the value is not ``expects``."""

    expects: str
    read: Callable[[Any], Any]
    """Takes a value of a TOML type."""
    parse: Callable[[str], Any] = str
    """Turns text into what ``read`` takes."""
    show: Callable[[Any], Any] = lambda value: value
    """Turns what ``read`` returned into plain types that may be shown."""
    mask: Callable[[Any], Any] = lambda value: value
    """Turns a value that is wrong into what its error may show."""


def count(least: int = 0, most: int = MAX_COUNT) -> Reading:
    """A whole number between ``least`` and ``most``."""
    return Reading(
        f"a whole number, {_bounds(least, most)}", lambda value: _within(_whole(value), least, most), _number
    )


def seconds(least: float = 0.0) -> Reading:
    """A time span of ``least`` or more."""
    expects = f"a number of seconds, {_bounds(least, MAX_SECONDS)}"
    return Reading(expects, lambda value: float(_within(_real(value), least, MAX_SECONDS)), _number)


def number(least: float = 0.0, most: float = MAX_NUMBER, *, above: bool = False) -> Reading:
    """A number between ``least`` and ``most``; with ``above``, not ``least`` itself."""

    def read(value: Any) -> float:
        real = float(_within(_real(value), least, most))
        if above and real == least:
            raise ValueError

        return real

    bounds = f"above {least:.15g} and at most {most:.15g}" if above else _bounds(least, most)
    return Reading(f"a number, {bounds}", read, _number)


def byte_size(least: int = 0, most: int = MAX_COUNT) -> Reading:
    """A number of bytes, or text with a unit."""

    def read(value: Any) -> int:
        if isinstance(value, str):
            match = _BYTE_SIZE.fullmatch(value)
            if match is None or match[2].lower() not in _UNITS:
                raise ValueError

            unit = _UNITS[match[2].lower()]
            size = float(match[1]) * unit if "." in match[1] else int(match[1]) * unit
            value = int(size) if size <= most else most + 1

        return _within(_whole(value), least, most)

    return Reading(f'a number of bytes such as 268435456 or "256MiB", {_bounds(least, most)}', read)


def choice(*words: str) -> Reading:
    """One of ``words``."""

    def read(value: Any) -> str:
        if value not in words:
            raise ValueError

        return str(value)

    return Reading("one of " + ", ".join(f'"{word}"' for word in words), read)


def choices(*words: str) -> Reading:
    """Read a list of words, each one of ``words``, in any order and each once."""

    def read(value: Any) -> tuple[str, ...]:
        if not isinstance(value, list) or not all(word in words for word in value):
            raise ValueError

        return tuple(word for word in words if word in value)

    return Reading(f"a list of any of {', '.join(map(repr, words))}", read, _parse_names, list)


def _bounds(least: float, most: float) -> str:
    return f"at least {least:g}" if most == MAX_COUNT else f"between {least:.15g} and {most:.15g}"


def _text(value: Any) -> str:
    if not isinstance(value, str) or not value or "\0" in value:
        raise ValueError

    return value


def _url(value: Any) -> str:
    if not isinstance(value, str) or "\0" in value:
        raise ValueError

    return value


def _store_url(value: Any) -> str:
    store_url.parse(_url(value))
    return str(value)


def _push_url(value: Any) -> str:
    path = _url(value).partition("?")[0]
    if value and not (path.startswith(("http://", "https://")) and path.rstrip("/").endswith(PUSH_PATHS)):
        raise ValueError

    return str(value)


def _listen(value: Any) -> str:
    """Take a path, or a host and a port; which hosts may be meant is a question of more than one setting."""
    if "://" in _url(value):
        raise ValueError

    if value and "/" not in value:
        host, _, port = value.rpartition(":")
        if not host or not port.isdecimal() or (":" in host and not (host.startswith("[") and host.endswith("]"))):
            raise ValueError

        _within(int(port), 0, MAX_PORT)

    return str(value)


def _patterns(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise ValueError

    for item in value:
        try:
            re.compile(item)
        except (re.error, OverflowError, RecursionError):
            raise ValueError from None

    return tuple(value)


def _flag(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError  # noqa: TRY004 - the one error of a reading

    return value


def _parse_flag(text: str) -> bool:
    try:
        return WORDS[text.strip().lower()]
    except KeyError:
        raise ValueError from None


def _mode(value: Any) -> int:
    bits = int(value, 8) if isinstance(value, str) else _whole(value)
    return _within(bits, 0, _PERMISSION_BITS)


def _group(value: Any) -> str | int:
    if isinstance(value, str) and not value.isdecimal():
        return _text(value)

    return _within(int(value) if isinstance(value, str) else _whole(value), 0, MAX_ID)


def _ids(value: Any) -> tuple[int, ...]:
    if not isinstance(value, list):
        raise ValueError  # noqa: TRY004 - the one error of a reading

    return tuple(_within(_whole(item), 0, MAX_ID) for item in value)


def _name(value: Any) -> str:
    if not isinstance(value, str) or not 1 <= len(value) <= MAX_NAME_CHARACTERS:
        raise ValueError

    return value


def _names(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list) or len(value) > MAX_NAMES:
        raise ValueError

    return tuple(_name(item) for item in value)


def _addresses(value: Any) -> tuple[str, ...]:
    from sidecard.config.sovereignty import allowed  # noqa: PLC0415 - few daemons list any, and a start counts its milliseconds

    if not isinstance(value, list):
        raise ValueError  # noqa: TRY004 - the one error of a reading

    for item in value:
        allowed(_text(item))

    return tuple(value)


def _shared_with(value: Any) -> SharedWith:
    if value == "all":
        return SharedWith(everyone=True)

    if not isinstance(value, list):
        raise ValueError  # noqa: TRY004 - the one error of a reading

    uids, gids = set[int](), set[int]()
    for item in value:
        kind, _, number = item.partition(":") if isinstance(item, str) else ("uid", "", str(_whole(item)))
        if kind not in {"uid", "gid"} or not number.isdecimal():
            raise ValueError

        (uids if kind == "uid" else gids).add(_within(int(number), 0, MAX_ID))

    return SharedWith(uids=frozenset(uids), gids=frozenset(gids))


def _parse_list(text: str) -> Any:
    if text.strip().startswith("["):
        return parse_json(text)

    items = [item.strip() for item in text.split(",") if item.strip()]
    return [int(item) if item.isdecimal() else item for item in items]


def _parse_names(text: str) -> Any:
    if text.strip().startswith("["):
        return parse_json(text)

    # Not as `_parse_list`: a name may be all digits.
    return [item.strip() for item in text.split(",") if item.strip()]


def _parse_shared_with(text: str) -> Any:
    return "all" if text.strip().strip('"') == "all" else _parse_list(text)


def parse_json(text: str) -> Any:
    """Return what JSON says. Raises `ValueError`, also for text in it that has no UTF-8 form: nobody could be told of it."""
    import json  # noqa: PLC0415 - rarely needed, and a start counts its milliseconds

    try:
        value = json.loads(text)
        json.dumps(value, ensure_ascii=False).encode()
    except RecursionError:
        raise ValueError from None

    return value


def _number(text: str) -> int | float:
    try:
        return int(text)
    except ValueError:
        return float(text)


def _real(value: Any) -> float:
    # An integer may be larger than any float, which is no number of seconds either.
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) <= MAX_REAL:
        raise ValueError

    return value


def _whole(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise ValueError  # noqa: TRY004 - the one error of a reading

    return value


def _within(value: _Number, least: float, most: float) -> _Number:
    if not least <= value <= most:
        raise ValueError

    return value


def redacted(url: str) -> str:
    """Return a URL as it may be shown: scheme and place, without credentials and query, and nothing of what may be neither.

    Not parsed: a password with an unescaped ``/`` or ``?`` would be taken for a path. Nor is all that operators have in a
    ``DATABASE_URL`` a URL: ``host=h password=p``, ``Server=h;Password=p``.
    """
    if url.lower().startswith("sqlite:") or not url:
        return url

    scheme, separator, rest = url.partition("://")
    if not separator:
        scheme, rest = "", url

    _, at, place = rest.rpartition("@")
    place, question, _ = place.partition("?")
    hosts, _, path = place.partition("/")
    plain = all(map(_HOST.fullmatch, hosts.split(","))) and _PATH.fullmatch(path) and (_SCHEME.fullmatch(scheme) or at)
    if not plain:
        return "***"

    return f"{scheme}{separator}{'***@' if at else ''}{place}{'?***' if question else ''}"


def _redacted_items(value: Any) -> Any:
    return [redacted(item) if isinstance(item, str) else item for item in value] if isinstance(value, list) else "***"


def _show_shared_with(value: SharedWith) -> Any:
    return "all" if value.everyone else [*sorted(value.uids), *(f"gid:{gid}" for gid in sorted(value.gids))]


TEXT = Reading("text that is not empty", _text)
NAME = Reading(f"a name of 1 to {MAX_NAME_CHARACTERS} characters", _name)
NAMES = Reading(
    f'a list of at most {MAX_NAMES} names such as ["local", "cloud"], each of 1 to {MAX_NAME_CHARACTERS} characters',
    _names,
    _parse_names,
    list,
)
ADDRESSES = Reading(
    'a list of host names, IP addresses and networks such as ["redis.internal", "100.64.0.7", "2001:db8::/32"]',
    _addresses,
    _parse_names,
    list,
    _redacted_items,
)
RATE = number(0.0, 1.0, above=True)
FLAG = Reading("true or false", _flag, _parse_flag)
CALLS_URL = Reading(
    'sqlite:PATH, postgresql://USER@HOST:PORT/DATABASE, or "" for the state directory',
    _url,
    show=redacted,
    mask=lambda _: "***",
)
STORE_URL = Reading(store_url.EXPECTS, _store_url, show=lambda url: url and redacted(url), mask=lambda _: "***")
PUSH_URL = Reading(
    f'http://HOST:PORT or https://HOST:PORT with a path that ends in {" or ".join(PUSH_PATHS)}, or "" for none',
    _push_url,
    show=redacted,
    mask=lambda _: "***",
)
LISTEN = Reading(
    'an address such as "127.0.0.1:9464" or "[::1]:9464", the path of a socket, or "" for none',
    _listen,
    mask=lambda _: "***",
)
PATTERNS = Reading(
    'a list of regular expressions such as ["[0-9]{16}"]',
    _patterns,
    lambda text: parse_json(text) if text else [],
    list,
)
WORD = Reading("text", _url)
SECRET = Reading("text", _url, show=lambda text: "***" if text else "", mask=lambda _: "***")
MODE = Reading('file permissions, as text "0660" or as the octal number 0o660', _mode, show=lambda mode: f"{mode:04o}")
GROUP = Reading("the name of a group or its number", _group)
IDS = Reading("a list of whole numbers such as [1000, 1001]", _ids, _parse_list, list)
SHARED_WITH = Reading(
    '"all", or a list of uids (1000) and gids ("gid:1000")', _shared_with, _parse_shared_with, _show_shared_with
)
