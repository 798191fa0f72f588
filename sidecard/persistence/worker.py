"""The worker thread: does jobs that wait for a disk, a database or a terminal, so that the event loop never waits.

Each thing that can hang by itself has a worker of its own: the store's reader and writer, the call log, the spool, the log.
`run_in_thread` does a single job in a thread of its own. Jobs of sinks that use anyio anyway use its thread pool instead.
"""

import asyncio
import threading
from collections.abc import Callable
from contextlib import suppress
from queue import SimpleQueue
from time import monotonic
from typing import Any, TypeVar

T = TypeVar("T")

MAX_BATCH = 64
"""Results handed to the event loop together: waking the loop costs as much as one read."""

MAX_DELAY_SECONDS = 0.001
"""How long a result may wait for others: on a slow disk, 64 reads take a second."""

_Job = tuple[Callable[[], Any], Callable[[Any], None] | None]


class WorkerThread:
    """Does jobs in order, in a daemon thread: one that hangs with its disk does not keep the process alive.

    ``loop`` is the event loop whose thread receives results; None if no job has one.
    Raises `RuntimeError` if the host allows no further thread.
    """

    def __init__(self, name: str, loop: asyncio.AbstractEventLoop | None = None) -> None:
        self._loop = loop
        self._jobs: SimpleQueue[_Job | None] = SimpleQueue()
        self._unsettled = 0
        threading.Thread(target=self._work, name=name, daemon=True).start()

    @property
    def queued(self) -> int:
        """The number of jobs that have not started."""
        return self._jobs.qsize()

    @property
    def busy(self) -> bool:
        """Whether a job of `do` or `run` has no result yet, even if no task waits for it any more."""
        return self._unsettled > 0

    def submit(self, job: Callable[[], object]) -> None:
        """Do a job that has no result. Any thread may call this."""
        self._jobs.put((job, None))

    def do(self, job: Callable[[], T], then: Callable[[T | Exception], None]) -> None:
        """Do a job; ``then`` gets what it returned or raised, in the event loop's thread."""
        self._unsettled += 1
        self._jobs.put((job, then))

    async def run(self, job: Callable[[], T]) -> T:
        """Do a job and return or raise as it does. Cancellation ends the wait, not the job."""
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()

        def settle(result: T | Exception) -> None:
            if future.done():
                return

            if isinstance(result, Exception):
                future.set_exception(result)
            else:
                future.set_result(result)

        self.do(job, settle)
        return await future

    def stop(self) -> None:
        """End the thread after the jobs that it has."""
        self._jobs.put(None)

    def _work(self) -> None:
        while True:
            results: list[tuple[Callable[[Any], None], Any]] = []
            job = self._jobs.get()
            hand_over_at = monotonic() + MAX_DELAY_SECONDS
            while job is not None:
                result = _result(job[0])
                if job[1] is not None:
                    results.append((job[1], result))

                if self._jobs.empty() or len(results) >= MAX_BATCH or monotonic() >= hand_over_at:
                    break

                job = self._jobs.get()

            if results and self._loop is not None:
                try:
                    self._loop.call_soon_threadsafe(self._settle, results)
                except RuntimeError:
                    return  # the loop is closed: no task waits

            if job is None:
                return

    def _settle(self, results: list[tuple[Callable[[Any], None], Any]]) -> None:
        self._unsettled -= len(results)
        for then, result in results:
            then(result)


async def run_in_thread(name: str, job: Callable[[], T], *, abandon: bool = False) -> T:
    """Do one job in a new daemon thread, and return or raise as it does.

    Cancellation ends the wait only after the job, unless ``abandon``. Raises `RuntimeError` if the host allows no
    further thread. Unlike `anyio.to_thread`, it does not import anyio's asyncio backend: a sixth of the daemon's start.
    """
    worker = WorkerThread(name, asyncio.get_running_loop())
    result = asyncio.ensure_future(worker.run(job))
    result.add_done_callback(lambda _: worker.stop())
    try:
        return await asyncio.shield(result)
    except asyncio.CancelledError:
        while not abandon and not result.done():
            with suppress(asyncio.CancelledError):
                await asyncio.wait([result])

        raise


def _result(job: Callable[[], T]) -> T | Exception:
    try:
        return job()
    except Exception as fault:  # noqa: BLE001 - the boundary of the thread: the loop's side decides what it means
        return fault
