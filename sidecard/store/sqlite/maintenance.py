"""Maintenance of a store's file by an operator: verify it, compact it."""

import contextlib
import os
import sqlite3
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from msgspec import Struct

from sidecard.errors import SidecardError
from sidecard.persistence.sqlite_file import DamagedError, UnusableError, is_damage
from sidecard.store.sqlite.format import EXPIRE, EXPIRY_BATCH, STORE_FORMAT, connect_store, lock_store
from sidecard.store.sqlite.rows import EntryRow, Instant, is_damaged, record_of

MAX_PROBLEMS = 20
"""A damaged file may have as many problems as it has pages; the first few suffice."""


class Verification(Struct, frozen=True):
    """The state of a file. ``bytes`` is what its entries are charged, ``file_bytes`` its size on disk."""

    problems: list[str]
    entries: int = 0
    expired: int = 0
    foreign: int = 0
    """Entries of another version: each is a miss, and harmless."""
    bytes: int = 0
    file_bytes: int = 0


class Compaction(Struct, frozen=True):
    """The result of `compact`, in bytes on disk."""

    expired: int
    bytes_before: int
    bytes_after: int


def verify(path: Path, clock: Callable[[], float]) -> Verification:
    """Check a store, while a daemon may use it: all is read as of one instant. ``clock`` is the wall's.

    Raises `SidecardError` if there is no file, or if it cannot be read now.
    """
    file_bytes = size_on_disk(path)
    try:
        with opened(path, "ro") as connection:
            connection.execute("BEGIN")
            return _verified(connection, clock(), file_bytes)
    except DamagedError as error:
        return Verification([str(error)], file_bytes=file_bytes)


def compact(path: Path, clock: Callable[[], float]) -> Compaction:
    """Remove expired entries and return unused pages to the disk. ``clock`` is the wall's.

    Raises `SidecardError` if there is no file, if a daemon uses it, or if it cannot be written.
    """
    before = size_on_disk(path)
    expired = 0
    with locked(path), opened(path, "rw") as connection:
        now = clock()
        while True:
            removed = connection.execute(EXPIRE, (now, EXPIRY_BATCH)).rowcount
            expired += removed
            if removed < EXPIRY_BATCH:
                break

        connection.execute("VACUUM")
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")

    return Compaction(expired, before, size_on_disk(path))


def size_on_disk(path: Path) -> int:
    """Return the bytes of a store and its write-ahead log. Raises `SidecardError` if there is none."""
    try:
        status = path.stat()
    except OSError as error:
        raise SidecardError(f"there is no store at {path} ({error.strerror}): name another with --store") from error

    if not stat.S_ISREG(status.st_mode):
        # SQLite would wait for a writer to open a FIFO.
        raise SidecardError(f"{path} is not a regular file: name another with --store")

    with contextlib.suppress(FileNotFoundError):
        return status.st_size + path.with_name(f"{path.name}-wal").stat().st_size

    return status.st_size


@contextmanager
def opened(path: Path, mode: str) -> Iterator[sqlite3.Connection]:
    """Open an existing store; ``mode`` is ``ro`` or ``rw``. SQLite's errors within become `SidecardError`."""
    connection = None
    try:
        connection = connect_store(path, mode)
        if not STORE_FORMAT.recognizes(connection, path):
            raise UnusableError(f"{path} is empty: no daemon has created a store in it yet")

        yield connection
    except sqlite3.Error as error:
        if is_damage(error) or "no such table" in str(error):
            raise DamagedError(f"{path} is damaged ({error}): a daemon sets it aside and recreates it") from error

        raise SidecardError(f"{path} cannot be used now ({error})") from error
    finally:
        if connection is not None:
            connection.close()


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Keep daemons from a store. Raises `SidecardError` if one uses it."""
    try:
        lock = lock_store(path)
    except UnusableError as error:
        if isinstance(error.__cause__, BlockingIOError):
            raise SidecardError(f"another process uses {path}: stop the daemon first") from error

        raise

    try:
        yield
    finally:
        _give_to_owner(path)
        lock.close()


def _give_to_owner(path: Path) -> None:
    """Give files that root created to the directory's owner: the daemon must be able to open them."""
    if os.geteuid() != 0:
        return

    owner = path.parent.stat()
    for name in (path, path.with_name(f"{path.name}.lock")):
        with contextlib.suppress(FileNotFoundError):
            if name.lstat().st_uid == 0:
                os.chown(name, owner.st_uid, owner.st_gid, follow_symlinks=False)


def _verified(connection: sqlite3.Connection, now: float, file_bytes: int) -> Verification:
    found = [text for (text,) in connection.execute(f"PRAGMA integrity_check({MAX_PROBLEMS})")]
    problems = [] if found == ["ok"] else [" ".join(text.split()) for text in found]
    counted = dict.fromkeys((0, 1), (0, 0))
    # In a damaged row any column may have any type; it is reported as wrong sums.
    for queue, count, size in connection.execute(
        "SELECT queue, count(*), CAST(total(bytes) AS INTEGER) FROM entries GROUP BY queue"
    ):
        counted[queue] = count, size

    sums = {
        queue: (count, size)
        for queue, count, size in connection.execute(
            "SELECT queue, CAST(entries AS INTEGER), CAST(bytes AS INTEGER) FROM sums WHERE typeof(bytes) = 'integer'"
        )
    }
    if sums != counted:
        problems.append(f"its sums say {_total(sums)}, and its entries are {_total(counted)}")

    (expired,) = connection.execute("SELECT count(*) FROM entries WHERE expires_at <= ?", (now,)).fetchone()
    damaged, foreign = _count_misses(connection, now)
    if damaged:
        problems.append(f"{damaged} entries are not what was written: each is a miss, until it expires")

    entries, size = (sum(column) for column in zip(*counted.values(), strict=True))
    return Verification(problems, entries, expired, foreign, size, file_bytes)


def _count_misses(connection: sqlite3.Connection, now: float) -> tuple[int, int]:
    """Count the live entries that are damaged, and all that are of another version."""
    damaged = foreign = 0
    for columns in connection.execute("SELECT scope, key, stored_at, expires_at, about, value FROM entries"):
        row = EntryRow(*columns)
        if is_damaged(row):
            damaged += _is_live(row, now)
        else:
            foreign += record_of(row, Instant(now)) is None

    return damaged, foreign


def _is_live(row: EntryRow, now: float) -> bool:
    try:
        return now < row.expires_at
    except TypeError:
        return False


def _total(sums: dict[int, tuple[int, int]]) -> str:
    entries, size = (sum(column) for column in zip((0, 0), *sums.values(), strict=True))
    return f"{entries} entries of {size} bytes"
