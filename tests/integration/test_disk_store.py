"""The store on disk, with a real file and real threads."""

import fcntl
import os
import sqlite3
import stat
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
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
    StoreMeasured,
    StoreStateChanged,
    Unavailable,
)
from sidecard.core.records import Record
from sidecard.store.sqlite import store as disk_store
from sidecard.store.sqlite.store import DiskStore
from sidecard_client.protocol.wire import Usage

pytestmark = pytest.mark.anyio

now = time.time  # noqa: TID251 - what is kept on disk has no other clock

WINDOW_SECONDS = 0.05


@pytest.fixture
def anyio_backend() -> str:
    """As the daemon."""
    return "asyncio"


packed = msgspec.msgpack.Encoder().encode


def record(value: bytes = b"v", ttl_seconds: float = 300.0, tags: tuple[str, ...] = (), task: str = "") -> Record:
    """Return something to keep."""
    return Record(value, 1.5, ttl_seconds, 60.0, "cloud", Usage("m", 1, 2, 0.25), tags, task=task)


class Running:
    """A store, and the events that it has sent."""

    def __init__(self, path: Path, max_bytes: int, wall_clock: Callable[[], float]) -> None:
        self.said: list[dict[str, object]] = []
        self.events: list[StoreEvent] = []
        self.faults: list[Exception] = []
        self._tickets = 0
        self.store = DiskStore(
            path,
            max_bytes=max_bytes,
            write_window_seconds=WINDOW_SECONDS,
            clock=time.monotonic,
            wall_clock=wall_clock,
            log=lambda level, event, **fields: self.said.append({"level": level, "event": event, **fields}),
            on_fault=self.faults.append,
        )

    def write(self, key: str, kept: Record | None = None, scope: str = "1:default") -> None:
        """Let an entry be kept."""
        self.perform(StoreWrite(scope, key, kept or record(), made_at=time.monotonic()))

    def perform(self, effect: StoreEffect) -> None:
        """Let something be done."""
        answer = self.store.perform(effect)
        if answer is not None:
            self.events.append(answer)

    async def look(self, key: str, scope: str = "1:default") -> Answer:
        """Ask for an entry."""
        self._tickets += 1
        self.perform(StoreRead(self._tickets, scope, key))
        return await self._answer()

    async def value(self, key: str) -> bytes | None:
        """Ask for an entry's value; None where there is none."""
        answer = await self.look(key)
        assert not isinstance(answer, Unavailable), self.events
        return answer.record.value if isinstance(answer, Found) else None

    async def remove(self, key: str) -> Answer:
        """Remove an entry."""
        self._tickets += 1
        self.perform(StoreRemove(self._tickets, "1:default", key))
        return await self._answer()

    async def purge(self, namespace: str | None = None, tag: str | None = None, task: str | None = None) -> Answer:
        """Remove entries."""
        self._tickets += 1
        self.perform(StorePurge(self._tickets, namespace, tag, task))
        return await self._answer()

    async def _answer(self) -> Answer:
        ticket = self._tickets
        await until(lambda: any(isinstance(one, StoreAnswered) and one.ticket == ticket for one in self.events))
        answers = [one.answer for one in self.events if isinstance(one, StoreAnswered) and one.ticket == ticket]
        assert len(answers) == 1
        return answers[0]

    def turns(self) -> list[str]:
        """Return how the store was, in order."""
        return [one.state for one in self.events if isinstance(one, StoreStateChanged)]

    def reason(self) -> str:
        """Return why it is as it is."""
        return [one.reason for one in self.events if isinstance(one, StoreStateChanged)][-1]

    async def written(self, count: int) -> None:
        """Wait until so many entries were written."""
        await until(lambda: self.gauge("store_written") >= count)

    def gauge(self, name: str) -> int:
        """Return the latest value of a gauge."""
        gauges = [one.gauges for one in self.events if isinstance(one, StoreMeasured)]
        return getattr(gauges[-1], name) if gauges else 0


