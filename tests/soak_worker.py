"""A worker of the soak (`tests.soak`): it makes calls of every kind, and checks each answer, until it is asked or forced to end.

The value of a call is a function of its key alone, so whatever way an answer has come, it can be judged.
Every upstream call adds a record to one file of all workers; what a worker saw is in a file of its own, a line each half second.
"""

import logging
import os
import random
import signal
import struct
import sys
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import anyio
import msgspec

from sidecard_client import AsyncClient, CallFailed, CallRejected, CallTimeout, Client

RECORD = struct.Struct("<I")
"""Of an upstream call: the number of its prompt."""

PIECES = 5
CALLERS = 4
REPORT_SECONDS = 0.5
MAX_FAULTS = 20


class Plan(msgspec.Struct):
    """What one worker does. ``made`` and ``seen`` are files."""

    socket: str
    kind: str
    """``sync`` (threads) or ``async`` (tasks)."""
    made: str
    seen: str
    seed: int
    prompts: int = 400
    think_seconds: float = 0.04
    upstream_seconds: float = 0.02


class Seen(msgspec.Struct):
    """What a worker has seen so far. ``faults`` are what no call may end in, and wrong answers."""

    asked: int
    ends: dict[str, int]
    faults: list[str]


class FlakyError(Exception):
    """The upstream of one backend fails now and then, in a way that may pass."""

    transient = True


def value_of(number: int) -> str:
    """Return the one right answer to a prompt; some are long."""
    return f"{number}:" + "x" * (200 + (number * 7919) % 20_000)


def pieces_of(number: int) -> list[str]:
    """Return the one right stream."""
    return [f"{number}.{piece}" for piece in range(PIECES)]


