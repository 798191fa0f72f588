"""Reads of the store on disk, in a thread of their own.

Any read may hang with its disk, whatever the page cache had a moment ago, so the event loop's thread never reads. Handing a
read to the thread and back costs 40 to 65 us; `sidecard docs benchmarks` has what was measured of the alternatives.
"""

import sqlite3
from collections import deque
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path

from msgspec import structs

from sidecard.core.effects import NO_TICKET, StorePurge, StoreRead, StoreRemove, StoreWrite
from sidecard.core.events import Absent, Answer, Found, StoreAnswered, Unavailable
from sidecard.core.records import Record
from sidecard.core.scopes import covers
from sidecard.persistence.sqlite_file import UnusableError
from sidecard.persistence.worker import WorkerThread
from sidecard.store.base import StoreChange, StoreReporter
from sidecard.store.pending_writes import PendingWrites
from sidecard.store.sqlite.format import InvalidEntryError, StoreReader
from sidecard.store.sqlite.health import DiskHealth
from sidecard.store.sqlite.rows import Instant

_MAX_HIT_ROWS = 10_000


class DiskReads:
    """Answers lookups from pending changes and from the file.

    ``clock`` is the engine's, of the boot that ``boot`` names; ``wall_clock`` is the wall's.
    """

    def __init__(
        self,
        path: Path,
        health: DiskHealth,
        reporter: StoreReporter,
        pending: PendingWrites,
        clock: Callable[[], float],
        wall_clock: Callable[[], float],
        boot: str,
    ) -> None:
        self._path = path
        self._health = health
        self._reporter = reporter
        self._pending = pending
        self._clock = clock
        self._wall_clock = wall_clock
        self._boot = boot
        self.hit_rows: deque[int] = deque(maxlen=_MAX_HIT_ROWS)
        """Rows that were read: their hits are written with the next batch."""
        self.worker: WorkerThread | None = None
        self.reader: StoreReader | None = None
        """Used in the worker's thread only."""
        self._open: dict[int, tuple[StoreRead, float]] = {}
        """Lookups without an answer, and when they were made, the oldest first."""
        self._outdated: set[int] = set()
        """Lookups whose entry changed on disk after they were made: what was read for them may be older."""
        self._answered_at = float("-inf")
        """When the worker last answered anything."""

    def look_up(self, ask: StoreRead) -> Answer | None:
        """Look an entry up; return the answer if it is known immediately."""
        change = self._pending.find(ask.scope, ask.key)
        if change is not None:
            return self.pending_answer(change)

        if self._health.usable is False or self._health.hanging:
            return Unavailable()

        self._open[ask.ticket] = ask, self._clock()
        if self._health.usable:
            self._read(ask)

        return None

    def pending_answer(self, change: StoreWrite | StoreRemove) -> Found | Absent:
        """Return the answer for a key that has a pending change."""
        if isinstance(change, StoreRemove):
            return Absent()

        age_seconds = max(0.0, self._clock() - change.made_at)
        if age_seconds >= change.record.ttl_seconds:
            return Absent()

        return Found(structs.replace(change.record, age_seconds=age_seconds))

    def written(self, changes: Iterable[StoreChange]) -> None:
        """Mark the open lookups that a batch concerns: their entries changed on disk."""
        if not self._open:
            return

        names = {(change.scope, change.key) for change in changes if not isinstance(change, StorePurge)}
        purges = [change for change in changes if isinstance(change, StorePurge)]
        for ask, _ in self._open.values():
            if (ask.scope, ask.key) in names or any(covers(purge.namespace, ask.scope) for purge in purges):
                self._outdated.add(ask.ticket)

    def give_up(self) -> None:
        """Answer `Unavailable` to all open lookups."""
        for ask, _ in list(self._open.values()):
            self._answer(ask, Unavailable())

    def check(self, worker: WorkerThread) -> None:
        """Answer lookups that the disk does not answer in time, and notice a disk that hangs."""
        now, health = self._clock(), self._health
        late = [ask for ask, asked_at in self._open.values() if now - asked_at >= health.answer_seconds]
        # A lookup in a queue that moves is late, but nothing hangs.
        silent = now - self._answered_at >= health.answer_seconds
        if late and silent and health.usable is not False and not health.hanging:
            health.hanging = True
            self._reporter.faults += 1
            # Queued behind what hangs: its result shows that the disk answers again.
            worker.do(lambda: None, partial(self._looked, StoreRead(NO_TICKET, "", "")))
            health.report()

        for ask in late:
            self._answer(ask, Unavailable())

    # The file --------------------------------------------------------------------------------------------------------

    async def open(self, worker: WorkerThread) -> None:
        """Open the file. Raises `sqlite3.Error`."""
        await worker.run(self._open_reader)

    def resume(self) -> None:
        """Read what was looked up while the file was being opened."""
        for ask, _ in list(self._open.values()):
            self._read(ask)

    async def close(self, worker: WorkerThread) -> None:
        """Close the file."""
        if self.reader is not None:
            reader, self.reader = self.reader, None
            await worker.run(reader.close)

    def _open_reader(self) -> None:
        self.reader = StoreReader(self._path, lambda: Instant(self._wall_clock(), self._boot, self._clock()))

    # Over the worker -------------------------------------------------------------------------------------------------

    def _read(self, ask: StoreRead) -> None:
        if self.worker is not None:
            self.worker.do(partial(self._look, ask), partial(self._looked, ask))

    def _look(self, ask: StoreRead) -> tuple[int, Record] | InvalidEntryError | None:
        """In the worker's thread: while the file is being opened, this waits behind that."""
        if ask.ticket not in self._open:
            return None  # given up while an earlier read hung

        if self.reader is None:
            raise UnusableError

        try:
            return self.reader.look(ask.scope, ask.key)
        except InvalidEntryError as error:
            return error

    def _looked(self, ask: StoreRead, result: tuple[int, Record] | Exception | None) -> None:
        self._answered_at = self._clock()
        if self._health.hanging:
            self._health.hanging = False
            self._health.report()

        if isinstance(result, InvalidEntryError):
            self._reporter.invalid("an entry's value cannot be decoded", scope=ask.scope, key=ask.key)
            result = None

        if isinstance(result, Exception):
            self._answer(ask, Unavailable())
            self._failed(result)
            return

        if ask.ticket in self._outdated:
            # 1. The worker reads the old entry. 2. Its removal is requested. 3. It is removed. 4. The old entry arrives.
            self._outdated.discard(ask.ticket)
            self._read(ask)
            return

        # 1. The worker reads the old entry. 2. Its removal or replacement is requested. 3. The old entry arrives.
        change = self._pending.find(ask.scope, ask.key)
        self._answer(ask, self._answer_of(ask, result) if change is None else self.pending_answer(change))

    def _answer_of(self, ask: StoreRead, found: tuple[int, Record] | None) -> Answer:
        if found is None or self._pending.purged(ask.scope, found[1]):
            return Absent()

        self.hit_rows.append(found[0])
        return Found(found[1])

    def _failed(self, fault: Exception) -> None:
        if isinstance(fault, sqlite3.Error) and self._health.usable:
            self._reporter.faults += 1
            self._health.broken(fault)

    def _answer(self, ask: StoreRead, answer: Answer) -> None:
        self._outdated.discard(ask.ticket)
        if self._open.pop(ask.ticket, None) is not None:
            self._reporter.notify(StoreAnswered(ask.ticket, answer))
