"""Cancellation of an `AsyncClient`'s calls at every ``await``, and the ways out of its ``async with``."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from contextlib import suppress
from contextvars import ContextVar
from typing import Any

import anyio
import pytest
from anyio.lowlevel import checkpoint
from msgspec.structs import replace

from sidecard_client import AsyncClient, CallFailed, DaemonUnavailable
from sidecard_client._async.connection import AsyncConnection
from sidecard_client.protocol import wire
from sidecard_client.protocol.frames import frame
from tests.daemons import Daemon
from tests.scripted_daemon import HANG, PENDING, ScriptedDaemon, hit, lease

pytestmark = pytest.mark.anyio

PATIENCE_SECONDS = 30.0
"""For what takes milliseconds, unless the machine is busy."""

IDLE = "<AsyncConnection 0 unanswered, 0 pending, 0 held>"


@pytest.fixture
def scripted(socket_path: str) -> Iterator[ScriptedDaemon]:
    """Start a daemon that grants every lease unless scripted otherwise."""
    with ScriptedDaemon(socket_path) as daemon:
        yield daemon


def link_of(sidecard: AsyncClient) -> str:
    """Show what the client's connection still has open."""
    return repr(sidecard._connector.connection())


async def came(scripted: ScriptedDaemon, op: type[wire.Request], count: int = 1) -> list[Any]:
    """Wait for requests to reach the daemon, and return them."""
    return await anyio.to_thread.run_sync(scripted.wait_for, op, count)


async def never() -> str:
    """Be a call that does not end."""
    await anyio.sleep_forever()
    raise AssertionError


async def at_once() -> str:
    """Be a call that takes no time."""
    return "value"


async def settled(condition: Callable[[], bool]) -> None:
    """Let the loop's tasks go on until ``condition`` holds."""
    with anyio.fail_after(PATIENCE_SECONDS):
        while not condition():  # noqa: ASYNC110 - what is waited for is no event of the test's
            await anyio.sleep(0.001)


async def cancelled_when(
    condition: Callable[[], Awaitable[object]], call: Callable[[], Coroutine[Any, Any, object]]
) -> None:
    """Make ``call`` in a task and cancel it as soon as ``condition`` has returned."""
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(call)
        await condition()
        tasks.cancel_scope.cancel()


# Calls -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pending", [False, True])
async def test_a_call_canceled_while_it_waits_withdraws_its_begin(scripted: ScriptedDaemon, pending: bool) -> None:
    """Before and after the first answer, and nothing stays open."""
    scripted.always(wire.Begin, PENDING if pending else HANG)

    async with AsyncClient(scripted.path) as sidecard:

        async def begun() -> None:
            await came(scripted, wire.Begin)
            if pending:
                await settled(lambda: "1 pending" in link_of(sidecard))

        await cancelled_when(begun, lambda: sidecard.call(at_once, name="f"))
        (begin,) = scripted.requests(wire.Begin)
        (cancel,) = await came(scripted, wire.Cancel)

        assert cancel == wire.Cancel(id=begin.id + 1, target=begin.id)
        assert link_of(sidecard) == IDLE
        await sidecard.ping()


async def test_a_lease_that_crosses_with_the_cancel_is_dropped(scripted: ScriptedDaemon) -> None:
    """The daemon gives it to the next one; here its late arrival changes nothing."""
    late = lease()
    scripted.script(wire.Begin, HANG)
    scripted.script(wire.Cancel, lambda cancel: [frame(wire.pack(replace(late, id=cancel.target))), wire.Ok(0)])

    async with AsyncClient(scripted.path) as sidecard:
        await cancelled_when(lambda: came(scripted, wire.Begin), lambda: sidecard.call(at_once, name="f"))
        await came(scripted, wire.Cancel)
        await sidecard.ping()

        assert link_of(sidecard) == IDLE

    assert scripted.requests(wire.Complete) == []


@pytest.mark.parametrize("first", ["cancel", "lease"])
async def test_a_lease_that_arrives_in_the_turn_of_the_cancel_is_given_back(
    daemon: Callable[..., Daemon], monkeypatch: pytest.MonkeyPatch, first: str
) -> None:
    """1. the reader has the lease; 2. its caller, not yet having run, is canceled; 3. another caller must lead."""
    path = daemon().socket
    deliver = AsyncConnection._deliver
    async with AsyncClient(path) as sidecard, AsyncClient(path) as other:
        async with anyio.create_task_group() as tasks:

            def deliver_and_cancel(link: AsyncConnection, replies: list[wire.AnyReply]) -> None:
                if first == "cancel":
                    tasks.cancel_scope.cancel()

                deliver(link, replies)
                tasks.cancel_scope.cancel()

            monkeypatch.setattr(AsyncConnection, "_deliver", deliver_and_cancel)
            tasks.start_soon(lambda: sidecard.call(never, name="f"))

        monkeypatch.undo()
        outcome = await other.outcome(at_once, name="f", wait=5)
        stats = await other.stats()

    assert outcome.source == "upstream"
    assert (stats.leases, stats.failed_cancelled, stats.leases_granted) == (0, 1, 2)


