"""An app worker of the tests about backends, run as a process of its own.

Takes a `Plan` as JSON, says ``ready``, waits for a line, makes its calls, and prints an `Account` as JSON.
What reaches the backend is written to the plan's ledger file by the called function itself: it is measured there.
"""

import os
import time
from collections import Counter
from pathlib import Path

import anyio
import msgspec

from sidecard_client import AsyncClient, CallRejected, Client
from tests.worker_process import PATIENCE_SECONDS, Ledger, follow, in_threads


class Plan(msgspec.Struct):
    """What one worker does."""

    socket: str
    ledger: str
    kind: str
    """``sync`` (threads) or ``async`` (tasks)."""
    callers: int
    work_seconds: float = 0.0
    fails: bool = False
    calls: int = 1
    """Of each caller. 0: until there is a file ``LEDGER.stop``."""
    prompt: str = ""
    """The same for all; if it is empty, each call has its own key and is not shared."""
    retries: int = 0
    pause_seconds: float = 0.002
    """After a refusal."""


class Account(msgspec.Struct):
    """How the calls of one worker ended, by kind of end."""

    pid: int
    ends: dict[str, int]


class Worker:
    """The upstream functions and the book of ends."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.ends: Counter[str] = Counter()
        self.stop = Path(f"{plan.ledger}.stop")
        self._ledger = Ledger(plan.ledger)

    def prompts(self, caller: int) -> "list[str]":
        """Name what a caller asks."""
        plan = self.plan
        return [plan.prompt or f"{os.getpid()} {caller} {call}" for call in range(plan.calls)]

    def upstream(self, prompt: str) -> str:
        """Answer after a while, or fail."""
        self._ledger.write("start", os.getpid())
        time.sleep(self.plan.work_seconds)
        return self._end(prompt)

    async def async_upstream(self, prompt: str) -> str:
        """Answer after a while, or fail, without blocking the loop."""
        self._ledger.write("start", os.getpid())
        await anyio.sleep(self.plan.work_seconds)
        return self._end(prompt)

    def _end(self, prompt: str) -> str:
        self._ledger.write("end", os.getpid())
        if self.plan.fails:
            raise ConnectionError("the backend is down")

        return prompt

    def note(self, error: Exception | None) -> float:
        """Book an end; return how long to pause."""
        if isinstance(error, CallRejected):
            self.ends[error.reason] += 1
            return self.plan.pause_seconds

        self.ends["answer" if error is None else type(error).__name__] += 1
        return 0.0


def call_in_threads(worker: Worker) -> None:
    """Make the plan's calls with one `Client` and a thread per caller."""
    plan = worker.plan
    with Client(plan.socket, daemon_timeout=PATIENCE_SECONDS) as client:

        def one(prompt: str) -> None:
            error = None
            try:
                client.call(worker.upstream, prompt, backend="b", name="upstream", retries=plan.retries)
            except Exception as caught:  # noqa: BLE001 - whatever it is, the test must see it
                error = caught

            time.sleep(worker.note(error))

        def caller(number: int) -> None:
            for prompt in worker.prompts(number):
                one(prompt)

            count = 0
            while not plan.calls and not worker.stop.exists():
                count += 1
                one(f"{os.getpid()} {number} {count}")

        in_threads(plan.callers, caller)


async def call_in_tasks(worker: Worker) -> None:
    """Make the plan's calls with one `AsyncClient` and a task per caller."""
    plan = worker.plan
    async with AsyncClient(plan.socket, daemon_timeout=PATIENCE_SECONDS) as client, anyio.create_task_group() as tasks:

        async def one(prompt: str) -> None:
            error = None
            try:
                await client.call(worker.async_upstream, prompt, backend="b", name="upstream", retries=plan.retries)
            except Exception as caught:  # noqa: BLE001 - whatever it is, the test must see it
                error = caught

            await anyio.sleep(worker.note(error))

        async def caller(number: int) -> None:
            for prompt in worker.prompts(number):
                await one(prompt)

            count = 0
            while not plan.calls and not worker.stop.exists():
                count += 1
                await one(f"{os.getpid()} {number} {count}")

        for number in range(plan.callers):
            tasks.start_soon(caller, number)


def work(plan: Plan) -> Account:
    """Make all calls."""
    worker = Worker(plan)
    if plan.kind == "sync":
        call_in_threads(worker)
    else:
        anyio.run(call_in_tasks, worker)

    return Account(os.getpid(), dict(worker.ends))


if __name__ == "__main__":
    follow(Plan, work)