async def until(condition: Callable[[], bool]) -> None:
    """Wait for something, but not for long."""
    with anyio.fail_after(10):
        while not condition():  # noqa: ASYNC110 - what a thread does sets no event
            await anyio.sleep(0.002)


@asynccontextmanager
async def running(
    path: Path, max_bytes: int = 1 << 30, wall_clock: Callable[[], float] = now
) -> AsyncIterator[Running]:
    """Run a store on a file, and close it."""
    one = Running(path, max_bytes, wall_clock)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(one.store.run, one.events.append)
        try:
            yield one
        finally:
            tasks.cancel_scope.cancel()

    await one.store.close()
    assert one.faults == []


def is_whole(path: Path) -> bool:
    """Ask SQLite, and compare the sums with what they are of."""
    with sqlite3.connect(path) as connection:
        (verdict,) = connection.execute("PRAGMA integrity_check").fetchone()
        sums = connection.execute("SELECT sum(entries), sum(bytes) FROM sums").fetchone()
        found = connection.execute("SELECT count(*), ifnull(sum(bytes), 0) FROM entries").fetchone()

    connection.close()
    return bool(verdict == "ok" and sums == found)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Name a file that is not there yet."""
    return tmp_path / "store.db"


async def test_an_entry_survives_a_restart(path: Path) -> None:
    """With all its terms, and older by the time that has passed."""
    kept = record(packed("value"), tags=("a", "b"))
    async with running(path) as one:
        one.write("k", kept)

    async with running(path, wall_clock=lambda: now() + 100) as one:
        answer = await one.look("k")
        assert isinstance(answer, Found)
        assert 100 <= answer.record.age_seconds < 110
        found = answer.record
        assert (found.value, found.seconds, found.usage, found.tags) == (packed("value"), 1.5, kept.usage, ("a", "b"))

    async with running(path, wall_clock=lambda: now() + 300) as one:
        assert await one.look("k") == Absent()


async def test_pending_changes_are_visible(path: Path) -> None:
    """A store serves its own pending writes, and hides its pending removals."""
    async with running(path) as one:
        one.write("k")
        assert await one.value("k") == b"v"
        one.perform(StoreRemove(0, "1:default", "k"))
        assert await one.look("k") == Absent()


async def test_a_removal_counts_the_entries_it_removed(path: Path) -> None:
    """On disk or pending."""
    async with running(path) as one:
        one.write("disk")
        await one.written(1)
        one.write("pending")
        assert await one.remove("disk") == Removed(1)
        assert await one.remove("pending") == Removed(1)
        assert await one.remove("nothing") == Removed(0)
        assert await one.look("disk") == Absent()


async def test_a_removal_replaced_by_a_write_is_answered(path: Path) -> None:
    """1. A key is to be removed. 2. Before that is done it is written again. 3. The remover waits for an answer."""
    async with running(path) as one:
        one.perform(StoreRemove(77, "1:default", "k"))
        one.write("k", record(packed("new")))
        await until(lambda: any(isinstance(event, StoreAnswered) and event.ticket == 77 for event in one.events))
        assert await one.value("k") == packed("new")


@pytest.mark.parametrize(
    ("namespace", "tag", "left"),
    [
        (None, None, []),
        ("default", None, ["2:other"]),
        ("1:default", None, ["2:default", "2:other"]),
        (None, "t", ["2:other"]),
        ("2:default", "t", ["1:default", "2:other"]),
        ("default", "u", ["1:default", "2:default", "2:other"]),
    ],
)
async def test_a_purge_removes_what_it_names(
    path: Path, namespace: str | None, tag: str | None, left: list[str]
) -> None:
    """By namespace, by tag, by both, or everything; none of it is served from then on."""
    scopes = {"1:default": ("t",), "2:default": ("s", "t"), "2:other": ()}
    async with running(path) as one:
        for scope, tags in scopes.items():
            one.write("k", record(tags=tags), scope)

        await one.written(3)
        assert await one.purge(namespace, tag) == Removed(3 - len(left))
        found = [scope for scope in scopes if isinstance(await one.look("k", scope), Found)]
        assert found == left


@pytest.mark.parametrize(
    ("namespace", "tag", "task", "left"),
    [
        (None, None, "rag", ["general", "none"]),
        ("default", None, "rag", ["general", "none"]),
        ("other", None, "rag", ["rag", "tagged", "general", "none"]),
        (None, "t", "rag", ["rag", "general", "none"]),
        (None, "rag", None, ["rag", "tagged", "general", "none"]),
        (None, "t", "other", ["rag", "tagged", "general", "none"]),
    ],
)
async def test_a_purge_by_task_removes_the_tasks_entries(
    path: Path, namespace: str | None, tag: str | None, task: str | None, left: list[str]
) -> None:
    """With a tag, those that match both. A tag of the task's name is none, and entries of an earlier version have no task."""
    kept = {
        "rag": record(task="rag"),
        "tagged": record(task="rag", tags=("t", "s")),
        "general": record(task="general", tags=("t",)),
        "none": record(),
    }
    async with running(path) as one:
        for key, entry in kept.items():
            one.write(key, entry)

        await one.written(len(kept))
        assert await one.purge(namespace, tag, task) == Removed(len(kept) - len(left))
        assert [key for key in kept if isinstance(await one.look(key), Found)] == left


