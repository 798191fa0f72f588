"""The call log in a SQLite file: one writer, and any number of processes that read meanwhile.

=====================================  ================================================================================
problem with the file                  consequence
=====================================  ================================================================================
not a database, damaged                set aside as ``NAME.corrupt``, and recreated
of another program, a later version's  left alone
removed or replaced meanwhile          recreated, or the new one is used
locked, full, read-only                tried again, with the same rows
=====================================  ================================================================================

The file and its write-ahead log stay within ``max_bytes``: the oldest rows make room for new ones.
Removed rows are overwritten: retention is also a promise.
"""

import contextlib
import os
import sqlite3
import stat
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Final

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
from sidecard.persistence.batches import batches
from sidecard.persistence.sqlite_file import (
    DamagedError,
    ForeignError,
    SqliteConnection,
    SqliteFormat,
    UnusableError,
    as_damaged,
    connect,
    is_damage,
    set_aside,
)

WRITE_PATIENCE_SECONDS: Final = 2.0
READ_PATIENCE_SECONDS: Final = 5.0
"""How long a statement waits for other processes that use the file."""

_WAL_SHARE: Final = 16
_MIN_WAL_BYTES, _MAX_WAL_BYTES = 64 * 1024, 4 * 1024 * 1024
"""Size of the write-ahead log before it is moved into the file; also of rows added or removed in one transaction."""

_RESERVED_WALS: Final = 4
"""Write-ahead logs that ``max_bytes`` has room for: one that a reader delays, and estimates that are too low."""

_STEP_ROWS: Final = 2000

_INSERT: Final = insertion("calls", "?")
_NEVER_KEPT: Final = (
    sqlite3.DataError,
    sqlite3.IntegrityError,
    sqlite3.InterfaceError,
    sqlite3.ProgrammingError,
    OverflowError,
    UnicodeError,
)
"""Raised for a row that the file can never store."""

_TYPES: Final = {
    **dict.fromkeys(("at_seconds", "billed_dollars", "saved_dollars", "seconds", "age_seconds"), "REAL"),
    **dict.fromkeys(("uid", "pid", "prompt_tokens", "completion_tokens", "bytes"), "INTEGER"),
}


_SCHEMA: Final = f"CREATE TABLE calls ({column_definitions(_TYPES, 'TEXT')}, UNIQUE (id))"

CALLS_FORMAT: Final = SqliteFormat(0x5344_4341, 1, _SCHEMA, "calls.url")


