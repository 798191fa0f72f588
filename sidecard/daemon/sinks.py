"""The daemon's optional sinks, by its settings: the call log, pushed metrics, the HTTP listener.

Their modules are imported only by daemons that use them.
"""

import asyncio
import random
import socket
from collections.abc import Callable
from contextlib import ExitStack
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

from msgspec import structs

from sidecard.config.model import Config
from sidecard.core.accounts.daemon_metrics import DaemonMetrics
from sidecard.core.effects import CallRecord
from sidecard.errors import ConfigError
from sidecard.server import listener
from sidecard.server.driver import Driver
from sidecard.server.scheduler import HTTP_UID, FairScheduler

if TYPE_CHECKING:
    from sidecard.observe.call_log.log import CallLog
    from sidecard.observe.http.listener import HttpListener
    from sidecard.observe.push.push import Push

SPOOL_NAME = "spool"
"""The directory of unsent metrics, in the state directory."""


def require_place(config: Config) -> None:
    """Raise `ConfigError` if a daemon that is to keep no state is also to keep a call log in its state directory."""
    if config.calls.enabled and not config.calls.url:
        from sidecard.observe.call_log import urls  # noqa: PLC0415 - optional: see the module's docstring

        raise ConfigError([f"calls.enabled is true, but {urls.NOWHERE}"])


def require(config: Config) -> None:
    """Import the driver of the call log's database. Raises `ConfigError` if it is not installed."""
    if config.calls.enabled:
        from sidecard.observe.call_log import urls  # noqa: PLC0415 - optional: see the module's docstring

        urls.require(config.calls.url)


class Sinks:
    """The sinks of one daemon: `open` before it serves, `start` when it does, `close` after it has.

    ``state`` is the locked state directory. Losses and gauges are reported to ``metrics``, and what does not work to ``problems``,
    which `health` shows. Without a place for the call log, there is none: the daemon serves all the same. ``clock`` is the engine's,
    ``wall_clock`` the wall's, in seconds. ``log`` writes a log line.

    Raises `ConfigError` if the call log cannot be opened as configured.
    """

    def __init__(
        self,
        config: Config,
        state: Path | None,
        metrics: DaemonMetrics,
        *,
        clock: Callable[[], float],
        wall_clock: Callable[[], float],
        log: Callable[..., None],
    ) -> None:
        self._config = config
        self._state = state
        self._metrics = metrics
        self._clock = clock
        self._wall_clock = wall_clock
        self._log = log
        self._calls = self._open_calls() if config.calls.enabled else None
        self._push: Push | None = None
        self._http: HttpListener | None = None

    @property
    def on_call(self) -> Callable[[CallRecord], None] | None:
        """Receives each ended call; None without a call log."""
        calls, wall_clock = self._calls, self._wall_clock
        return None if calls is None else lambda record: calls.add(record, wall_clock() - record.ago_seconds)

    def open(self, driver: Driver, scheduler: FairScheduler, stack: ExitStack) -> None:
        """Open the sinks that query the engine, in turns of ``scheduler``; ``stack`` closes the HTTP listener's socket.

        Raises `ConfigError`, or `ListenError` if HTTP cannot listen on its address.
        """
        if self._config.push.url:
            self._push = self._open_push(driver)

        if self._config.http.listen:
            self._http = self._open_http(driver, scheduler, stack)

    async def run(self, on_started: Callable[[], None]) -> None:
        """Run all sinks until canceled; then call `close`. ``on_started`` is called once HTTP is served."""
        running = [sink.run for sink in (self._calls, self._push) if sink is not None]
        if running or self._http is not None:
            import anyio  # noqa: PLC0415 - only for daemons with sinks, which use it

            # Not asyncio's group: its cancellation ignores anyio's shields, within which a push must not be interrupted.
            async with anyio.create_task_group() as tasks:
                for run in running:
                    tasks.start_soon(run)

                if self._http is not None:
                    await tasks.start(self._http.run)

                on_started()
        else:
            on_started()

    async def close(self) -> None:
        """Write and send what is pending, for about two seconds."""
        async with asyncio.TaskGroup() as tasks:
            for sink in (self._calls, self._push):
                if sink is not None:
                    tasks.create_task(sink.close())

    def _count(self, what: str, number: int) -> None:
        self._metrics.dropped[what] += number

    def _open_calls(self) -> "CallLog | None":
        from sidecard.observe.call_log.urls import NOWHERE, open_log  # noqa: PLC0415 - optional: see the module's docstring

        if not self._config.calls.url and self._state is None:
            self._metrics.problems_of["calls"] = lambda: f"Calls are not logged: {NOWHERE}."
            self._log("warning", "calls not logged", reason=NOWHERE)
            return None

        calls = open_log(
            self._config.calls,
            self._state,
            host=socket.gethostname(),
            wall_clock=self._wall_clock,
            clock=self._clock,
            log=self._log,
            count=self._count,
        )
        self._metrics.gauges["calls_pending"] = lambda: calls.pending
        self._metrics.problems_of["calls"] = lambda: calls.problem
        return calls

    def _open_push(self, driver: Driver) -> "Push":
        from sidecard.observe.push.push import Push  # noqa: PLC0415 - optional: see the module's docstring

        settings = self._config.push
        try:
            push = Push(
                structs.replace(settings, instance=settings.instance or socket.gethostname()),
                lambda: chain.from_iterable(source.pieces for source in driver.metrics_sources()),
                directory=None if self._state is None else self._state / SPOOL_NAME,
                clock=self._clock,
                wall=self._wall_clock,
                log=self._log,
                count=self._count,
                jitter=random.random,
            )
        except (ValueError, OSError) as error:
            raise ConfigError([f"push: {error}"]) from error

        self._metrics.gauges["spool_bytes"] = lambda: push.spool_bytes
        self._metrics.problems_of["push"] = lambda: push.problem
        return push

    def _open_http(self, driver: Driver, scheduler: FairScheduler, stack: ExitStack) -> "HttpListener":
        from sidecard.observe.http.address import bind_tcp, parse, shown  # noqa: PLC0415 - optional: see the module's docstring
        from sidecard.observe.http.listener import HttpListener  # noqa: PLC0415 - as above

        address = parse(self._config.http.listen)
        if isinstance(address, str):
            settings = self._config.socket
            bound = listener.bind(address, settings.mode, settings.group, "http.listen")
            stack.callback(bound.close)
            listening, at = bound.socket, address
        else:
            listening = stack.enter_context(bind_tcp(address))
            at = f"http://{shown(*listening.getsockname()[:2])}/"

        self._log("info", "serving http", at=at)
        return HttpListener(
            self._config.http.allow_hosts,
            listening,
            driver.query,
            self._log,
            sources=driver.metrics_sources,
            scheduler=scheduler,
            tcp_uid=HTTP_UID,
        )
