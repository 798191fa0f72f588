"""The address of the HTTP listener: parse ``http.listen``, and open its TCP socket."""

import socket

from msgspec import Struct

from sidecard.bind_errors import tcp_error
from sidecard.errors import ListenError

BACKLOG = 64
"""Connections that wait to be accepted: there are few browsers and scrapers."""


class TcpAddress(Struct, frozen=True):
    """A host, without the brackets of an IPv6 address, and a port; port 0 is any free one."""

    host: str
    port: int


def parse(listen: str) -> TcpAddress | str:
    """Return the address that ``http.listen`` names, or the path of a Unix socket as it is.

    Text with a slash is a path; other text is ``HOST:PORT``, as `sidecard.config.parsers` has checked.
    """
    if "/" in listen:
        return listen

    host, _, port = listen.rpartition(":")
    return TcpAddress(host.removeprefix("[").removesuffix("]"), int(port))


def shown(host: str, port: int) -> str:
    """Return an address as a URL contains it."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def bind_tcp(address: TcpAddress) -> socket.socket:
    """Return a socket that listens on ``address``. Raises `ListenError` with what to change."""
    place = shown(address.host, address.port)
    try:
        found = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except OSError as error:
        raise ListenError(f"cannot resolve the host of http.listen {place!r} ({error}): change it") from error

    family, kind, protocol, _, sockaddr = found[0]
    try:
        listening = socket.socket(family, kind, protocol)
    except OSError as error:
        raise tcp_error(place, address.port, error) from error

    try:
        # Connections of an earlier run that the kernel still remembers must not block the port.
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            listening.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)

        listening.bind(sockaddr)
        listening.listen(BACKLOG)
        listening.settimeout(0)
    except OSError as error:
        listening.close()
        raise tcp_error(place, address.port, error) from error

    return listening
