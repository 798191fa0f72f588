"""One run of the daemon: its parts, its signals, and the order in which it stops."""

import asyncio
import gc
import os
import random
import signal
from collections.abc import Callable, Coroutine, Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from msgspec import structs

from sidecard import early_signals
from sidecard.adapters.memory_trim import MemoryTrim
from sidecard.adapters.zstd import Zstd
from sidecard.config.model import Config
from sidecard.core.accounts.billing import Price
from sidecard.core.accounts.daemon_metrics import DaemonMetrics
from sidecard.core.cache.similarity import IndexFactory
from sidecard.core.engine import Engine
from sidecard.core.events import ClocksStepped, SecondsPassed
from sidecard.core.notes import Note
from sidecard.core.settings import StoreKind
from sidecard.daemon.clocks import ClockWatch, awake_clock, clock, wall_clock
from sidecard.daemon.ledger_file import LedgerFile, LedgerKeeper
from sidecard.daemon.network import tcp_problem
from sidecard.daemon.recent_calls import RecentCalls
from sidecard.daemon.reloading import Reloader
from sidecard.daemon.sinks import Sinks
from sidecard.daemon.socket_server import SocketServer
from sidecard.daemon.stop_deadline import STOP_SECONDS, StopDeadline
from sidecard.daemon.stores import open_store
from sidecard.daemon.systemd import Notifier
from sidecard.errors import SidecardBug
from sidecard.observe.log_writer import LogWriter
from sidecard.observe.logs import Log
from sidecard.server.connections import CONNECTION_BYTES
from sidecard.server.driver import Driver
from sidecard.server.listener import Listener
from sidecard.server.scheduler import FairScheduler
from sidecard.server.views.files import new_view_memory
from sidecard.store.base import Store
from sidecard_client import __version__
from sidecard_client.protocol import wire
from sidecard_client.protocol.values import REPORT_SECONDS

AGING_SECONDS = 5.0
"""How often the engine looks for names to forget: its clock is the time that events carry."""

LAST_HITS_SECONDS = 2 * REPORT_SECONDS
"""How long clients may take to report the last hits from views when the daemon stops. Usually, they take a millisecond."""

FLUSH_SECONDS = 2.0
"""How long peers may take to read their last replies when the daemon stops."""

_SIGNALS = (*early_signals.STOPPING, *early_signals.KEPT)
"""SIGUSR1 sets the log level to debug, SIGUSR2 back to the configured one."""


class Parts(NamedTuple):
    """What `sidecard.daemon.run` prepares before the event loop runs. ``stack`` is closed after the loop."""

    listener: Listener
    notifier: Notifier
    log: Log
    log_writer: LogWriter
    price: Price
    new_index: IndexFactory
    reread: Callable[[], Config]
    state: Path | None
    """The state directory, locked."""
    state_problem: str
    """Why there is no state directory, as a sentence; empty if there is one, or if there is to be none."""
    stack: ExitStack
    deadline: StopDeadline


