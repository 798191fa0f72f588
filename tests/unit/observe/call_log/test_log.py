"""The call log's queue: what is written, retried, dropped."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from threading import Event
from typing import Any

import anyio
import msgspec
import pytest

from sidecard.observe.call_log import log as call_log
from sidecard.observe.call_log.log import BATCH_BYTES, BATCH_ROWS, MAX_BYTES, MAX_ROWS, CallLog
from sidecard.observe.call_log.redaction_process import MAX_PACKED_BYTES
from sidecard.observe.call_log.rows import CallLogError, CallRow
from tests.call_rows import AT, record

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    """Run where the daemon runs."""
    return "asyncio"


@pytest.fixture(autouse=True)
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let no test wait for a second."""
    for name in ("WRITE_SECONDS", "MIN_PAUSE_SECONDS", "MAX_PAUSE_SECONDS"):
        monkeypatch.setattr(call_log, name, 0.001)


class Memory:
    """A database in memory that fails on demand."""

    place = "memory"

    def __init__(self) -> None:
        self.rows: dict[str, CallRow] = {}
        self.batches: list[int] = []
        self.away: Exception | None = None
        self.refused_pids: set[int] = set()
        self.notices: list[str] = []
        self.hangs = Event()
        self.hangs.set()
        self.tries = 0
        self.closed = 0

    def write(self, rows: Sequence[CallRow]) -> int:
        """See `CallWriter`."""
        self.tries += 1
        self.hangs.wait(10)
        if self.away is not None:
            raise self.away

        self.batches.append(len(rows))
        kept = [row for row in rows if row.pid not in self.refused_pids]
        self.rows |= {row.id: row for row in kept}
        return len(rows) - len(kept)

    def prune(self) -> bool:
        """See `CallWriter`."""
        return False

    def notice(self) -> str:
        """See `CallWriter`."""
        return self.notices.pop() if self.notices else ""

    def close(self) -> None:
        """See `CallWriter`."""
        self.closed += 1


class World:
    """A log, where it writes, and what it says."""

    def __init__(self, **options: Any) -> None:
        self.memory = Memory()
        self.dropped = Counter[str]()
        self.said: list[tuple[str, str, dict[str, Any]]] = []
        self.log = CallLog(self.memory, host="h", log=self._say, count=self._count, **options)

    def _say(self, level: str, event: str, **fields: Any) -> None:
        self.said.append((level, event, fields))

    def _count(self, kind: str, calls: int) -> None:
        self.dropped[kind] += calls

    def events(self) -> list[str]:
        """Return the logged events, without their fields."""
        return [event for _, event, _ in self.said]

    def add(self, count: int = 1, **fields: Any) -> None:
        """Add calls with different process ids."""
        for number in range(count):
            self.log.add(record(pid=number, **fields), AT + number)

    def pids(self) -> list[int]:
        """Return whose calls are in the database, in the order of their ids."""
        return [row.pid for _, row in sorted(self.memory.rows.items())]


@asynccontextmanager
async def running(world: World) -> AsyncIterator[None]:
    """Let a log write meanwhile."""
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(world.log.run)
        yield
        tasks.cancel_scope.cancel()


async def until(condition: Callable[[], bool]) -> None:
    """Wait until something holds; ten seconds at most."""
    with anyio.fail_after(10):
        while not condition():  # noqa: ASYNC110 - another thread sets no event
            await anyio.sleep(0.001)


async def test_calls_are_written_soon() -> None:
    """Rows have the host's name, and are in the order in which the calls ended."""
    world = World()
    async with running(world):
        world.add(3)
        await until(lambda: len(world.memory.rows) == 3)

    assert world.pids() == [0, 1, 2]
    assert {row.host for row in world.memory.rows.values()} == {"h"}
    assert world.said == []


