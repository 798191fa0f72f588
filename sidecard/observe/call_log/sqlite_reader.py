"""The call log in a SQLite file as its readers see it, while a daemon writes or while none runs."""

import contextlib
import os
import sqlite3
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from sidecard.observe.call_log.rows import CallsAbsentError, CallsError, Filter, Row, page_query
from sidecard.observe.call_log.sqlite_file import ForeignError, connect, is_damage, is_ours

PATIENCE_SECONDS: Final = 5.0
"""How long a statement waits for other processes that use the file."""


class SqliteCallReader:
    """See `sidecard.observe.call_log.rows.CallReader`. Raises `CallsAbsentError` where there is no call log, else `CallsError`."""

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            regular = stat.S_ISREG(path.stat().st_mode)
        except OSError as error:
            raise CallsAbsentError(f"there is no call log at {path} ({error.strerror})") from error

        if not regular:
            # Not left to SQLite, which would wait for somebody to write to a FIFO.
            raise CallsAbsentError(f"there is no call log at {path}: it is not a regular file")

        with self._told():
            self._connection = self._connected()
            try:
                if not is_ours(self._connection):
                    raise CallsAbsentError(f"{path} is empty: no daemon has begun a call log in it yet")
            except BaseException:
                self._connection.close()
                raise

    def page(self, wanted: Filter, *, after: str, newest_first: bool, limit: int, texts: bool) -> list[Row]:
        """See `CallReader`."""
        sql, values = page_query("calls", "?", wanted, after=after, newest_first=newest_first, limit=limit, texts=texts)
        with self._told():
            return [Row(*values) for values in self._connection.execute(sql, values)]

    def close(self) -> None:
        """See `CallReader`."""
        self._connection.close()

    def _connected(self) -> sqlite3.Connection:
        try:
            return connect(self._path, "mode=ro", PATIENCE_SECONDS)
        except sqlite3.OperationalError:
            # Readers share memory in a file beside it, which cannot be made on a read-only disk; nobody can write there either.
            if os.access(self._path.parent, os.W_OK) or self._path.with_name(f"{self._path.name}-wal").exists():
                raise

        return connect(self._path, "mode=ro&immutable=1", PATIENCE_SECONDS)

    @contextlib.contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except ForeignError as error:
            raise CallsAbsentError(f"there is no call log at {self._path}: {error}") from error
        except sqlite3.Error as error:
            if is_damage(error):
                raise CallsAbsentError(f"{self._path} is damaged ({error}): a daemon sets it aside") from error

            raise CallsError(f"{self._path} cannot be read now ({error})") from error
