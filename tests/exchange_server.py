"""A server on loopback that sends scripted bytes, however unusual, and records each request as it arrived."""

import socket
import struct
import threading
from collections.abc import Sequence
from contextlib import suppress
from typing import Literal

from msgspec import Struct

from tests.loopback import listen_on_new_port

SECONDS = 20.0

Ending = Literal["keep", "close", "reset", "hold"]
"""After the last piece: wait for the next request, close, reset, or leave the connection open without a word."""


class Received(Struct, frozen=True):
    """One request: its lines of the head, and its body without the chunks' lengths."""

    line: bytes
    headers: tuple[bytes, ...]
    body: bytes

    @property
    def comparable(self) -> tuple[object, ...]:
        """Return what must not depend on whether the call is shared: all but the order of connection headers."""
        connection = (b"host:", b"connection:", b"content-length:", b"transfer-encoding:")
        of_message = tuple(header for header in self.headers if not header.lower().startswith(connection))
        of_connection = sorted(header for header in self.headers if header.lower().startswith(connection))
        return self.line, of_message, tuple(of_connection), self.body


class Script(Struct, frozen=True):
    """What is sent for each request."""

    pieces: tuple[bytes, ...]
    ending: Ending = "keep"


class ExchangeServer:
    """Send `script` for every request. `hold_first` holds the first one until `release`."""

    def __init__(self) -> None:
        self.script = Script(())
        self.received: list[Received] = []
        self._lock = threading.Lock()
        self._gate: tuple[int, threading.Event] | None = None
        self._connections: set[socket.socket] = set()
        self._listener = listen_on_new_port()
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def count(self) -> int:
        """Requests since the last `play`."""
        return len(self.received)

    def play(self, script: Script) -> None:
        """Send ``script`` from now on, and forget earlier requests."""
        self.script = script
        self.received = []
        self._gate = None

    def hold_first(self, before: int) -> threading.Event:
        """Hold the next request before the piece of this number; return the event that lets it go on."""
        event = threading.Event()
        self._gate = (before, event)
        return event

    def close(self) -> None:
        """Stop, and close all connections."""
        self._listener.close()
        with self._lock:
            for connection in self._connections:
                with suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                with self._lock:
                    self._connections.add(connection)

                threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with connection, suppress(OSError):
            while (request := _read_request(connection)) is not None:
                with self._lock:
                    self.received.append(request)
                    script, gate, self._gate = self.script, self._gate, None

                _send(connection, script.pieces, gate)
                if script.ending == "keep":
                    continue

                if script.ending == "hold":
                    connection.recv(1)  # until the client leaves
                elif script.ending == "reset":
                    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                else:
                    connection.shutdown(socket.SHUT_WR)

                break

        with self._lock:
            self._connections.discard(connection)


def _send(connection: socket.socket, pieces: Sequence[bytes], gate: tuple[int, threading.Event] | None) -> None:
    for number, piece in enumerate(pieces):
        if gate is not None and gate[0] == number:
            gate[1].wait(SECONDS)

        connection.sendall(piece)

    if gate is not None and gate[0] >= len(pieces):
        gate[1].wait(SECONDS)


def _read_request(connection: socket.socket) -> Received | None:
    """Return the next request; None at the end of the connection."""
    data = b""
    while b"\r\n\r\n" not in data:
        more = connection.recv(65536)
        if not more:
            return None

        data += more

    head, _, body = data.partition(b"\r\n\r\n")
    line, *headers = head.split(b"\r\n")
    lengths = [int(header[15:]) for header in headers if header.lower().startswith(b"content-length:")]
    while lengths and len(body) < lengths[0]:
        body += connection.recv(65536)

    return Received(line, tuple(headers), body)
