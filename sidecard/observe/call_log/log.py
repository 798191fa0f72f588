"""The call log of a daemon: a bounded queue that a thread writes in batches.

No call waits for the call log or fails because of it. While the database takes nothing, rows wait within `MAX_ROWS` and
`MAX_BYTES`; beyond that the newest are dropped and counted. A killed daemon loses the rows that wait: `WRITE_SECONDS` of calls,
as long as the database keeps up.
"""

import asyncio
from collections.abc import Callable, Sequence
from functools import partial
from typing import Final, NamedTuple, TypeVar, cast

import anyio
from msgspec import structs

from sidecard.core.effects import CallRecord
from sidecard.observe.call_log.redaction_process import (
    MAX_PACKED_BYTES,
    MAX_TEXT_BYTES,
    RedactionProcess,
    truncation_marker,
)
from sidecard.observe.call_log.rows import ROW_BYTES, CallLogError, CallRow, CallWriter, Ids, row_of
from sidecard.persistence.worker import WorkerThread
from sidecard.persistence.write_behind import WriteBehindQueue
from sidecard_client.protocol.backoff import Backoff

MAX_ROWS: Final = 10_000
MAX_BYTES: Final = 32 * 1024 * 1024
"""Rows that may wait. Without texts, ten seconds of 1,000 calls each; with texts some 1,000 long ones."""

WRITE_SECONDS: Final = 1.0
BATCH_ROWS: Final = 500
BATCH_BYTES: Final = 4 * 1024 * 1024
"""A batch is written after that time, or once it has that many rows or bytes."""

MIN_PAUSE_SECONDS, MAX_PAUSE_SECONDS = 0.5, 30.0
"""Between two tries if the database takes nothing."""

STUCK_SECONDS: Final = 30.0
"""A write that takes longer is logged."""

PRUNE_SECONDS: Final = 60.0
CLOSE_SECONDS: Final = 2.0

_T = TypeVar("_T")


class _QueuedCall(NamedTuple):
    """A call that is to be written."""

    id: str
    at_seconds: float
    record: CallRecord
    bytes: int