async def test_a_holder_canceled_in_its_function_passes_the_call_on(daemon: Callable[..., Daemon]) -> None:
    """The waiter of another process gets the lease immediately; the daemon counts a canceled lease."""
    path = daemon().socket
    running = anyio.Event()

    async def held() -> str:
        running.set()
        return await never()

    async with AsyncClient(path) as holder, AsyncClient(path) as waiter:
        outcomes = []

        async def wait() -> None:
            outcomes.append(await waiter.outcome(at_once, name="f"))

        async with anyio.create_task_group() as tasks, anyio.create_task_group() as doomed:
            doomed.start_soon(lambda: holder.call(held, name="f"))
            await running.wait()
            tasks.start_soon(wait)
            await settled(lambda: "1 pending" in link_of(waiter))
            doomed.cancel_scope.cancel()

        stats = await waiter.stats()
        assert link_of(holder) == IDLE

    assert [(outcome.value, outcome.source) for outcome in outcomes] == [("value", "upstream")]
    assert (stats.failed_cancelled, stats.reelections, stats.leases) == (1, 1, 0)


@pytest.mark.parametrize("pending", [False, True])
async def test_a_holder_canceled_between_two_backends_returns_the_next_lease(
    scripted: ScriptedDaemon, pending: bool
) -> None:
    """The begin is canceled, whose lease the next one is; also where that was to be waited for."""
    scripted.script(wire.Begin, lease("local"))
    scripted.always(wire.Fail, PENDING if pending else HANG)

    async def fails() -> str:
        raise ConnectionError

    async with AsyncClient(scripted.path) as sidecard:

        async def failed() -> None:
            await came(scripted, wire.Fail)
            if pending:
                await settled(lambda: "1 pending" in link_of(sidecard))

        await cancelled_when(failed, lambda: sidecard.call({"local": fails, "cloud": at_once}, name="f"))
        (cancel,) = await came(scripted, wire.Cancel)

        assert cancel.target == scripted.requests(wire.Begin)[0].id
        assert link_of(sidecard) == IDLE


async def test_a_caller_canceled_in_the_pause_before_its_retry_leaves_nothing(daemon: Callable[..., Daemon]) -> None:
    """Nor does the real daemon: its waiter gets the lease immediately."""
    path = daemon(SIDECARD_RETRIES_BACKOFF_SECONDS="60", SIDECARD_RETRIES_MAX_BACKOFF_SECONDS="60").socket

    async def fails() -> str:
        raise ConnectionError

    async with AsyncClient(path) as sidecard, AsyncClient(path) as other:
        outcomes = []

        async def wait() -> None:
            outcomes.append(await other.outcome(at_once, name="f"))

        async with anyio.create_task_group() as tasks, anyio.create_task_group() as doomed:
            doomed.start_soon(lambda: sidecard.call(fails, name="f", retries=1))
            await settled(lambda: "1 pending" in link_of(sidecard))
            tasks.start_soon(wait)
            await settled(lambda: "1 pending" in link_of(other))
            assert (await sidecard.stats()).queued == 1
            doomed.cancel_scope.cancel()

        stats = await other.stats()
        assert link_of(sidecard) == IDLE

    assert [outcome.source for outcome in outcomes] == ["upstream"]
    assert (stats.queued, stats.leases, stats.permits) == (0, 0, 0)


async def test_a_holder_canceled_during_its_complete_has_sent_the_answer(scripted: ScriptedDaemon) -> None:
    """The complete was sent; nothing is taken back."""
    scripted.always(wire.Complete, HANG)

    async with AsyncClient(scripted.path) as sidecard:
        await cancelled_when(lambda: came(scripted, wire.Complete), lambda: sidecard.call(at_once, name="f"))
        await sidecard.ping()

        assert link_of(sidecard) == IDLE

    assert scripted.requests(wire.Cancel) == scripted.requests(wire.Fail) == []


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_asyncios_own_cancellation_is_the_same(scripted: ScriptedDaemon) -> None:
    """``wait_for`` and ``task.cancel()`` know nothing of anyio."""
    scripted.always(wire.Begin, PENDING)

    async with AsyncClient(scripted.path) as sidecard:
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(sidecard.call(at_once, name="f"), 0.05)

        assert [cancel.target for cancel in await came(scripted, wire.Cancel)] == [1]
        assert link_of(sidecard) == IDLE


