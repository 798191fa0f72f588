"""Where the call log is: a URL to what writes or reads there. What a place needs to be imported is imported for that place."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from sidecard.errors import ConfigError
from sidecard.observe.call_log.log import CallLog
from sidecard.observe.call_log.rows import CallReader, CallsAbsentError, CallWriter
from sidecard.observe.call_log.texts import MAX_TEXT_BYTES

FILE_NAME: Final = "calls.sqlite"
"""In the state directory, where ``calls.url`` says nothing."""

_NO_PSYCOPG: Final = (
    "calls.url leads to PostgreSQL, and psycopg cannot be loaded ({}); "
    'install it with `pip install "sidecard[postgres]"`, or let calls.url be sqlite:PATH'
)
_NOWHERE: Final = "there is no state directory, and calls.url says nothing: name a file with calls.url = sqlite:PATH"


SMALLEST_SHARE: Final = 32
"""One prompt or answer has at most so much less than the whole log."""


def open_log(
    url: str,
    state: Path | None,
    *,
    shown_url: str,
    host: str,
    redact: Sequence[str],
    retention_days: float,
    max_bytes: int,
    wall_clock: Callable[[], float],
    clock: Callable[[], float],
    say: Callable[..., None],
    count: Callable[[str, int], None],
) -> CallLog:
    """Return the call log at ``url``, else in the directory ``state``; see `CallLog`, and `open_writer`."""
    writer = open_writer(
        url,
        state,
        shown_url=shown_url,
        max_bytes=max_bytes,
        retention_days=retention_days,
        wall_clock=wall_clock,
        clock=clock,
    )
    max_text_bytes = min(MAX_TEXT_BYTES, max_bytes // SMALLEST_SHARE)
    return CallLog(writer, host=host, say=say, count=count, redact=redact, max_text_bytes=max_text_bytes)


def require(url: str) -> None:
    """Load what the log at ``url`` needs. Raises `ConfigError` where it is not installed, or the path cannot be."""
    if not url or _path(url, None) is not None:
        return

    try:
        import sidecard.observe.call_log.postgres  # noqa: F401, PLC0415 - see the module's text
    except ImportError as error:
        raise ConfigError([_NO_PSYCOPG.format(error)]) from error


def open_writer(
    url: str,
    state: Path | None,
    *,
    shown_url: str,
    max_bytes: int,
    retention_days: float,
    wall_clock: Callable[[], float],
    clock: Callable[[], float],
) -> CallWriter:
    """Return what writes the call log at ``url``, else in the directory ``state``. It connects when it is first used.

    ``shown_url`` is the URL without its password. Raises `ConfigError` where there is no such place.
    """
    path = _path(url, state)
    if path is not None:
        from sidecard.observe.call_log.sqlite import SqliteCallWriter  # noqa: PLC0415 - see the module's text

        return SqliteCallWriter(path, max_bytes=max_bytes, retention_days=retention_days, wall_clock=wall_clock)

    if not url:
        raise ConfigError([f"calls.enabled is true, but {_NOWHERE}"])

    require(url)
    from sidecard.observe.call_log.postgres import PostgresCallWriter  # noqa: PLC0415 - see the module's text

    return PostgresCallWriter(
        url,
        place=shown_url,
        max_bytes=max_bytes,
        retention_days=retention_days,
        wall_clock=wall_clock,
        clock=clock,
    )


def open_reader(url: str, state: Path | None, *, shown_url: str) -> CallReader:
    """Return what reads the call log that `open_writer` writes.

    Raises `ConfigError`, `CallsError`, or `CallsAbsentError` where there is none yet.
    """
    path = _path(url, state)
    if path is not None:
        from sidecard.observe.call_log.sqlite_reader import SqliteCallReader  # noqa: PLC0415 - see the module's text

        return SqliteCallReader(path)

    if not url:
        raise CallsAbsentError(f"{_NOWHERE}, or give STATE_DIRECTORY as the daemon has it")

    require(url)
    from sidecard.observe.call_log.postgres import PostgresCallReader  # noqa: PLC0415 - see the module's text

    return PostgresCallReader(url, place=shown_url)


def _path(url: str, state: Path | None) -> Path | None:
    """Return the file that is meant; None where none is. Raises `ConfigError` where it is a path that cannot be."""
    if not url:
        return None if state is None else state / FILE_NAME

    scheme, _, rest = url.partition(":")
    if scheme.lower() != "sqlite":
        return None

    # sqlite:///var/lib/x is the same file as sqlite:/var/lib/x.
    text = rest.removeprefix("//")
    if not text.startswith("/") or text.endswith("/"):
        raise ConfigError(["calls.url: what follows sqlite: should be the absolute path of a file"])

    return Path(text)
