"""Consumers of one stream, as a process of their own: threads with the blocking client, or tasks with the async one.

Takes a `Plan` as JSON, says ``ready``, waits for a line, reads, and prints a list of `Consumed` as JSON.
"""

import os
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

import anyio
import msgspec

from sidecard_client import AsyncClient, CallFailed, Client
from tests.worker_process import PATIENCE_SECONDS, Ledger, follow, in_threads


class Plan(msgspec.Struct):
    """What the consumers of one process read."""

    kind: str
    socket: str
    ledger: str
    """A line ``piece NUMBER PID INSTANT`` is added here before each piece that an upstream call brings, ``last`` after the last."""
    consumers: int
    pieces: int
    pause_seconds: float
    """Before each piece."""
    last_seconds: float = 0.0
    """Between the last piece and the end."""
    wait_seconds: float = 30.0


class Consumed(msgspec.Struct):
    """What one consumer got. ``instants`` are of the first piece and of the end, on the host's monotonic clock."""

    pieces: list[str]
    end: str
    source: str
    first_at: float = 0.0
    pid: int = 0


def note(plan: Plan, word: str, number: int = 0) -> None:
    """Add a line to the ledger."""
    Ledger(plan.ledger).write(word, number, os.getpid(), time.monotonic())


def piece(number: int) -> str:
    """Return a piece; which process made it shows."""
    return f"{os.getpid()}:{number}"


def upstream(plan: Plan) -> Iterator[str]:
    """Be the call that costs something."""
    note(plan, "start")
    for number in range(plan.pieces):
        time.sleep(plan.pause_seconds)
        note(plan, "piece", number)
        yield piece(number)

    note(plan, "last")
    time.sleep(plan.last_seconds)


async def aupstream(plan: Plan) -> AsyncIterator[str]:
    """Be the call that costs something."""
    note(plan, "start")
    for number in range(plan.pieces):
        await anyio.sleep(plan.pause_seconds)
        note(plan, "piece", number)
        yield piece(number)

    note(plan, "last")
    await anyio.sleep(plan.last_seconds)


class Reader:
    """One consumer's reading of a stream, of either client."""

    def __init__(self) -> None:
        self.consumed = Consumed([], "", "", pid=os.getpid())

    def take(self, one: str) -> None:
        """Receive a piece."""
        self.consumed.first_at = self.consumed.first_at or time.monotonic()
        self.consumed.pieces.append(one)

    def end(self, end: str, stream: Any) -> Consumed:
        """Receive the end."""
        self.consumed.end, self.consumed.source = end, stream.source or ""
        return self.consumed


def read(plan: Plan) -> list[Consumed]:
    """Read with threads."""
    consumed: list[Consumed] = []
    with Client(plan.socket, daemon_timeout=PATIENCE_SECONDS) as client:

        def consume(_: int) -> None:
            reader, end = Reader(), "whole"
            stream = client.stream(upstream, plan, key="stream", wait=plan.wait_seconds)
            try:
                with stream:
                    for one in stream:
                        reader.take(one)
            except CallFailed:
                end = "CallFailed"

            consumed.append(reader.end(end, stream))

        in_threads(plan.consumers, consume)

    return consumed


async def aread(plan: Plan) -> list[Consumed]:
    """Read with tasks."""
    consumed: list[Consumed] = []
    async with AsyncClient(plan.socket, daemon_timeout=PATIENCE_SECONDS) as client, anyio.create_task_group() as tasks:

        async def consume() -> None:
            reader, end = Reader(), "whole"
            stream = client.stream(aupstream, plan, key="stream", wait=plan.wait_seconds)
            try:
                async with stream:
                    async for one in stream:
                        reader.take(one)
            except CallFailed:
                end = "CallFailed"

            consumed.append(reader.end(end, stream))

        for _ in range(plan.consumers):
            tasks.start_soon(consume)

    return consumed


if __name__ == "__main__":
    follow(Plan, lambda plan: read(plan) if plan.kind == "sync" else anyio.run(aread, plan))
