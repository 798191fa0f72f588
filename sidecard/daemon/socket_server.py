"""Accept connections on the daemon's socket, within limits that a reload may change."""

import asyncio
import os
import resource
from collections import Counter
from functools import partial

from msgspec import structs

from sidecard.config.model import Config
from sidecard.config.schema import LimitSettings
from sidecard.observe.logs import Log
from sidecard.persistence.worker import run_in_thread
from sidecard.server.acceptor import Acceptor
from sidecard.server.buffers import BufferBudget
from sidecard.server.connection import PeerConnection
from sidecard.server.connections import ConnectionTable, unmapped_uid
from sidecard.server.driver import Driver
from sidecard.server.json_lines.outbox import JsonValues
from sidecard.server.listener import Listener
from sidecard.server.peer_output import PeerOutput, ServerContext
from sidecard.server.scheduler import FairScheduler
from sidecard.server.socket_monitor import SocketMonitor

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
        self.buffers = BufferBudget[PeerOutput](self._limits.max_buffered_bytes)
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
        self.monitor = SocketMonitor(listening, self._rebind, log.write)
        self._acceptor: Acceptor

    def configure(self, config: Config) -> None:
        """Apply settings that were loaded again."""
        self._config = config
        self._limits = self.connections.limits = _with_descriptors(config.limits, self._log)
        self.buffers.max_bytes = self._limits.max_buffered_bytes

    def start(self, driver: Driver, scheduler: FairScheduler) -> None:
        """Begin to accept."""
        loop = asyncio.get_running_loop()
        context = ServerContext(driver, self.connections, scheduler, self.buffers, JsonValues(), loop)
        self._acceptor = Acceptor(
            loop,
            scheduler,
            self.connections,
            lambda admission, descriptor: PeerConnection(context, self._limits, admission, descriptor),
            log=self._log.write,
            on_exhausted=self.monitor.report_exhausted,
        )
        self._acceptor.listen(self._listener.socket)

    async def _rebind(self) -> None:
        """Accept on a new socket at the same path. Raises `ListenError`."""
        settings, before = self._config.socket, self._listener.socket
        # In a thread: a process that listens there by now is pinged, which may take a second.
        await run_in_thread("sidecard-rebind", partial(self._listener.bind, settings.mode, settings.group))
        self._acceptor.listen(self._listener.socket)
        self._acceptor.close(before)

    def stop_accepting(self) -> None:
        """Accept no more connections; open ones stay."""
        self._acceptor.stop()

    def _is_operator(self, uid: int, gid: int) -> bool:
        operators = self._config.operators
        return uid in {0, os.geteuid()} or uid in operators.uids or gid in operators.gids


def _with_descriptors(limits: LimitSettings, log: Log) -> LimitSettings:
    """Raise the descriptor limit as far as the host allows, and return limits with no more peers than that.

    Without free descriptors, new connections would be closed without a readable reason. The soft limit is as low as 1,024 for
    the sake of select(2), which nothing in the daemon uses.
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
