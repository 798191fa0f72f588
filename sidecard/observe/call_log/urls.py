"""From ``calls.url`` to a call log's writer or reader. A database's driver is imported only if the URL names it."""

from collections.abc import Callable
from pathlib import Path
from typing import Final

from sidecard.config.redaction import redacted
from sidecard.config.schema import CallLogSettings
from sidecard.config.store_url import sqlite_path
from sidecard.errors import ConfigError
from sidecard.observe.call_log.log import CallLog
from sidecard.observe.call_log.redaction_process import MAX_TEXT_BYTES
from sidecard.observe.call_log.rows import CallReader, CallWriter, NoCallLogError

FILE_NAME: Final = "calls.sqlite"
"""In the state directory, where ``calls.url`` is empty."""

_NO_PSYCOPG: Final = (
    "calls.url leads to PostgreSQL, and psycopg cannot be loaded ({}); "
    'install it with `pip install "sidecard[postgres]"`, or let calls.url be sqlite:PATH'
)
NOWHERE: Final = "there is no state directory, and calls.url is empty: name a file with calls.url = sqlite:PATH"

SMALLEST_SHARE: Final = 32
"""One prompt or answer may take that fraction of the whole log."""


def open_log(
    settings: CallLogSettings,
    state: Path | None,
    *,
    host: str,
    wall_clock: Callable[[], float],
    clock: Callable[[], float],
    log: Callable[..., None],
    count: Callable[[str, int], None],
) -> CallLog:
    """Return the call log at ``calls.url``, or in the directory ``state`` if that is empty; see `CallLog`.

    It connects at its first write. Raises `ConfigError`.
    """
    url, max_bytes, retention_days = settings.url, settings.max_bytes, settings.retention_days
    path = _path(url, state)
    writer: CallWriter
    if path is not None:
        from sidecard.observe.call_log.sqlite import SqliteCallWriter  # noqa: PLC0415 - see the module's text

        writer = SqliteCallWriter(path, max_bytes=max_bytes, retention_days=retention_days, wall_clock=wall_clock)
    elif url:
        require(url)
        from sidecard.observe.call_log.postgres import PostgresCallWriter  # noqa: PLC0415 - see the module's text

        writer = PostgresCallWriter(
            url,
            place=redacted(url),
            max_bytes=max_bytes,
            retention_days=retention_days,
            wall_clock=wall_clock,
            clock=clock,
        )
    else:
        raise ConfigError([f"calls.enabled is true, but {NOWHERE}"])

    max_text_bytes = min(MAX_TEXT_BYTES, max_bytes // SMALLEST_SHARE)
    return CallLog(writer, host=host, log=log, count=count, redact=settings.redact, max_text_bytes=max_text_bytes)


def require(url: str) -> None:
    """Import the driver that ``url`` needs. Raises `ConfigError` if it is missing, or if the URL is invalid."""
    if not url or _path(url, None) is not None:
        return

    try:
        import sidecard.observe.call_log.postgres  # noqa: F401, PLC0415 - see the module's text
    except ImportError as error:
        raise ConfigError([_NO_PSYCOPG.format(error)]) from error


def open_reader(url: str, state: Path | None) -> CallReader:
    """Return the reader of the call log that `open_log` writes.

    Raises `ConfigError`, `CallLogError`, or `NoCallLogError` if there is none yet.
    """
    path = _path(url, state)
    if path is not None:
        from sidecard.observe.call_log.sqlite import SqliteCallReader  # noqa: PLC0415 - see the module's text

        return SqliteCallReader(path)

    if not url:
        raise NoCallLogError(f"{NOWHERE}, or set STATE_DIRECTORY as for the daemon")

    require(url)
    from sidecard.observe.call_log.postgres import PostgresCallReader  # noqa: PLC0415 - see the module's text

    return PostgresCallReader(url, place=redacted(url))


def _path(url: str, state: Path | None) -> Path | None:
    """Return the file that a URL names; None for other URLs. Raises `ConfigError` for an invalid path."""
    if not url:
        return None if state is None else state / FILE_NAME

    scheme, _, rest = url.partition(":")
    if scheme.lower() != "sqlite":
        return None

    try:
        return sqlite_path(rest)
    except ValueError as error:
        raise ConfigError([f"calls.url: {error}"]) from error