async def test_batches_are_bounded_in_rows_and_in_bytes() -> None:
    """So a transaction stays short."""
    world = World()
    world.add(2 * BATCH_ROWS + 1)
    async with running(world):
        await until(lambda: len(world.memory.rows) == 2 * BATCH_ROWS + 1)

    assert max(world.memory.batches) == BATCH_ROWS
    world = World()
    packed = msgspec.msgpack.encode("x" * (BATCH_BYTES // 8))
    world.add(20, prompt=packed)
    async with running(world):
        await until(lambda: len(world.memory.rows) == 20)

    assert max(world.memory.batches) == 7
    await world.log.close()


async def test_beyond_the_row_limit_the_newest_calls_are_dropped() -> None:
    """They are counted, and logged once."""
    world = World()
    world.add(MAX_ROWS + 5)
    assert (world.dropped["calls"], world.events()) == (5, ["calls dropped"])
    async with running(world):
        await until(lambda: len(world.memory.rows) == MAX_ROWS)

    assert world.pids()[-1] == MAX_ROWS - 1
    assert world.events() == ["calls dropped", "calls written again"]


async def test_beyond_the_byte_limit_the_newest_calls_are_dropped() -> None:
    """Prompts count toward the limit."""
    world = World()
    packed = b"\xc6" + (MAX_PACKED_BYTES - 5).to_bytes(4, "big") + bytes(MAX_PACKED_BYTES - 5)
    world.add(40, prompt=packed)
    assert world.dropped["calls"] == 40 - (MAX_BYTES - 1) // MAX_PACKED_BYTES


async def test_a_text_too_large_to_decode_takes_no_room() -> None:
    """The call is kept without it."""
    world = World()
    for _ in range(100):
        world.log.add(record(prompt=b"\xc6" + bytes(MAX_PACKED_BYTES), answer=b"\xa1a"), AT)

    async with running(world):
        await until(lambda: len(world.memory.rows) == 100)

    assert {row.prompt for row in world.memory.rows.values()} == {f'{{"$truncated":"","bytes":{MAX_PACKED_BYTES + 1}}}'}
    assert {row.answer for row in world.memory.rows.values()} == {'"a"'}
    assert not world.dropped
    await world.log.close()


@pytest.mark.parametrize("fault", [CallLogError("away"), ValueError("a mistake of ours")])
async def test_a_failed_write_is_retried(fault: Exception) -> None:
    """With the same rows and ids. The failure and the recovery are logged once each, and nothing is lost."""
    world = World()
    world.memory.away = fault
    async with running(world):
        world.add(3)
        await until(lambda: world.memory.tries > 3)
        world.log.add(record(pid=3), AT + 3)
        world.memory.away = None
        await until(lambda: len(world.memory.rows) == 4)

    assert world.pids() == [0, 1, 2, 3]
    assert not world.dropped
    if isinstance(fault, CallLogError):
        assert world.events() == ["calls not written", "calls written again"]
        assert world.said[0][2]["reason"] == "away"
    else:
        assert set(world.events()) == {"call log failed", "calls written again"}


async def test_a_row_that_can_never_be_stored_is_counted() -> None:
    """Other rows of its batch are stored."""
    world = World()
    world.memory.refused_pids = {1}
    async with running(world):
        world.add(3)
        await until(lambda: len(world.memory.rows) == 2)

    assert (world.pids(), world.dropped["calls"], world.events()) == ([0, 2], 1, ["calls not kept"])


async def test_a_writers_notice_is_logged() -> None:
    """For example about a damaged file that was set aside."""
    world = World()
    world.memory.notices = ["recreated"]
    async with running(world):
        world.add()
        await until(lambda: bool(world.said))

    assert world.said == [("warning", "call log changed", {"reason": "recreated"})]


async def test_close_writes_waiting_calls() -> None:
    """Also if `run` had no time to."""
    world = World()
    async with running(world):
        await anyio.lowlevel.checkpoint()

    world.add(1200)
    await world.log.close()
    assert (len(world.memory.rows), world.memory.closed, world.said) == (1200, 1, [])


async def test_close_does_not_wait_for_a_hanging_database(monkeypatch: pytest.MonkeyPatch) -> None:
    """Waiting calls are lost and counted, and nothing is raised."""
    monkeypatch.setattr(call_log, "CLOSE_SECONDS", 0.05)
    world = World()
    world.memory.hangs.clear()
    async with running(world):
        world.add(3)
        await until(lambda: world.memory.tries == 1)

    await world.log.close()
    world.memory.hangs.set()
    assert (world.dropped["calls"], world.events()) == (3, ["calls lost"])


async def test_close_logs_an_unavailable_database() -> None:
    """Nothing is raised."""
    world = World()
    async with running(world):
        await anyio.lowlevel.checkpoint()

    world.memory.away = CallLogError("away")
    world.add(2)
    await world.log.close()
    assert (world.dropped["calls"], world.events()) == (2, ["calls not written", "calls lost"])


async def test_a_log_that_never_ran_can_be_closed() -> None:
    """This happens where the daemon's start failed."""
    await World().log.close()


async def test_a_batch_in_progress_at_the_stop_is_stored_once() -> None:
    """Its result is lost, and it is written again with the same ids."""
    world = World()
    world.memory.hangs.clear()
    async with running(world):
        world.add(3)
        await until(lambda: world.memory.tries == 1)

    asyncio.get_running_loop().call_later(0.01, world.memory.hangs.set)
    await world.log.close()
    assert (world.memory.batches, world.pids(), world.dropped) == ([3, 3], [0, 1, 2], Counter())


async def test_a_write_that_hangs_is_logged(monkeypatch: pytest.MonkeyPatch) -> None:
    """The log continues once the write ends."""
    monkeypatch.setattr(call_log, "STUCK_SECONDS", 0.01)
    world = World()
    world.memory.hangs.clear()
    async with running(world):
        world.add(3)
        await until(lambda: bool(world.said))
        world.memory.hangs.set()
        await until(lambda: len(world.said) == 2)

    assert [(event, fields.get("reason")) for _, event, fields in world.said] == [
        ("calls not written", "memory does not answer"),
        ("calls written again", None),
    ]