async def test_canceled_waits_leave_nothing_behind(daemon: Callable[..., Daemon]) -> None:
    """Thousands of them, at the client and at the daemon."""
    # On a busy machine, the first answers to 500 calls may take longer than a client waits by default.
    async with AsyncClient(daemon().socket, daemon_timeout=PATIENCE_SECONDS) as sidecard:
        running = anyio.Event()

        async def held() -> str:
            running.set()
            return await never()

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(lambda: sidecard.call(held, name="f"))
            await running.wait()
            for _ in range(6):
                async with anyio.create_task_group() as waiting:
                    for _ in range(500):
                        waiting.start_soon(lambda: sidecard.call(at_once, name="f"))

                    await settled(lambda: "500 pending" in link_of(sidecard))
                    waiting.cancel_scope.cancel()

            stats = await sidecard.stats()
            assert link_of(sidecard) == "<AsyncConnection 0 unanswered, 0 pending, 1 held>"
            tasks.cancel_scope.cancel()

        assert (stats.waiters, stats.left) == (0, 3000)
        link = sidecard._connector.connection()
        assert link is not None
        assert len(link.protocol) == 0


# Without a daemon ------------------------------------------------------------------------------------------------------


async def test_a_local_leader_canceled_passes_the_call_to_the_next(socket_path: str) -> None:
    """One caller's cancellation affects no other caller, however many there are in a row."""
    mine: ContextVar[anyio.CancelScope] = ContextVar("mine")
    leaders = []

    async def slow() -> str:
        leaders.append(mine.get())
        if len(leaders) <= 5:
            await anyio.sleep_forever()

        return "value"

    async with AsyncClient(socket_path) as sidecard:
        outcomes = []

        async def call() -> None:
            with anyio.CancelScope() as scope:
                mine.set(scope)
                outcomes.append(await sidecard.outcome(slow, name="f"))

        async with anyio.create_task_group() as tasks:
            for _ in range(10):
                tasks.start_soon(call)

            for turn in range(1, 6):
                await anyio.wait_all_tasks_blocked()
                assert len(leaders) == turn
                leaders[-1].cancel()

    assert len(leaders) == 6
    assert [(outcome.value, outcome.source) for outcome in outcomes] == [("value", "fallback")] * 5


@pytest.mark.parametrize("fails", [False, True])
async def test_a_local_waiter_canceled_affects_no_other_caller(socket_path: str, fails: bool) -> None:
    """The leader goes on, the others get its answer; if it fails, the next remaining waiter leads."""
    go_on = anyio.Event()
    runs = []

    async def slow() -> str:
        runs.append(1)
        await go_on.wait()
        if fails and len(runs) == 1:
            raise ConnectionError

        return "value"

    async with AsyncClient(socket_path) as sidecard:
        values = []

        async def call() -> None:
            with suppress(ConnectionError):
                values.append(await sidecard.call(slow, name="f"))

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(call)
            await settled(lambda: bool(runs))
            async with anyio.create_task_group() as doomed:
                doomed.start_soon(call)
                await anyio.wait_all_tasks_blocked()
                tasks.start_soon(call)
                await anyio.wait_all_tasks_blocked()
                doomed.cancel_scope.cancel()

            go_on.set()

    assert (len(runs), values) == ((2, ["value"]) if fails else (1, ["value", "value"]))


async def test_a_local_failure_is_shared_as_the_daemon_would(socket_path: str) -> None:
    """A fatal failure fails every waiter, each with its own exception."""
    go_on = anyio.Event()

    async def fails() -> str:
        await go_on.wait()
        raise ValueError("bad prompt")

    async with AsyncClient(socket_path) as sidecard:
        errors: list[Exception] = []

        async def call() -> None:
            try:
                await sidecard.call(fails, name="f")
            except (ValueError, CallFailed) as error:
                errors.append(error)

        async with anyio.create_task_group() as tasks:
            for _ in range(3):
                tasks.start_soon(call)

            await anyio.wait_all_tasks_blocked()
            go_on.set()

    assert sorted(type(error).__name__ for error in errors) == ["CallFailed", "CallFailed", "ValueError"]


# Leaving the ``async with`` --------------------------------------------------------------------------------------------


async def test_an_exception_of_the_body_leaves_as_itself(scripted: ScriptedDaemon) -> None:
    """Not in a group, and without a context that hides it."""
    mine = KeyError("mine")

    async def body() -> None:
        async with AsyncClient(scripted.path) as sidecard:
            await sidecard.ping()
            raise mine

    with pytest.raises(KeyError) as caught:
        await body()

    assert caught.value is mine
    assert mine.__context__ is None


