"""Check every few seconds for what the kernel does not report: a removed socket file, and exhausted file descriptors.

Both are silent otherwise. Clients that find no socket, or whose connection is closed immediately, make their own calls, so
nothing fails; the calls are just not shared.
"""

import asyncio
import errno
import os
from collections.abc import Awaitable, Callable

from sidecard.errors import ListenError
from sidecard.server.listener import Listener

CHECK_SECONDS = 5.0
"""Between two checks, which take a few microseconds."""


class SocketMonitor:
    """Watches ``listening``. ``rebind`` serves on a new socket, or raises `ListenError`; ``log`` writes a log line."""

    def __init__(self, listening: Listener, rebind: Callable[[], Awaitable[None]], log: Callable[..., None]) -> None:
        self._listener = listening
        self._rebind = rebind
        self._log = log
        self._lost = False
        self._exhausted = False

    async def run(self) -> None:
        """Check until canceled."""
        while True:
            await asyncio.sleep(CHECK_SECONDS)
            await self.check()

    async def check(self) -> None:
        """Check once. A problem is logged when it begins and when it ends."""
        self._check_descriptors()
        if self._listener.gone:
            await self._replace_socket()
        elif self._lost:
            self._lost = False
            self._log("info", "socket file reappeared", path=self._listener.path)

    async def _replace_socket(self) -> None:
        try:
            await self._rebind()
        except ListenError as error:
            if not self._lost:
                self._lost = True
                self._log("error", "socket file lost", path=self._listener.path, reason=str(error))
        else:
            self._lost = False
            self._log("warning", "socket recreated", path=self._listener.path, reason="its file was removed")

    def _check_descriptors(self) -> None:
        """Detect that no descriptor is left, or that there are some again."""
        try:
            os.close(os.dup(self._listener.socket.fileno()))
        except OSError as error:
            exhausted = error.errno in {errno.EMFILE, errno.ENFILE}
        else:
            exhausted = False

        if exhausted:
            self.report_exhausted()
        elif self._exhausted:
            self._exhausted = False
            self._log("info", "file descriptors available again")

    def report_exhausted(self) -> None:
        """Log that no descriptor is left, once until there are some again."""
        if not self._exhausted:
            self._exhausted = True
            self._log(
                "error",
                "file descriptors exhausted",
                reason="new connections are closed immediately: raise LimitNOFILE= or `ulimit -n`, or lower limits.max_peers",
            )
