"""The one writer of a store's SQLite file: applies batches of changes, and evicts.

Write-ahead log, ``synchronous=NORMAL``: a killed daemon loses nothing that was committed. A host that loses power may lose
the last commits. Neither damages the file.

A purge of very many entries takes seconds, and its requester does not wait so long. So it is recorded first, in a commit of its
own: if the daemon is killed meanwhile, the next one purges before it reads.

Eviction is S3-FIFO (Yang et al., "FIFO queues are all you need for cache eviction", SOSP 2023), in two columns. Only reads
from disk count as hits; hits in memory do not. The memory cache's own policy would need each row's priority in an index, for
a disk that is rarely full.
"""

import contextlib
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from sidecard.core.cache.entry import MAX_RECENT_HITS
from sidecard.core.cache.memory import MAX_ENTRY_SHARE
from sidecard.core.effects import StorePurge, StoreRemove, StoreWrite
from sidecard.core.records import index_tags_of_purge
from sidecard.persistence.sqlite_file import as_damaged, damage
from sidecard.store.base import StoreChange
from sidecard.store.sqlite.format import CACHE_PRAGMA, EXPIRE, EXPIRY_BATCH, LOOK_UP, STORE_FORMAT
from sidecard.store.sqlite.rows import Instant, row_of

ROW_BYTES = 250
"""Disk bytes of a row beside its texts and its value: its columns, and its places in three indexes."""

SMALL_SHARE = 0.1
"""Share of the bytes for newcomers: the paper's value, which its authors found flat between 5 and 20 %."""

WRITE_PATIENCE_SECONDS = 2.0
"""How long a commit waits for other processes that use the file, such as `sidecard cache export`."""

_RECORDED_PURGES = "CREATE TABLE IF NOT EXISTS purges (namespace TEXT, tag TEXT, task TEXT)"
"""The purges in progress. All entries in the file are older than they are."""

_WAL_BYTES = 16 * 1024 * 1024
_MIN_GHOSTS = 64


class Applied(NamedTuple):
    """The result of a batch: for each change how many live entries it removed, and the totals."""

    removed: list[int]
    written: int
    evicted: int
    entries: int
    bytes: int


