"""Signals while the daemon stops."""

import asyncio
import signal
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from sidecard.config.load import load
from sidecard.core.accounts.billing import no_price
from sidecard.daemon.serving import Daemon, Parts
from sidecard.daemon.stop_deadline import StopDeadline
from sidecard.daemon.systemd import Notifier
from sidecard.observe.log_writer import LogWriter
from sidecard.observe.logs import open_log
from sidecard.server import listener


def test_a_second_signal_at_the_end_of_a_wait_is_no_fault(socket_directory: Path) -> None:
    """1. The wait's time ends. 2. The signal arrives. 3. The waiting task continues."""
    path = str(socket_directory / "s")
    config = load(Path("/dev/null"), {"SIDECARD_SOCKET": path})

    async def stop() -> None:
        with (socket_directory / "log").open("w") as stream, ExitStack() as stack:
            listening = listener.bind(path, 0o600, None)
            stack.callback(listening.close)
            writer = LogWriter(stream)
            stack.callback(writer.drain, 1.0)
            log = open_log("info", "json", float, writer)
            notifier = Notifier({}, 1)
            deadline = StopDeadline(lambda: None)
            new_index: Any = None  # no index is made
            parts = Parts(
                listening, notifier, log, writer, no_price, new_index, lambda: config, None, "", stack, deadline
            )
            daemon = Daemon(config, parts)
            daemon._stop.set()
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(daemon._wait(asyncio.Event(), 0.0))
                await asyncio.sleep(0)
                timeout = daemon._waiting
                assert timeout is not None
                await asyncio.sleep(0)
                assert timeout.expired()
                daemon._handle_signal(signal.SIGTERM)

    asyncio.run(stop())
