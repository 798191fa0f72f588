"""An attack: what some processes of another uid send to a daemon. Independent of the product, so that it runs against any version."""

import itertools
import json
import os
import socket
import struct
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from random import Random
from typing import Any

import msgspec

REPLY_SECONDS = 10.0
"""A daemon that neither reads nor replies for so long makes an attacker reconnect."""

_LENGTH = struct.Struct(">I")


def framed(*requests: dict[str, Any]) -> bytes:
    """Return requests as msgpack frames."""
    bodies = [msgspec.msgpack.encode(request) for request in requests]
    return b"".join(_LENGTH.pack(len(body)) + body for body in bodies)


class Connection:
    """One connection of an attacker: msgpack frames, or whatever bytes it sends."""

    def __init__(self, path: str) -> None:
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(REPLY_SECONDS)
        self.socket.connect(path)
        self._received = bytearray()

    def send(self, *requests: dict[str, Any]) -> None:
        """Send requests in one piece."""
        self.socket.sendall(framed(*requests))

    def receive(self) -> dict[str, Any]:
        """Return the next reply."""
        (length,) = _LENGTH.unpack(self._take(_LENGTH.size))
        reply: dict[str, Any] = msgspec.msgpack.decode(self._take(length))
        return reply

    def ask(self, **request: Any) -> dict[str, Any]:
        """Send one request and return the next reply."""
        self.send(request)
        return self.receive()

    def lease(self, key: str | None, **fields: Any) -> str:
        """Begin a call and return its lease."""
        reply = self.ask(op="begin", id=1, key=key, **fields)
        while reply["type"] == "pending":
            reply = self.receive()

        if reply["type"] != "lease":
            raise ConnectionError(reply)

        lease: str = reply["lease"]
        return lease

    def discard(self, seconds: float = 0.0) -> None:
        """Read what has arrived, or arrives within ``seconds``, and forget it."""
        self._received.clear()
        self.socket.settimeout(seconds)
        try:
            while self.socket.recv(1 << 20):
                pass
        except (BlockingIOError, TimeoutError):
            return
        finally:
            self.socket.settimeout(REPLY_SECONDS)

        raise ConnectionError

    def close(self) -> None:
        """End it."""
        self.socket.close()

    __del__ = close

    def _take(self, count: int) -> bytes:
        while len(self._received) < count:
            data = self.socket.recv(1 << 20)
            if not data:
                raise ConnectionError

            self._received += data

        taken = bytes(self._received[:count])
        del self._received[:count]
        return taken


@dataclass(frozen=True)
class Target:
    """What an attacker knows: the socket's path, the HTTP port, and which of the attack's processes it is."""

    path: str
    port: int
    process: int
    names: "itertools.count[int]" = field(default_factory=itertools.count)
    random: Random = field(default_factory=Random)

    def connect(self) -> Connection:
        """Open one connection."""
        return Connection(self.path)

    def crowd(self, count: int) -> list[Connection]:
        """Open connections, as many of ``count`` as the daemon and the system allow."""
        connections: list[Connection] = []
        with suppress(OSError):
            connections.extend(self.connect() for _ in range(count))

        return connections

    def http(self, *requests: bytes) -> socket.socket:
        """Open a connection to the HTTP listener and send ``requests``."""
        connection = socket.socket(socket.AF_INET)
        connection.settimeout(REPLY_SECONDS)
        connection.connect(("127.0.0.1", self.port))
        connection.sendall(b"".join(requests))
        return connection

    def name(self, prefix: str = "n") -> str:
        """Return a name that no other process has used, at most 20 characters longer than ``prefix``."""
        return f"{prefix}{os.getpid()}.{next(self.names)}"


@dataclass(frozen=True)
class Attack:
    """What some processes do again and again while a bystander works.

    ``prepare`` runs once, in one process, before the bystander's latency counts. Each process has a uid of its own if
    ``uids`` is above 1; ``operator`` processes are root.
    """

    name: str
    about: str
    run: Callable[[Target], None]
    prepare: Callable[[Target], None] | None = None
    processes: int = 1
    uids: int = 1
    operator: bool = False
    settings: tuple[str, ...] = ()
    stalled_disk: bool = False
    """The daemon has a store on disk, whose reads stall from the moment the attack begins; the bystander has only hits."""
    long: bool = False
    """It grows, or repeats what takes seconds: a short run would not show what it does."""
    stopped: bool = False
    """The processes are stopped (SIGSTOP) half a second after their start."""


ATTACKS: dict[str, Attack] = {}


def attack(**fields: Any) -> Callable[[Callable[[Target], None]], Callable[[Target], None]]:
    """Register the function of one round of an attack. Its docstring describes the attack in the table."""

    def register(run: Callable[[Target], None]) -> Callable[[Target], None]:
        name = run.__name__.replace("_", " ")
        ATTACKS[name] = Attack(name, (run.__doc__ or "").partition("\n")[0].rstrip("."), run, **fields)
        return run

    return register


def line(request: dict[str, Any]) -> bytes:
    """Return a request as a JSON line."""
    return json.dumps(request).encode() + b"\n"


def exchange(connection: Connection, requests: Iterable[dict[str, Any]]) -> None:
    """Send many requests at once, and read about as many replies."""
    sent = list(requests)
    connection.send(*sent)
    for _ in sent:
        connection.receive()
