"""Export and import of a store's entries, as JSON lines: one object for each entry.

A line has all that the store has of an entry and is complete by itself: any tool may sort, filter and join lines.
Instants are the wall clock's. ``value`` is the answer in base64; a compressed value is expanded.
"""

import sqlite3
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import BinaryIO, Literal

import msgspec
from msgspec import Struct

from sidecard.adapters.zstd import Zstd
from sidecard.core.cache.compression import decompress
from sidecard.core.effects import StoreWrite
from sidecard.core.records import Record
from sidecard.errors import SidecardError
from sidecard.persistence.batches import batches
from sidecard.persistence.sqlite_file import is_damage
from sidecard.store.base import terms_of
from sidecard.store.sqlite.maintenance import locked, opened
from sidecard.store.sqlite.rows import EntryRow, is_damaged, record_of
from sidecard.store.sqlite.writer import StoreWriter
from sidecard.store.validation import (
    MAX_CLOCK_ERROR_SECONDS,
    UNDECODABLE,
    StoredBackend,
    StoredScope,
    StoredSeconds,
    StoredTask,
)
from sidecard_client.protocol.nesting import nesting_problem
from sidecard_client.protocol.wire import Key, Tags, Usage

BATCH_LINES = 1000
BATCH_BYTES = 8 * 1024 * 1024
"""Values in one transaction: what is read from the export waits in memory until it is committed."""


class ExportedTerms(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """An entry without its value and its instants."""

    version: Literal[1]
    seconds: StoredSeconds
    ttl_seconds: StoredSeconds
    window_seconds: StoredSeconds
    backend: StoredBackend
    usage: Usage
    tags: Tags
    task: StoredTask = ""


class ExportedEntry(Struct, frozen=True, forbid_unknown_fields=True):
    """One line."""

    scope: StoredScope
    key: Key
    value: bytes
    about: ExportedTerms
    stored_at: StoredSeconds
    expires_at: StoredSeconds


class Exported(Struct):
    """Result of an export. ``foreign`` entries, of another version, and ``damaged`` ones were not."""

    entries: int = 0
    foreign: int = 0
    damaged: int = 0


class Imported(Struct):
    """Result of an import. For ``older`` lines the store has a newer entry; ``refused`` ones are too large for it.

    ``evicted`` counts entries that left to make room.
    """

    entries: int = 0
    expired: int = 0
    older: int = 0
    refused: int = 0
    evicted: int = 0


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(ExportedEntry).decode


def export(path: Path, write: Callable[[bytes], object], clock: Callable[[], float]) -> Iterator[Exported]:
    """Write one entry with each step, and yield the progress. ``clock`` is the wall's.

    A daemon may use the store meanwhile: an entry that changes during the export is exported old or new, possibly twice.
    Raises `SidecardError`, and what ``write`` raises.
    """
    progress = Exported()
    row_id = 0
    with opened(path, "ro") as connection:
        # One entry at a time: while a read transaction is open, the daemon's write-ahead log only grows.
        while columns := connection.execute(
            "SELECT id, scope, key, stored_at, expires_at, about, value FROM entries"
            " WHERE id > ? AND expires_at > ? ORDER BY id LIMIT 1",
            (row_id, clock()),
        ).fetchone():
            row_id, row = columns[0], EntryRow(*columns[1:])
            record = record_of(row, None)
            value = None if record is None else _value(record)
            if record is not None and value is not None:
                entry = ExportedEntry(row.scope, row.key, value, _terms(record), row.stored_at, row.expires_at)
                write(_encode(entry) + b"\n")
                progress.entries += 1
            elif record is not None or is_damaged(row):
                progress.damaged += 1
            else:
                progress.foreign += 1

            yield progress


def check(file: Iterable[bytes]) -> Iterator[int]:
    """Read lines and yield the number of each. Raises `SidecardError`, which names the line that is no entry."""
    for number, _ in _entries(file):
        yield number


def import_into(path: Path, file: BinaryIO, max_bytes: int, clock: Callable[[], float]) -> Iterator[Imported]:
    """Store exported lines, and yield the progress after each batch. ``clock`` is the wall's.

    `check` the lines first: those before a wrong one are stored. The store is created if there is none.
    Raises `SidecardError`, also if a daemon uses the store.
    """
    progress = Imported()
    with locked(path):
        try:
            writer = StoreWriter(path, max_bytes, clock)
            try:
                with opened(path, "ro") as reader:
                    entries = (entry for _, entry in _entries(file))
                    for batch in batches(entries, lambda entry: len(entry.value), BATCH_BYTES, BATCH_LINES):
                        _store(batch, writer, reader, clock(), progress)
                        yield progress
            finally:
                writer.close()
        except sqlite3.Error as error:
            what = "is damaged" if is_damage(error) else "cannot be written"
            raise SidecardError(f"{path} {what} ({error}); {progress.entries} entries were imported before") from error


def _store(
    batch: list[ExportedEntry], writer: StoreWriter, reader: sqlite3.Connection, now: float, progress: Imported
) -> None:
    newest: dict[tuple[str, str], ExportedEntry] = {}
    for entry in batch:
        name = entry.scope, entry.key
        # What was stored in the future has an unknown age: a clock was set, on this host or the exporting one.
        if entry.stored_at > now + MAX_CLOCK_ERROR_SECONDS or now >= min(
            entry.expires_at, entry.stored_at + entry.about.ttl_seconds
        ):
            progress.expired += 1
        elif _is_older(entry, newest.get(name), reader):
            progress.older += 1
        else:
            progress.older += name in newest
            newest[name] = entry

    changes = [
        # An exporting host whose clock was ahead does not make an entry live longer here.
        (
            StoreWrite(entry.scope, entry.key, Record(entry.value, *terms_of(entry.about), task=entry.about.task)),
            min(entry.stored_at, now),
        )
        for entry in newest.values()
    ]
    applied = writer.apply(changes)
    progress.entries += applied.written
    progress.refused += len(changes) - applied.written
    progress.evicted += applied.evicted


def _is_older(entry: ExportedEntry, rival: ExportedEntry | None, reader: sqlite3.Connection) -> bool:
    if rival is not None:
        return entry.stored_at <= rival.stored_at

    name = entry.scope, entry.key
    row = reader.execute("SELECT stored_at FROM entries WHERE scope = ? AND key = ?", name).fetchone()
    return row is not None and entry.stored_at <= row[0]


def _entries(file: Iterable[bytes]) -> Iterator[tuple[int, ExportedEntry]]:
    for number, text in enumerate(file, 1):
        if not text.strip():
            continue

        try:
            entry = _decode(text)
            # A daemon passes values on unchanged: an undecodable one would break the reply that carries it.
            problem = nesting_problem(entry.value)
            if problem is not None:
                raise ValueError(f"its value cannot be stored: {problem}")

            msgspec.msgpack.decode(entry.value)
        except UNDECODABLE as error:
            raise SidecardError(f"line {number} is not an exported entry ({error}): nothing was imported") from error

        yield number, entry


def _value(record: Record) -> bytes | None:
    return decompress(Zstd(), record.value) if record.compressed else record.value


def _terms(record: Record) -> ExportedTerms:
    return ExportedTerms(1, *terms_of(record), task=record.task)