async def test_an_outer_cancellation_ends_the_body_and_the_client(scripted: ScriptedDaemon) -> None:
    """The scope that was canceled catches it, and the connection is closed."""
    scripted.always(wire.Begin, PENDING)

    with anyio.move_on_after(0.05) as scope:
        async with AsyncClient(scripted.path) as sidecard:
            await sidecard.call(at_once, name="f")

    assert scope.cancelled_caught
    await settled(lambda: scripted.ended == [0])


async def test_calls_that_wait_go_on_when_the_client_is_closed(scripted: ScriptedDaemon) -> None:
    """Without the daemon, and together; what needs a daemon says that it has none. No failure is counted."""
    scripted.always(wire.Begin, HANG)
    scripted.script(wire.Ping, HANG)
    runs, outcomes, errors = [], [], []

    async def slow() -> str:
        runs.append(1)
        await anyio.sleep(0.05)
        return "value"

    async with anyio.create_task_group() as tasks, AsyncClient(scripted.path) as sidecard:

        async def call() -> None:
            outcomes.append(await sidecard.outcome(slow, name="f"))

        async def ping() -> None:
            try:
                await sidecard.ping()
            except DaemonUnavailable as error:
                errors.append(str(error))

        for _ in range(3):
            tasks.start_soon(call)

        tasks.start_soon(ping)
        await came(scripted, wire.Begin, 3)
        await came(scripted, wire.Ping)

    assert [(outcome.value, outcome.source) for outcome in outcomes] == [("value", "fallback")] * 3
    assert len(runs) == 1
    assert len(errors) == 1
    assert "the client was closed" in errors[0]
    assert "Availability up" in repr(sidecard)
    await settled(lambda: scripted.ended == [0])


@pytest.mark.parametrize("elsewhere", ["task", "asyncio", "trio"])
async def test_a_client_is_closed_from_anywhere(scripted: ScriptedDaemon, elsewhere: str) -> None:
    """By a task that did not open it, which has ended; by another event loop in another thread, while a call waits."""
    scripted.always(wire.Begin, HANG)
    outcomes = []
    sidecard = AsyncClient(scripted.path)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(sidecard.ping)

    async with anyio.create_task_group() as tasks:

        async def call() -> None:
            outcomes.append(await sidecard.outcome(at_once, name="f"))

        tasks.start_soon(call)
        await came(scripted, wire.Begin)
        if elsewhere == "task":
            tasks.start_soon(sidecard.aclose)
        else:
            await anyio.to_thread.run_sync(lambda: anyio.run(sidecard.aclose, backend=elsewhere))

    assert [outcome.source for outcome in outcomes] == ["fallback"]
    await settled(lambda: scripted.ended == [0])
    await sidecard.aclose()


async def test_closing_lets_running_functions_end(scripted: ScriptedDaemon) -> None:
    """Their values reach their callers; the daemon sees the connection's end."""
    running, go_on = anyio.Event(), anyio.Event()
    values = []

    async def held() -> str:
        running.set()
        await go_on.wait()
        return "value"

    async with anyio.create_task_group() as tasks:
        async with AsyncClient(scripted.path) as sidecard:

            async def call() -> None:
                values.append(await sidecard.call(held, name="f"))

            tasks.start_soon(call)
            await running.wait()

        go_on.set()

    assert values == ["value"]
    assert scripted.requests(wire.Complete) == []


async def test_what_was_said_last_is_still_sent(scripted: ScriptedDaemon) -> None:
    """A call that fails just before the end reports its failure."""

    async def fails() -> str:
        raise ValueError

    with pytest.raises(ValueError, match=r"^$"):
        async with AsyncClient(scripted.path) as sidecard:
            await sidecard.call(fails, name="f")

    assert (await came(scripted, wire.Fail))[0].kind == "fatal"


async def test_calls_with_a_limit_leave_no_deadline_behind(scripted: ScriptedDaemon) -> None:
    """Answered immediately, after a wait, without an answer, or canceled."""
    scripted.script(wire.Begin, hit("v"), [PENDING, hit("v")], lease(), PENDING)

    async with AsyncClient(scripted.path) as sidecard:
        for _ in range(3):
            await sidecard.call(at_once, name="f", wait=30)

        await cancelled_when(lambda: came(scripted, wire.Begin, 4), lambda: sidecard.call(at_once, name="f", wait=30))
        link = sidecard._connector.connection()
        assert link is not None
        assert link._waits == {}


async def test_a_call_after_a_canceled_one_is_answered_as_ever(scripted: ScriptedDaemon) -> None:
    """On the same connection."""
    scripted.script(wire.Begin, PENDING, hit("stored"))

    async with AsyncClient(scripted.path) as sidecard:
        with anyio.move_on_after(0.02):
            await sidecard.call(at_once, name="f")

        await checkpoint()
        assert await sidecard.call(at_once, name="f") == "stored"

    assert {taken.connection for taken in scripted.taken} == {0}
