"""Waiters that are killed, canceled at each await, and interrupted at each step.

See `tests.acceptance.fault_index`.
"""

import os
import sys
import threading
import weakref
from collections.abc import AsyncIterator, Callable, Coroutine, Generator, Iterator
from concurrent.futures import Future
from functools import partial
from types import FrameType, coroutine
from typing import Any

import anyio
import pytest

from sidecard_client import AsyncClient, Client
from tests.daemons import Daemon, poll, until
from tests.faults import EMPTY, SHAPES, Injected, Scene, clients_and_shapes, judge

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]

Start = Callable[..., Daemon]

PIECES = ["a", "b", "c"]

IDLE = "<AsyncConnection 0 unanswered, 0 pending, 0 held>"


# Killed ---------------------------------------------------------------------------------------------------------------


@clients_and_shapes()
def test_killed_waiters_affect_no_other_caller(
    kind: str, shape: str, scenes: Callable[..., Scene], injected: Injected
) -> None:
    """After waiters are killed, holder and other waiters share one call."""
    scene = scenes()
    holders = scene.apps(kind, shape)
    scene.wait_for("start")
    doomed = scene.apps(kind, shape, processes=2, callers=3)
    others = scene.apps(kind, shape, callers=3)
    scene.waits(9)
    if shape == "stream":
        scene.open("0")
        scene.wait_for("seen.1", count=10)

    for process in doomed.processes:
        process.kill()

    poll(lambda: scene.stats()["waiters"] == 3, "the dead still wait")
    scene.open("all")
    ends = [*holders.ends(), *others.ends()]
    injected(2, callers=len(ends), notified=len(judge(ends)))

    assert [got.end for got in ends] == ["value"] * 4
    assert len({tuple(got.pieces) for got in ends}) == len(scene.noted("start")) == 1
    scene.calm()


# Cancelled at each await ----------------------------------------------------------------------------------------------


@coroutine
def counted(number: int, call: Coroutine[Any, Any, Any], reached: Callable[[], None]) -> Generator[Any, Any, Any]:
    """Await ``call``, and say when it has given control away ``number`` times."""
    steps, resume = 0, partial(call.send, None)
    while True:
        try:
            given = resume()
        except StopIteration as stop:
            return stop.value

        steps += 1
        if steps == number:
            reached()

        try:
            resume = partial(call.send, (yield given))
        except BaseException as error:  # noqa: BLE001 - a cancellation, which is the call's
            resume = partial(call.throw, error)


class Upstream:
    """A call that begins to answer once another caller waits for it, if it is to, and ends when it may."""

    def __init__(self) -> None:
        self.calls = 0
        self.joined = anyio.Event()
        self.running = anyio.Event()
        self.may_end = anyio.Event()

    async def stream(self) -> AsyncIterator[str]:
        """Be a stream, which waits after its first piece."""
        self.calls += 1
        self.running.set()
        # A caller that joins after the holder asked for the number of waiters may see the beginning of a stream that then breaks.
        await self.joined.wait()
        yield PIECES[0]
        await self.may_end.wait()
        for piece in PIECES[1:]:
            yield piece

    async def plain(self) -> list[str]:
        """Be a call."""
        return [piece async for piece in self.stream()]


async def read(client: AsyncClient, shape: str, upstream: Upstream, key: str) -> list[str]:
    """Call, or read a stream to its end."""
    if shape == "plain":
        value: list[str] = await client.call(upstream.plain, key=key, wait=30)
        return value

    async with client.stream(upstream.stream, key=key, wait=30) as stream:
        return [piece async for piece in stream]


class Victim:
    """A caller that is canceled at one of its awaits, immediately or on request."""

    def __init__(self, number: int, *, at_once: bool) -> None:
        self._number = number
        self._at_once = at_once
        self._scope = anyio.CancelScope()
        self.reached = False
        self.ended = False
        self.over = anyio.Event()
        self.value: list[str] | None = None

    async def run(self, call: Coroutine[Any, Any, list[str]]) -> None:
        """Make the call."""
        with self._scope:
            self.value = await counted(self._number, call, self._reach)

        self.ended = True
        self.over.set()

    def _reach(self) -> None:
        self.reached = True
        if self._at_once:
            self._scope.cancel()

    def release(self) -> None:
        """Cancel it, now if it is there, else as soon as it is."""
        self._at_once = True
        if self.reached:
            self._scope.cancel()


