"""Parse ``store.url``, strictly: a wrong address is an error at the start, not at the first call."""

from pathlib import Path
from typing import Literal

from msgspec import Struct

NONE = frozenset({"", "none"})
"""Values for no store. An empty environment variable counts as not set, so there is a word for it."""

DEFAULT_PORT = 6379
DEFAULT_SENTINEL_PORT = 26379

EXPECTS = (
    "sqlite:PATH, redis://HOST:PORT/DB, rediss://HOST:PORT/DB, unix:///PATH?db=DB, "
    'redis+sentinel://HOST:PORT,HOST:PORT/SERVICE/DB, redis+cluster://HOST:PORT,HOST:PORT, or "none"'
)

_KINDS: dict[str, tuple[Literal["single", "sentinel", "cluster"], bool]] = {
    "redis": ("single", False),
    "valkey": ("single", False),
    "rediss": ("single", True),
    "valkeys": ("single", True),
    "redis+sentinel": ("sentinel", False),
    "rediss+sentinel": ("sentinel", True),
    "redis+cluster": ("cluster", False),
    "rediss+cluster": ("cluster", True),
}


class SqliteAddress(Struct, frozen=True):
    """A SQLite file."""

    path: Path


class RedisAddress(Struct, frozen=True):
    """One Redis server, its sentinels, or nodes of a cluster. ``hosts`` is empty if ``path`` is a Unix socket."""

    kind: Literal["single", "sentinel", "cluster"]
    hosts: tuple[tuple[str, int], ...]
    path: str = ""
    tls: bool = False
    db: int = 0
    service: str = ""
    username: str = ""
    password: str = ""


def parse(url: str) -> SqliteAddress | RedisAddress | None:
    """Parse an address; None is no store. Raises `ValueError`, whose text is part of a sentence without the URL's secrets."""
    if url.lower() in NONE:
        return None

    scheme, colon, rest = url.partition(":")
    scheme = scheme.lower()
    if scheme == "sqlite" and colon:
        return SqliteAddress(sqlite_path(rest))

    if scheme == "unix" and rest.startswith("//"):
        return _unix(rest)

    if scheme not in _KINDS or not rest.startswith("//"):
        raise ValueError(f"it should be {EXPECTS}")

    from urllib.parse import unquote, urlsplit  # noqa: PLC0415 - for Redis only, and it would slow down every start

    kind, tls = _KINDS[scheme]
    parts = urlsplit(f"redis:{rest}")
    credentials, _, hosts = parts.netloc.rpartition("@")
    if parts.query or parts.fragment:
        raise ValueError("it has a query; use settings such as store.ca_file instead")

    default = DEFAULT_SENTINEL_PORT if kind == "sentinel" else DEFAULT_PORT
    username, _, password = credentials.partition(":")
    names = [name for name in parts.path.split("/") if name]
    service = ""
    if kind == "sentinel":
        if not names:
            raise ValueError("it has no service name; write redis+sentinel://HOST:PORT/SERVICE")

        service = unquote(names.pop(0))
    elif kind == "single" and "," in hosts:
        raise ValueError("it has several hosts; write redis+cluster:// or redis+sentinel://")
    elif kind == "cluster" and names not in ([], ["0"]):
        raise ValueError("it has a database number, and a cluster has only database 0")

    return RedisAddress(
        kind,
        tuple(_host(text, default) for text in hosts.split(",")),
        tls=tls,
        db=_db("/".join(names)),
        service=service,
        username=unquote(username),
        password=unquote(password),
    )


def sqlite_path(rest: str) -> Path:
    """Return the file of a SQLite URL from the part after ``sqlite:``. Raises `ValueError` like `parse`."""
    # sqlite:///var/lib/x is the same file as sqlite:/var/lib/x.
    text = rest.removeprefix("//")
    if not text.startswith("/") or text.endswith("/"):
        raise ValueError("the part after sqlite: should be the absolute path of a file")

    return Path(text)


def _unix(rest: str) -> RedisAddress:
    from urllib.parse import unquote  # noqa: PLC0415 - as above

    credentials, at, place = rest.removeprefix("//").rpartition("@")
    path, _, query = place.partition("?")
    if not path.startswith("/"):
        raise ValueError("the part after unix:// should be the absolute path of a socket")

    key, _, db = query.partition("=")
    if query and key != "db":
        raise ValueError("its query should be db=N at most")

    username, _, password = credentials.partition(":") if at else ("", "", "")
    return RedisAddress("single", (), path, db=_db(db), username=unquote(username), password=unquote(password))


def _host(text: str, default_port: int) -> tuple[str, int]:
    from urllib.parse import urlsplit  # noqa: PLC0415 - as above

    try:
        parts = urlsplit(f"//{text}")
        host, port = parts.hostname, parts.port
    except ValueError:
        host, port = None, None

    if not host:
        raise ValueError("its host is not HOST or HOST:PORT")

    return host, port or default_port


def _db(text: str) -> int:
    if text and not text.isdecimal():
        raise ValueError("its database is not a number")

    return int(text or 0)
