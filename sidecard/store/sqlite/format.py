"""The SQLite file of a store: its tables, its lock, and a reader of single entries.

Each entry has a place in one of two FIFO queues (``queue`` 0 is the small one, 1 the main one; ``turn`` is the place in it):
see `sidecard.store.sqlite.writer`. ``sums`` has each queue's entries and bytes, kept by triggers.
"""

from collections.abc import Callable
from pathlib import Path

from sidecard.core.records import Record
from sidecard.persistence.files import FileLock
from sidecard.persistence.sqlite_file import SqliteConnection, SqliteFormat, UnusableError, connect
from sidecard.store.sqlite.rows import EntryRow, Instant, record_of
from sidecard.store.validation import is_value

EXPIRY_BATCH = 1000
"""Rows removed in one statement, so that a commit stays short."""

CACHE_PRAGMA = "cache_size = -8192"
"""In KiB: SQLite's page cache of one connection."""

_SCHEMA = """
CREATE TABLE entries (
    id INTEGER PRIMARY KEY,
    scope TEXT NOT NULL,
    key TEXT NOT NULL,
    stored_at REAL NOT NULL,
    expires_at REAL NOT NULL,
    bytes INTEGER NOT NULL,
    queue INTEGER NOT NULL,
    turn INTEGER NOT NULL,
    asked INTEGER NOT NULL,
    tags TEXT,
    about BLOB NOT NULL,
    value BLOB NOT NULL,
    UNIQUE (scope, key)
);
CREATE INDEX expiry ON entries (expires_at);
CREATE INDEX turns ON entries (queue, turn);
CREATE TABLE sums (queue INTEGER PRIMARY KEY, entries INTEGER NOT NULL, bytes INTEGER NOT NULL);
INSERT INTO sums VALUES (0, 0, 0), (1, 0, 0);
CREATE TRIGGER entered AFTER INSERT ON entries BEGIN
    UPDATE sums SET entries = entries + 1, bytes = bytes + NEW.bytes WHERE queue = NEW.queue;
END;
CREATE TRIGGER gone AFTER DELETE ON entries BEGIN
    UPDATE sums SET entries = entries - 1, bytes = bytes - OLD.bytes WHERE queue = OLD.queue;
END;
CREATE TRIGGER moved AFTER UPDATE OF queue ON entries WHEN OLD.queue <> NEW.queue BEGIN
    UPDATE sums SET entries = entries - 1, bytes = bytes - OLD.bytes WHERE queue = OLD.queue;
    UPDATE sums SET entries = entries + 1, bytes = bytes + NEW.bytes WHERE queue = NEW.queue;
END"""

STORE_FORMAT = SqliteFormat(0x5344_4344, 1, _SCHEMA, "store.url")

LOOK_UP = "SELECT id, stored_at, expires_at, about, value FROM entries WHERE scope = ? AND key = ?"

EXPIRE = "DELETE FROM entries WHERE id IN (SELECT id FROM entries WHERE expires_at <= ? LIMIT ?)"


def lock_store(path: Path) -> FileLock:
    """Return the right to write to a store, which one process has at a time. Raises `UnusableError`."""
    lock_path = path.with_name(f"{path.name}.lock")
    try:
        return FileLock(lock_path)
    except BlockingIOError as error:
        raise UnusableError(f"another process uses {path}") from error
    except OSError as error:
        raise UnusableError(f"{lock_path} cannot be opened ({error.strerror})") from error


def connect_store(path: Path, mode: str) -> SqliteConnection:
    """Open an existing store. ``mode`` is ``ro`` or ``rw``. Raises `sqlite3.Error`."""
    connection = connect(path, mode)
    connection.execute(f"PRAGMA {CACHE_PRAGMA}")
    return connection


class InvalidEntryError(Exception):
    """An entry is as it was written, but no client can decode its value."""


class StoreReader:
    """Looks entries up, over a connection of its own. ``now`` reads the clocks. All methods raise `sqlite3.Error`."""

    def __init__(self, path: Path, now: Callable[[], Instant]) -> None:
        self._connection = connect_store(path, "ro")
        self._now = now

    def look(self, scope: str, key: str) -> tuple[int, Record] | None:
        """Return an entry with its row's id; None if there is none, or it has expired. Raises `InvalidEntryError`."""
        row = self._connection.execute(LOOK_UP, (scope, key)).fetchone()
        if row is None:
            return None

        record = record_of(EntryRow(scope, key, *row[1:]), self._now())
        if record is None or record.age_seconds >= record.ttl_seconds:
            return None

        if not is_value(record.value, compressed=record.compressed):
            raise InvalidEntryError

        return row[0], record

    def close(self) -> None:
        """Disconnect."""
        self._connection.close()