def begun(upstream: Upstream, victim: Victim) -> bool:
    """Return whether the upstream runs, or the victim is where it is to be canceled."""
    return upstream.running.is_set() or victim.reached


async def calm(client: AsyncClient) -> None:
    """Expect that the daemon's tables are empty."""
    for table in EMPTY:
        await none_left(client, table)


async def none_left(client: AsyncClient, table: str) -> None:
    """Wait until a table of the daemon is empty."""
    with anyio.fail_after(20):
        while getattr(await client.stats(), table):  # noqa: ASYNC110 - what is waited for is the daemon's
            await anyio.sleep(0.002)


async def waits(client: AsyncClient, victim: Victim | None = None, number: int = 1) -> None:
    """Wait until so many wait at the daemon, or the victim, if it is its wait that is waited for, has ended."""
    while not (victim is not None and victim.ended) and (  # noqa: ASYNC110 - what is waited for is the daemon's
        (await client.stats()).waiters < number
    ):
        await anyio.sleep(0.002)


@pytest.mark.anyio
@pytest.mark.parametrize("shape", SHAPES)
async def test_waiter_canceled_at_each_await_affects_no_other_caller(
    shape: str, daemon: Start, injected: Injected
) -> None:
    """When a waiter is canceled at any await, the holder gets its answer, the connection goes on, and no wait is left."""
    path = daemon().socket
    number = 0
    victim: Victim | None = None
    async with AsyncClient(path) as ours, AsyncClient(path) as theirs:
        while victim is None or victim.value is None:
            number += 1
            upstream, victim, got = Upstream(), Victim(number, at_once=True), list[list[str]]()
            upstream.joined.set()
            key = f"key {number}"

            async def hold(upstream: Upstream = upstream, got: list[list[str]] = got, key: str = key) -> None:
                got.append(await read(theirs, shape, upstream, key))

            async with anyio.create_task_group() as tasks:
                tasks.start_soon(hold)
                await upstream.running.wait()
                tasks.start_soon(victim.run, read(ours, shape, upstream, key))
                await waits(theirs, victim)
                if victim.reached:
                    # The daemon knows that no caller waits any more while the holder still computes.
                    await victim.over.wait()
                    await none_left(theirs, "waiters")

                upstream.may_end.set()

            assert (got, upstream.calls) == ([PIECES], 1), number
            await calm(theirs)

        assert victim.value == PIECES
        assert repr(ours._connector.connection()) == IDLE

    assert number > 1
    injected(number - 1, callers=number)


@pytest.mark.anyio
@pytest.mark.parametrize("shape", SHAPES)
async def test_holder_canceled_at_each_await_leaves_the_waiter_an_answer(
    shape: str, daemon: Start, injected: Injected
) -> None:
    """When a holder is canceled at any await, its waiter gets a whole answer: the call's, or that of its own call."""
    path = daemon().socket
    number = 0
    victim: Victim | None = None
    async with AsyncClient(path) as ours, AsyncClient(path) as theirs:
        while victim is None or victim.value is None:
            number += 1
            upstream, victim, got = Upstream(), Victim(number, at_once=False), list[list[str]]()
            key = f"key {number}"

            async def wait(upstream: Upstream = upstream, got: list[list[str]] = got, key: str = key) -> None:
                got.append(await read(theirs, shape, upstream, key))

            async with anyio.create_task_group() as tasks:
                tasks.start_soon(victim.run, read(ours, shape, upstream, key))
                await until(partial(begun, upstream, victim))
                joined = upstream.running.is_set()
                if joined:
                    tasks.start_soon(wait)
                    await waits(theirs)
                    victim.release()
                else:
                    victim.release()
                    await victim.over.wait()
                    # A caller that begins before the lease is returned could see the beginning of a stream that is being ended.
                    await none_left(theirs, "leases")
                    tasks.start_soon(wait)

                upstream.joined.set()
                upstream.may_end.set()

            assert got[0] == PIECES, number
            assert upstream.calls <= 2
            await calm(theirs)

        assert victim.value == PIECES
        assert repr(ours._connector.connection()) == IDLE

    assert number > 2
    injected(number - 1, callers=number)


