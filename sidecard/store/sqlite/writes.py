"""Writes to the store on disk, after the requests that cause them.

Entries are written at most ``write_window_seconds`` after they were made, as long as the disk keeps up: a killed daemon may
lose that much. Removals and purges whose callers wait are written immediately; other removals wait like entries.
"""

import asyncio
import sqlite3
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from sidecard.core.effects import NO_TICKET, StorePurge, StoreRemove, StoreWrite
from sidecard.core.events import Found, Removed, StoreAnswered, Unavailable
from sidecard.persistence.worker import WorkerThread
from sidecard.store.background_writes import BackgroundWrites
from sidecard.store.base import StoreChange, StoreReporter
from sidecard.store.sqlite.health import DiskHealth
from sidecard.store.sqlite.reads import DiskReads
from sidecard.store.sqlite.writer import Applied, StoreWriter
from sidecard_client.protocol.backoff import Backoff

MAX_BATCH = 1000
"""Changes in one transaction: a commit takes milliseconds, and reads of the file go on meanwhile."""

MIN_PAUSE_SECONDS, MAX_PAUSE_SECONDS = 0.25, 2.0
"""Pause between two attempts while the file refuses writes."""

TIDY_SECONDS = 5.0
"""How often expired entries are removed and hits are written while there are no other writes."""


class DiskWrites(BackgroundWrites):
    """Changes on their way to the file. ``clock`` is the engine's, ``wall_clock`` the wall's."""

    def __init__(
        self,
        path: Path,
        health: DiskHealth,
        reporter: StoreReporter,
        *,
        window_seconds: float,
        clock: Callable[[], float],
        wall_clock: Callable[[], float],
        boot: str,
        on_fault: Callable[[Exception], None],
    ) -> None:
        super().__init__(reporter)
        self.reads = DiskReads(path, health, reporter, self.pending, clock, wall_clock, boot)
        self._health = health
        self._window_seconds = window_seconds
        self._clock = clock
        self._wall_clock = wall_clock
        self._on_fault = on_fault
        self.worker: WorkerThread | None = None
        self.writer: StoreWriter | None = None
        self.urgent = asyncio.Event()
        """Set: write now, without waiting for the window to end."""
        self._changed_at = 0.0
        """When the oldest change since the last batch was made."""

    def add(self, change: StoreChange) -> StoreAnswered | None:
        """Write a change soon; return the answer to the removal that it makes unnecessary, if any."""
        if not self.changed.is_set():
            self._changed_at = self._clock()
            self.changed.set()

        return self._add(change)

    def remove(self, removal: StoreRemove | StorePurge) -> StoreAnswered | None:
        """Write a removal, immediately if its caller waits; return an answer that is known already."""
        unwritten = self._count_unwritten(removal)
        replaced = self.add(removal)
        if removal.ticket == NO_TICKET:
            return replaced

        if self._health.usable is False or not self._health.takes_writes:
            return StoreAnswered(removal.ticket, Unavailable())

        self.expect_removal(removal.ticket, unwritten, self._clock())
        self.urgent.set()
        return replaced

    def wake(self) -> None:
        """Let `serve` notice that the file must be reopened."""
        self.changed.set()
        self.urgent.set()

    async def serve(self) -> None:
        """Write until the file must be reopened."""
        backoff = Backoff(MIN_PAUSE_SECONDS, MAX_PAUSE_SECONDS)
        must_reopen = self._health.must_reopen
        if len(self.pending):
            self.changed.set()  # what waited for the file to be opened

        while not must_reopen.is_set():
            if not self._health.takes_writes:
                await asyncio.sleep(backoff.failed(self._clock()))
            else:
                backoff.reset()
                await _wait(self.changed, TIDY_SECONDS)
                if self.changed.is_set():
                    # Collect for a quarter of the window, so that the rest is for the disk. It began with the oldest
                    # change, which may have waited for the file to be opened.
                    write_at = self._changed_at + self._window_seconds / 4
                    await _wait(self.urgent, max(0.0, write_at - self._clock()))

            self.changed.clear()
            self.urgent.clear()
            while not must_reopen.is_set():
                if not await self.write_some() or not len(self.pending):
                    break

    async def write_all(self, worker: WorkerThread) -> None:
        """Write all pending changes, as far as the file takes them."""
        # The result of a batch that is being written decides what is still to be written.
        await worker.run(lambda: None)
        while len(self.pending) and self.writer is not None and not self._health.must_reopen.is_set():
            if not await self.write_some():
                break

    async def write_some(self) -> bool:
        """Write a batch; return whether the file took it."""
        if self.writer is None or self.worker is None:
            return False

        changes = self.pending.take(MAX_BATCH)
        offset = self._wall_clock() - self._clock()
        batch = [(change, change.made_at + offset if isinstance(change, StoreWrite) else 0.0) for change in changes]
        hit_rows = [self.reads.hit_rows.popleft() for _ in range(len(self.reads.hit_rows))]
        clear, self.pending.must_clear_store = self.pending.must_clear_store, False
        settled = asyncio.Event()

        # In a callback: if this task is canceled, it must still be known that the batch was written.
        def settle(result: Any) -> None:
            settled.set()
            # Clear again next time if this failed, or if removals were dropped meanwhile.
            self.pending.must_clear_store |= clear and isinstance(result, Exception)
            self._wrote(changes, result)

        self.worker.do(partial(self.writer.apply, batch, hit_rows, clear=clear), settle)
        await settled.wait()
        return self._health.takes_writes

    def opened(self, writer: StoreWriter) -> None:
        """Write over ``writer`` from now on."""
        self.writer = writer
        self.entries, self.bytes = writer.sums()

    def _count_unwritten(self, removal: StoreRemove | StorePurge) -> int:
        """Count the entry that a removal replaces before it is written; reads were answered with it already.

        A purge replaces none: the entries before it are written first.
        """
        change = None if isinstance(removal, StorePurge) else self.pending.find(removal.scope, removal.key)
        return int(change is not None and isinstance(self.reads.pending_answer(change), Found))

    def _wrote(self, changes: list[StoreChange], result: Applied | Exception) -> None:
        if isinstance(result, sqlite3.Error):
            self.pending.give_back()
            self.give_up_removals()
            self._health.refuses_writes(result)
            self.measure()
            return

        self.pending.done()
        if isinstance(result, Exception):
            # A mistake of our own would only be repeated.
            self.reporter.faults += 1
            self.given_up += len(changes)
            self.give_up_removals()
            self._on_fault(result)
            return

        self.reads.written(changes)
        self.written += result.written
        self.evicted += result.evicted
        self.entries, self.bytes = result.entries, result.bytes
        for change, count in zip(changes, result.removed, strict=True):
            if not isinstance(change, StoreWrite):
                # A key's one entry was pending, on disk, or both.
                self.answer_removal(change.ticket, Removed(max(count, self.unwritten(change.ticket))))

        if not self._health.takes_writes:
            self._health.takes_writes = True
            self._health.report()

        self.measure()


async def _wait(event: asyncio.Event, seconds: float) -> None:
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await event.wait()
