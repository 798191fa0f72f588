"""Asynchronous worker process of the bench: reads one `Order` per line and writes one `Result` per line.

``python -m sidecard.cli.bench.processes.async_worker SIDE=SOCKET ...`` with the sides ``sidecard``, ``socket`` and ``redis``.
It runs on asyncio because `redis.asyncio` does. Waiting for an order blocks the loop, which has nothing else to do then.
"""

import asyncio
import sys
from collections.abc import Callable, Coroutine
from contextlib import AsyncExitStack
from time import monotonic, perf_counter, sleep
from typing import Any

from sidecard.cli.bench.load import ANSWERS, PROMPTS, VALUE, Order, Result, answer_async, read_order, write
from sidecard.cli.bench.processes.sides import PATIENCE_SECONDS, redis_key, until_published
from sidecard_client import AsyncClient

Hit = Callable[[str], Coroutine[Any, Any, Any]]


class AsyncWorker:
    """Performs orders."""

    def __init__(self, sides: dict[str, Hit]) -> None:
        self._sides = sides

    async def perform(self, order: Order) -> Result:
        """Perform an order and return its result."""
        hit = self._sides[order.side]
        before = ANSWERS.calls
        sleep(max(0.0, order.start_at - monotonic()))  # noqa: ASYNC251 - the loop has nothing else to do
        began = perf_counter()
        if order.do == "join":
            await _together(order.count, lambda _: hit(order.prompt))
        else:
            share = order.count // order.concurrent
            await _together(order.concurrent, lambda task: _in_turn(hit, task, share))

        return Result(
            seconds=perf_counter() - began,
            count=order.count,
            ended_at=monotonic(),
            upstream_calls=ANSWERS.calls - before,
        )


async def _in_turn(hit: Hit, task: int, count: int) -> None:
    for number in range(count):
        await hit(PROMPTS[(task + number) % len(PROMPTS)])


async def _together(tasks: int, work: Callable[[int], Coroutine[Any, Any, Any]]) -> None:
    # A task group, because it cancels the other tasks when one fails; `gather` would not.
    async with asyncio.TaskGroup() as group:
        for task in range(tasks):
            group.create_task(work(task))


async def _socket_side(path: str, stack: AsyncExitStack) -> Hit:
    client = await stack.enter_async_context(AsyncClient(path, daemon_timeout=PATIENCE_SECONDS, on_unavailable="raise"))

    async def hit(prompt: str) -> Any:
        return await client.call(answer_async, prompt)

    return hit


async def _view_side(path: str, stack: AsyncExitStack) -> Hit:
    hit = await _socket_side(path, stack)
    for _ in until_published(path):
        await _in_turn(hit, 0, len(PROMPTS))

    return hit


async def _redis_side(path: str, stack: AsyncExitStack) -> Hit:
    import redis.asyncio  # noqa: PLC0415 - optional

    client = redis.asyncio.Redis(unix_socket_path=path)
    stack.push_async_callback(client.aclose)
    for prompt in PROMPTS:
        await client.setex(redis_key(prompt), 86400, VALUE)

    async def hit(prompt: str) -> Any:
        stored: Any = await client.get(redis_key(prompt))
        return stored.decode()

    return hit


_SIDES = {"sidecard": _view_side, "socket": _socket_side, "redis": _redis_side}


async def main(arguments: list[str]) -> None:
    """Report that the answers are stored, then perform orders until standard input ends."""
    sides: dict[str, Hit] = {}
    async with AsyncExitStack() as stack:
        for name, _, path in (argument.partition("=") for argument in arguments):
            sides[name] = await _SIDES[name](path, stack)

        worker = AsyncWorker(sides)
        _write(Result())
        for line in sys.stdin.buffer:
            _write(await worker.perform(read_order(line)))


def _write(result: Result) -> None:
    sys.stdout.buffer.write(write(result) + b"\n")
    sys.stdout.buffer.flush()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1:]))