class Worker:
    """One process' calls."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.ends: Counter[str] = Counter()
        self.faults: list[str] = []
        self.stopping = threading.Event()
        self.random = random.Random(plan.seed)
        self._made = os.open(plan.made, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        signal.signal(signal.SIGTERM, lambda *_: self.stopping.set())

    def make(self, number: int) -> None:
        """Count an upstream call where nothing that dies can lose it."""
        os.write(self._made, RECORD.pack(number))

    def upstream(self, number: int) -> str:
        """Answer."""
        self.make(number)
        time.sleep(self.plan.upstream_seconds)
        return value_of(number)

    async def aupstream(self, number: int) -> str:
        """Answer."""
        self.make(number)
        await anyio.sleep(self.plan.upstream_seconds)
        return value_of(number)

    def flaky(self, number: int) -> str:
        """Fail every third time, which opens the breaker of its backend now and then."""
        if self.random.random() < 0.6:
            raise FlakyError(str(number))

        return self.upstream(number)

    async def aflaky(self, number: int) -> str:
        """As `flaky`."""
        if self.random.random() < 0.6:
            raise FlakyError(str(number))

        return await self.aupstream(number)

    def stream(self, number: int) -> Iterator[str]:
        """Answer in pieces."""
        self.make(number)
        for piece in pieces_of(number):
            time.sleep(self.plan.upstream_seconds / PIECES)
            yield piece

    async def astream(self, number: int) -> AsyncIterator[str]:
        """Answer in pieces."""
        self.make(number)
        for piece in pieces_of(number):
            await anyio.sleep(self.plan.upstream_seconds / PIECES)
            yield piece

    def next_call(self) -> tuple[str, int, dict[str, Any]]:
        """Choose what is called next: its kind, its prompt (some are asked for much more than others), its policy."""
        number = min(int(self.random.paretovariate(0.6)), self.plan.prompts)
        policy: dict[str, Any] = {"wait": 20.0}
        kind = self.random.choices(("plain", "stale", "flaky", "stream"), (6, 2, 1, 2))[0]
        if kind == "stale":
            policy |= {"ttl": 1.0, "stale": 30.0, "task": "stale"}
        elif kind == "flaky":
            policy |= {"backend": "flaky", "task": "flaky"}

        return kind, number, policy

    def judge(self, kind: str, number: int, value: object, source: str | None) -> None:
        """Compare an answer with the one that is right."""
        right = pieces_of(number) if kind == "stream" else value_of(number)
        if value == right:
            self.ends[f"{kind} {source}"] += 1
        else:
            self.fault(f"{kind} {number} from {source} was answered by {str(value)[:200]!r}")

    def fault(self, text: str) -> None:
        """Take note of what must not be."""
        self.ends["fault"] += 1
        if len(self.faults) < MAX_FAULTS:
            self.faults.append(text)

    def failed(self, kind: str, number: int, error: Exception) -> None:
        """Take note of a call without an answer."""
        expected = isinstance(error, FlakyError | CallFailed | CallRejected | CallTimeout)
        name = f"{type(error).__name__}{f' {error.reason}' if isinstance(error, CallRejected) else ''}"
        if expected and (kind in {"flaky", "stream"} or isinstance(error, CallTimeout)):
            self.ends[f"{kind} {name}"] += 1
        else:
            self.fault(f"{kind} {number}: {error!r}")

    def report(self) -> None:
        """Write the results so far at intervals, and once more at the end."""
        with Path(self.plan.seen).open("ab", buffering=0) as seen:
            while True:
                stopping = self.stopping.wait(REPORT_SECONDS)
                line = Seen(self.ends.total(), dict(self.ends), self.faults)
                seen.write(msgspec.json.encode(line) + b"\n")
                if stopping:
                    return


def work(worker: Worker) -> None:
    """Make calls with one `Client` and a few threads."""
    with Client(worker.plan.socket, daemon_timeout=5.0) as client:
        done = client.counter("soak_calls", "Calls of the soak.")

        def caller() -> None:
            while not worker.stopping.is_set():
                kind, number, policy = worker.next_call()
                try:
                    if kind == "stream":
                        with client.stream(worker.stream, number, name="stream", **policy) as stream:
                            worker.judge(kind, number, list(stream), stream.source)
                    else:
                        function = worker.flaky if kind == "flaky" else worker.upstream
                        outcome = client.outcome(function, number, name=kind, **policy)
                        worker.judge(kind, number, outcome.value, outcome.source)
                except Exception as error:  # noqa: BLE001 - whatever it is, it must be judged
                    worker.failed(kind, number, error)

                done.labels(kind=kind).inc()
                worker.stopping.wait(worker.plan.think_seconds)

        threads = [threading.Thread(target=caller) for _ in range(CALLERS)]
        for thread in threads:
            thread.start()

        worker.report()
        for thread in threads:
            thread.join()


async def awork(worker: Worker) -> None:
    """Make calls with one `AsyncClient` and a few tasks."""
    async with AsyncClient(worker.plan.socket, daemon_timeout=5.0) as client, anyio.create_task_group() as tasks:
        done = client.counter("soak_calls", "Calls of the soak.")

        async def stream(number: int, policy: dict[str, Any]) -> None:
            async with client.stream(worker.astream, number, name="stream", **policy) as pieces:
                worker.judge("stream", number, [piece async for piece in pieces], pieces.source)

        async def plain(kind: str, number: int, policy: dict[str, Any]) -> None:
            function: Callable[[int], Awaitable[str]] = worker.aflaky if kind == "flaky" else worker.aupstream
            outcome = await client.outcome(function, number, name=kind, **policy)
            worker.judge(kind, number, outcome.value, outcome.source)

        async def caller() -> None:
            while not worker.stopping.is_set():
                kind, number, policy = worker.next_call()
                try:
                    await (stream(number, policy) if kind == "stream" else plain(kind, number, policy))
                except Exception as error:  # noqa: BLE001 - whatever it is, it must be judged
                    worker.failed(kind, number, error)

                done.labels(kind=kind).inc()
                await anyio.sleep(worker.plan.think_seconds)

        for _ in range(CALLERS):
            tasks.start_soon(caller)

        await anyio.to_thread.run_sync(worker.report)


if __name__ == "__main__":
    logging.disable(logging.WARNING)  # that the daemon is away now and then is what this is about
    one = Worker(msgspec.json.decode(sys.argv[1], type=Plan))
    if one.plan.kind == "sync":
        work(one)
    else:
        anyio.run(awork, one)
