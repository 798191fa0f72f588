"""Decide when a call that need not wait enters the event loop.

A hit from a view needs no event loop, but must stay a cancellation point and let other tasks run. Such a call enters the loop if
its caller is being canceled, or if the loop has not run for `TURN_SECONDS`: `checkpoint_if_due`.

Nanoseconds (Python 3.11, two cores, a busy machine; a hit takes some 4,000):

======================================================  =====  ==============================
``asyncio.sleep(0)`` on asyncio's loop, on uvloop       3,000  1,200
``trio.lowlevel.checkpoint()``                          7,600
``anyio.lowlevel.checkpoint_if_cancelled()``, asyncio   1,850  2,300 in three scopes
`is_due` on asyncio                                       490  730 in three scopes of anyio
`is_due` on trio                                        1,200
======================================================  =====  ==============================

Only the time of the last `checkpoint` is known, not whether the loop has run since, so a call after a pause enters the loop too.
Learning it from the loop (``call_soon``) would cost 600 ns in each turn of the loop that has a hit, and the pause costs 3,000.
"""

import asyncio
import math
import sys
import threading
from asyncio import AbstractEventLoop, _get_running_loop
from time import monotonic
from typing import Any, Final
from weakref import ref

import anyio.lowlevel

TURN_SECONDS: Final = 0.001
"""Maximum time that consecutive calls may keep the event loop from running."""


class _Turn(threading.local):
    """When the tasks of this thread's event loop began to run without a pause."""

    began_at = -math.inf
    number = 0
    loop: "ref[AbstractEventLoop] | None" = None


_turn = _Turn()
_scopes: Any = None
"""anyio's module of the scopes of asyncio's tasks, which the first `checkpoint` on asyncio imports."""


def is_due(now: float) -> bool:
    """Return whether a call that need not wait must enter the event loop; ``now`` is an instant of the monotonic clock."""
    turn = _turn
    if now - turn.began_at >= TURN_SECONDS:
        return True

    # Asking asyncio for the running loop takes as long as the rest of this function. A loop that does not run has no current task.
    loop = None if turn.loop is None else turn.loop()
    task = None if loop is None else asyncio.current_task(loop)
    if task is None:
        task = _task_of_asyncio(turn)
        if task is None:
            return _is_canceled_in_trio()

    return task.cancelling() > 0 or _is_in_canceled_scope(task)


async def checkpoint() -> None:
    """Let the event loop run. Raises the loop's exception if the caller is being canceled."""
    global _scopes  # noqa: PLW0603 - found once
    turn = _turn
    number = turn.number
    await anyio.lowlevel.checkpoint()
    # All ready tasks share one turn: the loop reads its sockets only between two rounds. The first task that resumes begins the
    # next turn.
    if turn.number == number:
        turn.number += 1
        turn.began_at = monotonic()

    if _scopes is None:
        _scopes = sys.modules.get("anyio._backends._asyncio")


async def checkpoint_if_due() -> None:
    """Let the event loop run if a call that did not wait has to. Raises as `checkpoint`."""
    if is_due(monotonic()):
        await checkpoint()


def _task_of_asyncio(turn: _Turn) -> "asyncio.Task[Any] | None":
    loop = _get_running_loop()
    turn.loop = None if loop is None else ref(loop)
    return None if loop is None else asyncio.current_task(loop)


def _is_canceled_in_trio() -> bool:
    """Return whether a task of trio is being canceled; True outside of a task, for which `checkpoint` raises."""
    trio: Any = sys.modules.get("trio")
    return trio is None or not trio.lowlevel.in_trio_task() or trio.current_effective_deadline() == -math.inf


def _is_in_canceled_scope(task: "asyncio.Task[Any]") -> bool:
    """Return whether a task of asyncio is in a canceled scope of anyio.

    anyio's own function takes 2 us, so this reads anyio's private tables if they have the known form.
    """
    try:
        state = _scopes._task_states.get(task)  # noqa: SLF001 - as above
        return state is not None and state.cancel_scope is not None and bool(state.cancel_scope._effectively_cancelled)  # noqa: SLF001 - as above
    except AttributeError:
        return anyio.current_effective_deadline() == -math.inf
