"""Targets among files: the spool, the ledger, the store and what is exported of it, and entries as Redis has them.

A user who can write to the state directory can do worse than damage files. These targets stand for faults of disks, partial copies and later versions.
"""

import io
import random
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path

import msgspec

from sidecard.core.effects import StoreWrite
from sidecard.core.engine import Engine
from sidecard.core.events import EntriesPurged, KeyChanged
from sidecard.core.records import Record
from sidecard.core.settings import EngineSettings
from sidecard.daemon.ledger_file import LedgerFile
from sidecard.daemon.state import StateUnusableError
from sidecard.errors import SidecardError
from sidecard.observe.push.spool import Spool
from sidecard.observe.push.spool_records import FILE_MAGIC, Block, decode_records, encode_record
from sidecard.persistence.sqlite_file import DamagedError, UnusableError
from sidecard.store.base import StoreReporter
from sidecard.store.redis.invalidations import Invalidations
from sidecard.store.redis.scripts import decode_entry, encode_entry, scope_and_key
from sidecard.store.sqlite import export_import
from sidecard.store.sqlite.format import StoreReader
from sidecard.store.sqlite.maintenance import verify
from sidecard.store.sqlite.rows import Instant
from sidecard.store.sqlite.writer import StoreWriter
from sidecard_client.protocol.wire import Usage
from tests.fuzz.target import Target, same

NOW_SECONDS = 1_700_000_000.0
FIRST = "0000000000000001.blocks"
BLOCKS = [Block(1, number, 1_700_000_000_000 + number, bytes([number]) * 20) for number in range(1, 4)]


@contextmanager
def scratch() -> Iterator[Path]:
    """Make a directory in memory, where there is one: what is tried here is no disk."""
    where = "/dev/shm" if Path("/dev/shm").is_dir() else None
    with tempfile.TemporaryDirectory(prefix="sc-fuzz-", dir=where) as name:
        yield Path(name)


def spool(data: bytes) -> None:
    """What is in the directory never stops the queue, and no block comes out whose checksum does not hold."""
    position, _, blocks = data.partition(b"\0\0\0")
    found = decode_records(blocks)
    assert len(found.blocks) * 21 <= len(blocks)
    with scratch() as directory:
        (directory / FIRST).write_bytes(blocks)
        (directory / "position").write_bytes(position)
        dropped: list[int] = []
        queue = Spool(directory, max_bytes=1 << 20, on_dropped=dropped.append, on_damaged=lambda _: None)
        newest = Block(1, 7, 1, b"newest")
        queue.append(newest)
        taken = []
        while (shown := queue.oldest()) is not None:
            taken.append(shown[1])
            queue.take(shown[0])

        assert queue.empty
        queue.close()
        assert taken[-1] == newest
        assert [block for _, block in found.blocks][len(found.blocks) - len(taken) + 1 :] == taken[:-1]


def ledger(data: bytes) -> None:
    """A ledger, or a `StateUnusableError`; an engine restored from it can report and write all of it."""
    with scratch() as directory:
        file = LedgerFile(directory)
        file.path.write_bytes(data)
        try:
            snapshot = file.read()
        except StateUnusableError:
            return

        assert snapshot is not None
        engine = Engine(EngineSettings(), boot_id="b", version="1", now=1.0, shown_settings={}, shown_origins={})
        engine.restore_ledger(snapshot)
        file.write(engine.ledger_snapshot())
        assert LedgerFile(directory).read() is not None


RECORD = Record(b"\xa5value", 1.5, 60.0, 60.0, "cloud", Usage("m", 1, 2, 0.5), ("a", "b"))


def envelope(data: bytes) -> None:
    """An entry as Redis has it: one of ours, or nothing; and one that is sealed again is the same."""
    found = decode_entry(data, 1.0)
    if found is not None:
        assert same(decode_entry(encode_entry(found), 1.0), found)

    name = scope_and_key(data)
    assert name is None or ":" in name[0]


def news(data: bytes) -> None:
    """A message on the channel, of another host or of any other publisher: a change, or nothing."""
    reporter, events = StoreReporter(), list[object]()
    reporter.notify = events.append
    Invalidations("here", reporter).received(data)
    assert all(isinstance(event, KeyChanged | EntriesPurged) for event in events)


def exchange(data: bytes) -> None:
    """What is imported is checked first: lines that pass are taken in, and come out again as they were."""
    lines = data.split(b"\n")
    try:
        numbers = list(export_import.check(lines))
    except SidecardError:
        return

    assert len(numbers) <= len(lines)
    with scratch() as directory:
        path = directory / "store.db"
        for imported in export_import.import_into(path, io.BytesIO(data), 1 << 20, lambda: NOW_SECONDS):
            assert imported.entries + imported.expired + imported.older + imported.refused <= len(numbers)

        exported: list[bytes] = []
        for _ in export_import.export(path, exported.append, lambda: NOW_SECONDS) if path.exists() else ():
            pass

        assert len(list(export_import.check(exported))) == len(exported)


