"""Peers that map views, and read them as a program in another language would."""

import mmap
import os
import select
import socket
import time
from collections.abc import Sequence
from typing import Any

from sidecard_client.protocol import wire
from tests.hostile import Wire
from tests.plain_view import PlainView


class ViewPeer(Wire):
    """A connection that receives a view."""

    def __init__(self, path: str, uid: int | None = None) -> None:
        super().__init__(path, uid)
        self.descriptors: list[int] = []
        """All that were received."""
        self.mapped: mmap.mmap | None = None

    def asks_for_view(self, namespace: str = "default") -> Any:
        """Ask for a view and return the reply, whose descriptor is the last of `descriptors`."""
        return self.asks(wire.GetView(namespace, id=1))

    def receives(self, count: int = 1) -> Sequence[wire.AnyReply]:
        """Return the next replies, and keep the descriptors that come with views."""
        while len(self._ready) < count:
            data, descriptors, flags, _ = socket.recv_fds(self.socket, 1 << 20, 4, socket.MSG_CMSG_CLOEXEC)
            assert data, "the daemon closed the connection"
            assert not flags & socket.MSG_CTRUNC
            self.descriptors += descriptors
            replies = [wire.unpack_reply(payload) for payload in self._frames.feed(data)]
            assert len(descriptors) == sum(isinstance(reply, wire.View) for reply in replies), (
                "one with each, in one piece"
            )
            self._ready += replies

        replies, self._ready = self._ready[:count], self._ready[count:]
        return replies

    def maps(self, namespace: str = "default") -> PlainView:
        """Ask for a view, and map it."""
        reply = self.asks_for_view(namespace)
        assert isinstance(reply, wire.View), reply
        assert (reply.layout, reply.size) == (1, os.fstat(self.descriptors[-1]).st_size)
        self.mapped = mmap.mmap(self.descriptors[-1], reply.size, prot=mmap.PROT_READ)
        poll = select.poll()
        poll.register(self.socket, 0)
        return PlainView(self.mapped, lambda: bool(poll.poll(0)))

    def close(self) -> None:
        """End the connection, and keep no memory."""
        self.unmap()
        super().close()

    def unmap(self) -> None:
        """Keep neither the mapping nor a descriptor."""
        while self.descriptors:
            os.close(self.descriptors.pop())

        if self.mapped is not None:
            self.mapped.close()
            self.mapped = None

    __del__ = close


def boot_seconds() -> float:
    """Return the time by which views expire."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)
