"""The daemon without a kernel: its own listener's connections, driver and engine, on a loop that the world turns."""

import struct
from collections.abc import Callable, Iterable
from itertools import count
from typing import Any, NamedTuple

from sidecard.config.schema import LimitSettings
from sidecard.core.effects import StoreRead, StoreRelease, StoreWrite
from sidecard.core.engine import Engine
from sidecard.core.events import Absent, Event, Peer, SettingsRead, StoreEvent
from sidecard.core.records import NO_USAGE, Record
from sidecard.core.settings import EngineSettings
from sidecard.server.buffers import BufferBudget
from sidecard.server.connection import PeerConnection
from sidecard.server.connections import AdmissionDenied, ConnectionTable
from sidecard.server.driver import Driver
from sidecard.server.json_lines.outbox import JsonValues
from sidecard.server.peer_output import PeerOutput, ServerContext
from sidecard.server.scheduler import FairScheduler
from tests.simulation.host.processes import LoopProcess, Surroundings, Timer
from tests.simulation.host.sockets import Ends, Pipe
from tests.simulation.host.views import Memories, pass_descriptor
from tests.simulation.reference_store import Line, Server

RECEIVE_BYTES = 64 * 1024
FLUSH_SECONDS = 2.0
LAST_HITS_SECONDS = 0.5
"""As `sidecard.daemon.serving`: how long peers may take to read their last replies."""

STORE_SECONDS = 0.7
"""Somewhat more than the time in which a store answers, if only that it cannot: see `sidecard.store.sqlite.store.ANSWER_SECONDS`."""

LIMITS = LimitSettings(stall_seconds=5.0, max_outbox_bytes=6000)


class Credentials(NamedTuple):
    """The credentials of a peer, in place of its socket."""

    pid: int
    uid: int

    def getsockopt(self, *_: object) -> bytes:
        """Return a ``struct ucred``."""
        return struct.pack("3i", self.pid, self.uid, self.uid)


class Transport:
    """What asyncio puts between a protocol and its socket."""

    def __init__(self, daemon: "Daemon", ends: Ends, admission: Peer | AdmissionDenied) -> None:
        self._loop = daemon.loop
        self._ends = ends
        self._buffer = bytearray()
        self._reading = True
        self._read_scheduled = False
        self._write_scheduled = False
        self._closing = False
        self._lost = False
        self._full = False
        self._high, self._low = 64 * 1024, 16 * 1024  # asyncio's own, which connections change
        ends.incoming.on_arrival = self._wake_reader
        ends.outgoing.on_room = self._wake_writer
        self._protocol = daemon.new_connection(admission, ends)
        self._protocol.connection_made(self)  # type: ignore[arg-type]  # all that a connection uses of a transport
        self._wake_reader()

    # What a protocol asks

    def set_write_buffer_limits(self, high: int, low: int) -> None:
        """Take limits."""
        self._high, self._low = high, low

    def get_write_buffer_size(self) -> int:
        """Return what the kernel has not taken."""
        return len(self._buffer)

    def is_closing(self) -> bool:
        """Return whether it is being closed."""
        return self._closing

    def pause_reading(self) -> None:
        """Read no more for now."""
        self._reading = False

    def resume_reading(self) -> None:
        """Read on."""
        self._reading = True
        self._wake_reader()

    def write(self, data: bytes) -> None:
        """Send, now or later."""
        if self._lost:
            return

        self._buffer += data
        self._send()

    def writelines(self, parts: Iterable[bytes | memoryview]) -> None:
        """As `write`."""
        self.write(b"".join(parts))

    def write_eof(self) -> None:
        """Send no more, once everything is sent. Only a connection that reads its replies is ended so."""
        if not self._buffer:
            self._ends.outgoing.end()

    def close(self) -> None:
        """End it once everything is sent."""
        if not self._closing:
            self._closing = True
            self._reading = False
            if not self._buffer:
                self._loop.call_soon(self._lose, None)

    def abort(self) -> None:
        """End it now."""
        self._fail(None)

    # What happens

    def die(self, kept: int) -> None:
        """End it as the daemon's end does."""
        self._ends.close(kept)

    def _wake_reader(self) -> None:
        if self._reading and not self._read_scheduled and self._ends.incoming.is_readable:
            self._read_scheduled = True
            self._loop.call_soon(self._read)

    def _read(self) -> None:
        self._read_scheduled = False
        if not self._reading or self._lost or self._closing:
            return

        try:
            data = self._ends.incoming.read(RECEIVE_BYTES)
        except OSError as error:
            self._fail(error)
            return

        if data:
            self._protocol.data_received(data)
            self._wake_reader()
        elif not self._ends.incoming.arrived and self._ends.incoming.end_arrived:
            self._reading = False
            if not self._protocol.eof_received():
                self.close()

    def _wake_writer(self) -> None:
        if self._buffer and not self._write_scheduled:
            self._write_scheduled = True
            self._loop.call_soon(self._write_on)

    def _write_on(self) -> None:
        self._write_scheduled = False
        if not self._lost:
            self._send()
            if self._full and len(self._buffer) <= self._low:
                self._full = False
                self._protocol.resume_writing()

            if self._closing and not self._buffer:
                self._lose(None)

    def _send(self) -> None:
        try:
            sent = self._ends.outgoing.send(self._buffer) if self._buffer else 0
        except OSError as error:
            self._fail(error)
            return

        del self._buffer[:sent]
        if len(self._buffer) > self._high and not self._full:
            self._full = True
            self._protocol.pause_writing()

    def _fail(self, error: OSError | None) -> None:
        self._buffer.clear()
        self._reading = False
        if not self._lost:
            self._closing = True
            self._loop.call_soon(self._lose, error)

    def _lose(self, error: OSError | None) -> None:
        if not self._lost:
            self._lost = True
            self._ends.close()
            self._protocol.connection_lost(error)


