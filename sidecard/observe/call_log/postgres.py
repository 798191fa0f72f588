"""The call log in PostgreSQL: one table, ``sidecard_calls``, which any number of hosts may share.

Creating the table requires the right to create in the first schema of the search path. After that a daemon needs SELECT,
INSERT, UPDATE and DELETE (no row is changed, but PostgreSQL requires UPDATE for locking rows). Where hosts' retention differs,
the shortest wins. ``max_bytes`` bounds the sum of `sidecard.observe.call_log.rows.CallRow.bytes` of all hosts; the size on disk is
up to PostgreSQL, which compresses long texts and reuses the room of removed rows after a vacuum.

Nothing depends on a database session: a pooler such as PgBouncer may be in between.
"""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, Final

import psycopg
from psycopg import conninfo, errors

from sidecard.errors import ConfigError
from sidecard.observe.call_log.rows import (
    COLUMNS,
    DAY_SECONDS,
    CallLogError,
    CallRow,
    Filter,
    NoCallLogError,
    add_all,
    column_definitions,
    first_id,
    insertion,
    page_query,
)

TABLE: Final = "sidecard_calls"

SCHEMA_NOTE: Final = "sidecard call log, schema 1"
"""The table's comment, by which it is recognized."""

_UNREADABLE: Final = (
    "calls.url cannot be read: write postgresql://USER:PASSWORD@HOST:PORT/DATABASE,"
    " with %40, %2F and so on for special characters in the password"
)

CONNECT_SECONDS: Final = 5
STATEMENT_SECONDS: Final = 15
READ_SECONDS: Final = 60
"""A filter that few rows match reads the whole table for one page."""

SIZE_PAUSE_SECONDS: Final = 600.0
"""Between two measurements of the table: each reads all rows once, without their texts."""

_STEP_ROWS: Final = 1000
_ADVISORY_LOCK: Final = 0x5344_4341
"""Held while the table is created: of several hosts that start at the same time, one creates it."""

_DEFAULTS: Final[dict[str, Any]] = {
    "application_name": "sidecard",
    "connect_timeout": CONNECT_SECONDS,
    # A server that vanishes is noticed within these seconds.
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 20_000,
}
_TYPES: Final = {
    "id": 'text COLLATE "C" PRIMARY KEY',
    **dict.fromkeys(("at_seconds", "billed_dollars", "saved_dollars", "seconds", "age_seconds"), "double precision"),
    **dict.fromkeys(("uid", "pid", "prompt_tokens", "completion_tokens", "bytes"), "bigint"),
}
_INSERT: Final = insertion(TABLE, "%s")
_NEVER_KEPT: Final = (errors.DataError, errors.IntegrityError, UnicodeError)
"""Raised for a row that the table can never store."""


class PostgresCallWriter:
    """See `sidecard.observe.call_log.rows.CallWriter`. ``place`` is the URL without its password; ``clock`` is monotonic.

    ``retention_days`` 0 keeps rows of any age. Raises `ConfigError` if the URL cannot be read.
    """

    def __init__(
        self,
        url: str,
        *,
        place: str,
        max_bytes: int,
        retention_days: float,
        wall_clock: Callable[[], float],
        clock: Callable[[], float],
    ) -> None:
        self._parameters = _parameters(url)
        self._place = place
        self._max_bytes = max_bytes
        self._retention_seconds = retention_days * DAY_SECONDS
        self._wall_clock = wall_clock
        self._clock = clock
        self._connection: psycopg.Connection[Any] | None = None
        self._oldest_kept = ""
        """Rows with ids below exceed ``max_bytes``."""
        self._measure_at = float("-inf")

    @property
    def place(self) -> str:
        """See `CallWriter`."""
        return self._place

    def write(self, rows: Sequence[CallRow]) -> int:
        """See `CallWriter`."""
        with self._used() as connection:
            return add_all(rows, partial(_add, connection), _NEVER_KEPT)

    def prune(self) -> bool:
        """See `CallWriter`."""
        with self._used() as connection:
            self._measure(connection)
            bounds = [self._oldest_kept]
            if self._retention_seconds:
                bounds.append(first_id(self._wall_clock() - self._retention_seconds))

            # In steps, skipping rows that another host is removing.
            with _transaction(connection, STATEMENT_SECONDS):
                removed = connection.execute(
                    f"DELETE FROM {TABLE} WHERE id IN (SELECT id FROM {TABLE} WHERE id < %s ORDER BY id LIMIT %s"  # noqa: S608 - constants
                    " FOR UPDATE SKIP LOCKED)",
                    (max(bounds), _STEP_ROWS),
                ).rowcount

            return removed == _STEP_ROWS

    def notice(self) -> str:
        """See `CallWriter`."""
        return ""

    def close(self) -> None:
        """See `CallWriter`."""
        if self._connection is not None:
            connection, self._connection = self._connection, None
            with contextlib.suppress(psycopg.Error):
                connection.close()

    def _measure(self, connection: psycopg.Connection[Any]) -> None:
        now = self._clock()
        if now < self._measure_at:
            return

        self._measure_at = now + SIZE_PAUSE_SECONDS
        with _transaction(connection, STATEMENT_SECONDS):
            ((newest_removed,),) = connection.execute(
                f"SELECT max(id) FROM (SELECT id, sum(bytes) OVER (ORDER BY id DESC) AS newer FROM {TABLE}) AS sums"  # noqa: S608 - constants
                " WHERE newer > %s",
                (self._max_bytes,),
            ).fetchall()

        # The oldest row that is kept follows it.
        self._oldest_kept = "" if newest_removed is None else f"{newest_removed}0"

    @contextlib.contextmanager
    def _used(self) -> Iterator[psycopg.Connection[Any]]:
        """Connect if not connected. On errors within, disconnects and raises `CallLogError`."""
        try:
            if self._connection is None:
                self._connection = _connected(self._parameters)
                _make_table(self._connection)

            yield self._connection
        except psycopg.Error as error:
            self.close()
            raise CallLogError(f"{self._place} cannot be written ({_reason(error)})") from error
        except CallLogError:
            self.close()
            raise


