"""The call log in a SQLite file: one that writes, and any number of processes that read meanwhile.

==================================  ===================================================================================
what is wrong with the file         what becomes of it
==================================  ===================================================================================
not a database, damaged             set aside as ``NAME.corrupt``, and begun anew
of another program, a later one's   left alone
removed or replaced meanwhile       begun anew, or the new one is used
locked, full, read-only             tried again, with the same rows
==================================  ===================================================================================

The file and its write-ahead log stay within ``max_bytes``: before rows are added the oldest ones make room for them.
What is removed is overwritten: retention is also a promise.
"""

import contextlib
import os
import sqlite3
import stat
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Final

from sidecard.observe.call_log.rows import COLUMNS, CallsError, Row, add_all, first_id, insertion
from sidecard.observe.call_log.sqlite_file import ForeignError, connect, is_damage, is_ours, number, schema, set_aside

PATIENCE_SECONDS: Final = 2.0
"""How long a statement waits for other processes that use the file."""

DAY_SECONDS: Final = 86400.0

_WAL_SHARE: Final = 16
_MIN_WAL_BYTES, _MAX_WAL_BYTES = 64 * 1024, 4 * 1024 * 1024
"""Of the write-ahead log, before it is moved into the file; also of rows in one transaction, and removed in one."""

_RESERVED_WALS: Final = 4
"""What of ``max_bytes`` is not the file's: a log that a reader holds back for a moment, and what is estimated too low."""

_STEP_ROWS: Final = 2000

_INSERT: Final = insertion("calls", "?")
_NEVER = (sqlite3.DataError, sqlite3.IntegrityError, sqlite3.InterfaceError, sqlite3.ProgrammingError)
_NEVER_KEPT: Final = (*_NEVER, OverflowError, UnicodeError)
"""What is raised for a row that the file cannot have."""