class Daemon:
    """A daemon on a socket that is listening already."""

    def __init__(self, config: Config, parts: Parts) -> None:
        self._config = config
        self._parts = parts
        self._log = parts.log
        self._server = SocketServer(config, parts.listener, parts.log)
        self._driver: Driver
        self._reloader: Reloader
        self._stop = asyncio.Event()
        self._hurried = False
        self._waiting: asyncio.Timeout | None = None

    async def run(self) -> None:
        """Serve until a signal stops the daemon, then stop in this order.

        1. send ``STOPPING=1`` to systemd
        2. stop accepting connections
        3. grant no new leases (`DrainRequested`)
        4. wait until no lease and no waiter is left, at most ``[flights] drain_seconds``
        5. end every remaining wait, and retire all views (`DrainExpired`)
        6. wait until the connections that received views have reported their hits and ended, at most `LAST_HITS_SECONDS`
        7. close each connection once its replies are read, waiting at most `FLUSH_SECONDS`
        8. abort the remaining connections
        9. write the pending rows of the call log, and push the last metrics
        10. meanwhile, write the store's pending entries
        11. write the ledger, if it changed since the last write
        12. release the state directory, and remove the socket if the daemon created it (`sidecard.daemon.run.run` does)
        13. exit with 0, without waiting for threads of libraries (`sidecard.cli.serve`)

        A second signal ends the waits of 4, 6 and 7. If 9 to 11 take longer than `STOP_SECONDS`, 12 and 13 follow at once.
        """
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(self._log_loop_failure)
        log, state = self._log, self._parts.state
        boot_id = os.urandom(8).hex()
        store = open_store(
            self._config,
            state,
            host=boot_id,
            clock=clock,
            wall_clock=wall_clock,
            log=log.write,
            on_fault=partial(log.write_fault, "store failed"),
        )
        store_kind: StoreKind = "none" if store is None else "shared" if store.shared else "own"
        engine = self._new_engine(boot_id, store_kind)
        recent = RecentCalls(engine.counters, engine.metrics.leases, clock)
        self._measure(engine.metrics, recent)
        sinks = Sinks(
            self._config,
            state,
            engine.metrics,
            clock=clock,
            wall_clock=wall_clock,
            log=log.write,
        )
        scheduler = FairScheduler(loop, clock)
        driver = self._driver = Driver(
            engine,
            loop,
            clock,
            on_note=log.write_note if store is None else partial(self._on_note, store),
            on_bug=self._log_bug,
            on_call=sinks.on_call,
            on_level=self._set_level,
            on_reload=lambda effect: self._reloader.request(effect),  # noqa: PLW0108 - it is created below
            metrics=engine.metrics if self._config.metrics.enabled else None,
            store=None if store is None else store.perform,
            new_view=partial(new_view_memory, boot_id),
            before_tick=lambda: watch.check(),  # noqa: PLW0108 - it is created below
        )
        driver.take_turns(scheduler)
        watch = ClockWatch(self._clocks_stepped)
        self._reloader = Reloader(
            self._config, self._parts.reread, log, driver, store_kind, apply=self._apply, on_change=self._notify_reload
        )
        ledger = None if state is None else self._restore_ledger(engine, LedgerFile(state))

        sinks.open(driver, scheduler, self._parts.stack)
        self._trace(log.level)
        with self._signals(loop):
            async with asyncio.TaskGroup() as tasks:
                background: list[asyncio.Task[None]] = []

                def start(*coroutines: Coroutine[Any, Any, None]) -> None:
                    background.extend(map(tasks.create_task, coroutines))

                if store is not None:
                    start(store.run(driver.handle))
                    await asyncio.sleep(0)

                self._server.start(driver, scheduler)
                start(self._reloader.run(), self._feed_watchdog(), self._age_names(), watch.run(), recent.run())
                connections = self._server.connections
                start(MemoryTrim(lambda: engine.removed_bytes + CONNECTION_BYTES * connections.ended).run())
                start(self._server.monitor.run())
                if ledger is not None:
                    start(ledger.run())

                started = asyncio.Event()
                start(sinks.run(started.set))
                await started.wait()
                self._report_ready()
                await self._stop.wait()
                await self._drain()
                self._parts.deadline.start()
                for task in background:
                    task.cancel()

            async with asyncio.TaskGroup() as closing:
                closing.create_task(sinks.close())
                if store is not None:
                    closing.create_task(store.close())

            # Last: the periodic write has ended, and nothing can be booked any more.
            if ledger is not None:
                await ledger.write()
        log.write("info", "stopped")

    def _measure(self, metrics: DaemonMetrics, recent: RecentCalls) -> None:
        """Give the engine's metrics what the engine cannot see."""
        metrics.problems_of["state"] = lambda: self._parts.state_problem
        if problem := tcp_problem(self._config):
            metrics.problems_of["network"] = lambda: problem
            self._log.write("warning", "tcp not permitted", reason=problem)

        metrics.problems_of |= {"rejections": recent.rejections, "failures": recent.failures}
        metrics.limited = self._server.limited
        metrics.gauges["buffered_bytes"] = lambda: self._server.buffers.bytes
        metrics.dropped_by["log_lines"] = lambda: self._log.left_out + self._parts.log_writer.dropped

    async def _drain(self) -> None:
        """Steps 1 to 8 of `run`."""
        drain_seconds = self._reloader.config.flights.drain_seconds
        connections = self._server.connections
        self._parts.notifier.stopping("draining", drain_seconds + LAST_HITS_SECONDS + FLUSH_SECONDS + STOP_SECONDS)
        self._server.stop_accepting()
        self._log.write("info", "stopping", peers=len(connections), drain_seconds=drain_seconds)
        idle, reported, empty = asyncio.Event(), asyncio.Event(), asyncio.Event()
        self._driver.drain(idle.set)
        await self._wait(idle, drain_seconds)
        self._driver.end_drain()
        connections.end_views(reported.set)
        await self._wait(reported, LAST_HITS_SECONDS)
        connections.close_all(empty.set)
        await self._wait(empty, FLUSH_SECONDS)
        connections.abort_all()

    async def _wait(self, event: asyncio.Event, seconds: float) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(0.0 if self._hurried else seconds) as self._waiting:
                await event.wait()

        self._waiting = None

    def _new_engine(self, boot_id: str, store: StoreKind) -> Engine:
        now = clock()
        engine = Engine(
            structs.replace(self._config.engine_settings(), store=store),
            boot_id=boot_id,
            version=__version__,
            now=now,
            shown_settings=self._config.shown(),
            shown_origins=self._config.origins,
            jitter=random.random,
            price=self._parts.price,
            codec=Zstd(),
            new_index=self._parts.new_index,
            wall_offset_seconds=wall_clock() - now,
            no_views="the daemon's clock is not CLOCK_BOOTTIME" if clock is awake_clock else "",
        )
        self._server.buffers.memory = engine.memory.buffers
        return engine

    def _restore_ledger(self, engine: Engine, file: LedgerFile) -> LedgerKeeper:
        ledger = LedgerKeeper(file, engine, self._log.write)
        ledger.restore()
        engine.metrics.problems_of["ledger"] = lambda: ledger.problem
        return ledger

    def _clocks_stepped(self, event: ClocksStepped) -> None:
        slept_seconds = round(event.slept_seconds, 1)
        self._log.write("info", "clocks stepped", slept_seconds=slept_seconds, wall_time=round(wall_clock(), 1))
        self._driver.clocks_stepped(event)

    def _on_note(self, store: Store, note: Note) -> None:
        self._log.write_note(note)
        store.note(note)

    def _report_ready(self) -> None:
        # Objects made during the start live as long as the daemon: the collector need not visit them again.
        gc.freeze()
        gc.enable()
        for sentence in self._config.warnings():
            self._log.write("warning", "setting with limited effect", reason=sentence)

        state, listening = self._parts.state, self._parts.listener
        self._log.write(
            "info",
            "serving",
            socket=listening.path,
            adopted=listening.adopted,
            state=None if state is None else str(state),
            pid=os.getpid(),
            version=__version__,
        )
        self._notify_reload(False)  # noqa: FBT003 - ready, as after a reload

    def _notify_reload(self, active: bool) -> None:  # noqa: FBT001 - a callback's only argument
        # After STOPPING=1, systemd must not be sent READY=1.
        if self._stop.is_set():
            return

        if active:
            self._parts.notifier.reloading(awake_clock())
        else:
            self._parts.notifier.ready(f"serving on {self._parts.listener.path}")

    @contextmanager
    def _signals(self, loop: asyncio.AbstractEventLoop) -> Iterator[None]:
        for number in _SIGNALS:
            loop.add_signal_handler(number, self._handle_signal, number)

        for early in early_signals.take():
            self._handle_signal(early)

        try:
            yield
        finally:
            for number in _SIGNALS:
                loop.remove_signal_handler(number)

            early_signals.ignore()

    def _handle_signal(self, number: int) -> None:
        if number == signal.SIGHUP:
            self._reloader.request(None)
        elif number == signal.SIGUSR1:
            self._set_level("debug")
        elif number == signal.SIGUSR2:
            self._set_level(self._reloader.config.log.level)
        elif not self._stop.is_set():
            self._stop.set()
        else:
            self._hurried = True
            # A timeout that has just expired, but has not been raised yet, cannot be rescheduled.
            if self._waiting is not None and not self._waiting.expired():
                self._waiting.reschedule(asyncio.get_running_loop().time())

    def _apply(self, before: Config, after: Config) -> None:
        self._server.configure(after)
        if after.log.level != before.log.level:
            self._set_level(after.log.level)

    def _set_level(self, level: str) -> None:
        self._log.level = "info"
        self._log.write("info", "log level set", now=level)
        self._log.level = level
        self._trace(level)

    def _trace(self, level: str) -> None:
        self._driver.trace(self._log.write_traffic if level == "debug" else None)

    async def _age_names(self) -> None:
        """Let the engine forget names that no one uses."""
        while True:
            await asyncio.sleep(AGING_SECONDS)
            self._driver.handle(SecondsPassed())

    async def _feed_watchdog(self) -> None:
        """Prove that loop and engine work, twice in each watchdog interval, as sd_watchdog_enabled(3) advises."""
        notifier = self._parts.notifier
        if notifier.watchdog_seconds is not None:
            while True:
                self._driver.query(wire.Ping())
                notifier.alive()
                await asyncio.sleep(notifier.watchdog_seconds / 2)

    def _log_bug(self, bug: SidecardBug) -> None:
        self._log.write_fault("internal error", bug.__cause__ or bug, correlation=bug.correlation, event_kind=bug.event)

    def _log_loop_failure(self, _: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        fault = context.get("exception")
        if fault is None:
            self._log.write("error", "loop failed", reason=context.get("message"))
        else:
            self._log.write_fault("loop failed", fault, reason=context.get("message"))
