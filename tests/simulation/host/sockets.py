"""Unix sockets without a kernel: pipes whose bytes arrive when the world says so, cut anywhere, and both kinds of ends."""

import os
import select
import socket
import struct
from array import array
from collections.abc import Callable
from itertools import count
from types import SimpleNamespace
from typing import Any, Protocol

from tests.simulation.host.processes import LoopProcess, Process

CAPACITY_BYTES = 1500
"""Of one direction. Small, so that writers meet a full one."""

FIRST_DESCRIPTOR = 1_000_000
_DESCRIPTORS = count(FIRST_DESCRIPTOR)
"""Numbers that no real descriptor has."""


class Network(Protocol):
    """What sockets need of the world."""

    def moves(self, pipe: "Pipe") -> None:
        """There is something on its way."""

    def connect(self, process: Process, ours: "Pipe", theirs: "Pipe") -> None:
        """Connect a process to the daemon. Raises `ConnectionRefusedError`."""


class Pipe:
    """One direction of a connection."""

    def __init__(self, network: Network) -> None:
        self._network = network
        self._flying = bytearray()
        self.arrived = bytearray()
        self.ended = False
        """Its writer sends no more."""
        self.end_arrived = False
        self.broken = False
        """Its reader is gone."""
        self.reset = False
        """Its writer went without having read what it was sent."""
        self.passed: list[int] = []
        """Descriptors of files, which go with the bytes."""
        self.on_arrival: Callable[[], None] = _nothing
        self.on_room: Callable[[], None] = _nothing

    @property
    def is_empty(self) -> bool:
        """Its reader has read everything."""
        return not self._flying and not self.arrived

    @property
    def moving(self) -> bool:
        """Something is on its way."""
        return bool(self._flying) or (self.ended and not self.end_arrived)

    @property
    def room(self) -> int:
        """How much more it takes."""
        return CAPACITY_BYTES - len(self._flying) - len(self.arrived)

    def send(self, data: bytes | bytearray | memoryview) -> int:
        """Send as much as there is room for; return how much. Raises `BrokenPipeError`."""
        if self.broken or self.ended:
            raise BrokenPipeError(32, "Broken pipe")

        size = min(len(data), self.room)
        if size:
            self._flying += data[:size]
            self._network.moves(self)

        return size

    def end(self) -> None:
        """Send no more."""
        if not self.ended:
            self.ended = True
            self._network.moves(self)

    def lose(self, kept: int) -> None:
        """End it now: of what is on its way ``kept`` bytes arrive, and then the end."""
        del self._flying[kept:]
        self.end()

    def deliver(self, size: int) -> None:
        """Let ``size`` bytes arrive (0: all), and the end after the last."""
        size = size or len(self._flying)
        self.arrived += self._flying[:size]
        del self._flying[:size]
        if self.ended and not self._flying:
            self.end_arrived = True

        self.on_arrival()

    @property
    def is_readable(self) -> bool:
        """Reading returns immediately."""
        return bool(self.arrived) or self.end_arrived

    def read(self, size: int) -> bytes:
        """Return what has arrived; nothing at the end. Raises `ConnectionResetError`."""
        data = bytes(self.arrived[:size])
        del self.arrived[:size]
        if not data and self.reset:
            raise ConnectionResetError(104, "Connection reset by peer")

        if data:
            self.on_room()

        return data

    def leave(self) -> None:
        """Read no more."""
        self.broken = True
        self.arrived.clear()
        self._flying.clear()
        while self.passed:
            os.close(self.passed.pop())

        self.on_room()


class Ends:
    """Both directions of a connection, as one side has them."""

    def __init__(self, incoming: Pipe, outgoing: Pipe) -> None:
        self.incoming = incoming
        self.outgoing = outgoing
        self.closed = False

    def close(self, kept: int | None = None) -> None:
        """Close this side; with ``kept``, as a kill does: of what was sent and is still on its way so many bytes arrive."""
        if self.closed:
            return

        self.closed = True
        self.outgoing.reset = bool(self.incoming.arrived)
        self.incoming.leave()
        if kept is None:
            self.outgoing.end()
        else:
            self.outgoing.lose(kept)


