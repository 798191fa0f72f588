"""Notice which peers have closed their connections, before all that they sent is read.

An event loop reads connections one after another. When several processes are killed together, or all clients have given up on a
daemon that was stopped, it reads the end of the first while the others still look alive: the lease of the first would go to the
second, be lost again, and go to the third, until `max_elections` failed a caller that lives.
"""

import select
import socket
from contextlib import suppress
from typing import NamedTuple

from sidecard.core.events import Peer


class _Watched(NamedTuple):
    descriptor: int
    peer: Peer


class HangUps:
    """Asks the kernel for closed connections, at the cost of those that are closed: 1 us if none is."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._by_descriptor: dict[int, _Watched] = {}
        self._by_peer: dict[int, _Watched] = {}

    def watch(self, peer: Peer, connected: socket.socket) -> None:
        """Notice when a peer has closed its connection. One that has only finished sending, as `socat` does, still reads replies."""
        watched = _Watched(connected.fileno(), peer)
        # The kernel adds EPOLLHUP, which on a Unix socket means that both directions are closed.
        self._epoll.register(watched.descriptor, select.EPOLLONESHOT)
        self._by_descriptor[watched.descriptor] = self._by_peer[peer.id] = watched

    def forget(self, peer: Peer) -> None:
        """Watch a peer no longer; to be called before its descriptor is closed, whose number may be used again."""
        watched = self._by_peer.pop(peer.id, None)
        if watched is not None:
            del self._by_descriptor[watched.descriptor]
            with suppress(OSError):
                self._epoll.unregister(watched.descriptor)

    def take(self) -> list[Peer]:
        """Return the peers that have closed their connections since they were last returned, at most a thousand at once."""
        return [self._by_descriptor[descriptor].peer for descriptor, _ in self._epoll.poll(0)]