class SimulatedHangUps:
    """Knows at once which connections their peers have closed, as the kernel does."""

    def __init__(self) -> None:
        self._connections: dict[int, Ends] = {}
        self._watched: dict[int, Peer] = {}

    def descriptor_of(self, connected: Ends) -> int:
        """Return a new number for a connection."""
        descriptor = len(self._connections)
        self._connections[descriptor] = connected
        return descriptor

    def ends_of(self, descriptor: int) -> Ends:
        """Return a connection."""
        return self._connections[descriptor]

    def watch(self, peer: Peer, descriptor: int) -> None:
        """Notice when a peer has closed its connection."""
        self._watched[descriptor] = peer

    def forget(self, descriptor: int) -> None:
        """Watch a connection no longer."""
        self._watched.pop(descriptor, None)

    def take(self) -> list[Peer]:
        """Return the peers that have closed their connections, once."""
        ends = ((descriptor, self._connections[descriptor]) for descriptor in self._watched)
        closed = [descriptor for descriptor, one in ends if one.incoming.ended and one.outgoing.broken]
        return [self._watched.pop(descriptor) for descriptor in closed]


class _StoreClock:
    """The daemon's clock, as the store's model has it."""

    def __init__(self, daemon: "Daemon") -> None:
        self._daemon = daemon

    @property
    def now(self) -> float:
        """The time."""
        return self._daemon.clock()

    def at(self, instant: float, action: Callable[[], None]) -> None:
        """Do something later."""
        self._daemon.at(instant, action)


class Store:
    """A model of a store that outlives daemons, and the line of the daemon that lives."""

    def __init__(self, chance: Any) -> None:
        self._chance = chance
        self._tokens = count(1)
        self._server: Server | None = None
        self.line: Line | None = None

    def slow(self, seconds: float) -> None:
        """Let nothing through for a while, in either direction; no longer than stores let one wait for a look."""
        if self.line is not None and self._server is not None:
            now = self._server.clock.now
            if max(self.line._busy.values()) <= now:
                for way in self.line._busy:
                    self.line._busy[way] = now + min(seconds, STORE_SECONDS)

    def computes(
        self, daemon: "Daemon", place: tuple[str, str], seconds: float, answer: Callable[[], bytes | None]
    ) -> None:
        """Let another host compute a key, if it gets the claim; ``answer`` is asked when it is done. It dies with the daemon."""
        server = self._server
        if server is None:
            return

        token = f"elsewhere-{next(self._tokens)}"
        other: Any = None  # its own line, which no daemon reads
        if not isinstance(server.ask(StoreRead(0, *place, claim=True, read_entry=True), token), Absent):
            return

        def end() -> None:
            value = answer()
            if value is None:
                server.release(other, StoreRelease(*place, token))
            else:
                record = Record(value, seconds, 3.0, 0.0, "default", NO_USAGE, ())
                server.write(other, StoreWrite(*place, record, token, made_at=server.clock.now))

        daemon.at(daemon.clock() + seconds, end)

    def open(self, daemon: "Daemon", name: str) -> Callable[[Any], None]:
        """Connect a daemon; returns what performs its wishes."""
        clock: Any = _StoreClock(daemon)
        if self._server is None:
            self._server = Server(clock)

        self._server.clock = clock
        self._server.lines.clear()
        line = self.line = Line(self._server, name, self._chance, daemon.hear)

        def renew() -> None:
            line.renew()
            daemon.at(daemon.clock() + 1.0, renew)

        renew()
        return line.perform


