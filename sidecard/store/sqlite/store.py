"""The store of one host: a SQLite file, read and written in threads of its own.

Entries are written behind: at most ``write_window_seconds`` after they were made, as long as the disk keeps up. That is what
a killed daemon may lose. Removals and purges are written at once.

==================================  ===================================================================================
what is wrong with the file         what becomes of it
==================================  ===================================================================================
not a store, damaged                set aside as ``NAME.corrupt``, and begun anew
of another program, a later one's   left alone; looked at again every `FOREIGN_PAUSE_SECONDS`
locked, not to be opened            as above, every `MAX_PAUSE_SECONDS`
full, read-only, failing to write   what it has is served; what is to be written waits, within a bound
an entry is not what was written    a miss, until it expires or is written anew (`disk_rows`)
failing or hanging to read          not asked, until it answers again
==================================  ===================================================================================

In every case the daemon serves on, from memory.

What is in the page cache is read at once, in the event loop's thread: that takes 10 us, and handing the question to a thread
and back takes 40. nginx reads its cache's files so. The first read that takes longer than `SLOW_READ_SECONDS` sends those
after it to a thread, for `SLOW_DISK_SECONDS`.
"""

import asyncio
import sqlite3
from collections import deque
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import anyio
from msgspec import structs

from sidecard.core.effects import StoreEffect, StorePurge, StoreRead, StoreRemove, StoreWrite
from sidecard.core.events import (
    Absent,
    Answer,
    Found,
    Removed,
    StoreAnswered,
    StoreEvent,
    StoreGauges,
    StoreMeasured,
    StoreStateChanged,
    Unavailable,
)
from sidecard.core.records import Record
from sidecard.core.scopes import covers
from sidecard.store.base import Tell
from sidecard.store.pending import UNANSWERED, Pending, Wish
from sidecard.store.sqlite.file import (
    Applied,
    BypassedError,
    DamagedError,
    FileLock,
    ForeignError,
    Reader,
    Writer,
    is_damage,
    set_aside,
)
from sidecard.store.sqlite.worker import Worker

PENDING_MAX_BYTES = 64 * 1024 * 1024
"""What may wait to be written while the disk takes nothing."""

MAX_BATCH = 1000
"""Wishes in one transaction: a commit stays in the milliseconds, and reads of the file go on meanwhile."""

ANSWER_SECONDS = 0.5
"""How long the disk may take to read an entry, after which it counts as hanging. Below the clients' own patience."""

MIN_PAUSE_SECONDS, MAX_PAUSE_SECONDS = 0.25, 2.0
"""Between two tries of what the file refuses."""

FOREIGN_PAUSE_SECONDS = 15.0
"""Between two looks at a file that is not ours to use."""

TIDY_SECONDS = 5.0
"""How often expired entries are removed and hits are written down where nothing else is written."""

SLOW_READ_SECONDS = 0.002
"""Of a read that was not from the page cache, or was very large."""

SLOW_DISK_SECONDS = 10.0

CLOSE_SECONDS = 5.0

_MAX_TOUCHED = 10_000


