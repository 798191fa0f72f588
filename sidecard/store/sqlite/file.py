"""The file of the store on disk: what SQLite is told, in one thread at a time.

Write-ahead log, one writer, ``synchronous=NORMAL``: a killed daemon loses nothing that was committed, a host that loses power
may lose the last commits, and neither leaves anything but a whole file.

The policy is S3-FIFO (Yang et al., "FIFO queues are all you need for cache eviction", SOSP 2023), in two columns: ``queue`` 0 is
the small one, 1 the main one, and ``turn`` is the place in it. What is hit in memory is not hit here, so an entry's hits are
those that memory had no room for. Memory's own policy would have every row's worth in an index, for a disk that is rarely full.
"""

import contextlib
import fcntl
import os
import sqlite3
import stat
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from sidecard.core.cache.entry import MAX_RECENT_HITS
from sidecard.core.cache.memory import MAX_ENTRY_SHARE
from sidecard.core.effects import StorePurge, StoreRemove, StoreWrite
from sidecard.core.records import Record, index_tags_of_purge
from sidecard.errors import SidecardError
from sidecard.store.pending import Wish
from sidecard.store.sqlite.rows import Row, record_of, row_of

APPLICATION_ID = 0x5344_4344
"""In the header of every file of ours, so that nobody else's is taken for one."""

SCHEMA_VERSION = 1

ROW_BYTES = 250
"""What a row costs beside its texts and its value: its columns, and its places in three indexes."""

SMALL_SHARE = 0.1
"""Share of the bytes for newcomers: the paper's value, which its authors found flat between 5 and 20 %."""

EXPIRY_BATCH = 1000
"""Rows removed in one go, so that a commit stays short."""

WRITE_PATIENCE_MILLISECONDS = 2000
"""How long a commit waits for others that use the file, such as `sidecard cache export`."""

_WAL_BYTES = 16 * 1024 * 1024
_CACHE_KIBIBYTES = 8192
_MIN_GHOSTS = 64

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
END;
"""

_LOOK = "SELECT id, stored_at, expires_at, about, value FROM entries WHERE scope = ? AND key = ?"


class DamagedError(SidecardError):
    """What is in the file is no store, or no longer a whole one."""


class BypassedError(SidecardError):
    """The file is not to be used, or cannot be at the moment, as the message says; it is left as it is."""


class ForeignError(BypassedError):
    """The file is somebody else's."""


class Applied(NamedTuple):
    """What came of a batch: for each wish, how many live entries it removed; and what was done on the way."""

    removed: list[int]
    written: int
    evicted: int
    entries: int
    bytes: int


def is_damage(error: sqlite3.Error) -> bool:
    """Tell whether SQLite says that the file is not whole."""
    return getattr(error, "sqlite_errorcode", 0) & 0xFF in {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}


def connect(path: Path, mode: str, patience_seconds: float = 0.0) -> sqlite3.Connection:
    """Open an existing file. ``mode`` is ``ro`` or ``rw``. Raises `sqlite3.Error`."""
    connection = sqlite3.connect(
        f"{path.absolute().as_uri()}?mode={mode}",
        uri=True,
        isolation_level=None,
        check_same_thread=False,
        timeout=patience_seconds,
    )
    try:
        _execute(connection, f"PRAGMA cache_size = -{_CACHE_KIBIBYTES}")
    except BaseException:
        connection.close()  # the first that reads the file is the first that may find it damaged
        raise

    return connection


def check_version(connection: sqlite3.Connection, path: Path) -> bool:
    """Tell whether a file has our schema; False where it is empty yet. Raises `ForeignError` where it is another's."""
    application_id = connection.execute("PRAGMA application_id").fetchone()[0]
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    if not application_id and not version and not connection.execute("SELECT 1 FROM sqlite_master").fetchone():
        return False

    if application_id != APPLICATION_ID:
        raise ForeignError(f"{path} is the database of another program: choose another store.url")

    if version > SCHEMA_VERSION:
        raise ForeignError(f"{path} was written by a later version of sidecard: move it away, or run that version")

    return True


