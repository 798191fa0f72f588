"""The daemon put together: settings, engine, driver, listener, log; and the order in which it stops."""

import asyncio
import gc
import importlib.util
import os
import random
import resource
import signal
import sys
import time
from collections import Counter, deque
from collections.abc import AsyncIterator, Callable, Mapping, MutableMapping
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import anyio.to_thread
from msgspec import structs

from sidecard.adapters import vectors
from sidecard.adapters.zstd import Zstd
from sidecard.config.model import Config
from sidecard.config.reload import reconfigure
from sidecard.config.schema import Limits
from sidecard.core.accounts.billing import Price, no_price
from sidecard.core.cache.similarity import IndexFactory
from sidecard.core.effects import ReadSettings
from sidecard.core.engine import Engine
from sidecard.core.events import SettingsRead
from sidecard.core.notes import Note
from sidecard.core.settings import EngineSettings, StoreKind
from sidecard.daemon import sinks as outlets
from sidecard.daemon import systemd
from sidecard.daemon.ledger_file import LedgerFile, LedgerKeeping
from sidecard.daemon.sinks import Outlets
from sidecard.daemon.state import StateLock, StateUnusableError, open_to_others, state_directory
from sidecard.daemon.stores import Opened, open_store
from sidecard.errors import ConfigError, SidecardBug
from sidecard.observe.log_writer import LogWriter
from sidecard.observe.logs import Log, open_log
from sidecard.server import listener
from sidecard.server.buffers import BufferBudget
from sidecard.server.connection import PeerConnection, ServerContext
from sidecard.server.connections import ConnectionTable, unmapped_uid
from sidecard.server.driver import Driver
from sidecard.server.listener import Listener
from sidecard.server.scheduler import FairScheduler
from sidecard.server.socket_monitor import SocketMonitor
from sidecard.store.base import Store
from sidecard_client import __version__
from sidecard_client.protocol import wire

FLUSH_SECONDS = 2.0
"""How long peers may take to read their last replies when the daemon stops."""

LAST_LINES_SECONDS = 1.0
"""How long the log's stream may take the last lines, and a thread that hangs in it hold the end up."""

_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)
"""SIGUSR1 lets the log say everything, SIGUSR2 as configured."""

_wall_clock = time.time  # noqa: TID251 - what outlives a run, or is told to another host, has no other clock

SPARE_DESCRIPTORS = 64
"""Descriptors that are not for peers: listener, lock, log, the loop's own, late imports, those to be told that they are too many."""


def run(config: Config, environ: MutableMapping[str, str], *, reread: Callable[[], Config], state: bool = True) -> None:
    """Serve until told to stop; ``state`` says whether a state directory is used, if there is one.

    ``reread`` reads the settings again, from where ``config`` is from; it is called in a thread.
    Raises `ListenError` where a socket cannot be had, `ConfigError` where a setting asks for what is not installed.
    """
    price = _price(config)
    new_index = vectors.index_maker(config)
    adopted = systemd.adopt_socket(environ, os.getpid())
    if adopted is None:
        listening = listener.bind(config.socket.path, config.socket.mode, config.socket.group)
    else:
        listening = listener.adopt(adopted)

    try:
        writer = LogWriter(sys.stderr)
        log = open_log(config.log.level, config.log.format, time.monotonic, writer)
        with ExitStack() as held:
            held.callback(writer.drain, LAST_LINES_SECONDS)
            directory = _lock_state(environ, log, held) if state else None
            notifier = systemd.Notifier(environ, os.getpid())
            serving = _Serving(
                config,
                listening,
                notifier,
                log,
                writer,
                clock=time.monotonic,
                price=price,
                new_index=new_index,
                reread=partial(_reread, reread),
                state=directory,
                held=held,
            )
            uvloop = importlib.util.find_spec("uvloop") is not None
            anyio.run(serving.run, backend_options={"use_uvloop": uvloop})
    finally:
        # However serving ended.
        listening.close()


def require(config: Config) -> None:
    """Load what the settings want that is not always installed. Raises `ConfigError` with all that cannot be had."""
    problems: list[str] = []
    for load in (_price, vectors.require, outlets.require):
        try:
            load(config)
        except ConfigError as error:
            problems += error.problems

    if problems:
        raise ConfigError(problems)


def _price(config: Config) -> Price:
    if not config.prices.table:
        return no_price

    from sidecard.adapters.prices import table_price  # noqa: PLC0415 - 0.4 s and 30 MB, for those who want it; see there

    return table_price()


