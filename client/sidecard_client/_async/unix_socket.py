"""Connect to the daemon's socket, without waiting."""

import socket

from sidecard_client.protocol.connection import NotConnected
from sidecard_client.protocol.socket_path import impostor


class UnixSocket(socket.socket):
    """A socket that is closed with the last reference to it, without a `ResourceWarning`: its event loop has ended."""

    __slots__ = ()

    def __del__(self) -> None:
        self.close()


def connect(path: str) -> UnixSocket:
    """Connect without waiting: a Unix socket's accept queue takes a connection immediately, or is full.

    Raises `NotConnected`.
    """
    connection = UnixSocket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    try:
        connection.connect(path)
    except OSError as error:
        connection.close()
        raise NotConnected(str(error.strerror or error)) from error

    stranger = impostor(connection, path)
    if stranger is not None:
        connection.close()
        raise NotConnected(stranger)

    return connection
