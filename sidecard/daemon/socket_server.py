"""Accept connections on the daemon's socket, within limits that a reload may change."""

import asyncio
import os
import resource
import sys
from collections import Counter
from functools import partial
from typing import Any

from msgspec import structs

from sidecard.config.model import Config
from sidecard.config.schema import LimitSettings
from sidecard.observe.logs import Log
from sidecard.persistence.worker import run_in_thread
from sidecard.server.buffers import BufferBudget
from sidecard.server.connection import PeerConnection, ServerContext
from sidecard.server.connections import ConnectionTable, unmapped_uid
from sidecard.server.driver import Driver
from sidecard.server.listener import BACKLOG, Listener
from sidecard.server.scheduler import FairScheduler

SPARE_DESCRIPTORS = 64
"""Descriptors not for peers: listener, lock, log, the event loop, late imports, denied connections."""


class SocketServer:
    """The accepting socket, the connections, and what they share. Connections stay when the socket is replaced."""

    def __init__(self, config: Config, listening: Listener, log: Log) -> None:
        self._config = config
        self._listener = listening
        self._log = log
        self._limits = _with_descriptors(config.limits, log)
        self.limited = Counter[str]()
        """Connections denied or closed, by the name of the limit."""
        self.buffers = BufferBudget[PeerConnection](self._limits.max_buffered_bytes)
        self.connections = ConnectionTable(
            self._limits,
            self._is_operator,
            on_denied=lambda uid, reason: log.write("warning", "peer denied", uid=uid, reason=reason),
            on_closed=lambda peer, reason: log.write(
                "warning", "peer closed", peer=peer.id, uid=peer.uid, reason=reason
            ),
            limited=self.limited,
            unmapped_uid=None if config.socket.admit_unmapped else unmapped_uid(),
        )
        self._server: asyncio.Server | None = None
        self._context: ServerContext

    def configure(self, config: Config) -> None:
        """Apply settings that were loaded again."""
        self._config = config
        self._limits = self.connections.limits = _with_descriptors(config.limits, self._log)
        self.buffers.max_bytes = self._limits.max_buffered_bytes

    async def start(self, driver: Driver, scheduler: FairScheduler) -> None:
        """Begin to accept."""
        loop = asyncio.get_running_loop()
        self._context = ServerContext(driver, self.connections, scheduler, self.buffers, loop)
        await self._listen(loop)

    async def _listen(self, loop: asyncio.AbstractEventLoop) -> None:
        # From 3.13 on the loop would remove the socket's file itself, even if it is another daemon's.
        options: dict[str, Any] = {"cleanup_socket": False} if sys.version_info >= (3, 13) else {}
        self._server = await loop.create_unix_server(
            lambda: PeerConnection(self._context, self._limits), sock=self._listener.socket, backlog=BACKLOG, **options
        )

    async def rebind(self) -> None:
        """Accept on a new socket at the same path. Raises `ListenError`."""
        settings = self._config.socket
        # In a thread: a process that listens there by now is pinged, which may take a second.
        await run_in_thread("sidecard-rebind", partial(self._listener.bind, settings.mode, settings.group))
        before = self._server
        await self._listen(self._context.loop)
        if before is not None:
            before.close()

    def stop_accepting(self) -> None:
        """Accept no more connections; open ones stay."""
        if self._server is not None:
            self._server.close()

    def _is_operator(self, uid: int, gid: int) -> bool:
        operators = self._config.operators
        return uid in {0, os.geteuid()} or uid in operators.uids or gid in operators.gids


def _with_descriptors(limits: LimitSettings, log: Log) -> LimitSettings:
    """Raise the descriptor limit as far as the host allows, and return limits with no more peers than that.

    An event loop without free descriptors would close new connections without a readable reason.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))

    room = hard - SPARE_DESCRIPTORS
    if hard == resource.RLIM_INFINITY or room >= limits.max_peers:
        return limits

    log.write(
        "warning",
        "max_peers lowered",
        max_peers=room,
        reason=f"the host allows {hard} descriptors: raise LimitNOFILE= or `ulimit -Hn`, or lower limits.max_peers",
    )
    return structs.replace(limits, max_peers=max(1, room))
