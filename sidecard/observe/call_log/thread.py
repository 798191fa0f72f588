"""The call log's thread: it waits for databases, so that the event loop never does."""

import asyncio
import contextlib
import threading
from collections.abc import Callable
from functools import partial
from queue import SimpleQueue
from typing import TypeVar, cast

T = TypeVar("T")


class CallThread:
    """Does jobs in order. One that hangs keeps neither the event loop nor, at the end, the process."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._jobs: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        threading.Thread(target=self._work, name="sidecard-calls", daemon=True).start()

    async def done(self, job: Callable[[], T]) -> T:
        """Do a job, wait for it, and return or raise as it does. Where the waiting is cancelled, the job is done all the same."""
        future: asyncio.Future[T] = self._loop.create_future()

        def settle(result: T | None, fault: Exception | None) -> None:
            if future.done():
                return  # nobody waits any more

            if fault is None:
                future.set_result(cast("T", result))
            else:
                future.set_exception(fault)

        def do() -> None:
            try:
                settled = partial(settle, job(), None)
            except Exception as fault:  # noqa: BLE001 - the boundary of the thread: who waits decides what it means
                settled = partial(settle, None, fault)

            with contextlib.suppress(RuntimeError):  # the loop is closed
                self._loop.call_soon_threadsafe(settled)

        self._jobs.put(do)
        return await future

    def stop(self) -> None:
        """End the thread after the jobs that it has."""
        self._jobs.put(None)

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            job()
