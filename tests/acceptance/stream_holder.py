"""A holder that takes one piece of its stream and then does not read, as a process of its own.

Takes a `Plan` as JSON, prints ``holding`` when it has a piece, waits for a line, and prints all of its pieces as JSON.
"""

import os
import sys
import time
from collections.abc import AsyncIterator, Iterator

import anyio
import anyio.to_thread
import msgspec

from sidecard_client import AsyncClient, Client
from tests.worker_process import Ledger


class Plan(msgspec.Struct):
    """What the holder does."""

    kind: str
    socket: str
    ledger: str
    """A line is added here for each piece that its function makes."""
    pieces: int
    pause_seconds: float
    """Before each piece."""


def upstream(plan: Plan) -> Iterator[str]:
    """Be the call that costs something."""
    for number in range(plan.pieces):
        time.sleep(plan.pause_seconds)
        note(plan, number)
        yield f"{os.getpid()}:{number}"


async def aupstream(plan: Plan) -> AsyncIterator[str]:
    """Be the call that costs something."""
    for number in range(plan.pieces):
        await anyio.sleep(plan.pause_seconds)
        note(plan, number)
        yield f"{os.getpid()}:{number}"


def note(plan: Plan, number: int) -> None:
    """Add a line to the ledger."""
    Ledger(plan.ledger).write(number)


def wait() -> None:
    """Say that the stream is held, and wait until it is to be read."""
    print("holding", flush=True)
    sys.stdin.readline()


def hold(plan: Plan) -> list[str]:
    """Hold with the blocking client."""
    with Client(plan.socket) as client:
        stream = client.stream(upstream, plan, key="stream")
        first = next(stream)
        wait()
        return [first, *stream]


async def ahold(plan: Plan) -> list[str]:
    """Hold with the asynchronous client, whose event loop goes on."""
    async with AsyncClient(plan.socket) as client:
        stream = client.stream(aupstream, plan, key="stream")
        first = await anext(stream)
        await anyio.to_thread.run_sync(wait)
        return [first, *[piece async for piece in stream]]


if __name__ == "__main__":
    plan = msgspec.json.decode(sys.argv[1], type=Plan)
    pieces = hold(plan) if plan.kind == "sync" else anyio.run(ahold, plan)
    print(msgspec.json.encode(pieces).decode(), flush=True)
