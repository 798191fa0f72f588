"""The file of a call log in SQLite: what is ours, and what is wrong with it."""

import contextlib
import sqlite3
from pathlib import Path
from typing import Final

from sidecard.errors import SidecardError
from sidecard.observe.call_log.rows import COLUMNS

APPLICATION_ID: Final = 0x5344_4341
"""In the header of every file of ours, so that nobody else's is taken for one."""

SCHEMA_VERSION: Final = 1

_TYPES: Final = {"REAL": {"at_seconds", "billed_dollars", "saved_dollars", "seconds", "age_seconds"},
                 "INTEGER": {"uid", "pid", "prompt_tokens", "completion_tokens", "bytes"}}  # fmt: skip


class ForeignError(SidecardError):
    """The file is somebody else's."""


def schema() -> str:
    """Return the SQL that makes a log of an empty file: all of it or nothing.

    A half-made schema would be another program's database from then on.
    """
    kinds = {name: kind for kind, names in _TYPES.items() for name in names}
    columns = [
        f"{name} {kinds.get(name, 'TEXT')}{'' if name in {'key', 'prompt', 'answer'} else ' NOT NULL'}"
        for name in COLUMNS
    ]
    return (
        f"BEGIN IMMEDIATE; CREATE TABLE calls ({', '.join(columns)}, UNIQUE (id));"
        f" PRAGMA application_id = {APPLICATION_ID}; PRAGMA user_version = {SCHEMA_VERSION}; COMMIT;"
    )


def connect(path: Path, options: str, patience_seconds: float) -> sqlite3.Connection:
    """Open an existing file. ``options`` are those of SQLite's URIs, such as ``mode=ro``. Raises `sqlite3.Error`."""
    connection = sqlite3.connect(
        f"{path.absolute().as_uri()}?{options}",
        uri=True,
        isolation_level=None,
        check_same_thread=False,
        timeout=patience_seconds,
    )
    try:
        connection.execute("SELECT 1 FROM sqlite_master").fetchone()  # the first that reads the file
    except BaseException:
        connection.close()
        raise

    return connection


def is_ours(connection: sqlite3.Connection) -> bool:
    """Tell whether a file has our schema; False where it is empty yet. Raises `ForeignError` where it is another's."""
    application_id = number(connection, "PRAGMA application_id")
    version = number(connection, "PRAGMA user_version")
    if not application_id and not version and not connection.execute("SELECT 1 FROM sqlite_master").fetchone():
        return False

    if application_id != APPLICATION_ID:
        raise ForeignError("it is the database of another program: choose another calls.url")

    if version > SCHEMA_VERSION:
        raise ForeignError("it was written by a later version of sidecard: move it away, or run that version")

    return True


def number(connection: sqlite3.Connection, statement: str) -> int:
    """Return the one number that a statement has for an answer."""
    return int(connection.execute(statement).fetchone()[0])


def is_damage(error: sqlite3.Error) -> bool:
    """Tell whether SQLite says that the file is not whole, or lacks what a log has."""
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    return code in {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB} or "no such" in str(error)


def set_aside(path: Path) -> Path:
    """Rename a damaged file and what belongs to it, so that it can be looked at. Raises `OSError`."""
    aside = path.with_name(f"{path.name}.corrupt")
    for suffix in ("-wal", "-shm"):
        # Nor may what belonged to an earlier one stay: SQLite would take it for this one's.
        aside.with_name(aside.name + suffix).unlink(missing_ok=True)
        with contextlib.suppress(FileNotFoundError):
            path.with_name(path.name + suffix).replace(aside.with_name(aside.name + suffix))

    path.replace(aside)
    return aside
