"""Start the daemon: everything before its event loop, and what must be installed for its settings."""

import asyncio
import os
import sys
import time
from collections.abc import Callable, Mapping, MutableMapping
from contextlib import ExitStack
from functools import partial
from pathlib import Path

from sidecard.adapters import vectors
from sidecard.config.model import Config
from sidecard.core.accounts.billing import Price, no_price
from sidecard.daemon import sinks, systemd
from sidecard.daemon.serving import Daemon, Parts
from sidecard.daemon.state import NOT_KEPT, StateLock, StateUnusableError, create_directory, protection_problem
from sidecard.daemon.stop_deadline import STOP_SECONDS, StopDeadline
from sidecard.errors import ConfigError
from sidecard.observe.log_writer import LogWriter
from sidecard.observe.logs import Log, open_log
from sidecard.server import listener

LAST_LINES_SECONDS = 1.0
"""How long the daemon waits at its end until the last log lines are written."""


def run(config: Config, environ: MutableMapping[str, str], *, reread: Callable[[], Config], state: bool = True) -> None:
    """Serve until a signal ends the daemon. ``state``: use the state directory, created if missing.

    ``reread`` loads the settings again, from the sources of ``config``; it is called in a thread.
    Raises `ListenError` if a socket cannot be opened, `ConfigError` if a setting needs something that is not installed.
    """
    price = _price(config)
    new_index = vectors.index_maker(config)
    if not state:
        sinks.require_place(config)

    adopted = systemd.adopt_socket(environ, os.getpid())
    if adopted is None:
        listening = listener.bind(config.socket.path, config.socket.mode, config.socket.group)
    else:
        listening = listener.adopt(adopted)

    def reread_and_require() -> Config:
        loaded = reread()
        vectors.require(loaded)
        return loaded

    try:
        writer = LogWriter(sys.stderr)
        log = open_log(config.log.level, config.log.format, time.monotonic, writer)
        with ExitStack() as stack:
            stack.callback(writer.drain, LAST_LINES_SECONDS)
            if state:
                directory, problem = _lock_state(environ, log, stack)
            else:
                directory, problem = None, ""
                log.write("info", "state not kept", reason="--no-state", effect=NOT_KEPT)

            notifier = systemd.Notifier(environ, os.getpid())
            deadline = StopDeadline(partial(_abandon, log, writer, listening))
            stack.callback(deadline.cancel)
            parts = Parts(
                listening,
                notifier,
                log,
                writer,
                price,
                new_index,
                reread_and_require,
                directory,
                problem,
                stack,
                deadline,
            )
            # asyncio and not anyio, whose import would take a sixth of the start; sinks that use anyio run on it as well.
            with asyncio.Runner(loop_factory=_loop_factory()) as runner:
                runner.run(Daemon(config, parts).run())

    finally:
        listening.close()


def _abandon(log: Log, writer: LogWriter, listening: listener.Listener) -> None:
    log.write("warning", "stop abandoned", seconds=STOP_SECONDS, reason="what is pending could not be written in time")
    writer.drain(LAST_LINES_SECONDS)
    listening.close()


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    try:
        import uvloop  # noqa: PLC0415 - not on every platform
    except ImportError:
        return None

    return uvloop.new_event_loop


def require(config: Config) -> None:
    """Import the optional packages that the settings need. Raises `ConfigError` with all that are missing."""
    problems: list[str] = []
    for load in (_price, vectors.require, sinks.require):
        try:
            load(config)
        except ConfigError as error:
            problems += error.problems

    if problems:
        raise ConfigError(problems)


def _price(config: Config) -> Price:
    if not config.prices.table:
        return no_price

    from sidecard.adapters.prices import table_price  # noqa: PLC0415 - costs 0.4 s and 30 MB, only if configured

    return table_price()


def _lock_state(environ: Mapping[str, str], log: Log, stack: ExitStack) -> tuple[Path | None, str]:
    """Return the state directory, created if missing and locked until ``stack`` is closed, or None and why there is none."""
    try:
        directory = create_directory(environ)
        stack.enter_context(StateLock(directory))
    except StateUnusableError as error:
        log.write("warning", "state not kept", reason=str(error), effect=NOT_KEPT)
        return None, f"No state is kept, so {NOT_KEPT}. Reason: {error}."

    if problem := protection_problem(directory):
        log.write("warning", "state directory not protected", reason=problem)

    return directory, ""
