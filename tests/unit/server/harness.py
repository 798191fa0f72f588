"""Connections without a kernel: the test controls the event loop and the transports."""

import socket
import struct
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import msgspec

from sidecard.config.schema import LimitSettings
from sidecard.core.effects import CallRecord
from sidecard.core.engine import Engine
from sidecard.core.events import ClocksStepped, Peer
from sidecard.core.notes import Note
from sidecard.core.settings import EngineSettings
from sidecard.errors import SidecardBug
from sidecard.server.buffers import BufferBudget
from sidecard.server.connection import PeerConnection
from sidecard.server.connections import AdmissionDenied, ConnectionTable
from sidecard.server.driver import Driver
from sidecard.server.json_lines.outbox import JsonValues
from sidecard.server.peer_output import PeerOutput, ServerContext
from sidecard.server.scheduler import FairScheduler
from sidecard_client.protocol import wire
from sidecard_client.protocol.frames import frame

UID, GID, PID = 1000, 100, 77


class Timer:
    """A timer that fires when the test advances the time."""

    def __init__(self, due: float, callback: Callable[[], None]) -> None:
        self.due = due
        self.callback = callback
        self.cancelled = False

    def cancel(self) -> None:
        """Never fire."""
        self.cancelled = True


class FakeLoop:
    """The part of an event loop that the server uses; `pass_time` alone advances its time."""

    def __init__(self) -> None:
        self.now = 100.0
        self.cost = 0.0
        """Seconds that pass at each reading of the clock."""
        self.timers: list[Timer] = []
        self.soon: list[Callable[[], None]] = []

    def call_later(self, delay: float, callback: Callable[..., None], *arguments: object) -> Timer:
        """Add a timer."""
        self.timers.append(Timer(self.now + delay, partial(callback, *arguments)))
        return self.timers[-1]

    def call_soon(self, callback: Callable[..., None], *arguments: object) -> None:
        """Add a callback for the next iteration."""
        self.soon.append(partial(callback, *arguments))

    def turn(self) -> int:
        """Run the callbacks of one iteration. Return how many there were."""
        ready, self.soon = self.soon, []
        for callback in ready:
            callback()

        return len(ready)

    def clock(self) -> float:
        """Return the time, which passes while the server works."""
        self.now += self.cost
        return self.now

    @property
    def armed(self) -> list[float]:
        """The due times of active timers."""
        return sorted(timer.due for timer in self.timers if not timer.cancelled)

    def pass_time(self, seconds: float) -> None:
        """Run the callbacks of one iteration, advance the time, and fire the timers that are due."""
        self.turn()
        self.now += seconds
        for timer in sorted(self.timers, key=lambda timer: timer.due):
            if timer.due <= self.now and not timer.cancelled:
                self.timers.remove(timer)
                timer.callback()


