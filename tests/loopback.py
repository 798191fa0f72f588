"""Listeners on the loopback address that serve each connection in a thread of its own.

Each listens on a port that no other listener of the process has had: tests that share a daemon would find each other's entries and
breakers, since keys and backends contain the port.
"""

import socket
import threading
from contextlib import ExitStack
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Self

_had: set[int] = set()


_BACKLOG = 128
"""An HTTP server's default is five: of more connections at a time, some wait for a second, or are reset."""


def listen_on_new_port() -> socket.socket:
    """Return a listening socket on a port that this process has not had."""
    with ExitStack() as rejected:  # open until there is a new one, so that the kernel chooses others
        while True:
            listener = socket.create_server(("127.0.0.1", 0), backlog=_BACKLOG)
            port = listener.getsockname()[1]
            if port not in _had:
                _had.add(port)
                return listener

            rejected.enter_context(listener)


class LoopbackServer(ThreadingHTTPServer):
    """Serves HTTP once `serve_forever` runs."""

    daemon_threads = True

    def __init__(self, handler: type[BaseHTTPRequestHandler]) -> None:
        super().__init__(("127.0.0.1", 0), handler, bind_and_activate=False)
        self.socket.close()
        self.socket = listen_on_new_port()
        self.server_name, self.server_port = self.server_address = self.socket.getsockname()

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self.server_port}"


class LoopbackListener:
    """Accepts connections while its block lasts."""

    def __init__(self) -> None:
        self._listener = listen_on_new_port()

    @property
    def port(self) -> int:
        """The port of the loopback address."""
        return int(self._listener.getsockname()[1])

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self.port}"

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return

            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        """Serve a connection to its end."""
        raise NotImplementedError
