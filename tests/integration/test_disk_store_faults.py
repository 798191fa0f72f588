"""The store on disk: races between its threads, and damage that shows late."""

import sqlite3
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import anyio.lowlevel
import msgspec
import pytest

from sidecard.core.effects import StoreEffect, StorePurge, StoreRead, StoreRemove, StoreWrite
from sidecard.core.events import (
    Absent,
    Answer,
    Found,
    Removed,
    StoreAnswered,
    StoreEvent,
    StoreStateChanged,
    Unavailable,
)
from sidecard.core.records import Record
from sidecard.store.sqlite.health import ANSWER_SECONDS
from sidecard.store.sqlite.store import DiskStore
from sidecard.store.sqlite.writes import TIDY_SECONDS

pytestmark = pytest.mark.anyio

SCOPE = "1:default"
NEVER_SECONDS = 60.0
"""A window within which nothing is written by itself."""

wall_clock = time.time  # noqa: TID251 - as the daemon


@pytest.fixture
def anyio_backend() -> str:
    """As the daemon."""
    return "asyncio"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Name a file that is not there yet."""
    return tmp_path / "store.db"


packed = msgspec.msgpack.Encoder().encode


class Running:
    """A store, and the events that it has sent."""

    def __init__(self, path: Path, window_seconds: float) -> None:
        self.said: list[str] = []
        self.turns: list[str] = []
        self.answers: dict[int, Answer] = {}
        self.faults: list[Exception] = []
        self._tickets = 0
        self.store = DiskStore(
            path,
            max_bytes=1 << 30,
            write_window_seconds=window_seconds,
            clock=time.monotonic,
            wall_clock=wall_clock,
            log=self.say,
            on_fault=self.faults.append,
        )

    def say(self, _level: str, event: str, **_fields: object) -> None:
        """Take what is logged."""
        self.said.append(event)

    def take(self, event: StoreEvent | None) -> None:
        """Take what the store says."""
        if isinstance(event, StoreAnswered):
            assert event.ticket not in self.answers, "answered twice"
            self.answers[event.ticket] = event.answer
        elif isinstance(event, StoreStateChanged):
            self.turns.append(event.state)

    def perform(self, effect: StoreEffect) -> None:
        """Let something be done."""
        self.take(self.store.perform(effect))

    def write(self, key: str, value: bytes = b"v", ttl_seconds: float = 300.0, *tags: str) -> None:
        """Let an entry be kept."""
        record = Record(value, 1.0, ttl_seconds, 60.0, "cloud", tags=tags)
        self.perform(StoreWrite(SCOPE, key, record, made_at=time.monotonic()))

    def ask(self, key: str) -> int:
        """Ask for an entry; return the ticket."""
        self._tickets += 1
        self.perform(StoreRead(self._tickets, SCOPE, key))
        return self._tickets

    async def answer(self, ticket: int) -> Answer:
        """Wait for an answer."""
        await until(lambda: ticket in self.answers)
        return self.answers[ticket]

    async def remove(self, key: str) -> Answer:
        """Remove an entry."""
        self._tickets += 1
        self.perform(StoreRemove(self._tickets, SCOPE, key))
        return await self.answer(self._tickets)

    async def purge(self, namespace: str | None = None, tag: str | None = None) -> Answer:
        """Remove entries."""
        self._tickets += 1
        self.perform(StorePurge(self._tickets, namespace, tag))
        return await self.answer(self._tickets)

    async def written(self) -> None:
        """Wait until nothing is to be written any more."""
        await until(lambda: not len(self.store._writes.pending))

    def read_by_thread(self, look: Callable[[str, str], object]) -> None:
        """Let the disk be slow."""
        assert self.store._reads.reader is not None
        self.store._reads.reader.look = look  # type: ignore[method-assign,assignment]  # the disk, as slow as wanted


async def until(condition: Callable[[], bool]) -> None:
    """Wait for something, but not for long."""
    with anyio.fail_after(10):
        while not condition():  # noqa: ASYNC110 - a file and a thread set no event
            await anyio.sleep(0.002)


@asynccontextmanager
async def running(path: Path, window_seconds: float = 0.02) -> AsyncIterator[Running]:
    """Run a store on a file, and close it."""
    one = Running(path, window_seconds)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(one.store.run, one.take)
        try:
            await until(lambda: bool(one.turns))
            yield one
        finally:
            tasks.cancel_scope.cancel()

    await one.store.close()
    assert one.faults == []


async def filled(path: Path) -> None:
    """Make a file of many pages."""
    async with running(path) as one:
        for number in range(500):
            one.write(str(number), packed("x" * 1000))


def spoil(path: Path, statement: str) -> None:
    """Overwrite the page that a statement names."""
    with sqlite3.connect(path) as connection:
        (page,) = connection.execute(statement).fetchone()

    connection.close()
    with path.open("r+b") as file:
        file.seek((page - 1) * 4096)
        file.write(b"\xff" * 4096)


async def test_damage_that_opening_does_not_show_is_set_aside(path: Path) -> None:
    """One page in the middle: a file that is merely reopened would alternate between up and down forever."""
    await filled(path)
    with sqlite3.connect(path) as connection:
        (pages,) = connection.execute("PRAGMA page_count").fetchone()

    connection.close()
    with path.open("r+b") as file:
        file.seek(pages // 2 * 4096)
        file.write(b"\xff" * 4096)

    async with running(path) as one:
        for number in range(500):
            await one.answer(one.ask(str(number)))
            await anyio.lowlevel.checkpoint()

        await until(lambda: one.said == ["store recreated"] and one.turns[-1] == "up")
        assert one.turns == ["up", "down", "up"]
        one.write("k")
        await one.written()
        assert isinstance(await one.answer(one.ask("k")), Found)

    assert path.with_name("store.db.corrupt").exists()


async def test_unreadable_sums_are_damage(path: Path) -> None:
    """They are read at each open: the file could never be opened again."""
    await filled(path)
    spoil(path, "SELECT rootpage FROM sqlite_master WHERE name = 'sums'")
    async with running(path) as one:
        await until(lambda: one.turns[-1] == "up")
        assert one.said == ["store recreated"]


async def test_an_earlier_damaged_files_log_is_removed(path: Path) -> None:
    """SQLite would apply it to the later damaged file."""
    path.with_name("store.db.corrupt-wal").write_bytes(b"an earlier one's")
    path.write_bytes(b"no database" * 1000)
    async with running(path) as one:
        assert one.said == ["store recreated"]

    assert not path.with_name("store.db.corrupt-wal").exists()


async def test_changes_that_waited_for_the_file_are_written_soon(path: Path) -> None:
    """1. The file cannot be read. 2. An entry is stored. 3. The file is reopened. 4. Nothing else is stored."""
    async with running(path) as one:
        one.write("k")
        one.store._health.broken(sqlite3.OperationalError("disk I/O error"))
        one.store._writes.changed.clear()
        with anyio.fail_after(TIDY_SECONDS / 2):
            await one.written()


async def test_a_removal_is_answered_in_time_while_the_disk_takes_nothing(path: Path) -> None:
    """Its caller waits, too. The entry is not served meanwhile, and removed later."""
    async with running(path) as one:
        one.write("k")
        await one.written()
        locker = sqlite3.connect(path, isolation_level=None)
        locker.execute("BEGIN IMMEDIATE")
        began_at = time.monotonic()
        assert await one.remove("k") == Unavailable()
        assert time.monotonic() - began_at < 2 * ANSWER_SECONDS
        assert await one.answer(one.ask("k")) == Absent()
        locker.execute("ROLLBACK")
        locker.close()
        await one.written()
        assert await one.answer(one.ask("k")) == Absent()


async def test_a_purge_counts_pending_entries(path: Path) -> None:
    """Each entry once: on disk, pending, or both."""
    async with running(path) as one:
        for key in ("disk", "both"):
            one.write(key)

        await one.written()

    async with running(path, NEVER_SECONDS) as one:
        one.write("both", packed("new"))
        one.write("pending")
        one.write("only shared", b"v", 0.0)
        assert await one.purge("other") == Removed(0)
        one.write("pending", b"v", 300.0, "t")
        assert await one.purge(tag="t") == Removed(1)
        one.write("pending")
        assert await one.purge() == Removed(3)
        one.write("only shared", b"v", 0.0)
        assert await one.remove("only shared") == Removed(0)


async def test_an_entry_read_before_its_removal_is_not_served(path: Path) -> None:
    """1. The worker reads an entry. 2. It is removed, on disk too. 3. The read entry arrives."""
    async with running(path) as one:
        for key in ("removed", "purged", "kept"):
            one.write(key, b"v", 300.0, key)

        await one.written()
        reader = one.store._reads.reader
        assert reader is not None
        look, began, go_on = reader.look, threading.Semaphore(0), threading.Event()

        def slow(scope: str, key: str) -> object:
            found = look(scope, key)
            began.release()
            go_on.wait(0.3)
            return found

        one.read_by_thread(slow)
        ticket = one.ask("removed")
        await anyio.to_thread.run_sync(began.acquire)
        assert await one.remove("removed") == Removed(1)
        go_on.set()
        assert await one.answer(ticket) == Absent()
        go_on.clear()
        tickets = {key: one.ask(key) for key in ("purged", "kept")}
        await anyio.to_thread.run_sync(began.acquire)
        assert await one.purge(tag="purged") == Removed(1)
        go_on.set()
        assert await one.answer(tickets["purged"]) == Absent()
        assert isinstance(await one.answer(tickets["kept"]), Found)


async def test_a_slow_disk_answers_each_lookup_once_read(path: Path) -> None:
    """It does not count as hanging, and the first caller does not wait for later ones."""
    async with running(path) as one:
        one.write("k")
        await one.written()
        reader = one.store._reads.reader
        assert reader is not None
        look, reads = reader.look, 0

        def slow(scope: str, key: str) -> object:
            nonlocal reads
            reads += 1
            time.sleep(ANSWER_SECONDS / 20)
            return look(scope, key)

        one.read_by_thread(slow)
        tickets = [one.ask("k") for _ in range(60)]
        assert isinstance(await one.answer(tickets[0]), Found)
        assert reads <= 3
        await one.answer(tickets[-1])
        assert one.turns == ["up"]


async def test_a_store_that_never_ran_can_be_closed(path: Path) -> None:
    """The daemon was stopped before it started."""
    one = Running(path, NEVER_SECONDS)
    await one.store.close()
    assert not path.exists()


async def test_track_lost_while_a_batch_is_written_stays_lost(path: Path) -> None:
    """1. A batch starts. 2. Removals are dropped for want of room. 3. The batch ends, and did not clear the store."""
    async with running(path, NEVER_SECONDS) as one:
        one.write("to be removed")
        go_on = threading.Event()
        writing = one.store._writes.worker
        assert writing is not None
        writing.do(lambda: go_on.wait(5), lambda _: None)
        one.store._writes.urgent.set()
        await until(lambda: bool(one.store._writes.pending._taken))
        one.store._writes.pending.must_clear_store = True
        go_on.set()
        await one.written()
        assert one.store._writes.pending.must_clear_store
        one.write("later")
        one.store._writes.urgent.set()
        await one.written()
        assert await one.answer(one.ask("to be removed")) == Absent()
        assert isinstance(await one.answer(one.ask("later")), Found)
        assert not one.store._writes.pending.must_clear_store
        one.write("last")
        one.store._writes.urgent.set()
        await one.written()
        assert isinstance(await one.answer(one.ask("later")), Found)


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"\xc1",
        b"\x01\x02",
        b"\xdb\xff\xff\xff\xff",
        b"\xa1\xff",
        b"\x91" * 5000 + b"\xc0",
        b"\x91" * 100 + b"\xc0",
    ],
    ids=repr,
)
async def test_a_value_that_no_client_can_decode_is_a_miss(path: Path, value: bytes) -> None:
    """Its checksum holds: another program wrote it so. It is counted and logged, and a new answer replaces it."""
    async with running(path) as one:
        one.write("bad", value)
        one.write("good")
        await one.written()
        assert await one.answer(one.ask("bad")) == Absent()
        assert one.said == ["store data rejected"]
        assert one.store._reporter.faults == 1
        assert isinstance(await one.answer(one.ask("good")), Found)
        one.write("bad", b"v")
        await one.written()
        assert isinstance(await one.answer(one.ask("bad")), Found)
        assert one.turns == ["up"]