class FileLock:
    """The right to write to a store, which one process has at a time. Raises `BypassedError` where another has it."""

    def __init__(self, path: Path) -> None:
        name = path.with_name(f"{path.name}.lock")
        try:
            self._descriptor = os.open(name, os.O_RDONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK, 0o600)
        except OSError as error:
            raise BypassedError(f"{name} cannot be opened ({error.strerror})") from error

        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(self._descriptor)
            raise BypassedError(f"another process uses {path}") from error

    def close(self) -> None:
        """Let others have it."""
        os.close(self._descriptor)


class Reader:
    """Looks entries up, in a connection of its own. ``clock`` is the wall's. All methods raise `sqlite3.Error`."""

    def __init__(self, path: Path, clock: Callable[[], float]) -> None:
        self._connection = connect(path, "ro")
        self._clock = clock

    def look(self, scope: str, key: str) -> tuple[int, Record] | None:
        """Return an entry with its row's number; None where there is none that lives."""
        row = _execute(self._connection, _LOOK, scope, key).fetchone()
        if row is None:
            return None

        now = self._clock()
        record = record_of(Row(scope, key, *row[1:]), now)
        return None if record is None or now >= row[2] else (row[0], record)

    def close(self) -> None:
        """Disconnect."""
        self._connection.close()


