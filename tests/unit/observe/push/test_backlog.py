"""The backlog in memory and on disk: a disk that fails or hangs loses, repeats and blocks nothing."""

import threading
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from sidecard.observe.push import backlog as push_backlog
from sidecard.observe.push.backlog import MEMORY_MAX_BYTES, RETRY_DISK_SECONDS, Backlog
from sidecard.observe.push.spool import Spool
from sidecard.observe.push.spool_records import Block

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    """Run where the daemon runs."""
    return "asyncio"


def block(number: int, size: int = 100) -> Block:
    """Make a block that differs from others."""
    return Block(1, 1, number, f"{number}".encode().ljust(size, b"."))


class Disk(Spool):
    """A spool on a disk that may fail or hang."""

    fault: OSError | None = None
    gate: threading.Event | None = None

    def append(self, one: Block) -> None:
        """Append, fail or hang."""
        if Disk.gate is not None:
            Disk.gate.wait(timeout=20)

        if Disk.fault is not None:
            raise Disk.fault

        super().append(one)


class Place:
    """A backlog with its own clock, and what it logged and dropped."""

    def __init__(self, directory: Path | None, max_bytes: int = 1_000_000) -> None:
        self.now = 0.0
        self.dropped = 0
        self.said: list[tuple[str, Any]] = []
        self.backlog = Backlog(
            directory, max_bytes=max_bytes, clock=lambda: self.now, on_dropped=self._drop, log=self._say
        )

    def _drop(self, samples: int) -> None:
        self.dropped += samples

    def _say(self, _: str, event: str, **fields: object) -> None:
        self.said.append((event, fields.get("reason")))

    async def drain(self) -> list[int]:
        """Take all blocks; return their numbers."""
        numbers = []
        while (waiting := await self.backlog.oldest()) is not None:
            numbers.append(waiting.block.at_milliseconds)
            await self.backlog.take(waiting)

        return numbers


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> type[Disk]:
    """Put spools on a scripted disk, and let jobs time out immediately."""
    monkeypatch.setattr(push_backlog, "Spool", Disk)
    monkeypatch.setattr(Disk, "fault", None)
    monkeypatch.setattr(Disk, "gate", None)
    return Disk


@pytest.mark.parametrize("on_disk", [True, False])
async def test_blocks_leave_in_order(tmp_path: Path, on_disk: bool) -> None:
    """From memory and from disk."""
    place = Place(tmp_path / "spool" if on_disk else None)
    await place.backlog.add(*map(block, range(10)))
    assert place.backlog.size_bytes > 1_000
    assert not place.backlog.empty
    assert await place.drain() == list(range(10))
    assert place.backlog.empty
    assert place.backlog.size_bytes == 0


async def test_concurrent_adds_and_takes_keep_each_block_once(tmp_path: Path) -> None:
    """While one task waits for the disk, others do not write the same blocks."""
    place = Place(tmp_path / "spool")
    taken: list[int] = []

    async def add(first: int) -> None:
        for number in range(first, first + 50):
            await place.backlog.add(block(number))

    async with anyio.create_task_group() as tasks:
        for first in range(0, 200, 50):
            tasks.start_soon(add, first)

        while len(taken) < 200:
            taken.extend(await place.drain())
            await anyio.lowlevel.checkpoint()

    assert sorted(taken) == list(range(200))
    assert place.dropped == 0
    await place.backlog.close()


@pytest.mark.parametrize("number", [28, 30, 5])
async def test_a_failing_disk_is_logged_once_and_retried(tmp_path: Path, disk: type[Disk], number: int) -> None:
    """Blocks on disk come first, then those in memory; once the disk works, all are moved to it."""
    place = Place(tmp_path / "spool")
    await place.backlog.add(block(0))
    disk.fault = OSError(number, "broken")
    for n in range(1, 4):
        await place.backlog.add(block(n))

    place.now += RETRY_DISK_SECONDS
    await place.backlog.add(block(4))
    assert place.said == [("metrics not spooled to disk", "broken")]
    disk.fault = None
    await place.backlog.add(block(5))
    assert len(place.said) == 1
    place.now += RETRY_DISK_SECONDS
    await place.backlog.add(block(6))
    assert place.said[1:] == [("metrics spooled to disk again", None)]
    assert await place.drain() == list(range(7))
    assert place.dropped == 0
    await place.backlog.close()