class StoreWriter:
    """Changes the file. ``clock`` is the wall's. All methods wait for the disk.

    ``boot`` names the boot whose clock `StoreWrite.made_at` is of.

    Raises `DamagedError`, `UnusableError` or `sqlite3.Error`. Tables are created if they are missing.
    """

    def __init__(self, path: Path, max_bytes: int, clock: Callable[[], float], boot: str = "") -> None:
        self._max_bytes = max_bytes
        self._clock = clock
        self._boot = boot
        self._ghosts: dict[int, None] = {}
        self._connection = STORE_FORMAT.open(
            path,
            [CACHE_PRAGMA, "journal_mode = WAL", "synchronous = NORMAL", f"journal_size_limit = {_WAL_BYTES}"],
            patience_seconds=WRITE_PATIENCE_SECONDS,
            probe=LOOK_UP.replace("?", "''"),
        )
        self._entries, self._bytes = [0, 0], [0, 0]
        try:
            self._load_sums()
            self._finish_purges()
            (self._turn,) = _integers(
                self._one(
                    "SELECT max(ifnull((SELECT max(turn) FROM entries WHERE queue = 0), 0),"
                    " ifnull((SELECT max(turn) FROM entries WHERE queue = 1), 0))"
                )
            )
        except sqlite3.Error as error:
            self._connection.close()
            raise as_damaged(path, error) from error

    def apply(
        self,
        changes: Sequence[tuple[StoreChange, float]],
        hit_rows: Iterable[int] = (),
        *,
        clear: bool = False,
    ) -> Applied:
        """Apply changes in one transaction: all of them or, if this raises `sqlite3.Error`, none.

        Each change comes with the wall clock's instant at which it was made. ``hit_rows`` are ids of rows that were
        read; ``clear`` empties the file first.
        """
        removed, written, evicted = [], 0, 0
        purges = [change for change, _ in changes if isinstance(change, StorePurge)]
        if purges:
            self._record(purges)

        with self._transaction():
            if clear:
                self._run("DELETE FROM entries")
                self._load_sums()

            self._connection.executemany(
                "UPDATE entries SET asked = asked + 1 WHERE id = ? AND asked < ?",
                [(row_id, MAX_RECENT_HITS) for row_id in hit_rows],
            )
            now = self._clock()
            for change, made_at in changes:
                match change:
                    case StoreRemove(_, scope, key):
                        removed.append(self._remove(scope, key, now))
                    case StorePurge(_, namespace, tag, task):
                        removed.append(self._purge(namespace, index_tags_of_purge(tag, task), now))
                    case StoreWrite():
                        removed.append(0)
                        count, stored = self._write(change, made_at, now)
                        evicted += count
                        written += stored

            self._expire(now)
            if purges:
                self._run("DELETE FROM purges")

        return Applied(removed, written, evicted, *self.sums())

    def sums(self) -> tuple[int, int]:
        """Return the number of entries and their bytes."""
        return sum(self._entries), sum(self._bytes)

    def close(self) -> None:
        """Move the write-ahead log into the file, and disconnect."""
        with contextlib.suppress(sqlite3.Error):
            self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")

        self._connection.close()

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[None]:
        self._connection.execute("BEGIN IMMEDIATE")
        try:
            yield
            self._connection.execute("COMMIT")
        except BaseException:
            with contextlib.suppress(sqlite3.Error):
                self._connection.execute("ROLLBACK")

            with contextlib.suppress(sqlite3.Error):
                self._load_sums()

            raise

    def _record(self, purges: Iterable[StorePurge]) -> None:
        with self._transaction():
            self._run(_RECORDED_PURGES)
            for purge in purges:
                self._run("INSERT INTO purges VALUES (?, ?, ?)", purge.namespace, purge.tag, purge.task)

    def _finish_purges(self) -> None:
        """Do the purges that were recorded, and not done, before the last daemon was killed."""
        if self._one("SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = 'purges'") is None:
            return

        purges = self._run("SELECT namespace, tag, task FROM purges").fetchall()
        if not purges:
            return

        with self._transaction():
            for namespace, tag, task in purges:
                if not all(name is None or isinstance(name, str) for name in (namespace, tag, task)):
                    raise damage("a purge has names that were never written so")

                self._purge(namespace, index_tags_of_purge(tag, task), self._clock())

            self._run("DELETE FROM purges")

    def _write(self, write: StoreWrite, made_at: float, now: float) -> tuple[int, bool]:
        """Store an entry; return how many others were evicted, and whether it was stored."""
        self._remove(write.scope, write.key, now)
        record = write.record
        expires_at = made_at + record.ttl_seconds
        size = ROW_BYTES + len(write.scope.encode()) + len(write.key.encode()) + len(record.value)
        # An entry that is only shared for a while (no ttl) is not worth a disk.
        if now >= expires_at or size > self._max_bytes * MAX_ENTRY_SHARE:
            return 0, False

        evicted = self._make_room(size, now)
        ghost = hash((write.scope, write.key))
        queue = int(ghost in self._ghosts)
        self._ghosts.pop(ghost, None)
        tags = msgspec.json.encode(record.index_tags).decode() if record.index_tags else None
        row = row_of(write.scope, write.key, record, Instant(made_at, self._boot, write.made_at))
        self._turn += 1
        self._run(
            "INSERT INTO entries (scope, key, stored_at, expires_at, bytes, queue, turn, asked, tags, about, value)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, 0, ?, ?, ?)",
            row.scope, row.key, row.stored_at, row.expires_at, size, queue, self._turn, tags, row.about, row.value,
        )  # fmt: skip
        self._count(queue, 1, size)
        return evicted, True

    def _remove(self, scope: str, key: str, now: float) -> int:
        row = self._one(
            "SELECT expires_at > ?, id, queue, bytes FROM entries WHERE scope = ? AND key = ?", now, scope, key
        )
        if row is None:
            return 0

        live, row_id, queue, size = _integers(row, queue_at=2)
        self._delete(row_id, queue, size)
        return live

    def _delete(self, row_id: int, queue: int, size: int) -> None:
        self._run("DELETE FROM entries WHERE id = ?", row_id)
        self._count(queue, -1, -size)

    def _count(self, queue: int, entries: int, size: int) -> None:
        self._entries[queue] += entries
        self._bytes[queue] += size

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
        removed = self._run(EXPIRE, now, EXPIRY_BATCH).rowcount
        if removed:
            self._load_sums()

        return removed

    def _make_room(self, size: int, now: float) -> int:
        """Evict until an entry of ``size`` fits; return how many were evicted."""
        evicted = 0
        while sum(self._bytes) + size > self._max_bytes:
            if self._expire(now):
                continue

            small_is_full = self._bytes[0] > SMALL_SHARE * sum(self._bytes)
            queue = 0 if self._entries[0] and (small_is_full or not self._entries[1]) else 1
            row = self._one(
                "SELECT id, bytes, asked, scope, key FROM entries WHERE queue = ? ORDER BY turn LIMIT 1", queue
            )
            if row is None:
                raise damage("its sums count entries that are not there")

            (row_id, row_bytes, asked), (scope, key) = _integers(row[:3]), row[3:]
            if asked > (1 - queue):
                self._move_to_main(row_id, queue, row_bytes, asked - 1 if queue else 0)
                continue

            self._delete(row_id, queue, row_bytes)
            evicted += 1
            if queue == 0:
                self._remember(hash((scope, key)))

        return evicted

    def _move_to_main(self, row_id: int, queue: int, size: int, asked: int) -> None:
        self._turn += 1
        self._run("UPDATE entries SET queue = 1, turn = ?, asked = ? WHERE id = ?", self._turn, asked, row_id)
        self._count(queue, -1, -size)
        self._count(1, 1, size)

    def _remember(self, ghost: int) -> None:
        self._ghosts[ghost] = None
        while len(self._ghosts) > max(self._entries[1], _MIN_GHOSTS):
            del self._ghosts[next(iter(self._ghosts))]

    def _load_sums(self) -> None:
        for row in self._run("SELECT queue, entries, bytes FROM sums WHERE queue IN (0, 1)"):
            queue, entries, size = _integers(row)
            self._entries[queue], self._bytes[queue] = entries, size

    def _run(self, statement: str, *values: Any) -> sqlite3.Cursor:
        return self._connection.execute(statement, values)

    def _one(self, statement: str, *values: Any) -> Any:
        return self._connection.execute(statement, values).fetchone()


def _integers(columns: Sequence[Any], queue_at: int | None = None) -> list[int]:
    """Return columns that must be integers. Raises `sqlite3.DatabaseError`: in a damaged row any column may have any type."""
    if not all(type(column) is int for column in columns) or (queue_at is not None and columns[queue_at] not in {0, 1}):
        raise damage("a row has columns that were never written so")

    return list(columns)
