"""A worker process of the bench, asynchronous: takes an `Order` a line, answers a `Result` a line.

``python -m sidecard.cli.bench.async_worker SIDE=SOCKET ...`` with the sides ``sidecard`` and ``redis``.
On asyncio, because `redis.asyncio` is; the loop is blocked while it waits for an order, when nothing else goes on.
"""

import asyncio
import sys
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from time import monotonic, perf_counter, sleep
from typing import Any

from sidecard.cli.bench.load import PROMPTS, VALUE, Order, Result, Upstream, read_order, write
from sidecard.cli.bench.worker import redis_key
from sidecard_client import AsyncClient

Hit = Callable[[str], Awaitable[Any]]


class AsyncWorker:
    """Follows orders."""

    def __init__(self, sides: dict[str, Hit], upstream: Upstream) -> None:
        self._sides = sides
        self._upstream = upstream

    async def follow(self, order: Order) -> Result:
        """Do what is ordered."""
        hit = self._sides[order.side]
        before = self._upstream.calls
        sleep(max(0.0, order.start_at - monotonic()))  # noqa: ASYNC251 - nothing else goes on
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
            upstream_calls=self._upstream.calls - before,
        )


async def _in_turn(hit: Hit, task: int, count: int) -> None:
    for number in range(count):
        await hit(PROMPTS[(task + number) % len(PROMPTS)])


async def _together(tasks: int, work: Callable[[int], Awaitable[Any]]) -> None:
    # Not gather: a task group stops the others when one fails, so that a fault ends the bench at once.
    async with asyncio.TaskGroup() as group:
        for task in range(tasks):
            group.create_task(_await(work(task)))


async def _await(work: Awaitable[Any]) -> None:
    await work


async def _sidecard_side(path: str, upstream: Upstream, stack: AsyncExitStack) -> Hit:
    client = await stack.enter_async_context(AsyncClient(path, on_unavailable="raise"))

    async def hit(prompt: str) -> Any:
        return await client.call(upstream.answer_async, prompt)

    for prompt in PROMPTS:
        await hit(prompt)

    return hit


async def _redis_side(path: str, stack: AsyncExitStack) -> Hit:
    import redis.asyncio  # noqa: PLC0415 - an extra

    client = redis.asyncio.Redis(unix_socket_path=path)
    stack.push_async_callback(client.aclose)
    for prompt in PROMPTS:
        await client.setex(redis_key(prompt), 86400, VALUE)

    async def hit(prompt: str) -> Any:
        stored: Any = await client.get(redis_key(prompt))
        return stored.decode()

    return hit


async def main(arguments: list[str]) -> None:
    """Say that the answers are stored, then follow orders until there are no more."""
    upstream = Upstream()
    sides: dict[str, Hit] = {}
    async with AsyncExitStack() as stack:
        for name, _, path in (argument.partition("=") for argument in arguments):
            make = _sidecard_side(path, upstream, stack) if name == "sidecard" else _redis_side(path, stack)
            sides[name] = await make

        worker = AsyncWorker(sides, upstream)
        _tell(Result())
        for line in sys.stdin.buffer:
            _tell(await worker.follow(read_order(line)))


def _tell(result: Result) -> None:
    sys.stdout.buffer.write(write(result) + b"\n")
    sys.stdout.buffer.flush()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1:]))
