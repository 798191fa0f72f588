"""Where the HTTP listener listens: what ``http.listen`` says, and the TCP socket that it asks for."""

import socket

from msgspec import Struct

from sidecard.errors import ListenError

BACKLOG = 64
"""Connections that wait to be accepted: browsers and scrapers are few."""


class HttpListenError(ListenError):
    """The HTTP listener's address cannot be had."""


class TcpAddress(Struct, frozen=True):
    """A host, without the brackets of an IPv6 address, and a port; port 0 is any that is free."""

    host: str
    port: int


def parse(listen: str) -> TcpAddress | str:
    """Return what ``http.listen`` names: an address, or the path of a Unix socket as it stands.

    Whatever has a slash is a path; all else is ``HOST:PORT``, as `sidecard.config.parsers` has checked.
    """
    if "/" in listen:
        return listen

    host, _, port = listen.rpartition(":")
    return TcpAddress(host.removeprefix("[").removesuffix("]"), int(port))


def bind_tcp(address: TcpAddress) -> socket.socket:
    """Return a socket that listens at ``address``. Raises `HttpListenError` with what to change."""
    shown = f"[{address.host}]:{address.port}" if ":" in address.host else f"{address.host}:{address.port}"
    try:
        found = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except OSError as error:
        raise HttpListenError(f"nothing is known of the host in http.listen {shown!r} ({error}): change it") from error

    family, kind, protocol, _, place = found[0]
    listening = socket.socket(family, kind, protocol)
    try:
        # Connections of the last run that the kernel still remembers must not keep this one from its port.
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            listening.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)

        listening.bind(place)
        listening.listen(BACKLOG)
        listening.settimeout(0)
    except OSError as error:
        listening.close()
        raise HttpListenError(
            f"cannot listen at {shown} for HTTP ({error.strerror or error}): stop who does, or change http.listen"
        ) from error

    return listening