def _reread(reread: Callable[[], Config]) -> Config:
    """Read the settings again, and load what they want that was not wanted before."""
    config = reread()
    vectors.require(config)
    return config


def _lock_state(environ: Mapping[str, str], log: Log, held: ExitStack) -> Path | None:
    """Return the state directory, locked for as long as ``held`` is; None where there is none to use."""
    try:
        directory = state_directory(environ)
        if directory is not None:
            held.enter_context(StateLock(directory))
            if exposed := open_to_others(directory):
                log.say("warning", "state not protected", reason=exposed)

    except StateUnusableError as error:
        log.say("warning", "no state kept", reason=str(error))
        return None
    else:
        return directory


class _Serving:
    """One run of the daemon, on a socket that is listening already."""

    def __init__(
        self,
        config: Config,
        listening: Listener,
        notifier: systemd.Notifier,
        log: Log,
        writer: LogWriter,
        *,
        clock: Callable[[], float],
        price: Price,
        new_index: IndexFactory,
        reread: Callable[[], Config],
        state: Path | None,
        held: ExitStack,
    ) -> None:
        self._config = config
        self._held = held
        self._price = price
        self._new_index = new_index
        self._reread = reread
        self._reloads: deque[ReadSettings | None] = deque()
        """Who wants the settings read again; None is a signal."""
        self._reload_asked = anyio.Event()
        self._state = state
        self._listener = listening
        self._notifier = notifier
        self._log = log
        self._writer = writer
        self._clock = clock
        self._limits = _with_descriptors(config.limits, log)
        self._limited = Counter[str]()
        self._buffers = BufferBudget[PeerConnection](self._limits.max_buffered_bytes)
        self._connections = ConnectionTable(
            self._limits,
            self._is_operator,
            on_denied=lambda uid, reason: log.say("warning", "peer denied", uid=uid, reason=reason),
            on_closed=lambda peer, reason: log.say("warning", "peer closed", peer=peer.id, uid=peer.uid, reason=reason),
            limited=self._limited,
            unmapped_uid=None if config.socket.admit_unmapped else unmapped_uid(),
        )
        self._driver: Driver | None = None
        self._server: asyncio.Server | None = None
        self._stop = anyio.Event()
        self._patience: anyio.CancelScope | None = None
        self._hurried = False
        self._store_kind: StoreKind = "none"

    async def run(self) -> None:
        """Serve until a signal says to stop, then stop.

        1. tell systemd ``STOPPING=1``
        2. stop accepting
        3. grant no new leases (`DrainRequested`)
        4. wait until nobody holds a lease or waits, at most ``[flights] drain_seconds``
        5. give every waiter that is left its end (`DrainExpired`)
        6. close the peers once they have read their replies, waiting at most `FLUSH_SECONDS`
        7. abort the peers that are left
        8. write the calls that are not in the call log yet, and push the last metrics
        9. write what the store has not got yet
        10. write the ledger, if something was booked since it was written last
        11. let go of the state directory, and remove the socket if it was bound here (`sidecard.daemon.daemon.run` does)
        12. exit with 0

        A second signal ends the waits of 4 and 6.
        """
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(self._loop_failed)
        boot_id = os.urandom(8).hex()
        opened = self._open_store(boot_id)
        store = None if opened is None else opened.store
        engine = self._new_engine(boot_id, store)
        engine.metrics.limited = self._limited
        engine.metrics.gauges["buffered_bytes"] = lambda: self._buffers.bytes
        engine.metrics.dropped_by["log_lines"] = lambda: self._log.left_out + self._writer.dropped
        outlets = Outlets(
            self._config, self._state, engine.metrics, clock=self._clock, wall_clock=_wall_clock, say=self._log.say
        )
        driver = self._driver = Driver(
            engine,
            loop,
            self._clock,
            on_note=self._listeners(opened),
            on_bug=self._tell_bug,
            on_call=outlets.on_call,
            on_level=self._set_level,
            on_reload=self._ask_reload,
            metrics=engine.metrics if self._config.metrics.enabled else None,
            store=None if store is None else store.perform,
        )
        ledger = None if self._state is None else LedgerKeeping(LedgerFile(self._state), engine, self._log.say)
        if ledger is not None:
            ledger.restore()

        outlets.open(driver.query, self._held)
        self._watch(self._log.level)
        with anyio.open_signal_receiver(*_SIGNALS) as signals:
            async with anyio.create_task_group() as tasks:
                if store is not None:
                    tasks.start_soon(store.run, driver.handle)
                    await anyio.lowlevel.checkpoint()

                self._server = await self._listen(loop, driver)
                tasks.start_soon(self._obey, signals)
                tasks.start_soon(self._reload_when_asked, driver)
                tasks.start_soon(self._feed_watchdog, driver)
                tasks.start_soon(SocketMonitor(self._listener, partial(self._rebind, loop, driver), self._log.say).run)
                if ledger is not None:
                    tasks.start_soon(ledger.run)

                await outlets.start(tasks)
                self._say_ready()
                await self._stop.wait()

                self._notifier.stopping("draining", self._drain_seconds + 2 * FLUSH_SECONDS)
                self._server.close()
                self._log.say("info", "stopping", peers=len(self._connections), drain_seconds=self._drain_seconds)
                idle = anyio.Event()
                driver.drain(idle.set)
                await self._wait(idle, self._drain_seconds)
                driver.end_drain()
                empty = anyio.Event()
                self._connections.close_all(empty.set)
                await self._wait(empty, FLUSH_SECONDS)
                self._connections.abort_all()
                tasks.cancel_scope.cancel()

            await outlets.close()
            if store is not None:
                await store.close()

            # Only now: the task that wrote it has ended, and so has everything that could be booked.
            if ledger is not None:
                await ledger.write()

        self._log.say("info", "stopped")

    @property
    def _drain_seconds(self) -> float:
        return self._config.flights.drain_seconds

    def _open_store(self, boot_id: str) -> Opened | None:
        return open_store(
            self._config,
            self._state,
            host=boot_id,
            clock=self._clock,
            wall_clock=_wall_clock,
            say=self._log.say,
            on_fault=partial(self._log.fault, "store failed"),
        )

    def _listeners(self, opened: Opened | None) -> Callable[[Note], None]:
        if opened is None or opened.note is None:
            return self._log.note

        listeners = self._log.note, opened.note

        def tell(note: Note) -> None:
            for hear in listeners:
                hear(note)

        return tell

    def _new_engine(self, boot_id: str, store: Store | None) -> Engine:
        now = self._clock()
        if store is not None:
            self._store_kind = "shared" if store.shared else "own"

        return Engine(
            self._engine_settings(),
            boot_id=boot_id,
            version=__version__,
            now=now,
            shown_settings=self._config.shown(),
            shown_origins=self._config.origins,
            jitter=random.random,
            price=self._price,
            codec=Zstd(),
            new_index=self._new_index,
            wall_offset_seconds=_wall_clock() - now,  # read once, to know which day a budget's day is
        )

    def _engine_settings(self) -> EngineSettings:
        return structs.replace(self._config.engine_settings(), store=self._store_kind)

    async def _listen(self, loop: asyncio.AbstractEventLoop, driver: Driver) -> asyncio.Server:
        # From 3.13 on the loop would remove the socket's file by itself, also one that is not ours.
        options: dict[str, Any] = {"cleanup_socket": False} if sys.version_info >= (3, 13) else {}
        commons = ServerContext(driver, self._connections, FairScheduler(loop), self._buffers, loop)
        return await loop.create_unix_server(
            lambda: PeerConnection(commons, self._limits),
            sock=self._listener.socket,
            backlog=listener.BACKLOG,
            **options,
        )

    async def _rebind(self, loop: asyncio.AbstractEventLoop, driver: Driver) -> None:
        """Serve on a new socket at the same path. Who is connected stays so. Raises `ListenError`."""
        settings = self._config.socket
        # In a thread: who listens there by now is asked, and may take a second to answer.
        await anyio.to_thread.run_sync(self._listener.rebind, settings.mode, settings.group)
        before, self._server = self._server, await self._listen(loop, driver)
        if before is not None:
            before.close()

    def _say_ready(self) -> None:
        # What the start has made lives as long as the daemon: the collector need not look at it again.
        gc.freeze()
        gc.enable()
        for sentence in self._config.warnings():
            self._log.say("warning", sentence)

        self._log.say(
            "info",
            "serving",
            socket=self._listener.path,
            adopted=self._listener.adopted,
            state=None if self._state is None else str(self._state),
            pid=os.getpid(),
            version=__version__,
        )
        self._notifier.ready(self._status)

    @property
    def _status(self) -> str:
        return f"serving on {self._listener.path}"

    async def _obey(self, signals: AsyncIterator[signal.Signals]) -> None:
        async for number in signals:
            if number == signal.SIGHUP:
                self._ask_reload(None)
            elif number == signal.SIGUSR1:
                self._set_level("debug")
            elif number == signal.SIGUSR2:
                self._set_level(self._config.log.level)
            elif not self._stop.is_set():
                self._stop.set()
            else:
                self._hurried = True
                if self._patience is not None:
                    self._patience.cancel()

    def _ask_reload(self, asked: ReadSettings | None) -> None:
        self._reloads.append(asked)
        self._reload_asked.set()

    async def _reload_when_asked(self, driver: Driver) -> None:
        """One after another: what is read last holds."""
        while True:
            await self._reload_asked.wait()
            self._reload_asked = anyio.Event()
            while self._reloads:
                asked = self._reloads.popleft()
                await self._reload(driver, None if asked is None else (asked.peer, asked.request_id))

    async def _reload(self, driver: Driver, asked_by: tuple[int, int] | None) -> None:
        if not self._stop.is_set():
            self._notifier.reloading(self._clock())

        try:
            # In a thread: the file may be on a disk that hangs, and patterns and addresses take their time.
            fresh = await anyio.to_thread.run_sync(self._reread, abandon_on_cancel=True)
            read = reconfigure(self._config, fresh)
        except ConfigError as error:
            self._log.say("error", "settings not changed", problems=list(error.problems))
            driver.handle(SettingsRead(problems=list(error.problems), asked_by=asked_by))
        except Exception as fault:  # noqa: BLE001 - our own mistake in reading must not end a daemon that serves
            self._log.fault("settings not changed", fault)
            driver.handle(SettingsRead(problems=[f"reading failed: {type(fault).__name__}"], asked_by=asked_by))
        else:
            before, self._config = self._config, read.config
            self._limits = self._connections.limits = _with_descriptors(read.config.limits, self._log)
            self._buffers.max_bytes = self._limits.max_buffered_bytes
            if read.config.log.level != before.log.level:
                self._set_level(read.config.log.level)

            self._log.say("info", "settings read", changed=sorted(read.changed), needs_restart=read.needs_restart)
            driver.handle(
                SettingsRead(
                    self._engine_settings(),
                    read.config.shown(),
                    read.config.origins,
                    read.changed,
                    read.needs_restart,
                    asked_by=asked_by,
                )
            )

        # Once it has heard that the daemon stops, systemd is not to hear that it serves.
        if not self._stop.is_set():
            self._notifier.ready(self._status)

    def _set_level(self, level: str) -> None:
        self._log.level = "info"
        self._log.say("info", "log level set", now=level)
        self._log.level = level
        self._watch(level)

    def _watch(self, level: str) -> None:
        if self._driver is not None:
            self._driver.trace(self._log.traffic if level == "debug" else None)

    async def _wait(self, event: anyio.Event, seconds: float) -> None:
        with anyio.move_on_after(0.0 if self._hurried else seconds) as self._patience:
            await event.wait()

    async def _feed_watchdog(self, driver: Driver) -> None:
        """Vouch for this loop, and the engine, at twice the rate that systemd asks for, as sd_watchdog_enabled(3) advises."""
        if self._notifier.watchdog_seconds is not None:
            while True:
                driver.query(wire.Ping())
                self._notifier.alive()
                await anyio.sleep(self._notifier.watchdog_seconds / 2)

    def _is_operator(self, uid: int, gid: int) -> bool:
        operators = self._config.operators
        return uid in {0, os.geteuid()} or uid in operators.uids or gid in operators.gids

    def _tell_bug(self, bug: SidecardBug) -> None:
        self._log.fault("bug", bug.__cause__ or bug, correlation=bug.correlation, event_kind=bug.event)

    def _loop_failed(self, _: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        fault = context.get("exception")
        if fault is None:
            self._log.say("error", "loop failed", reason=context.get("message"))
        else:
            self._log.fault("loop failed", fault, reason=context.get("message"))


def _with_descriptors(limits: Limits, log: Log) -> Limits:
    """Ask for as many descriptors as the host allows, and admit no more peers than that.

    A loop that accepts without descriptors left would refuse peers in ways that nobody can read.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))

    room = hard - SPARE_DESCRIPTORS
    if hard == resource.RLIM_INFINITY or room >= limits.max_peers:
        return limits

    log.say(
        "warning",
        "fewer peers than configured",
        max_peers=room,
        reason=f"the host allows {hard} descriptors: raise LimitNOFILE= or `ulimit -Hn`, or lower limits.max_peers",
    )
    return structs.replace(limits, max_peers=max(1, room))