class FakeTransport:
    """A transport whose peer reads when the test decides."""

    def __init__(self, uid: int, gid: int, connected: socket.socket | None = None) -> None:
        self.socket = connected
        self.credentials = struct.pack("3I", PID, uid, gid)
        self.sent = b""
        self.buffered = 0
        self.taken = 0
        """Bytes of each write that the kernel takes though the peer does not read."""
        self.reads = True
        self.reading = True
        self.closed = False
        self.aborted = False
        self.broken = False
        self.ended = False
        self.high = 0
        self.protocol: PeerConnection

    def getsockopt(self, level: int, option: int, size: int) -> bytes:
        """Return the peer's credentials."""
        assert (level, option, size) == (socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
        return self.credentials

    def get_extra_info(self, name: str) -> object:
        """Return the test's own socket, if it has one."""
        assert name == "socket"
        return self.socket

    def set_write_buffer_limits(self, high: int, low: int) -> None:
        """Store the limits."""
        self.high, self.low = high, low

    def get_write_buffer_size(self) -> int:
        """Return the number of unread bytes."""
        return self.buffered

    def is_closing(self) -> bool:
        """Return whether writing is impossible."""
        return self.closed or self.aborted or self.broken

    def write(self, data: bytes) -> None:
        """Send data, or buffer what the peer does not read."""
        assert not self.is_closing()
        assert not self.ended, "as asyncio's raises"
        self.sent += data
        if not self.reads:
            was_high = self.buffered > self.high
            self.buffered += max(len(data) - self.taken, 0)
            if self.buffered > self.high and not was_high:
                self.protocol.pause_writing()

    def writelines(self, parts: Iterable[Any]) -> None:
        """Write several parts."""
        self.write(b"".join(parts))

    def write_eof(self) -> None:
        """Send the end of output."""
        self.ended = True

    def pause_reading(self) -> None:
        """Stop reading."""
        self.reading = False

    def resume_reading(self) -> None:
        """Continue to read."""
        self.reading = True

    def close(self) -> None:
        """Close after all data has been sent."""
        self.closed = True

    def abort(self) -> None:
        """Close now."""
        self.aborted = True


class FakePeer:
    """One peer of a `ServerHarness`, and its connection."""

    def __init__(self, server: "ServerHarness", uid: int, gid: int, connected: socket.socket | None = None) -> None:
        self.transport = FakeTransport(uid, gid, connected)
        admission = server.connections.admit(self.transport)  # type: ignore[arg-type]  # the part of a socket that is used
        if isinstance(admission, AdmissionDenied):
            if not admission.seconds:
                self.transport.abort()
                return

            admission = server.connections.admit_again(admission)

        self.connection = PeerConnection(
            server.context, server.limits, admission, None if connected is None else connected.fileno()
        )
        self.transport.protocol = self.connection
        self.connection.connection_made(self.transport)  # type: ignore[arg-type]  # the part of a transport that is used

    def send(self, *requests: wire.Request) -> None:
        """Send msgpack frames in one piece."""
        self.connection.data_received(b"".join(frame(wire.pack(request)) for request in requests))

    def send_text(self, text: str) -> None:
        """Send text, such as JSON lines."""
        self.connection.data_received(text.encode())

    def disconnect(self) -> None:
        """End the connection like a process that dies: end of file, then connection lost."""
        if not self.connection.eof_received():
            self.transport.close()

        if self.transport.closed or self.transport.aborted:
            self.connection.connection_lost(None)

    def read_all(self) -> None:
        """Read everything that was buffered."""
        self.transport.reads = True
        self.transport.buffered = 0
        self.connection.resume_writing()

    def received(self) -> list[Any]:
        """Return and clear the received replies: Structs from frames, dicts from lines."""
        data, self.transport.sent = self.transport.sent, b""
        if data[:1] == b"{":
            return [msgspec.json.decode(line) for line in data.splitlines()]

        replies = []
        while data:
            end = 4 + int.from_bytes(data[:4], "big")
            replies.append(wire.unpack_reply(data[4:end]))
            data = data[end:]

        return replies


class ServerHarness:
    """A real engine and driver, with connections on fake transports."""

    def __init__(self, limits: LimitSettings | None = None, **settings: Any) -> None:
        self.loop = FakeLoop()
        self.limits = limits or LimitSettings()
        self.notes: list[Note] = []
        self.bugs: list[SidecardBug] = []
        self.calls: list[CallRecord] = []
        self.levels: list[str] = []
        self.refused: list[tuple[int, str]] = []
        self.closed: list[tuple[Peer, str]] = []
        self.slept_seconds = self._reported_seconds = 0.0
        """What the engine's clock has counted and the loop's has not."""
        self.engine = Engine(
            EngineSettings(**settings), boot_id="boot", version="1", now=100.0, shown_settings={}, shown_origins={}
        )
        self.driver = Driver(
            self.engine,
            self.loop,  # type: ignore[arg-type]  # the part of a loop that is used
            lambda: self.loop.clock() + self.slept_seconds,
            on_note=self.notes.append,
            on_bug=self.bugs.append,
            on_call=self.calls.append,
            on_level=self.levels.append,
            metrics=self.engine.metrics,
            before_tick=self._before_tick,
        )
        self.connections = ConnectionTable(
            self.limits,
            lambda uid, gid: 0 in {uid, gid},
            on_denied=lambda uid, reason: self.refused.append((uid, reason)),
            on_closed=lambda peer, reason: self.closed.append((peer, reason)),
            limited=self.engine.metrics.limited,
        )
        self.buffers = BufferBudget[PeerOutput](self.limits.max_buffered_bytes)
        scheduler = FairScheduler(self.loop, self.driver.clock)  # type: ignore[arg-type]  # the part of a loop that is used
        self.driver.take_turns(scheduler)
        self.context = ServerContext(self.driver, self.connections, scheduler, self.buffers, JsonValues(), self.loop)  # type: ignore[arg-type]  # as above

    def notice_sleep(self) -> None:
        """Report that the host slept, as the daemon does once a second."""
        slept_seconds = self.slept_seconds - self._reported_seconds
        self._reported_seconds = self.slept_seconds
        self.driver.clocks_stepped(ClocksStepped(slept_seconds, 0.0))

    def _before_tick(self) -> None:
        if self.slept_seconds > self._reported_seconds:
            self.notice_sleep()

    def connect(self, uid: int = UID, gid: int = GID, connected: socket.socket | None = None) -> FakePeer:
        """Connect a peer; its socket, if it has one, only says whether the peer has hung up."""
        return FakePeer(self, uid, gid, connected)


def value_of(text: str) -> msgspec.Raw:
    """Encode a value as it is sent."""
    return msgspec.Raw(msgspec.msgpack.encode(text))