class Writer:
    """Changes the file. ``clock`` is the wall's. All methods wait for the disk."""

    def __init__(self, path: Path, max_bytes: int, clock: Callable[[], float]) -> None:
        self._path = path
        self._max_bytes = max_bytes
        self._clock = clock
        self._ghosts: dict[int, None] = {}
        self._connection = _opened(path)
        self._entries, self._bytes = [0, 0], [0, 0]
        try:
            self._load_sums()
            (self._turn,) = self._ints("SELECT max(ifnull((SELECT max(turn) FROM entries WHERE queue = 0), 0),"
                                      " ifnull((SELECT max(turn) FROM entries WHERE queue = 1), 0))")  # fmt: skip
        except sqlite3.Error as error:
            self._connection.close()
            raise _as_damage(path, error) from error

    def apply(
        self,
        wishes: Sequence[tuple[Wish, float]],
        touched: Iterable[int] = (),
        *,
        clear: bool = False,
    ) -> Applied:
        """Do what is wanted, in one transaction: all of it or, where this raises `sqlite3.Error`, nothing.

        Each wish comes with the instant of the wall clock at which it was made. ``touched`` are rows that were hit;
        ``clear`` empties the file first.
        """
        removed, written, evicted = [], 0, 0
        self._connection.execute("BEGIN IMMEDIATE")
        try:
            if clear:
                self._run("DELETE FROM entries")
                self._load_sums()

            self._touch(touched)
            now = self._clock()
            for wish, made_at in wishes:
                match wish:
                    case StoreRemove(_, scope, key):
                        removed.append(self._remove(scope, key, now))
                    case StorePurge(_, namespace, tag, task):
                        removed.append(self._purge(namespace, index_tags_of_purge(tag, task), now))
                    case StoreWrite():
                        removed.append(0)
                        count, stored = self._write(wish, made_at, now)
                        evicted += count
                        written += stored

            self._expire(now)
            self._connection.execute("COMMIT")
        except BaseException:
            with contextlib.suppress(sqlite3.Error):
                self._connection.execute("ROLLBACK")

            with contextlib.suppress(sqlite3.Error):
                self._load_sums()

            raise

        return Applied(removed, written, evicted, *self.sums())

    def sums(self) -> tuple[int, int]:
        """Return how many entries there are, and their bytes."""
        return sum(self._entries), sum(self._bytes)

    def close(self) -> None:
        """Move all that is in the log into the file, and disconnect."""
        with contextlib.suppress(sqlite3.Error):
            self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")

        self._connection.close()

    def _write(self, wish: StoreWrite, made_at: float, now: float) -> tuple[int, bool]:
        self._remove(wish.scope, wish.key, now)
        record = wish.record
        expires_at = made_at + record.ttl_seconds
        charge = ROW_BYTES + len(wish.scope.encode()) + len(wish.key.encode()) + len(record.value)
        # What is only shared for a while is not worth a disk.
        if now >= expires_at or charge > self._max_bytes * MAX_ENTRY_SHARE:
            return 0, False

        evicted = self._make_room(charge, now)
        ghost = hash((wish.scope, wish.key))
        queue = int(ghost in self._ghosts)
        self._ghosts.pop(ghost, None)
        tags = msgspec.json.encode(record.index_tags).decode() if record.index_tags else None
        row = row_of(wish.scope, wish.key, record, float(made_at), float(expires_at))
        self._turn += 1
        self._run(
            "INSERT INTO entries (scope, key, stored_at, expires_at, bytes, queue, turn, asked, tags, about, value)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, 0, ?, ?, ?)",
            row.scope, row.key, row.stored_at, row.expires_at, charge, queue, self._turn, tags, row.about, row.value,
        )  # fmt: skip
        self._entries[queue] += 1
        self._bytes[queue] += charge
        return evicted, True

    def _remove(self, scope: str, key: str, now: float) -> int:
        row = self._one(
            "SELECT expires_at > ?, id, queue, bytes FROM entries WHERE scope = ? AND key = ?", now, scope, key
        )
        if row is None:
            return 0

        live, number, queue, charge = _whole(row, queue_at=2)
        self._delete(number, queue, charge)
        return live

    def _delete(self, number: int, queue: int, charge: int) -> None:
        self._run("DELETE FROM entries WHERE id = ?", number)
        self._entries[queue] -= 1
        self._bytes[queue] -= charge

    def _purge(self, namespace: str | None, marks: tuple[str, ...], now: float) -> int:
        # As `sidecard.core.scopes.covers`: a scope is an owner, a colon, and a name without one.
        where, values = ["1"], []
        if namespace is not None:
            where.append("(scope = ? OR substr(scope, instr(scope, ':') + 1) = ?)")
            values += [namespace, namespace]

        for mark in marks:
            where.append("tags IS NOT NULL AND EXISTS (SELECT 1 FROM json_each(tags) WHERE value = ?)")
            values.append(mark)

        condition = " AND ".join(where)
        live = self._one(f"SELECT count(*) FROM entries WHERE expires_at > ? AND {condition}", now, *values)  # noqa: S608 - constants
        self._run(f"DELETE FROM entries WHERE {condition}", *values)  # noqa: S608 - constants
        self._load_sums()
        return int(live[0])

    def _expire(self, now: float) -> int:
        cursor = self._run(
            "DELETE FROM entries WHERE id IN (SELECT id FROM entries WHERE expires_at <= ? LIMIT ?)", now, EXPIRY_BATCH
        )
        if cursor.rowcount:
            self._load_sums()

        return cursor.rowcount

    def _touch(self, touched: Iterable[int]) -> None:
        self._connection.executemany(
            "UPDATE entries SET asked = asked + 1 WHERE id = ? AND asked < ?",
            [(number, MAX_RECENT_HITS) for number in touched],
        )

    def _make_room(self, charge: int, now: float) -> int:
        evicted = 0
        while sum(self._bytes) + charge > self._max_bytes:
            if self._expire(now):
                continue

            small_is_full = self._bytes[0] > SMALL_SHARE * sum(self._bytes)
            queue = 0 if self._entries[0] and (small_is_full or not self._entries[1]) else 1
            row = self._one(
                "SELECT id, bytes, asked, scope, key FROM entries WHERE queue = ? ORDER BY turn LIMIT 1", queue
            )
            if row is None:
                raise _damage("its sums count entries that are not there")

            (number, size, asked), (scope, key) = _whole(row[:3]), row[3:]
            if asked > (1 - queue):
                self._move_to_main(number, queue, size, asked - 1 if queue else 0)
                continue

            self._delete(number, queue, size)
            evicted += 1
            if queue == 0:
                self._remember(hash((scope, key)))

        return evicted

    def _move_to_main(self, number: int, queue: int, size: int, asked: int) -> None:
        self._turn += 1
        self._run("UPDATE entries SET queue = 1, turn = ?, asked = ? WHERE id = ?", self._turn, asked, number)
        self._entries[queue] -= 1
        self._bytes[queue] -= size
        self._entries[1] += 1
        self._bytes[1] += size

    def _remember(self, ghost: int) -> None:
        self._ghosts[ghost] = None
        while len(self._ghosts) > max(self._entries[1], _MIN_GHOSTS):
            del self._ghosts[next(iter(self._ghosts))]

    def _load_sums(self) -> None:
        for row in self._run("SELECT queue, entries, bytes FROM sums WHERE queue IN (0, 1)"):
            queue, entries, size = _whole(row)
            self._entries[queue], self._bytes[queue] = entries, size

    def _run(self, statement: str, *values: Any) -> sqlite3.Cursor:
        return _execute(self._connection, statement, *values)

    def _ints(self, statement: str, *values: Any) -> list[int]:
        return _whole(self._one(statement, *values))

    def _one(self, statement: str, *values: Any) -> Any:
        return self._run(statement, *values).fetchone()