VALUES = {f"key-{number}": b"\xc5\x08\0" + random.Random(number).randbytes(2048) for number in range(6)}


@cache
def whole_store() -> bytes:
    """Return the bytes of a store with a few entries, each of more than a page's worth."""
    with scratch() as directory:
        path = directory / "store.db"
        writer = StoreWriter(path, 1 << 30, lambda: NOW_SECONDS)
        writer.apply(
            [
                (StoreWrite("1:default", key, Record(value, 1.5, 600.0, 60.0, "cloud", tags=("a",))), NOW_SECONDS)
                for key, value in VALUES.items()
            ]
        )
        writer.close()
        return path.read_bytes()


def store_file(data: bytes) -> None:
    """A store with damage: set aside, left alone, or served without what was damaged, and never a value that was not stored.

    Of the input each five bytes are a place and what is put there; what is left over cuts the file off.
    """
    whole = bytearray(whole_store())
    for at in range(0, len(data) - 4, 5):
        place = int.from_bytes(data[at : at + 4], "big") % len(whole)
        whole[place] = data[at + 4]

    if cut := data[len(data) - len(data) % 5 :]:
        del whole[int.from_bytes(cut, "big") * 64 % len(whole) :]

    with scratch() as directory:
        path = directory / "store.db"
        path.write_bytes(whole)
        damaged_store(path)


def damaged_store(path: Path) -> None:
    """Use a store that may be damaged, as a daemon and as its operator do."""
    with suppress(SidecardError):
        verify(path, lambda: NOW_SECONDS)

    try:
        writer = StoreWriter(path, 1 << 30, lambda: NOW_SECONDS)
    except (DamagedError, UnusableError, sqlite3.Error):
        return

    try:
        reader = StoreReader(path, lambda: Instant(NOW_SECONDS + 1))
        try:
            for key, value in VALUES.items():
                found = reader.look("1:default", key)
                assert found is None or found[1].value == value, f"{key} was served damaged"
                assert found is None or found[1].ttl_seconds == 600.0, f"{key} was served on other terms"

            writer.apply([(StoreWrite("1:default", "new", RECORD), NOW_SECONDS)])
            new = reader.look("1:default", "new")
            assert new is None or new[1].value == RECORD.value
        finally:
            reader.close()
    except sqlite3.Error:
        pass
    finally:
        writer.close()


def _ledger_seeds() -> list[bytes]:
    engine = Engine(EngineSettings(), boot_id="b", version="1", now=1.0, shown_settings={}, shown_origins={})
    full = (
        b'{"began_at":1.0,"tasks":{"rag":{"hits":5.0,"billed_dollars":1.5}},"backends":{"cloud":{"calls":3,"seconds":1.5,'
        b'"dollars":1.0,"prompt_tokens":100,"completion_tokens":10,"saved_dollars":0.0}},"models":{},'
        b'"budgets":{"day":{"period":20000,"dollars":1.0}},"version":1}'
    )
    return [msgspec.json.encode(engine.ledger_snapshot()), full, b'{"version":2}', b'{"version":0}']


def _exported() -> list[bytes]:
    terms = export_import._terms(RECORD)
    entry = export_import.ExportedEntry("1:default", "key", b"\xa1v", terms, NOW_SECONDS, NOW_SECONDS + 60)
    text = msgspec.json.encode(entry)
    return [text, text + b"\n\n" + text.replace(b'"key"', b'"other"'), text.replace(b"1:default", b"*:all")]


def _spool_seeds() -> list[bytes]:
    whole = FILE_MAGIC + b"".join(map(encode_record, BLOCKS))
    return [b"\0\0\0" + whole, b"\0\0\0" + whole[:-3], b"\0\0\0" + FILE_MAGIC, whole[:20] + b"\0\0\0" + whole]


FILE_TARGETS = (
    Target("spool", spool, _spool_seeds, (FILE_MAGIC,)),
    Target(
        "ledger",
        ledger,
        _ledger_seeds,
        (b'"began_at":', b'"tasks":', b'"breakers":', b"1e308", b"-1", b"null", b"9" * 30),
    ),
    Target("envelope", envelope, lambda: [encode_entry(RECORD), b"sidecard:1:1000:default:key"]),
    Target(
        "news",
        news,
        lambda: [
            msgspec.msgpack.encode(("there", "stored", "1:default", "key")),
            msgspec.msgpack.encode(("there", "purged", None, None)),
        ],
    ),
    Target("exchange", exchange, _exported, (b'"scope":', b'"value":', b"1e308", b"null")),
    Target("store_file", store_file, lambda: [b"", b"\0\0\0\x10\x01", b"\0\0\x20\0\xff\1\2", b"\x40"], (), 60),
)