class SqliteCallWriter:
    """See `sidecard.observe.call_log.rows.CallWriter`. ``retention_days`` 0 keeps rows of any age; the clock is the wall's."""

    def __init__(self, path: Path, *, max_bytes: int, retention_days: float, wall_clock: Callable[[], float]) -> None:
        self._path = path
        self._wal_bytes = min(max(_MIN_WAL_BYTES, max_bytes // _WAL_SHARE), _MAX_WAL_BYTES)
        self._max_bytes = max_bytes - _RESERVED_WALS * self._wal_bytes
        """Limit of the file itself."""
        self._retention_seconds = retention_days * DAY_SECONDS
        self._wall_clock = wall_clock
        self._connection: SqliteConnection | None = None
        self._identity: tuple[int, int] | None = None
        self._page_bytes = 4096
        self._damage = ""
        """The damage found last: the file is set aside before it is used again."""
        self._notice = ""

    @property
    def place(self) -> str:
        """See `CallWriter`."""
        return str(self._path)

    def write(self, rows: Sequence[CallRow]) -> int:
        """See `CallWriter`."""
        with self._used() as connection:
            refused = 0
            for portion in batches(rows, lambda row: row.bytes, self._wal_bytes):
                self._make_room(connection, portion)
                refused += add_all(portion, partial(_add, connection), _NEVER_KEPT)
                self._bound_log(connection)

            return refused

    def prune(self) -> bool:
        """See `CallWriter`."""
        with self._used() as connection:
            oldest_kept = first_id(self._wall_clock() - self._retention_seconds) if self._retention_seconds else ""
            more = bool(oldest_kept) and self._remove_some(connection, oldest_kept) > 0
            if self._filled_bytes(connection) > self._max_bytes:
                more = self._remove_some(connection) > 0 or more
            elif self._page_bytes * (pages := connection.number("PRAGMA page_count")) > self._max_bytes:
                # The limit was lowered.
                # As a script: the statement has a step for each page, and Python 3.11's execute takes only one.
                connection.executescript(f"PRAGMA incremental_vacuum({self._wal_bytes // self._page_bytes})")
                more = connection.number("PRAGMA page_count") < pages or more
                # The file shrinks when the log is moved into it, and hours may pass until something is written.
                connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()

            self._bound_log(connection)
            return more

    def notice(self) -> str:
        """See `CallWriter`."""
        notice, self._notice = self._notice, ""
        return notice

    def close(self) -> None:
        """See `CallWriter`."""
        if self._connection is not None:
            connection, self._connection = self._connection, None
            with contextlib.suppress(sqlite3.Error):
                connection.close()

    # The file --------------------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def _used(self) -> Iterator[SqliteConnection]:
        """Open the file if it is not open. On errors within, closes it and raises `CallLogError`."""
        try:
            yield self._open()
        except sqlite3.Error as error:
            if is_damage(error, schema_too=True):
                self._damage = str(as_damaged(self._path, error))

            self.close()
            raise CallLogError(f"{self._path} cannot be written ({error})") from error
        except DamagedError as error:
            self._damage = str(error)
            raise CallLogError(str(error)) from error
        except UnusableError as error:
            raise CallLogError(str(error)) from error
        except OSError as error:
            self.close()
            raise CallLogError(f"{self._path} cannot be used ({error.strerror})") from error

    def _open(self) -> SqliteConnection:
        if self._connection is not None and _identity(self._path) != self._identity:
            self.close()

        if self._damage:
            aside = set_aside(self._path)
            self._notice = f"the call log was recreated: {self._damage}, and is now {aside}"
            self._damage = ""

        if self._connection is not None:
            return self._connection

        pragmas = [
            "auto_vacuum = INCREMENTAL",
            "journal_mode = WAL",
            "synchronous = NORMAL",
            "secure_delete = ON",
            f"journal_size_limit = {self._wal_bytes}",
        ]
        connection = CALLS_FORMAT.open(self._path, pragmas, patience_seconds=WRITE_PATIENCE_SECONDS)
        self._connection = connection
        self._identity = _identity(self._path)
        self._page_bytes = connection.number("PRAGMA page_size")
        connection.execute(f"PRAGMA wal_autocheckpoint = {self._wal_bytes // self._page_bytes}")
        return connection

    # Room ------------------------------------------------------------------------------------------------------------

    def _make_room(self, connection: SqliteConnection, rows: Sequence[CallRow]) -> None:
        # A row larger than a page leaves part of its last page empty; a small one takes a bit more in the file.
        wanted = sum(
            row.bytes * 5 // 4 + (self._page_bytes if row.bytes > self._page_bytes // 4 else 0) for row in rows
        )
        while self._filled_bytes(connection) + wanted > self._max_bytes:
            if not self._remove_some(connection):
                return

    def _filled_bytes(self, connection: SqliteConnection) -> int:
        pages = connection.number("PRAGMA page_count") - connection.number("PRAGMA freelist_count")
        return pages * self._page_bytes

    def _remove_some(self, connection: SqliteConnection, before: str = "g") -> int:
        """Remove the oldest rows with ids below ``before``, about one write-ahead log full; return how many."""
        last, removed_bytes = "", 0
        oldest = connection.execute(
            "SELECT id, bytes FROM calls WHERE id < ? ORDER BY id LIMIT ?", (before, _STEP_ROWS)
        )
        for row_id, row_bytes in oldest.fetchall():
            if last and removed_bytes + row_bytes > self._wal_bytes:
                break

            last = row_id
            removed_bytes += row_bytes

        if not last:
            return 0

        return connection.execute("DELETE FROM calls WHERE id <= ?", (last,)).rowcount

    def _bound_log(self, connection: SqliteConnection) -> None:
        """Empty the write-ahead log where SQLite could not, because of a reader."""
        log = self._path.with_name(f"{self._path.name}-wal")
        with contextlib.suppress(FileNotFoundError):
            if log.stat().st_size > 2 * self._wal_bytes:
                connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()


class SqliteCallReader:
    """See `sidecard.observe.call_log.rows.CallReader`. Raises `NoCallLogError` if there is no call log, else `CallLogError`."""

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            regular = stat.S_ISREG(path.stat().st_mode)
        except OSError as error:
            raise NoCallLogError(f"there is no call log at {path} ({error.strerror})") from error

        if not regular:
            # SQLite would wait for a writer to open a FIFO.
            raise NoCallLogError(f"there is no call log at {path}: it is not a regular file")

        with self._errors_translated():
            self._connection = self._connect()
            try:
                if not CALLS_FORMAT.recognizes(self._connection, path):
                    raise NoCallLogError(f"{path} is empty: no daemon has created a call log in it yet")
            except BaseException:
                self._connection.close()
                raise

    def page(self, wanted: Filter, *, after: str, newest_first: bool, limit: int, texts: bool) -> list[CallRow]:
        """See `CallReader`."""
        sql, values = page_query("calls", "?", wanted, after=after, newest_first=newest_first, limit=limit, texts=texts)
        with self._errors_translated():
            return [CallRow(*columns) for columns in self._connection.execute(sql, values)]

    def close(self) -> None:
        """See `CallReader`."""
        self._connection.close()

    def _connect(self) -> SqliteConnection:
        try:
            return connect(self._path, "ro", READ_PATIENCE_SECONDS)
        except sqlite3.OperationalError:
            # Readers share memory in a file beside it, which cannot be created on a read-only disk, where nobody writes.
            if os.access(self._path.parent, os.W_OK) or self._path.with_name(f"{self._path.name}-wal").exists():
                raise

        return connect(self._path, "ro&immutable=1", READ_PATIENCE_SECONDS)

    @contextlib.contextmanager
    def _errors_translated(self) -> Iterator[None]:
        try:
            yield
        except ForeignError as error:
            raise NoCallLogError(f"there is no call log: {error}") from error
        except sqlite3.Error as error:
            if is_damage(error, schema_too=True):
                raise NoCallLogError(f"{self._path} is damaged ({error}): a daemon sets it aside") from error

            raise CallLogError(f"{self._path} cannot be read now ({error})") from error


def _add(connection: SqliteConnection, rows: Sequence[CallRow]) -> None:
    connection.execute("BEGIN IMMEDIATE")
    try:
        connection.executemany(_INSERT, [tuple(getattr(row, name) for name in COLUMNS) for row in rows])
        connection.execute("COMMIT")
    except BaseException:
        with contextlib.suppress(sqlite3.Error):
            connection.execute("ROLLBACK")

        raise


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        status = path.stat()
    except OSError:
        return None

    return status.st_dev, status.st_ino