class CallLog:
    """Keeps calls with ``writer``. ``add`` and `run` belong to one event loop.

    ``host`` names this host in each row. ``redact`` are the regular expressions of what is removed from prompts and answers;
    ``max_text_bytes`` bounds each of these as JSON. ``log(level, event, **fields)`` writes a log line, and
    ``count("calls", number)`` counts dropped calls.
    """

    def __init__(
        self,
        writer: CallWriter,
        *,
        host: str,
        log: Callable[..., None],
        count: Callable[[str, int], None],
        redact: Sequence[str] = (),
        max_text_bytes: int = MAX_TEXT_BYTES,
    ) -> None:
        self._writer = writer
        self._host = host
        self._log = log
        self._count = count
        self._redaction = RedactionProcess(tuple(redact), max_text_bytes)
        self._next_id = Ids().next
        self._queue = WriteBehindQueue[_QueuedCall](lambda call: call.bytes, max_bytes=MAX_BYTES, max_items=MAX_ROWS)
        self._arrived = asyncio.Event()
        self._batch_ready = asyncio.Event()
        self._rows: list[CallRow] = []
        """Rows of the batch that is being written."""
        self._worker: WorkerThread | None = None
        self._failing = self._dropping = False
        self.problem = ""
        """Why nothing can be written, as a sentence; empty if all is well."""

    @property
    def pending(self) -> int:
        """The number of calls that wait to be written."""
        return len(self._queue)

    def add(self, record: CallRecord, at_seconds: float) -> None:
        """Keep a call that ended at ``at_seconds`` of the wall clock. Never waits: in a full queue it is dropped."""
        record = _without_large_texts(record)
        text_bytes = len(record.prompt or b"") + len(record.answer or b"")
        row_bytes = ROW_BYTES + len(record.key or "") + text_bytes
        if not self._queue.has_room(row_bytes):
            self._count("calls", 1)
            if not self._dropping:
                self._log("warning", "calls dropped", place=self._writer.place, reason="too many wait to be written")

            self._dropping = True
            return

        self._queue.append(_QueuedCall(self._next_id(at_seconds), at_seconds, record, row_bytes))
        self._arrived.set()
        if self._has_batch:
            self._batch_ready.set()

    async def run(self) -> None:
        """Write until canceled."""
        self._worker = WorkerThread("sidecard-calls", asyncio.get_running_loop())
        backoff = Backoff(MIN_PAUSE_SECONDS, MAX_PAUSE_SECONDS)
        prune_at = anyio.current_time()
        while True:
            try:
                if anyio.current_time() >= prune_at:
                    more = await self._do(self._writer.prune)
                    prune_at = anyio.current_time() + (0.0 if more else PRUNE_SECONDS)
                    self._log_notice()

                await _wait(self._arrived, max(0.0, prune_at - anyio.current_time()))
                if self._arrived.is_set():
                    await _wait(self._batch_ready, WRITE_SECONDS)
                    await self._write_batch()
                    backoff.reset()
            except Exception as error:  # noqa: BLE001 - a failing call log must not stop the daemon
                self._failed(error)
                await anyio.sleep(backoff.failed(anyio.current_time()))

    async def close(self) -> None:
        """Write what waits, for at most `CLOSE_SECONDS`, and disconnect. Call it once `run` has ended."""
        worker = self._worker
        if worker is None:
            return  # canceled before it started

        with anyio.move_on_after(CLOSE_SECONDS):
            try:
                while len(self._queue):
                    await self._write_batch()
            except Exception as error:  # noqa: BLE001 - as in `run`
                self._failed(error)

            await worker.run(self._disconnect)

        worker.stop()
        if len(self._queue):
            self._log("warning", "calls lost", calls=len(self._queue), reason="the daemon stops")
            self._count("calls", len(self._queue))

    @property
    def _has_batch(self) -> bool:
        return len(self._queue) >= BATCH_ROWS or self._queue.bytes >= BATCH_BYTES

    async def _write_batch(self) -> None:
        """Write a batch. Raises `CallLogError`; the same rows are then tried again first."""
        if not self._rows:
            self._queue.give_back()  # a batch whose rows were never made: `run` was canceled
            batch = self._queue.take(BATCH_ROWS, BATCH_BYTES)
            self._rows, faults = await self._do(partial(self._made, batch))
            if faults:
                self._log("warning", "prompts not kept", calls=len(faults), reason=faults[0])

        refused = await self._do(partial(self._writer.write, self._rows))
        self._rows = []
        self._queue.done()
        if not self._has_batch:
            self._batch_ready.clear()

        if not len(self._queue):
            self._arrived.clear()

        if refused:
            self._log("warning", "calls not kept", calls=refused, reason="the database can never take them")
            self._count("calls", refused)

        self._succeeded()

    # In the worker's thread ------------------------------------------------------------------------------------------

    def _made(self, batch: Sequence[_QueuedCall]) -> tuple[list[CallRow], list[str]]:
        """Return a batch's rows, and the reason for each whose prompt and answer could not be made."""
        rows, faults = [], []
        for call in batch:
            prompt = answer = None
            if call.record.prompt is not None or call.record.answer is not None:
                try:
                    prompt, answer = self._redaction.texts(call.record.prompt, call.record.answer)
                except OSError as error:
                    faults.append(error.strerror or str(error))

            rows.append(row_of(call.id, call.at_seconds, self._host, call.record, prompt, answer))

        return rows, faults

    def _disconnect(self) -> None:
        self._redaction.close()
        self._writer.close()

    # Logging ---------------------------------------------------------------------------------------------------------

    async def _do(self, job: Callable[[], _T]) -> _T:
        """Do a job in the thread that `run` started, and log if that takes too long. Raises as the job does."""
        stuck = asyncio.get_running_loop().call_later(
            STUCK_SECONDS, lambda: self._failed(CallLogError(f"{self._writer.place} does not answer"))
        )
        try:
            return await cast("WorkerThread", self._worker).run(job)
        finally:
            stuck.cancel()

    def _failed(self, error: Exception) -> None:
        if not isinstance(error, CallLogError):
            self._log("error", "call log failed", exc_info=error)
        elif not self._failing:
            self._log("warning", "calls not written", reason=str(error), waiting=len(self._queue))

        self._failing = True
        self.problem = f"Calls are not logged: {str(error).rstrip('.') or type(error).__name__}."

    def _succeeded(self) -> None:
        self._log_notice()
        if self._failing or self._dropping:
            self._log("info", "calls written again", place=self._writer.place)

        self.problem = ""
        self._failing = self._dropping = False

    def _log_notice(self) -> None:
        notice = self._writer.notice()
        if notice:
            self._log("warning", "call log changed", reason=notice)


def _without_large_texts(record: CallRecord) -> CallRecord:
    """Return a record without texts that are too large to be decoded: they must not fill the queue either."""
    texts = {name: packed for name in ("prompt", "answer") if (packed := getattr(record, name)) is not None}
    large = {name: packed for name, packed in texts.items() if len(packed) > MAX_PACKED_BYTES}
    if not large:
        return record

    return structs.replace(record, **{name: truncation_marker(packed) for name, packed in large.items()})


async def _wait(event: asyncio.Event, seconds: float) -> None:
    with anyio.move_on_after(seconds):
        await event.wait()
