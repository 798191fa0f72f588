"""A thread that waits for the disk, so that the event loop never does."""

import asyncio
import threading
from collections.abc import Callable
from queue import SimpleQueue
from time import monotonic
from typing import Any, Generic, TypeVar

T = TypeVar("T")

MAX_BATCH = 64
"""Jobs whose results are handed over in one go, if so many wait: waking the event loop costs as much as a read."""

MAX_DELAY_SECONDS = 0.001
"""How long a result may wait for others: on a slow disk, sixty-four reads are a second."""


class Worker(Generic[T]):
    """Does jobs in order. A thread that hangs with its disk does not keep the process alive."""

    def __init__(self, name: str, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._jobs: SimpleQueue[tuple[Callable[[], T], Callable[[T | Exception], None]] | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._work, name=name, daemon=True)
        self._thread.start()

    def do(self, job: Callable[[], T], then: Callable[[T | Exception], None]) -> None:
        """Do a job; ``then`` gets what it returned or raised, in the event loop's thread."""
        self._jobs.put((job, then))

    async def done(self, job: Callable[[], T]) -> T:
        """Do a job, wait for it, and return or raise as it does. Where the waiting is cancelled, the job is done all the same."""
        future: asyncio.Future[T] = self._loop.create_future()

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
            results: list[tuple[Callable[[Any], None], T | Exception]] = []
            job = self._jobs.get()
            hand_over_at = monotonic() + MAX_DELAY_SECONDS
            while job is not None:
                results.append((job[1], _result(job[0])))
                if self._jobs.empty() or len(results) >= MAX_BATCH or monotonic() >= hand_over_at:
                    break

                job = self._jobs.get()

            if results:
                try:
                    self._loop.call_soon_threadsafe(_hand_over, results)
                except RuntimeError:
                    return  # the loop is closed: nobody waits

            if job is None:
                return


def _result(job: Callable[[], T]) -> T | Exception:
    try:
        return job()
    except Exception as fault:  # noqa: BLE001 - the boundary of the thread: the loop's side decides what it means
        return fault


def _hand_over(results: list[tuple[Callable[[Any], None], Any]]) -> None:
    for then, result in results:
        then(result)