class Daemon(LoopProcess):
    """One run of the daemon. ``watchers`` see every event with its effects, ``on_bug`` mistakes that the driver has caught."""

    def __init__(
        self,
        world: Surroundings,
        boot_id: str,
        settings: EngineSettings,
        *,
        offset_seconds: float,
        rate: float,
        jitter: Callable[[], float],
        store: Store | None,
        watchers: list[Callable[["Daemon", Event, Any], None]],
    ) -> None:
        super().__init__(world, "daemon", offset_seconds=offset_seconds, rate=rate)
        self.settings = settings
        self.stopping = False
        self.accepting = True
        self.transports: list[Transport] = []
        self._backlog: list[Ends] = []
        self._memories = Memories(boot_id)
        self.engine = Engine(
            settings,
            boot_id=boot_id,
            version="0",
            now=self.clock(),
            shown_settings={},
            shown_origins={},
            jitter=jitter,
        )
        self.engine._cache.inline_entries = 0
        self.engine._cache.sweep_steps = 4
        self.connections = ConnectionTable(
            LIMITS, lambda uid, _: uid == 0, on_denied=_ignore, on_closed=_ignore, limited=self.engine.metrics.limited
        )
        self.driver = Driver(
            self.engine,
            self.loop,
            self.clock,
            on_note=_ignore,
            on_bug=lambda bug: world.fault(bug.__cause__ or bug),
            on_reload=lambda asked: self.soon(lambda: self.reload(self.settings, (asked.peer_id, asked.request_id))),
            metrics=self.engine.metrics,
            store=None if store is None else store.open(self, boot_id),
            new_view=self._memories.new,
        )
        self._hang_ups = SimulatedHangUps()
        self.driver._hang_ups = self._hang_ups  # type: ignore[assignment]  # the kernel's part is not there

        def watch(event: Event, effects: Any) -> None:
            for watcher in watchers:
                watcher(self, event, effects)

        self.driver.trace(watch)
        buffers = BufferBudget[PeerOutput](LIMITS.max_buffered_bytes)
        scheduler = FairScheduler(self.loop, self.clock)
        self.driver.take_turns(scheduler)
        self._context = ServerContext(self.driver, self.connections, scheduler, buffers, JsonValues(), self.loop)
        self._connections = count(1)
        self._patience: Timer | None = None

    def new_connection(self, admission: Peer | AdmissionDenied, ends: Ends) -> PeerConnection:
        """Make the protocol of a connection."""
        return PeerConnection(self._context, LIMITS, admission, self._hang_ups.descriptor_of(ends))

    def pass_descriptor(self, connection: int, data: bytes, descriptor: int) -> int:
        """Send a frame with a descriptor on a connection."""
        return pass_descriptor(self._hang_ups.ends_of(connection).outgoing, data, descriptor)

    def connect(self, ours: Pipe, theirs: Pipe, credentials: Credentials) -> None:
        """Let a connection wait to be accepted: ``theirs`` is what the peer writes."""
        ends = Ends(theirs, ours)
        self._backlog.append(ends)

        def accept() -> None:
            self._backlog.remove(ends)
            if self.accepting:
                admission = self.connections.admit(credentials)  # type: ignore[arg-type]  # all that is used of a socket
                self.transports.append(Transport(self, ends, admission))
            else:
                ends.close()

        self.soon(accept)

    def hear(self, event: StoreEvent) -> None:
        """Let the store say something."""
        self.driver.handle(event)

    def reload(self, settings: EngineSettings, asked_by: tuple[int, int] | None = None) -> None:
        """Go by other settings."""
        self.settings = settings
        self.driver.handle(SettingsRead(settings, asked_by=asked_by))

    def stop(self, drain_seconds: float, on_end: Callable[[], None]) -> None:
        """Stop in the order of `sidecard.daemon.serving.Daemon.run`."""
        if self.stopping:
            return

        self.stopping = True
        self.accepting = False

        flushed = False

        def take_last_hits() -> None:
            if self._patience is not None:
                self._patience.cancel()
                self._patience = self.at(self.clock() + LAST_HITS_SECONDS, flush)
                self.driver.end_drain()
                self.connections.end_views(flush)

        def flush() -> None:
            nonlocal flushed
            if self._patience is not None and not flushed:
                flushed = True
                self._patience.cancel()
                self._patience = self.at(self.clock() + FLUSH_SECONDS, leave)
                self.connections.close_all(leave)

        def leave() -> None:
            if self._patience is not None:
                self._patience.cancel()
                self._patience = None
                self.connections.abort_all()
                self.soon(on_end)

        self._patience = self.at(self.clock() + drain_seconds, take_last_hits)
        self.driver.drain(take_last_hits)

    def die(self, kept: int) -> None:
        """End immediately: of what is on its way to each peer so many bytes arrive."""
        self.alive = False
        self.forget_everything()
        self._memories.close()
        for transport in self.transports:
            transport.die(kept)

        for ends in self._backlog:
            ends.close(0)

    def peers(self) -> list[Peer]:
        """Return the connected peers."""
        return list(self.connections._peers.values())


def _ignore(*_: object) -> None:
    """It is not read in the simulation."""