async def test_an_entrys_task_survives_a_restart(path: Path) -> None:
    """An entry without a task has none afterwards."""
    async with running(path) as one:
        one.write("of a task", record(task="rag", tags=("t",)))
        one.write("of none", record(tags=("t",)))
        await one.written(2)

    async with running(path) as one:
        found = {key: await one.look(key) for key in ("of a task", "of none")}
        tasks = {key: answer.record.task for key, answer in found.items() if isinstance(answer, Found)}
        assert tasks == {"of a task": "rag", "of none": ""}


async def test_an_entry_is_not_served_while_its_purge_is_pending(path: Path) -> None:
    """The lookup overtakes the purge, since another thread answers it."""
    async with running(path) as one:
        one.write("k", record(tags=("t",)))
        await one.written(1)
        one.perform(StorePurge(0, None, "t"))
        assert await one.look("k") == Absent()


async def test_an_entry_without_lifetime_is_not_written(path: Path) -> None:
    """But it replaces an older entry."""
    async with running(path) as one:
        one.write("k")
        await one.written(1)
        one.write("k", record(ttl_seconds=0.0))
        await until(lambda: one.gauge("store_entries") == 0)


async def test_the_file_stays_within_its_limit(path: Path) -> None:
    """Newcomers without a hit are evicted first, hit entries stay, and the sums stay correct."""
    limit = 200_000
    async with running(path, max_bytes=limit) as one:
        one.write("wanted", record(packed("w" * 1000)))
        await one.written(1)
        for _ in range(3):
            assert await one.value("wanted") is not None

        for number in range(600):
            one.write(str(number), record(packed("x" * 1000)))

        await one.written(601)
        assert one.gauge("store_bytes") <= limit
        assert one.gauge("store_evicted") > 400
        assert await one.value("wanted") == packed("w" * 1000)
        one.write("too large", record(b"x" * (limit // 8)))
        one.write("behind it")
        await one.written(602)
        assert await one.look("too large") == Absent()

    assert is_whole(path)


async def test_expired_entries_leave_the_file(path: Path) -> None:
    """With the next write, before any live entry."""
    instant = [now()]
    async with running(path, wall_clock=lambda: instant[0]) as one:
        for number in range(100):
            one.write(str(number), record(ttl_seconds=10.0))

        await one.written(100)
        instant[0] += 11
        one.write("live")
        await one.written(101)
        assert one.gauge("store_entries") == 1


@pytest.mark.parametrize(
    "content",
    [b"this is no database, and never was one" * 100, b"\0" * 8192, b"SQLite format 3\0" + b"\xff" * 8192],
    ids=["text", "zeros", "a header alone"],
)
async def test_a_file_that_is_not_a_store_is_set_aside(path: Path, content: bytes) -> None:
    """That is logged once; the store is recreated, and the old content is kept for inspection."""
    path.write_bytes(content)
    async with running(path) as one:
        await until(lambda: one.turns() == ["up"])
        one.write("k")
        assert await one.value("k") == b"v"

    (said,) = one.said
    assert said["event"] == "store recreated"
    assert Path(str(said["kept_as"])).read_bytes()[:100] == content[:100]
    assert is_whole(path)


async def test_a_truncated_file_is_set_aside(path: Path) -> None:
    """Wherever it is cut: at the start, or when the missing part is read."""
    async with running(path) as one:
        for number in range(300):
            one.write(str(number), record(packed("x" * 1000)))

    size = path.stat().st_size
    with path.open("r+b") as file:
        file.truncate(size // 2 + 100)

    async with running(path) as one:
        for number in range(300):
            await one.look(str(number))

        await until(lambda: one.turns()[-1:] == ["up"])
        one.write("k")
        await until(lambda: one.gauge("store_pending") == 0)
        assert await one.value("k") == b"v"

    assert is_whole(path)


async def test_damage_while_running_is_noticed(path: Path) -> None:
    """Pages are overwritten while the daemon runs: no answer is wrong, and the store is recreated."""
    async with running(path) as one:
        for number in range(500):
            one.write(str(number), record(str(number).encode() * 300))

    with path.open("r+b") as file:
        file.seek(4096)
        file.write(os.urandom(path.stat().st_size - 8192))

    async with running(path) as one:
        for number in range(500):
            answer = await one.look(str(number))
            if isinstance(answer, Found):
                assert answer.record.value == str(number).encode() * 300

        one.write("k")
        await until(lambda: one.turns()[-1:] == ["up"] and one.gauge("store_pending") == 0)
        assert await one.value("k") == b"v"


async def test_a_later_versions_file_is_left_alone(path: Path) -> None:
    """It is worth more than what this version would write."""
    async with running(path) as one:
        one.write("k")

    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA user_version = 99")

    connection.close()
    before = path.read_bytes()
    async with running(path) as one:
        await until(lambda: one.turns() == ["down"])
        assert "later version" in one.reason()
        one.write("k", record(packed("new")))
        assert await one.value("k") == packed("new")

    assert path.read_bytes() == before


async def test_another_programs_database_is_left_alone(path: Path) -> None:
    """The setting names the wrong file."""
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE theirs (x)")

    connection.close()
    async with running(path) as one:
        await until(lambda: one.turns() == ["down"])
        assert "another program" in one.reason()


@pytest.mark.parametrize("kind", ["directory", "fifo", "link", "nowhere"])
async def test_what_is_not_a_regular_file_is_left_alone(path: Path, kind: str) -> None:
    """Nothing waits for it."""
    make: dict[str, Callable[[], object]] = {
        "directory": path.mkdir,
        "fifo": lambda: os.mkfifo(path),
        "link": lambda: path.symlink_to("/etc/passwd"),
        "nowhere": list,
    }
    make[kind]()
    async with running(path / "x" if kind == "nowhere" else path) as one:
        await until(lambda: one.turns() == ["down"])
        assert await one.look("k") == Unavailable()


async def test_two_daemons_do_not_share_a_file(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second runs without a store, and uses the file once the first has ended."""
    monkeypatch.setattr(disk_store, "MAX_PAUSE_SECONDS", 0.05)
    async with running(path) as second_to_end:
        second_to_end.write("k")
        await second_to_end.written(1)
        other = Running(path, 1 << 30, now)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(other.store.run, other.events.append)
            await until(lambda: other.turns() == ["down"])
            assert "another process uses" in other.reason()
            tasks.cancel_scope.cancel()

        await other.store.close()

    lock = os.open(path.with_name("store.db.lock"), os.O_RDONLY)
    fcntl.flock(lock, fcntl.LOCK_EX)
    async with running(path) as one:
        await until(lambda: one.turns() == ["down"])
        os.close(lock)
        await until(lambda: one.turns() == ["down", "up"])
        assert await one.value("k") == b"v"


async def test_a_locked_file_is_written_later(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another program writes to it: reads go on, writes wait, which is reported, and are done in the end."""
    monkeypatch.setattr("sidecard.store.sqlite.writer.WRITE_PATIENCE_SECONDS", 0.05)
    async with running(path) as one:
        one.write("early")
        await one.written(1)
        locker = sqlite3.connect(path, isolation_level=None)
        locker.execute("BEGIN IMMEDIATE")
        one.write("late")
        await until(lambda: one.turns()[-1] == "read_only")
        assert "locked" in one.reason()
        assert await one.value("early") == b"v"
        assert await one.value("late") == b"v"
        assert await one.remove("early") == Unavailable()
        assert await one.look("early") == Absent()
        locker.execute("ROLLBACK")
        locker.close()
        await until(lambda: one.turns()[-1] == "up")
        await one.written(2)
        assert one.gauge("store_entries") == 1


async def test_a_hanging_disk_is_reported_and_not_waited_for(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A lookup is answered in time; when the disk answers again, the store is up again."""
    monkeypatch.setattr("sidecard.store.sqlite.health.ANSWER_SECONDS", 0.1)
    async with running(path) as one:
        one.write("k")
        await one.written(1)
        assert await one.value("k") == b"v"
        let_go = threading.Event()
        worker = one.store._reads.worker
        assert worker is not None
        worker.do(let_go.wait, lambda _: None)
        assert await one.look("k") == Unavailable()
        assert one.turns()[-1] == "down"
        # Later reads do not queue behind the one that hangs.
        assert one.store.perform(StoreRead(10_000, "1:default", "k")) == StoreAnswered(10_000, Unavailable())
        let_go.set()
        await until(lambda: one.turns()[-1] == "up")
        assert await one.value("k") == b"v"


async def test_only_the_owner_can_read_the_files(path: Path) -> None:
    """Answers may be confidential."""
    async with running(path) as one:
        one.write("k")
        await one.written(1)
        for name in path.parent.iterdir():
            assert stat.S_IMODE(name.stat().st_mode) == 0o600, name


async def test_terms_of_a_later_version_are_a_miss(path: Path) -> None:
    """A new write of the key is found."""
    async with running(path) as one:
        one.write("k")

    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE entries SET about = x'9763'")

    connection.close()
    async with running(path) as one:
        assert await one.look("k") == Absent()
        one.write("k")
        assert await one.value("k") == b"v"


async def test_writes_beyond_the_limit_are_dropped_and_old_entries_stay_gone(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk takes nothing: the oldest writes are dropped and counted, and what they were to replace is gone."""
    monkeypatch.setattr("sidecard.store.background_writes.PENDING_MAX_BYTES", 20_000)
    monkeypatch.setattr("sidecard.store.sqlite.writer.WRITE_PATIENCE_SECONDS", 0.01)
    async with running(path) as one:
        one.write("k", record(packed("old")))
        await one.written(1)
        locker = sqlite3.connect(path, isolation_level=None)
        locker.execute("BEGIN IMMEDIATE")
        one.perform(StoreWrite("1:default", "k", record(packed("n" * 1000)), replace=True, made_at=time.monotonic()))
        for number in range(100):
            one.write(str(number), record(packed("x" * 1000)))

        await until(lambda: one.gauge("store_dropped") > 50)
        assert one.gauge("store_pending_bytes") <= 20_000
        locker.execute("ROLLBACK")
        locker.close()
        await until(lambda: one.gauge("store_pending") == 0 and one.turns()[-1] == "up")
        assert await one.look("k") == Absent()
        assert await one.value("99") == packed("x" * 1000)
