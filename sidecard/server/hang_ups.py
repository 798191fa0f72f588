"""Notice which peers have closed their connections, before all that they sent is read.

An event loop reads connections one after another. When several processes are killed together, or all clients have given up on a
daemon that was stopped, it reads the end of the first while the others still look alive: the lease of the first would go to the
second, be lost again, and go to the third, until `max_elections` failed a caller that lives.
"""

import select
from contextlib import suppress

from sidecard.core.events import Peer


class HangUps:
    """Asks the kernel for closed connections, at the cost of those that are closed: 1 us if none is."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._peers: dict[int, Peer] = {}
        """By descriptor: a second table would cost each connection 300 bytes."""

    def watch(self, peer: Peer, descriptor: int) -> None:
        """Notice when a peer has closed its connection. One that has only finished sending, as `socat` does, still reads replies."""
        # The kernel adds EPOLLHUP, which on a Unix socket means that both directions are closed.
        self._epoll.register(descriptor, select.EPOLLONESHOT)
        self._peers[descriptor] = peer

    def forget(self, descriptor: int) -> None:
        """Watch a connection no longer; to be called before its descriptor is closed, whose number may be used again."""
        if self._peers.pop(descriptor, None) is not None:
            with suppress(OSError):
                self._epoll.unregister(descriptor)

    def take(self) -> list[Peer]:
        """Return the peers that have closed their connections since they were last returned, at most a thousand at once."""
        return [self._peers[descriptor] for descriptor, _ in self._epoll.poll(0)]