class Socket:
    """A client's end. Blocks, if at all, only the thread that calls."""

    def __init__(self, family: int = -1, kind: int = -1) -> None:
        del family
        self._process = Process.current
        self._blocking = not kind & socket.SOCK_NONBLOCK
        self._fd = next(_DESCRIPTORS)
        self._receive_seconds: float | None = None
        self._send_seconds: float | None = None
        self._ends: Ends | None = None
        self._shut = False
        self._readers: list[Any] = []
        self._writers: list[Any] = []
        self._process.sockets.append(self)  # type: ignore[attr-defined]  # only clients' processes make sockets

    # What modules ask of a socket

    def setsockopt(self, _level: int, name: int, value: bytes) -> None:
        """Take a time limit."""
        whole, micro = struct.unpack("@ll", value)
        if name == socket.SO_RCVTIMEO:
            self._receive_seconds = whole + micro / 1e6
        else:
            self._send_seconds = whole + micro / 1e6

    def connect(self, _path: str) -> None:
        """Connect to the daemon, if it listens."""
        network = self._process.world
        ours, theirs = Pipe(network), Pipe(network)  # type: ignore[arg-type]  # the world is both
        network.connect(self._process, ours, theirs)  # type: ignore[attr-defined]  # as above
        self._ends = Ends(ours, theirs)
        ours.on_arrival = self._stirred
        theirs.on_room = self._stirred
        if isinstance(self._process, LoopProcess):
            self._process.loop.descriptors[self._fd] = self

    def fileno(self) -> int:
        """Return a number."""
        return self._fd

    def recv(self, size: int, flags: int = 0) -> bytes:
        """Read."""
        ends = self._living()
        if self._shut:
            return b""

        if not ends.incoming.is_readable:
            if not self._blocking or flags & socket.MSG_DONTWAIT:
                raise BlockingIOError(11, "Resource temporarily unavailable")

            if not self._wait(self._readers, self._receive_seconds, lambda: ends.incoming.is_readable):
                raise BlockingIOError(11, "Resource temporarily unavailable")

            ends = self._living()
            if self._shut:
                return b""

        if flags & socket.MSG_PEEK:
            return bytes(ends.incoming.arrived[:size])

        return ends.incoming.read(size)

    def recv_into(self, buffer: bytearray, size: int = 0, flags: int = 0) -> int:
        """Read into a buffer."""
        data = self.recv(size or len(buffer), flags)
        buffer[: len(data)] = data
        return len(data)

    def recvmsg(self, size: int, _space: int, _flags: int) -> tuple[bytes, list[tuple[int, int, bytes]], int, None]:
        """Read, with the descriptors that came along."""
        data = self.recv(size)
        passed = [] if self._ends is None else self._ends.incoming.passed
        taken, passed[:] = array("i", passed), []
        return data, [(socket.SOL_SOCKET, socket.SCM_RIGHTS, taken.tobytes())] if taken else [], 0, None

    def send(self, data: bytes | memoryview, flags: int = 0) -> int:
        """Write what there is room for; a blocking one with ``MSG_DONTWAIT`` writes all or nothing, as the kernel does."""
        ends = self._living()
        if flags & socket.MSG_DONTWAIT and ends.outgoing.room < len(data):
            raise BlockingIOError(11, "Resource temporarily unavailable")

        sent = ends.outgoing.send(data)
        if not sent:
            raise BlockingIOError(11, "Resource temporarily unavailable")

        return sent

    def sendall(self, data: bytes) -> None:
        """Write all of it, waiting for room."""
        view = memoryview(data)
        while view:
            ends = self._living()
            sent = ends.outgoing.send(view)
            view = view[sent:]
            if view and not self._wait(self._writers, self._send_seconds, lambda: self.is_writable):
                raise BlockingIOError(11, "Resource temporarily unavailable")

    def shutdown(self, _how: int) -> None:
        """End both directions, and wake the waiting threads."""
        self._living().outgoing.end()
        self._shut = True
        self._stirred()

    def close(self) -> None:
        """End the connection."""
        if self._ends is not None:
            self._ends.close()
            self._stirred()

        if isinstance(self._process, LoopProcess):
            self._process.loop.descriptors.pop(self._fd, None)

    def detach(self) -> int:
        """Do nothing: after the end of its world, a fork of the real process finds that no file has the number."""
        return self._fd

    # What the world does

    def kill(self, kept: int) -> None:
        """End the connection as the end of its process does."""
        if self._ends is not None:
            self._ends.close(kept)

    def cut(self, kept: int) -> None:
        """Lose the connection: both sides see its end."""
        if self._ends is not None and not self._ends.closed:
            self._ends.incoming.lose(kept)
            self._ends.outgoing.lose(kept)

    @property
    def is_open(self) -> bool:
        """It is connected."""
        return self._ends is not None and not self._ends.closed

    @property
    def is_readable(self) -> bool:
        """Reading returns immediately."""
        return self._ends is not None and (self._shut or self._ends.incoming.is_readable)

    def wake_when_stirred(self, waiter: Any) -> None:
        """Wake a thread that waits for several things when something may be read here."""
        self._readers.append(waiter)

    def has_event(self, event: int) -> bool:
        """Return whether ``select.poll`` reports something, without any lag."""
        ends = self._ends
        if ends is None or ends.closed or self._shut:
            return True

        if event == select.POLLOUT:
            return self.is_writable

        return ends.incoming.ended or not ends.incoming.is_empty

    @property
    def is_writable(self) -> bool:
        """Writing takes something, or fails, immediately."""
        outgoing = None if self._ends is None else self._ends.outgoing
        return outgoing is None or outgoing.room > 0 or outgoing.broken or outgoing.ended

    def _living(self) -> Ends:
        if self._ends is None or self._ends.closed or not self._process.alive:
            raise OSError(9, "Bad file descriptor")

        return self._ends

    def _wait(self, waiting: list[Any], seconds: float | None, ready: Callable[[], bool]) -> bool:
        process = self._process
        instant = None if seconds is None else process.clock() + seconds
        while not (ready() or self._shut):
            waiter = process.waiter()  # type: ignore[attr-defined]  # only threads block
            waiting.append(waiter)
            if not process.block(waiter, instant):  # type: ignore[attr-defined]  # as above
                return False

            if self._ends is None or self._ends.closed:
                raise OSError(9, "Bad file descriptor")

        return True

    def _stirred(self) -> None:
        if isinstance(self._process, LoopProcess):
            self._process.loop.look(self._fd)
            return

        for waiting in (self._readers, self._writers):
            woken = waiting.copy()
            waiting.clear()
            for waiter in woken:
                waiter.wake()


SOCKET_MODULE: Any = SimpleNamespace(
    socket=Socket,
    **{
        name: getattr(socket, name)
        for name in dir(socket)
        if name.startswith(("AF_", "SOCK_", "SO_", "SOL_", "MSG_", "SHUT_", "SCM_", "CMSG_"))
    },
)
"""What stands in place of ``socket`` in modules under simulation."""


def _nothing() -> None:
    """Do nothing."""
