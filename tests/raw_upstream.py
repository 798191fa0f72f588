"""An upstream that sends scripted bytes over real sockets, and keeps the bytes that it received."""

import socket
import struct
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import BinaryIO

from tests.loopback import LoopbackListener

SECONDS = 20.0

Step = bytes | float | threading.Event | str
"""Bytes to send, seconds to sleep, an event to wait for, or how to end the connection: ``close`` or ``reset``."""


class RawUpstream(LoopbackListener):
    """Plays a script for each request, in order; the last one again for all further requests."""

    def __init__(self, *scripts: Sequence[Step]) -> None:
        super().__init__()
        self.scripts = list(scripts)
        self.heads: list[bytes] = []
        """Request lines and headers, as received."""
        self.bodies: list[bytes] = []
        self.body_sizes: list[int] = []
        """Of each body, so far; bodies beyond 1 MiB are not kept."""
        self.lost = 0
        """Answers that could not be sent to their end."""
        self._lock = threading.Lock()

    @property
    def count(self) -> int:
        """How many requests arrived."""
        return len(self.heads)

    def _serve(self, connection: socket.socket) -> None:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with connection, suppress(OSError), connection.makefile("rb") as received:
            while head := _read_head(received):
                with self._lock:
                    number = len(self.heads)
                    self.heads.append(head)
                    self.bodies.append(b"")
                    self.body_sizes.append(0)

                self._read_body(received, head, number)
                script = self.scripts[min(number, len(self.scripts) - 1)]
                try:
                    if not _play(connection, script):
                        return
                except OSError:
                    self.lost += 1
                    raise

    def _read_body(self, received: BinaryIO, head: bytes, number: int) -> None:
        headers = {
            name.strip().lower(): value.strip()
            for name, _, value in (line.partition(b":") for line in head.split(b"\r\n")[1:])
        }
        if headers.get(b"transfer-encoding") == b"chunked":
            while size := int(received.readline(), 16):
                self._keep(number, received.read(size) or b"")
                received.readline()

            received.readline()
        else:
            left = int(headers.get(b"content-length", b"0"))
            while left:
                data = received.read(min(left, 1 << 20)) or b""
                left -= len(data)
                self._keep(number, data)

    def _keep(self, number: int, data: bytes) -> None:
        self.body_sizes[number] += len(data)
        if self.body_sizes[number] <= 1 << 20:
            self.bodies[number] += data


def _read_head(received: BinaryIO) -> bytes:
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        line = received.readline()
        if not line:
            return b""

        head += line

    return head


def _play(connection: socket.socket, script: Sequence[Step]) -> bool:
    """Play a script; return whether the connection stays open."""
    for step in script:
        if isinstance(step, bytes):
            connection.sendall(step)
        elif isinstance(step, threading.Event):
            assert step.wait(SECONDS)
        elif isinstance(step, str):
            if step == "reset":
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

            return False
        else:
            time.sleep(step)

    return True


def response(body: bytes, *headers: bytes, status: bytes = b"200 OK", kind: bytes = b"application/json") -> list[Step]:
    """Return the script of a response with a known length."""
    lines = [b"HTTP/1.1 " + status, b"Content-Type: " + kind, b"Content-Length: %d" % len(body), *headers, b"", b""]
    return [b"\r\n".join(lines) + body]


def stream(
    *pieces: Step, headers: Sequence[bytes] = (), kind: bytes = b"text/event-stream", ends: bool = True
) -> list[Step]:
    """Return the script of a chunked response; without ``ends``, its end is left to the caller."""
    lines = [b"HTTP/1.1 200 OK", b"Content-Type: " + kind, b"Transfer-Encoding: chunked", *headers, b"", b""]
    steps: list[Step] = [b"\r\n".join(lines)]
    steps += [chunk(piece) if isinstance(piece, bytes) else piece for piece in pieces]
    return [*steps, b"0\r\n\r\n"] if ends else steps


def chunk(data: bytes) -> bytes:
    """Return a chunk of a chunked body."""
    return b"%x\r\n%b\r\n" % (len(data), data)
