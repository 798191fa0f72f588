"""Entries of the store on disk as lines of JSON, to be taken elsewhere and back: one object for each entry.

A line has all that the store has of an entry, and says so by itself: lines may be sorted, filtered and joined by any tool.
Instants are the wall clock's. ``value`` is base64 of the answer; one that is stored compressed is expanded for it.
"""

import sqlite3
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Annotated, BinaryIO, Literal

import msgspec
from msgspec import Meta, Struct

from sidecard.adapters.zstd import Zstd
from sidecard.core.cache.compression import decompress
from sidecard.core.effects import StoreWrite
from sidecard.core.records import Record
from sidecard.errors import SidecardError
from sidecard.store.sqlite.file import Writer, is_damage
from sidecard.store.sqlite.maintenance import locked, opened
from sidecard.store.sqlite.rows import Row, is_damaged, record_of
from sidecard_client.protocol.wire import Key, Tags, Usage

BATCH_LINES = 1000
BATCH_BYTES = 8 * 1024 * 1024
"""Of values in one transaction: what is read of the file waits in memory until it is committed."""

_Scope = Annotated[str, Meta(pattern=r"^([0-9]+|\*):[^:]+$", max_length=200)]
_Seconds = Annotated[float, Meta(ge=0, le=1e12)]


class Terms(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """What an entry is, beside its value and its instants."""

    version: Literal[1]
    seconds: _Seconds
    ttl_seconds: _Seconds
    window_seconds: _Seconds
    backend: Annotated[str, Meta(max_length=4096)]
    usage: Usage
    tags: Tags
    task: Annotated[str, Meta(max_length=128)] = ""


class Line(Struct, frozen=True, forbid_unknown_fields=True):
    """An entry."""

    scope: _Scope
    key: Key
    value: bytes
    about: Terms
    stored_at: _Seconds
    expires_at: _Seconds


class Exported(Struct):
    """What was written down. ``foreign`` entries, of another version, were not, nor were ``damaged`` ones."""

    entries: int = 0
    foreign: int = 0
    damaged: int = 0


class Imported(Struct):
    """What became of the lines. ``older`` ones had a newer entry there already; ``refused`` ones are too large for the store.

    ``evicted`` counts entries that had to leave for others.
    """

    entries: int = 0
    expired: int = 0
    older: int = 0
    refused: int = 0
    evicted: int = 0


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Line).decode


def export(path: Path, write: Callable[[bytes], object], clock: Callable[[], float]) -> Iterator[Exported]:
    """Write an entry with each step, and give what was done so far. ``clock`` is the wall's.

    A daemon may use the store meanwhile: what changes under way is exported as it was or as it is, and may be there twice.
    Raises `SidecardError`, and what ``write`` raises.
    """
    done = Exported()
    number = 0
    with opened(path, "ro") as connection:
        # Each by itself, and not all in one go: as long as something is being read, the daemon's log only grows.
        while row := connection.execute(
            "SELECT id, scope, key, stored_at, expires_at, about, value FROM entries"
            " WHERE id > ? AND expires_at > ? ORDER BY id LIMIT 1",
            (number, clock()),
        ).fetchone():
            number, kept = row[0], Row(*row[1:])
            record = record_of(kept, kept.stored_at)
            answer = None if record is None else _answer(record)
            if record is not None and answer is not None:
                line = Line(kept.scope, kept.key, answer, _terms(record), kept.stored_at, kept.expires_at)
                write(_encode(line) + b"\n")
                done.entries += 1
            elif record is not None or is_damaged(kept):
                done.damaged += 1
            else:
                done.foreign += 1

            yield done


def check(file: Iterable[bytes]) -> Iterator[int]:
    """Read lines, and give the number of each. Raises `SidecardError`, which names the line that is none."""
    for number, _ in _lines(file):
        yield number


def import_into(path: Path, file: BinaryIO, max_bytes: int, clock: Callable[[], float]) -> Iterator[Imported]:
    """Take in what was exported, and give what was done after each batch. ``clock`` is the wall's.

    To be checked before (`check`): lines before one that is wrong are else taken in. The store is made where there is none.
    Raises `SidecardError`, also where a daemon uses the store.
    """
    done = Imported()
    with locked(path):
        try:
            writer = Writer(path, max_bytes, clock)
            try:
                with opened(path, "ro") as reader:
                    for batch in _batches(_lines(file)):
                        _take_in(batch, writer, reader, clock(), done)
                        yield done
            finally:
                writer.close()
        except sqlite3.Error as error:
            what = "is damaged" if is_damage(error) else "cannot be written"
            raise SidecardError(f"{path} {what} ({error}); {done.entries} entries were taken in before") from error


def _take_in(batch: list[Line], writer: Writer, reader: sqlite3.Connection, now: float, done: Imported) -> None:
    newest: dict[tuple[str, str], Line] = {}
    for line in batch:
        name = line.scope, line.key
        if now >= min(line.expires_at, line.stored_at + line.about.ttl_seconds):
            done.expired += 1
        elif _is_older(line, newest.get(name), reader):
            done.older += 1
        else:
            done.older += name in newest
            newest[name] = line

    wishes = [
        # A clock that went ahead where it was exported does not let an entry live longer here.
        (StoreWrite(line.scope, line.key, _record(line)), min(line.stored_at, now))
        for line in newest.values()
    ]
    applied = writer.apply(wishes)
    done.entries += applied.written
    done.refused += len(wishes) - applied.written
    done.evicted += applied.evicted


def _is_older(line: Line, rival: Line | None, reader: sqlite3.Connection) -> bool:
    if rival is not None:
        return line.stored_at <= rival.stored_at

    row = reader.execute("SELECT stored_at FROM entries WHERE scope = ? AND key = ?", (line.scope, line.key)).fetchone()
    return row is not None and line.stored_at <= row[0]


def _batches(lines: Iterable[tuple[int, Line]]) -> Iterator[list[Line]]:
    batch: list[Line] = []
    size = 0
    for _, line in lines:
        batch.append(line)
        size += len(line.value)
        if len(batch) >= BATCH_LINES or size >= BATCH_BYTES:
            yield batch
            batch, size = [], 0

    if batch:
        yield batch


def _lines(file: Iterable[bytes]) -> Iterator[tuple[int, Line]]:
    for number, text in enumerate(file, 1):
        if not text.strip():
            continue

        try:
            line = _decode(text)
            # A daemon passes values on as they are: one that is no value would break what it answers with.
            msgspec.msgpack.decode(line.value)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, ValueError) as error:
            raise SidecardError(f"line {number} is no exported entry ({error}): nothing was imported") from error

        yield number, line


def _answer(record: Record) -> bytes | None:
    return decompress(Zstd(), record.value) if record.compressed else record.value


def _terms(record: Record) -> Terms:
    seconds = record.seconds, record.ttl_seconds, record.window_seconds
    return Terms(1, *seconds, record.backend, record.usage, record.tags, record.task)


def _record(line: Line) -> Record:
    about = line.about
    seconds = about.seconds, about.ttl_seconds, about.window_seconds
    return Record(line.value, *seconds, about.backend, about.usage, about.tags, task=about.task)
