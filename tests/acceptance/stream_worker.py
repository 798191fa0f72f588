"""Consumers of one stream, as a process of their own: threads with the blocking client, or tasks with the async one.

Takes a `Plan` as JSON, says ``ready``, waits for a line, reads, and prints a list of `Consumed` as JSON.
"""

import os
import sys
import threading
import time
from collections.abc import AsyncIterator, Iterator

import anyio
import msgspec

from sidecard_client import AsyncClient, CallFailed, Client

PATIENCE_SECONDS = 10.0
"""For the daemon's answers, on a machine that is busy."""


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
    """Add a line to the ledger, whole or not at all."""
    ledger = os.open(plan.ledger, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.write(ledger, f"{word} {number} {os.getpid()} {time.monotonic()}\n".encode())
    os.close(ledger)


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


def read(plan: Plan) -> list[Consumed]:
    """Read with threads."""
    consumed: list[Consumed] = []

    def consume(client: Client) -> None:
        mine = Consumed([], "", "", pid=os.getpid())
        stream = client.stream(upstream, plan, key="stream", wait=plan.wait_seconds)
        try:
            with stream:
                for one in stream:
                    mine.first_at = mine.first_at or time.monotonic()
                    mine.pieces.append(one)

            mine.end = "whole"
        except CallFailed:
            mine.end = "CallFailed"

        mine.source = stream.source or ""
        consumed.append(mine)

    with Client(plan.socket, daemon_timeout=PATIENCE_SECONDS) as client:
        threads = [threading.Thread(target=consume, args=(client,)) for _ in range(plan.consumers)]
        for thread in threads:
            thread.start()

        for thread in threads:
            thread.join()

    return consumed


async def aread(plan: Plan) -> list[Consumed]:
    """Read with tasks."""
    consumed: list[Consumed] = []

    async def consume(client: AsyncClient) -> None:
        mine = Consumed([], "", "", pid=os.getpid())
        stream = client.stream(aupstream, plan, key="stream", wait=plan.wait_seconds)
        try:
            async with stream:
                async for one in stream:
                    mine.first_at = mine.first_at or time.monotonic()
                    mine.pieces.append(one)

            mine.end = "whole"
        except CallFailed:
            mine.end = "CallFailed"

        mine.source = stream.source or ""
        consumed.append(mine)

    async with AsyncClient(plan.socket, daemon_timeout=PATIENCE_SECONDS) as client, anyio.create_task_group() as tasks:
        for _ in range(plan.consumers):
            tasks.start_soon(consume, client)

    return consumed


if __name__ == "__main__":
    plan = msgspec.json.decode(sys.argv[1], type=Plan)
    print("ready", flush=True)
    sys.stdin.readline()
    result = read(plan) if plan.kind == "sync" else anyio.run(aread, plan)
    print(msgspec.json.encode(result).decode())
