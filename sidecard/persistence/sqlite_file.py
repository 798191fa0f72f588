"""SQLite files that may be damaged, foreign or missing: how they are recognized, opened and set aside.

A file is recognized by its header's ``application_id``, and its layout by ``user_version``.
A damaged file is renamed to ``NAME.corrupt``; a foreign or later one is left as it is.
"""

import contextlib
import sqlite3
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from msgspec import Struct

from sidecard.errors import SidecardError
from sidecard.persistence.files import create_regular

_SIDE_FILES = ("-wal", "-shm")
_execute = sqlite3.Connection.execute


class DamagedError(SidecardError):
    """The file is not a database, or not a whole one."""


class UnusableError(SidecardError):
    """The file must not be used, or cannot be used at the moment. It is left as it is."""


class ForeignError(UnusableError):
    """The file belongs to another program, or to a later version of sidecard."""


class SqliteConnection(sqlite3.Connection):
    """A connection that raises `sqlite3.DatabaseError` also where SQLite's own message quotes damaged bytes."""

    def execute(self, statement: str, values: Any = (), /) -> sqlite3.Cursor:
        """Run one statement."""
        try:
            return _execute(self, statement, values)
        except UnicodeDecodeError as error:
            raise damage("SQLite's message about its tables is not UTF-8") from error

    def number(self, statement: str, values: Iterable[Any] = ()) -> int:
        """Run a statement and return the one number that it yields."""
        return int(self.execute(statement, tuple(values)).fetchone()[0])


class SqliteFormat(Struct, frozen=True):
    """One kind of SQLite file. ``schema`` creates its tables; ``setting`` is the setting that names the file."""

    application_id: int
    version: int
    schema: str
    setting: str

    def open(
        self, path: Path, pragmas: Iterable[str] = (), *, patience_seconds: float = 0.0, probe: str = ""
    ) -> SqliteConnection:
        """Open a file for writing; create it, and its tables, if they are missing.

        ``pragmas`` are set before the tables are created, ``probe`` is a statement that a whole file can run.
        Raises `DamagedError`, `UnusableError`, or `sqlite3.Error`.
        """
        try:
            regular = create_regular(path)
        except OSError as error:
            raise UnusableError(f"{path} cannot be opened ({error.strerror})") from error

        if not regular:
            raise ForeignError(f"{path} is not a regular file: choose another {self.setting}")

        connection: SqliteConnection | None = None
        try:
            connection = connect(path, "rw", patience_seconds)
            empty = not self.recognizes(connection, path)
            for pragma in pragmas:
                connection.execute(f"PRAGMA {pragma}")

            if empty:
                # In one transaction: a half-made schema would later be taken for another program's database.
                connection.executescript(
                    f"BEGIN IMMEDIATE; {self.schema}; PRAGMA application_id = {self.application_id};"
                    f" PRAGMA user_version = {self.version}; COMMIT;"
                )
            elif probe:
                connection.execute(probe).fetchone()
        except BaseException as error:
            if connection is not None:
                connection.close()

            if isinstance(error, sqlite3.Error):
                raise as_damaged(path, error) from error

            raise

        return connection

    def recognizes(self, connection: SqliteConnection, path: Path) -> bool:
        """Return whether a file has these tables; False if it is empty yet. Raises `ForeignError`."""
        application_id = connection.number("PRAGMA application_id")
        version = connection.number("PRAGMA user_version")
        if not application_id and not version and not connection.execute("SELECT 1 FROM sqlite_master").fetchone():
            return False

        if application_id != self.application_id:
            raise ForeignError(f"{path} is the database of another program: choose another {self.setting}")

        if version > self.version:
            raise ForeignError(f"{path} was written by a later version of sidecard: move it away, or run that version")

        return True


def connect(path: Path, mode: str, patience_seconds: float = 0.0) -> SqliteConnection:
    """Open an existing file, outside of transactions. Raises `sqlite3.Error`.

    ``mode`` is ``ro`` or ``rw``, possibly with further URI options; ``patience_seconds`` bounds the wait for other processes.
    """
    connection = sqlite3.connect(
        f"{path.absolute().as_uri()}?mode={mode}",
        uri=True,
        isolation_level=None,
        check_same_thread=False,
        timeout=patience_seconds,
        factory=SqliteConnection,
    )
    try:
        connection.execute("SELECT 1 FROM sqlite_master").fetchone()  # the first read is the first to notice damage
    except BaseException:
        connection.close()
        raise

    return connection


def damage(what: str) -> sqlite3.DatabaseError:
    """Return the error for damage that SQLite did not notice by itself."""
    error = sqlite3.DatabaseError(what)
    error.sqlite_errorcode = sqlite3.SQLITE_CORRUPT
    return error


def is_damage(error: sqlite3.Error, *, schema_too: bool = False) -> bool:
    """Return whether an error means that the file is not whole, or with ``schema_too`` lacks a table or column."""
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    return code in {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB} or (schema_too and "no such" in str(error))


def as_damaged(path: Path, error: sqlite3.Error) -> Exception:
    """Return `DamagedError` for damage that is found while a file is opened, else the error itself."""
    return DamagedError(f"{path} is damaged ({error})") if is_damage(error, schema_too=True) else error


def set_aside(path: Path) -> Path:
    """Rename a damaged file and its log to ``NAME.corrupt``, for inspection; return that name. Raises `OSError`."""
    aside = path.with_name(f"{path.name}.corrupt")
    for suffix in _SIDE_FILES:
        # An earlier damaged file's log must not stay either: SQLite would apply it to this one.
        aside.with_name(aside.name + suffix).unlink(missing_ok=True)
        with contextlib.suppress(FileNotFoundError):
            path.with_name(path.name + suffix).replace(aside.with_name(aside.name + suffix))

    path.replace(aside)
    return aside
