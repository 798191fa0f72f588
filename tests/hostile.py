"""Means of hostile peers: other uids, half-said messages, what a process of theirs costs the daemon."""

import os
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from sidecard_client.protocol import wire
from sidecard_client.protocol.frames import FrameBuffer, frame
from tests.daemons import ask

ALICE, BOB, MALLORY = 61001, 61002, 61003
"""Uids, and gids, that this machine has no names for."""

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to be other uids")


@contextmanager
def being(uid: int, gid: int | None = None) -> Iterator[None]:
    """Be another uid: files and sockets are opened with its rights, and the kernel reports it to the servers we connect to."""
    own_groups = os.getgroups()
    os.setgroups([])
    os.setegid(uid if gid is None else gid)
    os.seteuid(uid)
    try:
        yield
    finally:
        os.seteuid(0)
        os.setegid(0)
        os.setgroups(own_groups)


def ask_as(uid: int, path: str, **request: Any) -> dict[str, Any]:
    """Send one JSON line as another uid and return the last reply line."""
    with being(uid):
        return ask(path, request)


class Wire:
    """One connection that speaks msgpack frames, as some uid."""

    def __init__(self, path: str, uid: int | None = None) -> None:
        self._frames = FrameBuffer()
        self._ready: list[wire.AnyReply] = []
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(20)
        if uid is None:
            self.socket.connect(path)
        else:
            with being(uid):
                self.socket.connect(path)

    def sends(self, *requests: wire.Request) -> None:
        """Send requests in one piece."""
        self.socket.sendall(b"".join(frame(wire.pack(request)) for request in requests))

    def receives(self, count: int = 1) -> Sequence[wire.AnyReply]:
        """Return the next replies."""
        while len(self._ready) < count:
            data = self.socket.recv(1 << 20)
            assert data, "the daemon closed the connection"
            self._ready += map(wire.unpack_reply, self._frames.feed(data))

        replies, self._ready = self._ready[:count], self._ready[count:]
        return replies

    def asks(self, request: wire.Request) -> Any:
        """Send a request and return the next reply."""
        self.sends(request)
        return self.receives()[0]

    def is_closed(self) -> bool:
        """Return whether the daemon has ended the connection. What it has sent is read and forgotten."""
        self.socket.setblocking(False)
        try:
            while self.socket.recv(1 << 20):
                pass
        except BlockingIOError:
            return False
        except ConnectionError:
            return True
        else:
            return True
        finally:
            self.socket.settimeout(20)

    def close(self) -> None:
        """End it. Garbage collection does so too: tests have hundreds of them."""
        self.socket.close()

    __del__ = close


def resident_bytes(pid: int, *, peak: bool = False) -> int:
    """Return what a process has in memory, or the most that it ever had."""
    name = "VmHWM:" if peak else "VmRSS:"
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(name))


def limited(path: str) -> dict[str, int]:
    """Return how often each limit has refused or closed something, those that never have left out."""
    families: Any = ask(path, {"op": "metrics"})["families"]
    (samples,) = (family["samples"] for family in families if family["name"] == "sidecard_limited")
    return {one["labels"]["limit"]: int(one["value"]) for one in samples if one["value"]}
