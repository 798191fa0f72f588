"""The life of the daemon's sinks."""

import asyncio
from collections.abc import Awaitable
from pathlib import Path
from typing import Any

from sidecard.config.load import load
from sidecard.core.accounts.daemon_metrics import DaemonMetrics
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


def test_all_sinks_are_canceled_while_http_still_ends_its_responses() -> None:
    """Otherwise the times that the sinks take to stop would add up."""

    async def stop() -> None:
        config = load(Path("/dev/null"), {"SIDECARD_SOCKET": "/tmp/unused.sock"})
        sinks = Sinks(config, None, DaemonMetrics(1, 0.0), clock=float, wall_clock=float, log=print)
        push, http = StoppingSink(), StoppingSink()
        http.may_end = push.canceled.wait()
        sinks._push, sinks._http = push, http  # type: ignore[assignment]
        started = asyncio.Event()
        async with asyncio.timeout(WAIT_SECONDS), asyncio.TaskGroup() as tasks:
            task = tasks.create_task(sinks.run(started.set))
            await started.wait()
            await asyncio.sleep(0)
            task.cancel()

    asyncio.run(stop())
