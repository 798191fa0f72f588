"""The daemon's end of a connection that brings a view, played by a test, and the view's file."""

import fcntl
import mmap
import os
import socket
import struct
from array import array
from contextlib import suppress
from typing import Any

from sidecard_client.protocol import view, wire
from sidecard_client.protocol.connection import Connection
from sidecard_client.view.reader import boot_clock
from tests.written_view import SIZE, WrittenView

NUMBER = 7


class PairedConnection:
    """The client's end of a pair of sockets; a thread of the test serves the other end."""

    def __init__(self) -> None:
        self.socket, self.daemon = socket.socketpair()
        self.protocol = Connection()
        self.limit(10.0)
        self.daemon.settimeout(10.0)

    def limit(self, seconds: float) -> None:
        """Limit the time of each receive, in the kernel, as the client's own connections do."""
        limit = struct.pack("@ll", int(seconds), int(seconds % 1 * 1e6))
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, limit)

    def end(self) -> None:
        """End the connection."""
        with suppress(OSError):
            self.socket.shutdown(socket.SHUT_RDWR)

        self.close()

    def close(self) -> None:
        """Close this end."""
        self.socket.close()

    def receive(self) -> Any:
        """Return the next request, for the daemon's part; None at the end."""
        header = self.daemon.recv(4, socket.MSG_WAITALL)
        if not header:
            return None

        return wire.unpack_request(self.daemon.recv(int.from_bytes(header, "big"), socket.MSG_WAITALL))

    def reply(self, reply: wire.Reply, descriptors: list[int], pieces: int = 1) -> None:
        """Send a frame in so many pieces; the descriptors accompany the first."""
        body = wire.pack(reply)
        frame = len(body).to_bytes(4, "big") + body
        step = -(-len(frame) // pieces)
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array("i", descriptors))] if descriptors else []
        self.daemon.sendmsg([frame[:step]], rights)
        for start in range(step, len(frame), step):
            self.daemon.sendall(frame[start : start + step])


def memory_file(name: str = "test-view", seals: int = view.SEALS) -> tuple[int, WrittenView]:
    """Return the descriptor of a view's file, and what is written to it."""
    descriptor = os.memfd_create(name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.ftruncate(descriptor, SIZE)
    written = WrittenView(mmap.mmap(descriptor, SIZE), number=NUMBER)
    fcntl.fcntl(descriptor, view.ADD_SEALS, seals)
    return descriptor, written


def announced(**changes: Any) -> wire.View:
    """Return a reply that announces the view."""
    fields: dict[str, Any] = {"view": NUMBER, "layout": view.LAYOUT, "size": SIZE, "now_seconds": boot_clock()}
    return wire.View(id=1, **fields | changes)