class SqliteCallWriter:
    """See `sidecard.observe.call_log.rows.CallWriter`. ``retention_days`` 0 keeps rows whatever their age; the clock is the wall's."""

    def __init__(self, path: Path, *, max_bytes: int, retention_days: float, wall_clock: Callable[[], float]) -> None:
        self._path = path
        self._wal_bytes = min(max(_MIN_WAL_BYTES, max_bytes // _WAL_SHARE), _MAX_WAL_BYTES)
        self._max_bytes = max_bytes - _RESERVED_WALS * self._wal_bytes
        """Of the file itself."""
        self._retention_seconds = retention_days * DAY_SECONDS
        self._wall_clock = wall_clock
        self._connection: sqlite3.Connection | None = None
        self._identity: tuple[int, int] | None = None
        self._page_bytes = 4096
        self._damage = ""
        self._remark = ""

    @property
    def place(self) -> str:
        """See `CallWriter`."""
        return str(self._path)

    def write(self, rows: Sequence[Row]) -> int:
        """See `CallWriter`."""
        with self._used() as connection:
            refused = 0
            for some in _portions(rows, self._wal_bytes):
                self._make_room(connection, some)
                refused += add_all(some, partial(_add, connection), _NEVER_KEPT)
                self._bound_log(connection)

            return refused

    def tidy(self) -> bool:
        """See `CallWriter`."""
        with self._used() as connection:
            oldest_kept = first_id(self._wall_clock() - self._retention_seconds) if self._retention_seconds else ""
            more = bool(oldest_kept) and self._remove_some(connection, oldest_kept) > 0
            if self._filled_bytes(connection) > self._max_bytes:
                more = self._remove_some(connection) > 0 or more
            elif self._page_bytes * (pages := number(connection, "PRAGMA page_count")) > self._max_bytes:
                # The limit is lower than it was.
                # As a script: the statement has a step for each page, of which Python 3.11's execute takes one.
                connection.executescript(f"PRAGMA incremental_vacuum({self._wal_bytes // self._page_bytes})")
                more = number(connection, "PRAGMA page_count") < pages or more
                # The file is cut where the log is moved into it; nothing may be written for hours from here on.
                connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()

            self._bound_log(connection)
            return more

    def remark(self) -> str:
        """See `CallWriter`."""
        remark, self._remark = self._remark, ""
        return remark

    def close(self) -> None:
        """See `CallWriter`."""
        if self._connection is not None:
            connection, self._connection = self._connection, None
            with contextlib.suppress(sqlite3.Error):
                connection.close()

    # The file --------------------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def _used(self) -> Iterator[sqlite3.Connection]:
        """Open the file where it is not open. Raises `CallsError` for what SQLite raises within, and lets go of the file."""
        try:
            yield self._opened()
        except sqlite3.Error as error:
            if is_damage(error):
                self._damage = str(error)

            self.close()
            raise CallsError(f"{self._path} cannot be written ({error})") from error
        except (OSError, ForeignError) as error:
            self.close()
            reason = error.strerror if isinstance(error, OSError) else str(error)
            raise CallsError(f"{self._path} cannot be used: {reason}") from error

    def _opened(self) -> sqlite3.Connection:
        if self._connection is not None and _identity(self._path) != self._identity:
            self.close()

        if self._damage:
            aside = set_aside(self._path)
            self._remark = f"the call log was begun anew: {self._path} was damaged ({self._damage}) and is now {aside}"
            self._damage = ""

        if self._connection is None:
            self._connection = self._open()
            self._identity = _identity(self._path)

        return self._connection

    def _open(self) -> sqlite3.Connection:
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK
        descriptor = os.open(self._path, flags, 0o600)
        try:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise ForeignError("it is not a regular file: choose another calls.url")
        finally:
            os.close(descriptor)

        connection = connect(self._path, "mode=rw", PATIENCE_SECONDS)
        try:
            fresh = not is_ours(connection)
            connection.execute("PRAGMA auto_vacuum = INCREMENTAL")
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = NORMAL")
            connection.execute("PRAGMA secure_delete = ON")
            connection.execute(f"PRAGMA journal_size_limit = {self._wal_bytes}")
            self._page_bytes = number(connection, "PRAGMA page_size")
            connection.execute(f"PRAGMA wal_autocheckpoint = {self._wal_bytes // self._page_bytes}")
            if fresh:
                connection.executescript(schema())
        except BaseException:
            connection.close()
            raise

        return connection

    # Room ------------------------------------------------------------------------------------------------------------

    def _make_room(self, connection: sqlite3.Connection, rows: Sequence[Row]) -> None:
        # A row that is larger than a page leaves a part of its last one empty; what is small is a bit more in the file.
        wanted = sum(
            row.bytes * 5 // 4 + (self._page_bytes if row.bytes > self._page_bytes // 4 else 0) for row in rows
        )
        while self._filled_bytes(connection) + wanted > self._max_bytes:
            if not self._remove_some(connection):
                return

    def _filled_bytes(self, connection: sqlite3.Connection) -> int:
        pages = number(connection, "PRAGMA page_count") - number(connection, "PRAGMA freelist_count")
        return pages * self._page_bytes

    def _remove_some(self, connection: sqlite3.Connection, before: str = "g") -> int:
        """Remove the oldest rows whose ids are below ``before``, about a log full of them; return how many."""
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

    def _bound_log(self, connection: sqlite3.Connection) -> None:
        """Empty the log where SQLite has not by itself, because somebody was reading."""
        log = self._path.with_name(f"{self._path.name}-wal")
        with contextlib.suppress(FileNotFoundError):
            if log.stat().st_size > 2 * self._wal_bytes:
                connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()


def _add(connection: sqlite3.Connection, rows: Sequence[Row]) -> None:
    connection.execute("BEGIN IMMEDIATE")
    try:
        connection.executemany(_INSERT, [tuple(getattr(row, name) for name in COLUMNS) for row in rows])
        connection.execute("COMMIT")
    except BaseException:
        with contextlib.suppress(sqlite3.Error):
            connection.execute("ROLLBACK")

        raise


def _portions(rows: Sequence[Row], max_bytes: int) -> Iterator[list[Row]]:
    """Yield ``rows`` in portions of ``max_bytes``, or of one row that has more."""
    portion: list[Row] = []
    portion_bytes = 0
    for row in rows:
        if portion and portion_bytes + row.bytes > max_bytes:
            yield portion
            portion, portion_bytes = [], 0

        portion.append(row)
        portion_bytes += row.bytes

    if portion:
        yield portion


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        status = path.stat()
    except OSError:
        return None

    return status.st_dev, status.st_ino
