"""Calls that do not wait: their callers can be canceled at each, and other tasks run in between."""

import asyncio
from collections.abc import Callable
from time import monotonic

import anyio
import anyio.lowlevel
import pytest

from sidecard_client._async.checkpoints import TURN_SECONDS, checkpoint, is_due

LATER_SECONDS = 3600.0


async def hit() -> None:
    """Do what a call does after a hit that did not wait."""
    if is_due(monotonic()):
        await checkpoint()


async def in_time() -> Callable[[], bool]:
    """Enter the loop, and return a function that asks as if no time had passed."""
    await checkpoint()
    began_at = monotonic()
    return lambda: is_due(began_at)


@pytest.mark.anyio
async def test_a_call_is_due_once_a_turn() -> None:
    """Not at once after the loop has run, but a millisecond later."""
    due = await in_time()
    assert not due()
    assert not due()
    assert is_due(monotonic() + TURN_SECONDS)


@pytest.mark.anyio
async def test_other_tasks_run_between_calls() -> None:
    """However long one task makes calls: a loop that never waits."""
    others = 0

    async def count() -> None:
        nonlocal others
        while True:
            others += 1
            await anyio.lowlevel.checkpoint()

    async with anyio.create_task_group() as group:
        group.start_soon(count)
        with anyio.fail_after(LATER_SECONDS):
            while others < 10:
                await hit()

        group.cancel_scope.cancel()


@pytest.mark.anyio
async def test_all_ready_tasks_end_their_turns_together() -> None:
    """Each makes one call in a round of the loop that has lasted too long, so that the loop reads its sockets."""
    made = [0] * 50
    ends_at = monotonic() + 30 * TURN_SECONDS

    async def call_on(place: int) -> None:
        while monotonic() < ends_at:
            made[place] += 1
            await hit()

    async with anyio.create_task_group() as group:
        for place in range(50):
            group.start_soon(call_on, place)

    assert min(made) >= 2


@pytest.mark.anyio
async def test_a_call_in_a_canceled_scope_is_due() -> None:
    """At once, also if the scope is an outer one, and not if the inner one is shielded."""
    due = await in_time()
    with anyio.CancelScope() as outer, anyio.CancelScope() as inner:
        assert not due()
        outer.cancel()
        assert due()
        inner.shield = True
        assert not due()
        inner.shield = False
        await hit()
        pytest.fail("the call was not canceled")

    assert outer.cancelled_caught


@pytest.mark.anyio
async def test_a_time_limit_ends_a_row_of_calls() -> None:
    """Although none of them waits."""
    with anyio.move_on_after(0.005) as limited:
        while True:
            await hit()

    assert limited.cancelled_caught


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
@pytest.mark.anyio
async def test_a_task_that_cancels_itself_is_canceled_at_its_next_call() -> None:
    """As by any call that waits."""
    due = await in_time()

    async def cancel_itself() -> None:
        task = asyncio.current_task()
        assert task is not None
        assert not due()
        task.cancel()
        assert due()
        await hit()
        pytest.fail("the call was not canceled")

    async with asyncio.TaskGroup() as group:
        task = group.create_task(cancel_itself())

    assert task.cancelled()


def test_loops_follow_one_another_in_a_thread() -> None:
    """A task of a new loop is not taken for one of the last, and a loop that has ended is not kept."""

    async def canceled() -> bool:
        due = await in_time()
        first = due()
        with anyio.CancelScope() as scope:  # noqa: ASYNC100 - the question is asked without waiting
            scope.cancel()
            then = due()

        return then and not first

    for backend in ("asyncio", "trio", "asyncio"):
        assert anyio.run(canceled, backend=backend)


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
@pytest.mark.anyio
async def test_another_version_of_anyio_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """`is_due` calls anyio's own function if anyio's private tables have another form."""
    due = await in_time()
    monkeypatch.setattr("sidecard_client._async.checkpoints._scopes", object())
    with anyio.CancelScope() as scope:  # noqa: ASYNC100 - as above
        assert not due()
        scope.cancel()
        assert due()
