"""An app worker of the acceptance tests, run as a process of its own.

Takes a `Plan` as JSON, says ``ready``, waits for a line, makes its calls, and prints an `Account` as JSON.
Every upstream call is written to the plan's ledger file, so that the test counts at the backend, not at the daemon.
"""

import math
import os
import time
from pathlib import Path

import anyio
import msgspec

from sidecard_client import AsyncClient, Client, Outcome
from tests.worker_process import PATIENCE_SECONDS, Ledger, follow, in_threads


class Plan(msgspec.Struct):
    """What one worker does."""

    socket: str
    ledger: str
    kind: str
    """``sync`` (threads) or ``async`` (tasks)."""
    callers: int
    upstream_seconds: float
    prompts: list[str]
    """Each caller asks these in turn, starting over until ``seconds`` have passed, or there is a file ``LEDGER.stop``."""
    seconds: float = 0.0
    ttl: float | None = None
    patience_seconds: float = PATIENCE_SECONDS


class Call(msgspec.Struct):
    """One call as its caller saw it."""

    prompt: str
    value: str
    source: str
    began_at: float
    took_seconds: float
    own_seconds: float
    """Time inside the upstream function, if this caller ran it."""


class Account(msgspec.Struct):
    """All calls of one worker. An error is a fault: the tests expect none."""

    pid: int
    calls: list[Call]
    errors: list[str]


class Worker:
    """The upstream function and the book of calls."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.calls: list[Call] = []
        self.errors: list[str] = []
        self._ledger = Ledger(plan.ledger)
        self._stop = Path(f"{plan.ledger}.stop")
        self._start = time.monotonic()
        self._fell_back_at = math.inf

    def is_over(self) -> bool:
        """Return whether callers start over no more."""
        return time.monotonic() - self._start >= self.plan.seconds or self._stop.exists()

    def upstream(self, prompt: str) -> str:
        """Answer slowly, each time with another text."""
        self._ledger.write("start", os.getpid(), prompt)
        time.sleep(self.plan.upstream_seconds)
        self._ledger.write("end", os.getpid(), prompt)
        return f"{prompt} answered by {os.getpid()} at {time.monotonic_ns()}"

    async def async_upstream(self, prompt: str) -> str:
        """Answer slowly, without blocking the loop."""
        self._ledger.write("start", os.getpid(), prompt)
        await anyio.sleep(self.plan.upstream_seconds)
        self._ledger.write("end", os.getpid(), prompt)
        return f"{prompt} answered by {os.getpid()} at {time.monotonic_ns()}"

    def note(self, prompt: str, outcome: Outcome[str], began_at: float) -> None:
        """Book one call; write to the ledger that the daemon is used again, by a call that began after a fallback."""
        if outcome.source == "fallback":
            self._fell_back_at = time.monotonic()
        elif began_at > self._fell_back_at:
            self._fell_back_at = math.inf
            self._ledger.write("again", os.getpid())

        took_seconds = time.monotonic() - began_at
        own = f"answered by {os.getpid()} " in outcome.value and outcome.source in {"upstream", "fallback"}
        own_seconds = self.plan.upstream_seconds if own else 0.0
        self.calls.append(Call(prompt, outcome.value, outcome.source, began_at, took_seconds, own_seconds))


def call_in_threads(worker: Worker) -> None:
    """Make the plan's calls with one `Client` and a thread per caller."""
    plan = worker.plan
    with Client(plan.socket, daemon_timeout=plan.patience_seconds) as client:

        def caller(_: int) -> None:
            while True:
                for prompt in plan.prompts:
                    began_at = time.monotonic()
                    try:
                        outcome = client.outcome(worker.upstream, prompt, name="upstream", ttl=plan.ttl)
                        worker.note(prompt, outcome, began_at)
                    except Exception as error:  # noqa: BLE001 - whatever it is, the test must see it
                        worker.errors.append(repr(error))

                if worker.is_over():
                    return

        in_threads(plan.callers, caller)


async def call_in_tasks(worker: Worker) -> None:
    """Make the plan's calls with one `AsyncClient` and a task per caller."""
    plan = worker.plan
    async with (
        AsyncClient(plan.socket, daemon_timeout=plan.patience_seconds) as client,
        anyio.create_task_group() as tasks,
    ):

        async def caller() -> None:
            while True:
                for prompt in plan.prompts:
                    began_at = time.monotonic()
                    try:
                        outcome = await client.outcome(worker.async_upstream, prompt, name="upstream", ttl=plan.ttl)
                        worker.note(prompt, outcome, began_at)
                    except Exception as error:  # noqa: BLE001 - whatever it is, the test must see it
                        worker.errors.append(repr(error))

                if worker.is_over():
                    return

        for _ in range(plan.callers):
            tasks.start_soon(caller)


def work(plan: Plan) -> Account:
    """Make all calls."""
    worker = Worker(plan)
    if plan.kind == "sync":
        call_in_threads(worker)
    else:
        anyio.run(call_in_tasks, worker)

    return Account(os.getpid(), worker.calls, worker.errors)


if __name__ == "__main__":
    follow(Plan, work)