class PostgresCallReader:
    """See `sidecard.observe.call_log.rows.CallReader`. ``place`` is the URL without its password.

    Raises `ConfigError` if the URL cannot be read, `CallLogError` if the server cannot be reached.
    """

    def __init__(self, url: str, *, place: str) -> None:
        self._place = place
        parameters = _parameters(url)
        with self._errors_translated():
            self._connection = _connected(parameters)
            self._connection.read_only = True

    def page(self, wanted: Filter, *, after: str, newest_first: bool, limit: int, texts: bool) -> list[CallRow]:
        """See `CallReader`."""
        sql, values = page_query(TABLE, "%s", wanted, after=after, newest_first=newest_first, limit=limit, texts=texts)
        with self._errors_translated(), _transaction(self._connection, READ_SECONDS):
            return [CallRow(*values) for values in self._connection.execute(sql.encode(), values)]

    def close(self) -> None:
        """See `CallReader`."""
        with contextlib.suppress(psycopg.Error):
            self._connection.close()

    @contextlib.contextmanager
    def _errors_translated(self) -> Iterator[None]:
        try:
            yield
        except (errors.UndefinedTable, errors.UndefinedColumn) as error:
            raise NoCallLogError(f"there is no call log at {self._place} ({_reason(error)})") from error
        except psycopg.Error as error:
            raise CallLogError(f"{self._place} cannot be read now ({_reason(error)})") from error


def _parameters(url: str) -> dict[str, Any]:
    """Parse a URL. Raises `ConfigError`, without the URL: its password may be the part that cannot be parsed."""
    try:
        parameters: dict[str, Any] = conninfo.conninfo_to_dict(url)
    except psycopg.Error:
        raise ConfigError([_UNREADABLE]) from None

    host, port, database = (str(parameters.get(name) or "") for name in ("host", "port", "dbname"))
    ports = port.replace(",", "")
    # A "@" or "/" in a password ends it early; the rest would be reported as an unknown host.
    if "@" in f"{host}{port}{database}" or (ports and not ports.isdecimal()):
        raise ConfigError([_UNREADABLE])

    return _DEFAULTS | parameters


def _connected(parameters: dict[str, Any]) -> psycopg.Connection[Any]:
    # No prepared statements: they belong to a session.
    return psycopg.connect(**parameters, autocommit=True, prepare_threshold=None)


@contextlib.contextmanager
def _transaction(connection: psycopg.Connection[Any], seconds: int) -> Iterator[None]:
    with connection.transaction():
        connection.execute(f"SET LOCAL statement_timeout = '{seconds}s'")
        connection.execute(f"SET LOCAL lock_timeout = '{seconds}s'")
        yield


def _make_table(connection: psycopg.Connection[Any]) -> None:
    with _transaction(connection, STATEMENT_SECONDS):
        connection.execute("SELECT pg_advisory_xact_lock(%s)", (_ADVISORY_LOCK,))
        ((note, table),) = connection.execute(
            "SELECT obj_description(to_regclass(%s)), to_regclass(%s)", (TABLE, TABLE)
        ).fetchall()
        if table is None:
            columns = column_definitions(_TYPES, "text")
            connection.execute(f"CREATE TABLE {TABLE} ({columns})".encode())
            connection.execute(f"COMMENT ON TABLE {TABLE} IS '{SCHEMA_NOTE}'")
        elif note != SCHEMA_NOTE:
            raise CallLogError(
                f"the table {TABLE} is not this version's call log (its comment is not {SCHEMA_NOTE!r}):"
                " choose another database in calls.url, or rename that table"
            )


def _add(connection: psycopg.Connection[Any], rows: Sequence[CallRow]) -> None:
    with _transaction(connection, STATEMENT_SECONDS), connection.cursor() as cursor:
        cursor.executemany(_INSERT.encode(), [tuple(getattr(row, name) for name in COLUMNS) for row in rows])


def _reason(error: psycopg.Error) -> str:
    # Without the details, which quote the row.
    return " ".join((error.diag.message_primary or str(error) or type(error).__name__).split())
