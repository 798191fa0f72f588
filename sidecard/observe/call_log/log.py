"""The call log as the daemon keeps it: a bounded queue, written behind in batches by a thread.

A call is never kept waiting, and none fails, whatever becomes of the database: while it takes nothing rows wait, within
`MAX_ROWS` and `MAX_BYTES`, beyond which the newest are dropped and counted. What a killed daemon loses is what waits:
`WRITE_SECONDS` of calls, as long as the database keeps up.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from typing import Final, NamedTuple, TypeVar, cast

import anyio
from msgspec import structs

from sidecard.core.effects import CallRecord
from sidecard.observe.call_log.rows import ROW_BYTES, CallsError, CallWriter, Ids, Row, row_of
from sidecard.observe.call_log.texts import MAX_PACKED_BYTES, MAX_TEXT_BYTES, TextMaker, too_large
from sidecard.observe.call_log.thread import CallThread

MAX_ROWS: Final = 10_000
MAX_BYTES: Final = 32 * 1024 * 1024
"""What may wait to be written. Without texts, ten seconds of 1,000 calls each; with them some 1,000 long ones."""

WRITE_SECONDS: Final = 1.0
BATCH_ROWS: Final = 500
BATCH_BYTES: Final = 4 * 1024 * 1024
"""A batch is written after so long, or once there are so many rows, or bytes."""

MIN_PAUSE_SECONDS, MAX_PAUSE_SECONDS = 0.5, 30.0
"""Between two tries where the database takes nothing."""

STUCK_SECONDS: Final = 30.0
"""Of a write that does not end; after that it is told."""

TIDY_SECONDS: Final = 60.0
CLOSE_SECONDS: Final = 2.0

_T = TypeVar("_T")


class _Waiting(NamedTuple):
    """A call that is to be written yet."""

    id: str
    at_seconds: float
    record: CallRecord
    bytes: int


class CallLog:
    """Keeps calls where ``writer`` does. ``say`` is a log's; ``count`` adds to what is told as dropped: ``count("calls", 3)``.

    ``host`` names this host in each row. ``redact`` are the regular expressions of what is blotted out of prompts and answers;
    ``max_text_bytes`` is what one of these may have as JSON. ``add`` and `run` belong to one event loop.
    """

    def __init__(
        self,
        writer: CallWriter,
        *,
        host: str,
        say: Callable[..., None],
        count: Callable[[str, int], None],
        redact: Sequence[str] = (),
        max_text_bytes: int = MAX_TEXT_BYTES,
    ) -> None:
        self._writer = writer
        self._host = host
        self._say = say
        self._count = count
        self._texts = TextMaker(tuple(redact), max_text_bytes)
        self._next_id = Ids().next
        self._waiting: deque[_Waiting] = deque()
        self._waiting_bytes = 0
        self._arrived = asyncio.Event()
        self._many = asyncio.Event()
        """There is a whole batch."""
        self._rows: list[Row] = []
        """Of the batch that is being written: it is the first of what is waiting."""
        self._thread: CallThread | None = None
        self._failing = self._dropping = False

    @property
    def pending(self) -> int:
        """How many calls wait to be written."""
        return len(self._waiting)

    def add(self, record: CallRecord, at_seconds: float) -> None:
        """Keep a call that ended at ``at_seconds`` of the wall clock. Never waits; where the queue is full, it is dropped."""
        record = _bounded(record)
        said_bytes = len(record.prompt or b"") + len(record.answer or b"")
        row_bytes = ROW_BYTES + len(record.key or "") + said_bytes
        if len(self._waiting) >= MAX_ROWS or self._waiting_bytes + row_bytes > MAX_BYTES:
            self._drop(1)
            return

        self._waiting.append(_Waiting(self._next_id(at_seconds), at_seconds, record, row_bytes))
        self._waiting_bytes += row_bytes
        self._arrived.set()
        if len(self._waiting) >= BATCH_ROWS or self._waiting_bytes >= BATCH_BYTES:
            self._many.set()

    async def run(self) -> None:
        """Write, until cancelled."""
        self._thread = CallThread(asyncio.get_running_loop())
        pause_seconds = MIN_PAUSE_SECONDS
        tidy_at = anyio.current_time()
        while True:
            try:
                if anyio.current_time() >= tidy_at:
                    more = await self._do(self._writer.tidy)
                    tidy_at = anyio.current_time() + (0.0 if more else TIDY_SECONDS)
                    self._say_remark()

                await _wait(self._arrived, max(0.0, tidy_at - anyio.current_time()))
                if self._arrived.is_set():
                    await _wait(self._many, WRITE_SECONDS)
                    await self._write_some()
                    pause_seconds = MIN_PAUSE_SECONDS
            except Exception as error:  # noqa: BLE001 - a log that fails is no reason for the daemon to fail
                self._failed(error)
                await anyio.sleep(pause_seconds)
                pause_seconds = min(MAX_PAUSE_SECONDS, 2 * pause_seconds)

    async def close(self) -> None:
        """Write what waits, for at most `CLOSE_SECONDS`, and let go of the database. To be called once `run` has ended."""
        thread = self._thread
        if thread is None:
            return  # cancelled before it began

        with anyio.move_on_after(CLOSE_SECONDS):
            try:
                while self._waiting:
                    await self._write_some()
            except Exception as error:  # noqa: BLE001 - as in `run`
                self._failed(error)

            await thread.done(self._let_go)

        thread.stop()
        if self._waiting:
            self._say("warning", "calls lost", calls=len(self._waiting), reason="the daemon stops")
            self._count("calls", len(self._waiting))

    async def _write_some(self) -> None:
        """Write a batch. Raises `CallsError`; it is then the first to be tried again."""
        if not self._rows:
            self._rows, faults = await self._do(partial(self._made, self._batch()))
            if faults:
                self._say("warning", "prompts not kept", calls=len(faults), reason=faults[0])

        rows = self._rows
        refused = await self._do(partial(self._writer.write, rows))
        self._rows = []
        for _ in rows:
            self._waiting_bytes -= self._waiting.popleft().bytes

        if len(self._waiting) < BATCH_ROWS and self._waiting_bytes < BATCH_BYTES:
            self._many.clear()

        if not self._waiting:
            self._arrived.clear()

        if refused:
            self._say("warning", "calls not kept", calls=refused, reason="the database can never take them")
            self._count("calls", refused)

        self._succeeded()

    def _batch(self) -> list[_Waiting]:
        batch: list[_Waiting] = []
        batch_bytes = 0
        for waiting in self._waiting:
            if batch and (len(batch) >= BATCH_ROWS or batch_bytes + waiting.bytes > BATCH_BYTES):
                break

            batch.append(waiting)
            batch_bytes += waiting.bytes

        return batch

    # In the thread ---------------------------------------------------------------------------------------------------

    def _made(self, batch: Sequence[_Waiting]) -> tuple[list[Row], list[str]]:
        """Return the rows of a batch, and for each whose prompt and answer are not to be had, why."""
        rows, faults = [], []
        for waiting in batch:
            record = waiting.record
            prompt = answer = None
            if record.prompt is not None or record.answer is not None:
                try:
                    prompt, answer = self._texts.texts(record.prompt, record.answer)
                except OSError as error:
                    faults.append(error.strerror or str(error))

            rows.append(row_of(waiting.id, waiting.at_seconds, self._host, record, prompt, answer))

        return rows, faults

    def _let_go(self) -> None:
        self._texts.close()
        self._writer.close()

    # What is told ----------------------------------------------------------------------------------------------------

    async def _do(self, job: Callable[[], _T]) -> _T:
        """Do a job in the thread, which `run` has started, and tell where that takes too long. Raises as it does."""
        stuck = asyncio.get_running_loop().call_later(STUCK_SECONDS, self._tell_stuck)
        try:
            return await cast("CallThread", self._thread).done(job)
        finally:
            stuck.cancel()

    def _tell_stuck(self) -> None:
        self._failed(CallsError(f"{self._writer.place} does not answer"))

    def _drop(self, calls: int) -> None:
        self._count("calls", calls)
        if not self._dropping:
            self._say("warning", "calls dropped", place=self._writer.place, reason="too many wait to be written")

        self._dropping = True

    def _failed(self, error: Exception) -> None:
        if not isinstance(error, CallsError):
            self._say("error", "call log failed", exc_info=error)
        elif not self._failing:
            self._say("warning", "calls not written", reason=str(error), waiting=len(self._waiting))

        self._failing = True

    def _succeeded(self) -> None:
        self._say_remark()
        if self._failing or self._dropping:
            self._say("info", "calls written again", place=self._writer.place)

        self._failing = self._dropping = False

    def _say_remark(self) -> None:
        remark = self._writer.remark()
        if remark:
            self._say("warning", "call log changed", reason=remark)


def _bounded(record: CallRecord) -> CallRecord:
    """Return a record without what is too large to be looked at: it is not to fill the queue either."""
    said = {name: packed for name in ("prompt", "answer") if (packed := getattr(record, name)) is not None}
    large = {name: packed for name, packed in said.items() if len(packed) > MAX_PACKED_BYTES}
    if not large:
        return record

    return structs.replace(record, **{name: too_large(packed) for name, packed in large.items()})


async def _wait(event: asyncio.Event, seconds: float) -> None:
    with anyio.move_on_after(seconds):
        await event.wait()