# Interrupted at each step ---------------------------------------------------------------------------------------------


def within_finalizer(frame: FrameType | None) -> bool:
    """Return whether a frame is of a ``__del__`` or a `weakref.finalize`, or was called by one."""
    finalize = weakref.finalize.__call__.__code__
    while frame is not None and frame.f_code.co_name != "__del__" and frame.f_code is not finalize:
        frame = frame.f_back

    return frame is not None


class Interruption:
    """A trace function that raises `KeyboardInterrupt` when the client's code enters a function for the nth time.

    A signal's handler runs between two instructions of Python, of which a function's first is one.
    """

    def __init__(self, number: int) -> None:
        self._left = number

    def __call__(self, frame: FrameType, event: str, _: object) -> None:
        """See a function entered. An exception within a finalizer reaches no caller, so finalizers are not interrupted."""
        ours = f"{os.sep}sidecard_client{os.sep}" in frame.f_code.co_filename
        if event == "call" and ours and not within_finalizer(frame):
            self._left -= 1
            if not self._left:
                raise KeyboardInterrupt

    @property
    def came(self) -> bool:
        """Whether it was raised."""
        return self._left <= 0


def interrupted(number: int, call: Callable[[], list[str]]) -> "Future[list[str] | None]":
    """Make a call in a thread and interrupt it; None is the result where that happened."""
    future: Future[list[str] | None] = Future()

    def run() -> None:
        before = sys.gettrace()
        interruption = Interruption(number)
        value = None
        sys.settrace(interruption)
        try:
            value = call()
        except KeyboardInterrupt:
            pass
        finally:
            sys.settrace(before)
            future.set_result(None if interruption.came else value)

    threading.Thread(target=run, daemon=True).start()
    return future


@pytest.mark.parametrize("shape", SHAPES)
def test_blocking_waiter_interrupted_at_each_step_affects_no_other_caller(
    shape: str, daemon: Start, injected: Injected
) -> None:
    """When Ctrl-C interrupts a blocking waiter at any step, other callers get the answer, and its client stays usable."""
    path = daemon().socket
    number, value = 0, None
    with Client(path, daemon_timeout=10) as holder, Client(path, daemon_timeout=10) as victim:
        while value is None:
            number += 1
            key, may_end, running, calls = f"key {number}", threading.Event(), threading.Event(), list[int]()

            def stream(
                may_end: threading.Event = may_end, running: threading.Event = running, calls: list[int] = calls
            ) -> Iterator[str]:
                calls.append(1)
                running.set()
                yield PIECES[0]
                assert may_end.wait(30)
                yield from PIECES[1:]

            def read(client: Client, key: str = key, stream: Callable[[], Iterator[str]] = stream) -> list[str]:
                if shape == "plain":
                    return list(client.call(lambda: list(stream()), key=key, wait=30))

                with client.stream(stream, key=key, wait=30) as pieces:
                    return list(pieces)

            held: Future[list[str]] = Future()
            threading.Thread(target=lambda held=held, read=read: held.set_result(read(holder)), daemon=True).start()
            assert running.wait(20)
            future = interrupted(number, partial(read, victim))
            poll(lambda future=future: future.done() or holder.stats().waiters == 1, "it never waited")  # type: ignore[misc]
            may_end.set()
            value = future.result(30)
            assert (held.result(30), len(calls)) == (PIECES, 1)
            assert read(victim) == PIECES
            poll(lambda: not any(getattr(holder.stats(), table) for table in EMPTY), f"left behind at step {number}")

        assert value == PIECES

    assert number > 10
    injected(number - 1, callers=2 * number)