def _opened(path: Path) -> sqlite3.Connection:
    """Open the file for writing, and make it where there is none.

    Raises `DamagedError`, `BypassedError`, or `sqlite3.Error`.
    """
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK, 0o600)
    except OSError as error:
        raise BypassedError(f"{path} cannot be opened ({error.strerror})") from error

    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise ForeignError(f"{path} is not a regular file: choose another store.url")
    finally:
        os.close(descriptor)

    connection: sqlite3.Connection | None = None
    try:
        connection = connect(path, "rw", WRITE_PATIENCE_MILLISECONDS / 1000)
        fresh = not check_version(connection, path)
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = NORMAL")
        connection.execute(f"PRAGMA journal_size_limit = {_WAL_BYTES}")
        if fresh:
            # All of it or nothing: a half-made schema would be another program's database from then on.
            connection.executescript(
                f"BEGIN IMMEDIATE; {_SCHEMA} PRAGMA application_id = {APPLICATION_ID};"
                f" PRAGMA user_version = {SCHEMA_VERSION}; COMMIT;"
            )
        else:
            connection.execute(_LOOK, ("", "")).fetchone()
    except BaseException as error:
        if connection is not None:
            connection.close()

        if isinstance(error, sqlite3.Error):
            raise _as_damage(path, error) from error

        raise

    return connection


def _whole(columns: Sequence[Any], queue_at: int | None = None) -> list[int]:
    """Return what must be whole numbers. Raises `sqlite3.DatabaseError`: in a damaged row any column may be of any type."""
    if not all(type(column) is int for column in columns) or (queue_at is not None and columns[queue_at] not in {0, 1}):
        raise _damage("a row has columns that were never written so")

    return list(columns)


def _execute(connection: sqlite3.Connection, statement: str, *values: Any) -> sqlite3.Cursor:
    try:
        return connection.execute(statement, values)
    except UnicodeDecodeError as error:  # of the text of SQLite's own complaint, which quotes the damaged file
        raise _damage("what it says of its tables is not UTF-8") from error


def _damage(what: str) -> sqlite3.DatabaseError:
    error = sqlite3.DatabaseError(what)
    error.sqlite_errorcode = sqlite3.SQLITE_CORRUPT
    return error


def _as_damage(path: Path, error: sqlite3.Error) -> Exception:
    """Return what is to be raised for what went wrong when a file of ours was opened."""
    if is_damage(error) or "no such" in str(error):
        return DamagedError(f"{path} is damaged ({error})")

    return error


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