class DiskStore:
    """See `sidecard.store.base.Store`.

    ``clock`` is the engine's and ``wall_clock`` the wall's; ``say`` is a log's; ``on_fault`` gets mistakes of our own.
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
        say: Callable[..., None],
        on_fault: Callable[[Exception], None],
    ) -> None:
        self._path = path
        self._max_bytes = max_bytes
        self._window_seconds = write_window_seconds
        self._clock = clock
        self._wall_clock = wall_clock
        self._say = say
        self._on_fault = on_fault
        self._pending = Pending(PENDING_MAX_BYTES)
        self._wished = asyncio.Event()
        self._wished_at = 0.0
        """When the oldest of what is wished since the last batch was wished."""
        self._urgent = asyncio.Event()
        self._broken = asyncio.Event()
        """The file is to be opened anew."""
        self._asking: dict[int, tuple[StoreRead, float]] = {}
        """Questions that are to be answered yet, and when they were asked; the oldest first."""
        self._removing: dict[int, tuple[int, float]] = {}
        """Tickets that are to be answered yet: how many entries were removed before they were ever written, and since when."""
        self._overtaken: set[int] = set()
        """Questions whose entry was changed on disk after they were asked: what was read of it may be older."""
        self._heard_at = float("-inf")
        """When the reader's thread has last answered anything."""
        self._damage: sqlite3.Error | None = None
        """What is wrong with a file that can be opened."""
        self._reading: Worker[Any] | None = None
        self._writing: Worker[Any] | None = None
        self._touched: deque[int] = deque(maxlen=_MAX_TOUCHED)
        self._lock: FileLock | None = None
        self._reader: Reader | None = None
        """In its thread; `_near_reader` reads the same file in the event loop's."""
        self._near_reader: Reader | None = None
        self._slow_until = float("-inf")
        self._writer: Writer | None = None
        self._usable: bool | None = None
        """None until the file was tried to be opened for the first time."""
        self._hanging = False
        self._writes = True
        self._turned: StoreStateChanged | None = None
        self._written = self._evicted = self._given_up = self._faults = 0
        self._sums = 0, 0
        self._measured: StoreGauges | None = None
        self._tell: Tell = _unheard

    def perform(self, effect: StoreEffect) -> StoreAnswered | None:
        """See `Store`."""
        match effect:
            case StoreRead():
                answer = self._ask(effect)
                return None if answer is None else StoreAnswered(effect.ticket, answer)
            case StoreWrite():
                return self._wish(effect)
            case StoreRemove() | StorePurge():
                return self._remove(effect)
            case _:
                return None

    async def run(self, tell: Tell) -> None:
        """See `Store`."""
        self._tell = tell
        loop = asyncio.get_running_loop()
        self._reading = Worker("sidecard-store-reader", loop)
        self._writing = Worker("sidecard-store-writer", loop)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._watch)
            while True:
                pause_seconds = await self._open()
                if pause_seconds is not None:
                    self._unanswer()
                    await anyio.sleep(pause_seconds)
                    continue

                await self._serve()

    async def close(self) -> None:
        """See `Store`."""
        if self._reading is None or self._writing is None:
            return  # cancelled before it began

        with anyio.move_on_after(CLOSE_SECONDS):
            # What the writer is doing is done first: its result decides what is still to be written.
            await self._writing.done(_nothing)
            while len(self._pending) and self._writer is not None and not self._broken.is_set():
                if not await self._write_some():
                    break

            await self._let_go()

        if self._lock is not None:
            self._lock.close()

        self._reading.stop()
        self._writing.stop()

    # Reading ---------------------------------------------------------------------------------------------------------

    def _ask(self, ask: StoreRead) -> Answer | None:
        pending = self._pending.find(ask.scope, ask.key)
        if pending is not None:
            return self._found(pending)

        if self._usable is False:
            return Unavailable()

        now = self._clock()
        if self._near_reader is not None and now >= self._slow_until and not self._hanging:
            return self._read_at_once(self._near_reader, ask, now)

        self._asking[ask.ticket] = ask, now
        if self._usable:
            self._read(ask)

        return None

    def _read_at_once(self, reader: Reader, ask: StoreRead, began_at: float) -> Answer:
        try:
            found = reader.look(ask.scope, ask.key)
        except sqlite3.Error as error:
            asyncio.get_running_loop().call_soon(self._failed_to_read, error)
            return Unavailable()

        ended_at = self._clock()
        if ended_at - began_at > SLOW_READ_SECONDS:
            self._slow_until = ended_at + SLOW_DISK_SECONDS

        return self._judged(ask, found)

    def _read(self, ask: StoreRead) -> None:
        self._reader_thread.do(partial(self._look, ask.scope, ask.key), partial(self._looked, ask))

    def _look(self, scope: str, key: str) -> tuple[int, Record] | None:
        """In the reader's thread: where the file is being opened, this waits behind that."""
        if self._reader is None:
            raise BypassedError

        return self._reader.look(scope, key)

    def _looked(self, ask: StoreRead, result: Any) -> None:
        self._heard_at = self._clock()
        if self._hanging:
            self._hanging = False
            self._judge()

        if isinstance(result, Exception):
            self._answer(ask, Unavailable())
            self._failed_to_read(result)
            return

        if ask.ticket in self._overtaken:
            # 1. the thread reads the old entry; 2. we are told to remove it; 3. that is done; 4. what was read arrives.
            self._overtaken.discard(ask.ticket)
            self._read(ask)
            return

        # 1. the thread reads the old entry; 2. we are told to replace or remove it; 3. what it has read arrives.
        pending = self._pending.find(ask.scope, ask.key)
        self._answer(ask, self._judged(ask, result) if pending is None else self._found(pending))

    def _judged(self, ask: StoreRead, found: tuple[int, Record] | None) -> Answer:
        if found is None or self._pending.purged(ask.scope, found[1]):
            return Absent()

        self._touched.append(found[0])
        return Found(found[1])

    def _found(self, pending: StoreWrite | StoreRemove) -> Found | Absent:
        if isinstance(pending, StoreRemove):
            return Absent()

        age_seconds = max(0.0, self._clock() - pending.made_at)
        if age_seconds >= pending.record.ttl_seconds:
            return Absent()

        return Found(structs.replace(pending.record, age_seconds=age_seconds))

    def _failed_to_read(self, fault: Exception) -> None:
        if isinstance(fault, sqlite3.Error) and self._usable:
            self._faults += 1
            self._break(fault)

    def _answer(self, ask: StoreRead, answer: Answer) -> None:
        self._overtaken.discard(ask.ticket)
        if self._asking.pop(ask.ticket, None) is not None:
            self._tell(StoreAnswered(ask.ticket, answer))

    async def _watch(self) -> None:
        """Answer what the disk does not, and find out when it does again."""
        while True:
            await anyio.sleep(ANSWER_SECONDS / 4)
            now = self._clock()
            late = [ask for ask, asked_at in self._asking.values() if now - asked_at >= ANSWER_SECONDS]
            for ticket, (_, asked_at) in list(self._removing.items()):
                if now - asked_at >= ANSWER_SECONDS:
                    self._removed(ticket, Unavailable())

            # One that waits in a queue that moves is late, and nothing hangs.
            silent = now - self._heard_at >= ANSWER_SECONDS
            if late and silent and self._usable is not False and not self._hanging:
                self._hanging = True
                self._faults += 1
                # Behind what hangs: its answer is the news that it does no longer.
                self._reader_thread.do(_nothing, partial(self._looked, StoreRead(UNANSWERED, "", "")))
                self._judge()

            for ask in late:
                self._answer(ask, Unavailable())

    # Writing ---------------------------------------------------------------------------------------------------------

    def _wish(self, wish: Wish) -> StoreAnswered | None:
        older = self._pending.add(wish)
        if not self._wished.is_set():
            self._wished_at = self._clock()
            self._wished.set()

        if not isinstance(older, StoreRemove) or older.ticket not in self._removing:
            return None

        # Overtaken: it is not done by itself any more, but by what takes its place.
        del self._removing[older.ticket]
        return StoreAnswered(older.ticket, Unavailable())

    def _remove(self, removal: StoreRemove | StorePurge) -> StoreAnswered | None:
        unwritten = self._unwritten(removal)
        overtaken = self._wish(removal)
        if removal.ticket == UNANSWERED:
            return overtaken

        if self._usable is False or not self._writes:
            return StoreAnswered(removal.ticket, Unavailable())

        self._removing[removal.ticket] = unwritten, self._clock()
        self._urgent.set()
        return overtaken

    def _unwritten(self, removal: StoreRemove | StorePurge) -> int:
        """Return how many entries go by a removal that are to be written yet, and are served already."""
        if isinstance(removal, StorePurge):
            return sum(isinstance(self._found(wish), Found) for wish in self._pending.within(removal))

        wish = self._pending.find(removal.scope, removal.key)
        return int(wish is not None and isinstance(self._found(wish), Found))

    async def _serve(self) -> None:
        """Write what is wanted, until the file is to be opened anew."""
        pause_seconds = MIN_PAUSE_SECONDS
        if len(self._pending):
            self._wished.set()  # what waited for the file to be opened

        while not self._broken.is_set():
            if not self._writes:
                await anyio.sleep(pause_seconds)
                pause_seconds = min(MAX_PAUSE_SECONDS, 2 * pause_seconds)
            else:
                pause_seconds = MIN_PAUSE_SECONDS
                # A quarter of the window to collect, so that the rest is for the disk; from the oldest wish on, which may
                # have waited for the file to be opened.
                await self._wait(self._wished, TIDY_SECONDS)
                if self._wished.is_set():
                    write_at = self._wished_at + self._window_seconds / 4
                    await self._wait(self._urgent, max(0.0, write_at - self._clock()))

            self._wished.clear()
            self._urgent.clear()
            while not self._broken.is_set():
                if not await self._write_some() or not len(self._pending):
                    break

    async def _wait(self, event: asyncio.Event, seconds: float) -> None:
        with anyio.move_on_after(seconds):
            await event.wait()

    async def _write_some(self) -> bool:
        """Write a batch; tell whether the file took it."""
        writer = self._writer
        if writer is None:
            return False

        wishes = self._pending.take(MAX_BATCH)
        offset = self._wall_clock() - self._clock()
        batch = [(wish, wish.made_at + offset if isinstance(wish, StoreWrite) else 0.0) for wish in wishes]
        touched = [self._touched.popleft() for _ in range(len(self._touched))]
        clear, self._pending.lost_track = self._pending.lost_track, False
        settled = asyncio.Event()

        # Not by waiting for it: where this task is cancelled, what was written must still be known to be.
        def settle(result: Any) -> None:
            settled.set()
            # Not where it was lost once more meanwhile.
            self._pending.lost_track |= clear and isinstance(result, Exception)
            self._wrote(wishes, result)

        self._writer_thread.do(partial(writer.apply, batch, touched, clear=clear), settle)
        await settled.wait()
        return self._writes

    def _wrote(self, wishes: list[Wish], result: Applied | Exception) -> None:
        if isinstance(result, sqlite3.Error):
            self._pending.give_back()
            self._unanswer_removals()
            self._failed_to_write(result)
            self._measure()
            return

        self._pending.done()
        if isinstance(result, Exception):
            # What cannot be written for a reason of ours cannot be written a second time either.
            self._faults += 1
            self._given_up += len(wishes)
            self._unanswer_removals()
            self._on_fault(result)
            return

        self._overtake(wishes)
        self._written += result.written
        self._evicted += result.evicted
        self._sums = result.entries, result.bytes
        for wish, count in zip(wishes, result.removed, strict=True):
            if not isinstance(wish, StoreWrite):
                unwritten, _ = self._removing.get(wish.ticket, (0, 0.0))
                # A purge's were never on disk; a key's one entry was in one place or the other, or in both.
                whole = count + unwritten if isinstance(wish, StorePurge) else max(count, unwritten)
                self._removed(wish.ticket, Removed(whole))

        if not self._writes:
            self._writes = True
            self._judge()

        self._measure()

    def _overtake(self, wishes: list[Wish]) -> None:
        if not self._asking:
            return

        names = {(wish.scope, wish.key) for wish in wishes if not isinstance(wish, StorePurge)}
        purges = [wish for wish in wishes if isinstance(wish, StorePurge)]
        for ask, _ in self._asking.values():
            if (ask.scope, ask.key) in names or any(covers(purge.namespace, ask.scope) for purge in purges):
                self._overtaken.add(ask.ticket)

    def _failed_to_write(self, fault: sqlite3.Error) -> None:
        self._faults += 1
        if is_damage(fault):
            self._break(fault)
        else:
            self._writes = False
            self._judge(f"{self._path} cannot be written ({fault}).")

    def _removed(self, ticket: int, answer: Removed | Unavailable) -> None:
        if ticket in self._removing:
            del self._removing[ticket]
            self._tell(StoreAnswered(ticket, answer))

    def _unanswer_removals(self) -> None:
        for ticket in list(self._removing):
            self._removed(ticket, Unavailable())

    # The file --------------------------------------------------------------------------------------------------------

    async def _open(self) -> float | None:
        """Open the file; where that cannot be, return after how many seconds to try again."""
        await self._let_go()
        if self._damage is not None:
            return self._begin_anew(DamagedError(f"{self._path} is damaged ({self._damage})"))

        try:
            await self._writer_thread.done(self._open_writer)
            await self._reader_thread.done(self._open_reader)
            self._near_reader = Reader(self._path, self._wall_clock)
        except DamagedError as error:
            return self._begin_anew(error)
        except BypassedError as error:
            self._turn_down(f"{error}.")
            return FOREIGN_PAUSE_SECONDS if isinstance(error, ForeignError) else MAX_PAUSE_SECONDS
        except sqlite3.Error as error:
            self._turn_down(f"{self._path} cannot be opened ({error}).")
            return MAX_PAUSE_SECONDS

        self._usable = True
        self._writes = True
        self._broken.clear()
        self._judge()
        # What was asked while the file was being opened.
        for ask, _ in list(self._asking.values()):
            self._read(ask)

        return None

    def _open_writer(self) -> None:
        if self._lock is None:
            self._lock = FileLock(self._path)

        self._writer = Writer(self._path, self._max_bytes, self._wall_clock)
        self._sums = self._writer.sums()

    def _open_reader(self) -> None:
        self._reader = Reader(self._path, self._wall_clock)

    @property
    def _reader_thread(self) -> Worker[Any]:
        return _running(self._reading)

    @property
    def _writer_thread(self) -> Worker[Any]:
        return _running(self._writing)

    async def _let_go(self) -> None:
        if self._near_reader is not None:
            self._near_reader.close()
            self._near_reader = None

        if self._reader is not None:
            reader, self._reader = self._reader, None
            await self._reader_thread.done(reader.close)

        if self._writer is not None:
            writer, self._writer = self._writer, None
            await self._writer_thread.done(writer.close)

    def _begin_anew(self, error: DamagedError) -> float:
        self._faults += 1
        try:
            kept_as = set_aside(self._path)
        except OSError as fault:
            self._turn_down(f"{error}, and cannot be renamed ({fault.strerror}).")
            return FOREIGN_PAUSE_SECONDS

        self._damage = None
        self._say("warning", "store begun anew", reason=str(error), kept_as=str(kept_as))
        return 0.0

    def _break(self, fault: sqlite3.Error) -> None:
        """Open the file anew, and find out what it is then."""
        self._usable = False
        # Opened anew it would be the same: only what is not damage may have passed.
        self._damage = fault if is_damage(fault) else None
        self._broken.set()
        self._wished.set()
        self._urgent.set()
        self._turn(StoreStateChanged("down", f"{self._path} cannot be read ({fault})."))
        self._unanswer()

    def _turn_down(self, reason: str) -> None:
        self._usable = False
        self._faults += 1
        self._turn(StoreStateChanged("down", reason))

    def _judge(self, reason: str = "") -> None:
        """Say how the store is, if that is something new."""
        if self._usable is False:
            return

        if self._hanging:
            self._turn(StoreStateChanged("down", f"{self._path} did not answer within {ANSWER_SECONDS:g} s."))
        elif not self._writes:
            self._turn(StoreStateChanged("read_only", reason or f"{self._path} cannot be written."))
        else:
            self._turn(StoreStateChanged("up"))

    def _turn(self, turned: StoreStateChanged) -> None:
        if turned != self._turned:
            self._turned = turned
            self._tell(turned)
            self._measure()

    def _unanswer(self) -> None:
        for ask, _ in list(self._asking.values()):
            self._answer(ask, Unavailable())

        self._unanswer_removals()

    def _measure(self) -> None:
        pending = self._pending
        gauges = StoreGauges(
            store_entries=self._sums[0],
            store_bytes=self._sums[1],
            store_pending=len(pending),
            store_pending_bytes=pending.bytes,
            store_written=self._written,
            store_dropped=pending.dropped + self._given_up,
            store_evicted=self._evicted,
            store_faults=self._faults,
        )
        if gauges != self._measured:
            self._measured = gauges
            self._tell(StoreMeasured(gauges))


def _running(worker: Worker[Any] | None) -> Worker[Any]:
    if worker is None:
        raise RuntimeError("the store does not run")

    return worker


def _nothing() -> None:
    """A job that tells, by being done, that those before it are."""


def _unheard(event: StoreEvent) -> None:
    """Where events go before `DiskStore.run`: nothing has happened by then."""
