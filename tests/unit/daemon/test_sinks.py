"""The life of the daemon's sinks."""

import asyncio
from collections.abc import Awaitable
from pathlib import Path
from typing import Any

import anyio

from sidecard.config.load import load
from sidecard.core.accounts.daemon_metrics import DaemonMetrics
from sidecard.core.wall_clock import WallClock
from sidecard.daemon.sinks import Sinks

WAIT_SECONDS = 5.0


class StoppingSink:
    """A sink that runs until canceled, and then waits for ``may_end``."""

    def __init__(self) -> None:
        self.canceled = asyncio.Event()
        self.may_end: Awaitable[object] | None = None

    async def run(self, *, task_status: Any = None) -> None:
        """Run as a sink or as the HTTP listener."""
        if task_status is not None:
            task_status.started()

        try:
            await asyncio.Event().wait()
        finally:
            self.canceled.set()
            if self.may_end is not None:
                await self.may_end


class ShieldingSink:
    """A sink whose first step must be completed."""

    def __init__(self) -> None:
        self.completed = False

    async def run(self) -> None:
        """Do the step, and then run until canceled."""
        with anyio.CancelScope(shield=True):
            await anyio.sleep(0.05)
            self.completed = True

        await anyio.sleep_forever()


async def run_and_cancel(push: Any, http: Any) -> None:
    """Start sinks that need no network, and stop them at once, as the daemon does."""
    config = load(Path("/dev/null"), {"SIDECARD_SOCKET": "/tmp/unused.sock"})
    sinks = Sinks(config, None, DaemonMetrics(1, WallClock()), clock=float, wall_clock=float, log=print)
    sinks._push, sinks._http = push, http
    started = asyncio.Event()
    async with asyncio.timeout(WAIT_SECONDS), asyncio.TaskGroup() as tasks:
        task = tasks.create_task(sinks.run(started.set))
        await started.wait()
        await asyncio.sleep(0)
        task.cancel()


def test_all_sinks_are_canceled_while_http_still_ends_its_responses() -> None:
    """Otherwise the times that the sinks take to stop would add up."""

    async def stop() -> None:
        push, http = StoppingSink(), StoppingSink()
        http.may_end = push.canceled.wait()
        await run_and_cancel(push, http)

    asyncio.run(stop())


def test_a_stop_does_not_interrupt_what_a_sink_shields() -> None:
    """A collection of metrics is not lost because the daemon stops at that moment."""
    push = ShieldingSink()
    asyncio.run(run_and_cancel(push, None))
    assert push.completed
