"""Looks every few seconds for what the kernel tells nobody: that the socket's file is gone, that no descriptor is left.

Both are silent otherwise. Clients that find no socket, or are cut off at once, make their calls themselves, so nothing fails:
it only costs what it cost before there was a daemon.
"""

import errno
import os
from collections.abc import Awaitable, Callable

import anyio

from sidecard.errors import ListenError
from sidecard.server.listener import Listener

LOOK_SECONDS = 5.0
"""Between two looks, which take a few microseconds."""


class Lookout:
    """Looks after ``listening``. ``bind_anew`` serves on a new socket, or raises `ListenError`; ``say`` is a log's."""

    def __init__(self, listening: Listener, bind_anew: Callable[[], Awaitable[None]], say: Callable[..., None]) -> None:
        self._listener = listening
        self._bind_anew = bind_anew
        self._say = say
        self._lost = False
        self._exhausted = False

    async def run(self) -> None:
        """Look until cancelled."""
        while True:
            await anyio.sleep(LOOK_SECONDS)
            await self.look()

    async def look(self) -> None:
        """Look once. What is wrong is told once, until it is well again."""
        self._look_for_descriptors()
        if self._listener.gone:
            await self._look_for_socket()
        elif self._lost:
            self._lost = False
            self._say("info", "socket found again", path=self._listener.path)

    async def _look_for_socket(self) -> None:
        try:
            await self._bind_anew()
        except ListenError as error:
            if not self._lost:
                self._lost = True
                self._say("error", "socket lost", path=self._listener.path, reason=str(error))
        else:
            self._lost = False
            self._say("warning", "socket bound anew", path=self._listener.path, reason="its file was removed")

    def _look_for_descriptors(self) -> None:
        """The event loop closes what it cannot accept, and says nothing of it."""
        try:
            os.close(os.dup(self._listener.socket.fileno()))
        except OSError as error:
            exhausted = error.errno in {errno.EMFILE, errno.ENFILE}
        else:
            exhausted = False

        if exhausted and not self._exhausted:
            self._say(
                "error",
                "no descriptors left",
                reason="new peers are closed at once: raise LimitNOFILE= or `ulimit -n`, or lower limits.max_peers",
            )
        elif self._exhausted and not exhausted:
            self._say("info", "descriptors are left again")

        self._exhausted = exhausted