async def test_a_full_disk_can_be_read(tmp_path: Path, disk: type[Disk]) -> None:
    """Reading is what makes room."""
    place = Place(tmp_path / "spool")
    await place.backlog.add(block(0), block(1))
    disk.fault = OSError(28, "full")
    await place.backlog.add(block(2))
    assert await place.drain() == [0, 1, 2]


async def test_a_hanging_disk_loses_no_block(tmp_path: Path, disk: type[Disk], monkeypatch: pytest.MonkeyPatch) -> None:
    """A hanging write completes when the disk answers again, and its blocks are not there twice."""
    monkeypatch.setattr(push_backlog, "DISK_SECONDS", 0.05)
    place = Place(tmp_path / "spool")
    await place.backlog.open()
    disk.gate = gate = threading.Event()
    await place.backlog.add(block(0), block(1))
    await place.backlog.add(block(2))
    assert place.said == [("metrics not spooled to disk", "the disk does not answer")]
    waiting = await place.backlog.oldest()
    assert waiting is not None
    assert waiting.block == block(0)
    place.backlog.give_back()
    disk.gate = None
    gate.set()
    with anyio.fail_after(10):
        while place.backlog._worker is not None and place.backlog._worker.busy:  # noqa: ASYNC110 - a thread's
            await anyio.sleep(0.001)

    place.now += RETRY_DISK_SECONDS
    monkeypatch.setattr(push_backlog, "DISK_SECONDS", 10.0)
    assert await place.drain() == [0, 1, 2]
    assert place.dropped == 0
    await place.backlog.close()


async def test_memory_is_bounded_and_drops_the_oldest() -> None:
    """By its own limit, or by the spool's if that is lower."""
    place = Place(None, 1_000)
    await place.backlog.add(*map(block, range(20)))
    assert place.backlog.size_bytes <= 1_000
    numbers = await place.drain()
    assert numbers == list(range(20 - len(numbers), 20))
    assert place.dropped == 20 - len(numbers)
    wide = Place(None, 2**40)
    await wide.backlog.add(*(block(n, 1024 * 1024) for n in range(20)))
    assert wide.backlog.size_bytes <= MEMORY_MAX_BYTES


async def test_a_block_being_sent_from_memory_stays_the_oldest(tmp_path: Path) -> None:
    """Also without room for later blocks, and while the disk would take them."""
    place = Place(None, 500)
    await place.backlog.add(block(0))
    waiting = await place.backlog.oldest()
    assert waiting is not None
    await place.backlog.add(*map(block, range(1, 10)))
    await place.backlog.take(waiting)
    numbers = await place.drain()
    assert place.dropped + len(numbers) + 1 == 10


async def test_a_spool_of_another_process_is_left_alone(tmp_path: Path) -> None:
    """It is used once that process has ended."""
    one, other = Place(tmp_path / "spool"), Place(tmp_path / "spool")
    await one.backlog.add(block(0))
    await other.backlog.add(block(1))
    assert other.said == [("metrics not spooled to disk", "another process uses it")]
    await one.backlog.close()
    other.now += RETRY_DISK_SECONDS
    assert await other.drain() == [0, 1]
    await other.backlog.close()


async def test_close_writes_blocks_in_memory_or_counts_them(tmp_path: Path, disk: type[Disk]) -> None:
    """After an earlier fault the disk is tried once more."""
    place = Place(tmp_path / "spool")
    disk.fault = OSError(28, "full")
    await place.backlog.add(block(0))
    disk.fault = None
    await place.backlog.close()
    assert place.dropped == 0
    assert await Place(tmp_path / "spool").drain() == [0]
    lost = Place(None)
    await lost.backlog.add(block(0))
    await lost.backlog.close()
    assert lost.dropped == 1
