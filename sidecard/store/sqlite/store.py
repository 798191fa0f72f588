"""The store of one host: a SQLite file, read and written in threads of its own.

=====================================  ================================================================================
problem with the file                  consequence
=====================================  ================================================================================
not a database, damaged                set aside as ``NAME.corrupt``, and recreated
of another program, a later version's  left alone; tried again every `FOREIGN_PAUSE_SECONDS`
locked, cannot be opened               left alone; tried again every `MAX_PAUSE_SECONDS`
full, read-only, failing to write      reads are served; changes are kept in memory within a bound, and retried
an entry's checksum does not match     a miss, until it expires or is replaced (`sidecard.store.sqlite.rows`)
failing or hanging to read             not asked until it answers again
=====================================  ================================================================================

In every case the daemon serves on, from memory.
"""

import asyncio
import sqlite3
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from sidecard.core.effects import StoreEffect, StorePurge, StoreRead, StoreRemove, StoreWrite
from sidecard.core.events import StoreAnswered
from sidecard.core.notes import Note
from sidecard.persistence.sqlite_file import DamagedError, ForeignError, UnusableError, set_aside
from sidecard.persistence.worker import WorkerThread
from sidecard.store.base import StoreListener, StoreReporter
from sidecard.store.sqlite.format import lock_store
from sidecard.store.sqlite.health import DiskHealth
from sidecard.store.sqlite.writer import StoreWriter
from sidecard.store.sqlite.writes import MAX_PAUSE_SECONDS, DiskWrites

if TYPE_CHECKING:
    from sidecard.persistence.files import FileLock

FOREIGN_PAUSE_SECONDS = 15.0
"""Between two tries to open a file that is not ours to use."""

CLOSE_SECONDS = 5.0


class DiskStore:
    """See `sidecard.store.base.Store`.

    ``clock`` is the engine's, of the boot that ``boot`` names (empty: it counts no sleep); ``wall_clock`` is the wall's. ``log(level, event, **fields)`` writes a log line.
    ``on_fault`` receives mistakes of our own.
    """

    shared = False

    def __init__(
        self,
        path: Path,
        *,
        max_bytes: int,
        write_window_seconds: float,
        clock: Callable[[], float],
        wall_clock: Callable[[], float],
        boot: str = "",
        log: Callable[..., None],
        on_fault: Callable[[Exception], None],
    ) -> None:
        self._path = path
        self._max_bytes = max_bytes
        self._clock = clock
        self._wall_clock = wall_clock
        self._boot = boot
        self._log = log
        self._reporter = reporter = StoreReporter(log)
        self._health = health = DiskHealth(path, reporter, self._broken)
        self._writes = DiskWrites(
            path,
            health,
            reporter,
            window_seconds=write_window_seconds,
            clock=clock,
            wall_clock=wall_clock,
            boot=boot,
            on_fault=on_fault,
        )
        self._reads = self._writes.reads
        self._lock: FileLock | None = None

    def perform(self, effect: StoreEffect) -> StoreAnswered | None:
        """See `Store`."""
        match effect:
            case StoreRead():
                answer = self._reads.look_up(effect)
                return None if answer is None else StoreAnswered(effect.ticket, answer)
            case StoreWrite():
                return self._writes.add(effect)
            case StoreRemove() | StorePurge():
                return self._writes.remove(effect)
            case _:
                return None

    def note(self, note: Note) -> None:
        """Ignore it: no other host uses this store."""

    async def run(self, notify: StoreListener) -> None:
        """See `Store`."""
        self._reporter.notify = notify
        loop = asyncio.get_running_loop()
        self._reads.worker = reading = WorkerThread("sidecard-store-reader", loop)
        self._writes.worker = writing = WorkerThread("sidecard-store-writer", loop)
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._watch(reading))
            while True:
                pause_seconds = await self._open(reading, writing)
                if pause_seconds is None:
                    await self._writes.serve()
                else:
                    self._give_up()
                    await asyncio.sleep(pause_seconds)

    async def close(self) -> None:
        """See `Store`."""
        reading, writing = self._reads.worker, self._writes.worker
        if reading is None or writing is None:
            return  # canceled before it started

        with suppress(TimeoutError):
            async with asyncio.timeout(CLOSE_SECONDS):
                await self._writes.write_all(writing)
                await self._close_file(reading, writing)
                if self._lock is not None:
                    await writing.run(self._lock.close)

        reading.stop()
        writing.stop()

    async def _watch(self, reading: WorkerThread) -> None:
        """Answer callers that the disk does not answer in time."""
        answer_seconds = self._health.answer_seconds
        while True:
            await asyncio.sleep(answer_seconds / 4)
            self._writes.give_up_removals(until=self._clock() - answer_seconds)
            self._reads.check(reading)

    async def _open(self, reading: WorkerThread, writing: WorkerThread) -> float | None:
        """Open the file; if that fails, return the seconds until the next try."""
        await self._close_file(reading, writing)
        if self._health.damage is not None:
            return await self._recreate(writing, DamagedError(f"{self._path} is damaged ({self._health.damage})"))

        try:
            await writing.run(self._open_writer)
            await self._reads.open(reading)
        except DamagedError as error:
            return await self._recreate(writing, error)
        except UnusableError as error:
            self._health.unusable(f"{error}.")
            return FOREIGN_PAUSE_SECONDS if isinstance(error, ForeignError) else MAX_PAUSE_SECONDS
        except sqlite3.Error as error:
            self._health.unusable(f"{self._path} cannot be opened ({error}).")
            return MAX_PAUSE_SECONDS

        self._health.opened()
        self._reads.resume()
        return None

    def _open_writer(self) -> None:
        """In the writer's thread: the file is known to be open even if no task waits for this any more."""
        if self._lock is None:
            self._lock = lock_store(self._path)

        self._writes.opened(StoreWriter(self._path, self._max_bytes, self._wall_clock, self._boot))

    async def _close_file(self, reading: WorkerThread, writing: WorkerThread) -> None:
        await self._reads.close(reading)
        if self._writes.writer is not None:
            writer, self._writes.writer = self._writes.writer, None
            await writing.run(writer.close)

    async def _recreate(self, writing: WorkerThread, error: DamagedError) -> float:
        """Set a damaged file aside; return the seconds until the next try to open the file."""
        self._reporter.faults += 1
        try:
            kept_as = await writing.run(partial(set_aside, self._path))
        except OSError as fault:
            self._health.unusable(f"{error}, and cannot be renamed ({fault.strerror}).")
            return FOREIGN_PAUSE_SECONDS

        self._health.damage = None
        self._log("warning", "store recreated", reason=str(error), kept_as=str(kept_as))
        return 0.0

    def _broken(self) -> None:
        self._writes.wake()
        self._give_up()

    def _give_up(self) -> None:
        self._reads.give_up()
        self._writes.give_up_removals()
