"""The file of the store on disk as its operator sees it: whether it is whole, and how small it can be."""

import contextlib
import os
import sqlite3
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from msgspec import Struct

from sidecard.errors import SidecardError
from sidecard.store.sqlite.file import (
    EXPIRY_BATCH,
    BypassedError,
    DamagedError,
    FileLock,
    check_version,
    connect,
    is_damage,
)
from sidecard.store.sqlite.rows import Row, is_damaged, record_of

MAX_PROBLEMS = 20
"""Of a damaged file there may be as many as it has pages, and the first few say all."""


class Verdict(Struct, frozen=True):
    """What a file is found to be. ``bytes`` is what its entries are charged, ``file_bytes`` what the disk has of it."""

    problems: list[str]
    entries: int = 0
    expired: int = 0
    foreign: int = 0
    """Entries whose terms are another version's: each is a miss, and none of them does harm."""
    bytes: int = 0
    file_bytes: int = 0


class Compacted(Struct, frozen=True):
    """What a file was and has become, in bytes on the disk."""

    expired: int
    bytes_before: int
    bytes_after: int


def verify(path: Path, clock: Callable[[], float]) -> Verdict:
    """Look whether a store is whole. A daemon may use it meanwhile: all is read as of one instant. ``clock`` is the wall's.

    Raises `SidecardError` where there is no file, and where it cannot be read for now.
    """
    file_bytes = size_on_disk(path)
    try:
        with opened(path, "ro") as connection:
            connection.execute("BEGIN")
            return _judged(connection, clock(), file_bytes)
    except DamagedError as error:
        return Verdict([str(error)], file_bytes=file_bytes)


def compact(path: Path, clock: Callable[[], float]) -> Compacted:
    """Remove what has expired, and give back to the disk what the file does not need. ``clock`` is the wall's.

    Raises `SidecardError` where there is no file, where a daemon uses it, and where it cannot be written.
    """
    before = size_on_disk(path)
    expired = 0
    with locked(path), opened(path, "rw") as connection:
        now = clock()
        while True:
            done = connection.execute(
                "DELETE FROM entries WHERE id IN (SELECT id FROM entries WHERE expires_at <= ? LIMIT ?)",
                (now, EXPIRY_BATCH),
            ).rowcount
            expired += done
            if done < EXPIRY_BATCH:
                break

        connection.execute("VACUUM")
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")

    return Compacted(expired, before, size_on_disk(path))


def size_on_disk(path: Path) -> int:
    """Return the bytes of a store and its log. Raises `SidecardError` where there is none."""
    try:
        status = path.stat()
    except OSError as error:
        raise SidecardError(f"there is no store at {path} ({error.strerror}): name another with --store") from error

    if not stat.S_ISREG(status.st_mode):
        # Not left to SQLite, which would wait for somebody to write to a FIFO.
        raise SidecardError(f"{path} is not a regular file: name another with --store")

    with contextlib.suppress(FileNotFoundError):
        return status.st_size + path.with_name(f"{path.name}-wal").stat().st_size

    return status.st_size


@contextmanager
def opened(path: Path, mode: str) -> Iterator[sqlite3.Connection]:
    """Open a store that is there; ``mode`` is ``ro`` or ``rw``. What SQLite raises within becomes a `SidecardError`."""
    connection: sqlite3.Connection | None = None
    try:
        connection = connect(path, mode)
        if not check_version(connection, path):
            raise BypassedError(f"{path} is empty: no daemon has begun a store in it yet")

        yield connection
    except sqlite3.Error as error:
        if is_damage(error) or "no such table" in str(error):
            raise DamagedError(f"{path} is damaged ({error}): a daemon sets it aside and begins anew") from error

        raise SidecardError(f"{path} cannot be used now ({error})") from error
    finally:
        if connection is not None:
            connection.close()


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Keep daemons from a store meanwhile. Raises `SidecardError` where one uses it."""
    try:
        lock = FileLock(path)
    except BypassedError as error:
        if isinstance(error.__cause__, BlockingIOError):
            raise SidecardError(f"another process uses {path}: stop the daemon first") from error

        raise

    try:
        yield
    finally:
        _give_to_owner(path)
        lock.close()


def _give_to_owner(path: Path) -> None:
    """Where root has made these files, the daemon must be able to open them: whose the directory is, is whose they are."""
    if os.geteuid() != 0:
        return

    owner = path.parent.stat()
    for name in (path, path.with_name(f"{path.name}.lock")):
        with contextlib.suppress(FileNotFoundError):
            if name.lstat().st_uid == 0:
                os.chown(name, owner.st_uid, owner.st_gid, follow_symlinks=False)


def _judged(connection: sqlite3.Connection, now: float, file_bytes: int) -> Verdict:
    found = [text for (text,) in connection.execute(f"PRAGMA integrity_check({MAX_PROBLEMS})")]
    problems = [] if found == ["ok"] else [" ".join(text.split()) for text in found]
    sums = dict.fromkeys((0, 1), (0, 0))
    # In a damaged row any column may be of any type, and is told as wrong sums.
    for queue, count, size in connection.execute(
        "SELECT queue, count(*), CAST(total(bytes) AS INTEGER) FROM entries GROUP BY queue"
    ):
        sums[queue] = count, size

    kept = {
        queue: (count, size)
        for queue, count, size in connection.execute(
            "SELECT queue, CAST(entries AS INTEGER), CAST(bytes AS INTEGER) FROM sums WHERE typeof(bytes) = 'integer'"
        )
    }
    if kept != sums:
        problems.append(f"its sums say {_total(kept)}, and its entries are {_total(sums)}")

    (expired,) = connection.execute("SELECT count(*) FROM entries WHERE expires_at <= ?", (now,)).fetchone()
    damaged, foreign = _unserved(connection, now)
    if damaged:
        problems.append(f"{damaged} entries are not what was written: each is a miss, until it expires")

    entries, size = (sum(column) for column in zip(*sums.values(), strict=True))
    return Verdict(problems, entries, expired, foreign, size, file_bytes)


def _unserved(connection: sqlite3.Connection, now: float) -> tuple[int, int]:
    """Count the live entries that are damaged, and all that are of another version."""
    damaged = foreign = 0
    for columns in connection.execute("SELECT scope, key, stored_at, expires_at, about, value FROM entries"):
        row = Row(*columns)
        if is_damaged(row):
            damaged += _lives(row, now)
        else:
            foreign += record_of(row, now) is None

    return damaged, foreign


def _lives(row: Row, now: float) -> bool:
    try:
        return now < row.expires_at
    except TypeError:
        return False


def _total(sums: dict[int, tuple[int, int]]) -> str:
    entries, size = (sum(column) for column in zip((0, 0), *sums.values(), strict=True))
    return f"{entries} entries of {size} bytes"
