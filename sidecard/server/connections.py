"""The table of open connections: which peers are admitted, within which limits, and with which kernel-verified credentials."""

import itertools
import socket
import struct
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Final, NamedTuple, Protocol

from sidecard.config.schema import LimitSettings
from sidecard.core.events import Peer

_CREDENTIALS = struct.Struct("3i")
"""``struct ucred`` of unix(7): pid, uid, gid."""

_ALL_IDS = 2**32 - 1
_USUAL_OVERFLOW_UID = 65534

DENIAL_SECONDS: Final = 1.0
"""How long a denied connection may take to show its encoding, so that the reason can be sent in it."""

MAX_DENIED: Final = 16
"""At most this many denied connections are open at the same time to read the reason; further ones are closed immediately.
Each occupies a descriptor."""


def unmapped_uid(proc: Path = Path("/proc")) -> int | None:
    """Return the uid that the kernel reports for every user not mapped into our user namespace; None if all are mapped.

    See user_namespaces(7). A container's ``nobody``, which may have the same number, cannot be distinguished from them.
    """
    try:
        ranges = [line.split() for line in (proc / "self" / "uid_map").read_text("ascii").splitlines()]
        if sum(int(length) for _, _, length in ranges) >= _ALL_IDS:
            return None

        return int((proc / "sys" / "kernel" / "overflowuid").read_text("ascii"))
    except (OSError, ValueError):
        # A kernel that hides these files (ProcSubset=pid hides the second) almost certainly uses the default number.
        return _USUAL_OVERFLOW_UID


class AdmissionDenied(NamedTuple):
    """Why a connection is not admitted, and how many seconds to wait for its first bytes before closing it."""

    reason: str
    seconds: float


class Closable(Protocol):
    """A connection, as the table sees it."""

    def close(self) -> None:
        """End it once its replies have been sent."""

    def abort(self) -> None:
        """End it now."""


class ConnectionTable:
    """All open connections. ``is_operator`` decides by uid and gid.

    ``on_denied(uid, reason)`` and ``on_closed(peer, reason)`` are called for connections denied or closed by a limit;
    ``limited`` counts both by the limit's name. Peers with ``unmapped_uid`` are denied (see `unmapped_uid`).
    """

    def __init__(
        self,
        limits: LimitSettings,
        is_operator: Callable[[int, int], bool],
        *,
        on_denied: Callable[[int, str], None],
        on_closed: Callable[[Peer, str], None],
        limited: Counter[str],
        unmapped_uid: int | None = None,
    ) -> None:
        self.limits = limits
        """May be replaced at any time; open connections stay."""
        self._is_operator = is_operator
        self._on_denied = on_denied
        self._on_closed = on_closed
        self._limited = limited
        self._unmapped_uid = unmapped_uid
        self._ids = itertools.count(1)
        self._peers: dict[Closable, Peer] = {}
        self._per_uid: Counter[int] = Counter()
        self._denied: set[Closable] = set()
        self._on_empty: Callable[[], None] | None = None

    def __len__(self) -> int:
        return len(self._peers)

    def admit(self, connection: Closable, connected: socket.socket) -> Peer | AdmissionDenied:
        """Add a connection unless a limit forbids it."""
        pid, uid, gid = _CREDENTIALS.unpack(
            connected.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
        )
        # Kernel ids are unsigned.
        uid, gid = uid & 0xFFFFFFFF, gid & 0xFFFFFFFF
        if uid == self._unmapped_uid:
            limit = "unmapped"
            reason = (
                "its uid is not mapped into this user namespace, so it cannot be distinguished from other unmapped users: "
                "give both containers the same UserNS=, or set socket.admit_unmapped"
            )
        elif len(self._peers) >= self.limits.max_peers:
            limit = "max_peers"
            reason = f"limits.max_peers ({self.limits.max_peers}) are connected"
        elif self._per_uid[uid] >= self.limits.max_peers_per_uid:
            limit = "max_peers_per_uid"
            reason = f"limits.max_peers_per_uid ({self.limits.max_peers_per_uid}) of this uid are connected"
        else:
            peer = Peer(next(self._ids), uid, gid, pid, self._is_operator(uid, gid))
            self._peers[connection] = peer
            self._per_uid[uid] += 1
            return peer

        self._limited[limit] += 1
        self._on_denied(uid, reason)
        if len(self._denied) >= MAX_DENIED:
            return AdmissionDenied(reason, 0.0)

        self._denied.add(connection)
        return AdmissionDenied(reason, DENIAL_SECONDS)

    def remove(self, connection: Closable) -> bool:
        """Remove a connection that has ended. Return whether it had been admitted."""
        self._denied.discard(connection)
        peer = self._peers.pop(connection, None)
        if peer is None:
            return False

        self._per_uid[peer.uid] -= 1
        if not self._per_uid[peer.uid]:
            del self._per_uid[peer.uid]

        if self._on_empty is not None and not self._peers:
            self._on_empty()

        return True

    def report_closed(self, peer: Peer, limit: str, reason: str) -> None:
        """Count and report a peer that is closed for its own behavior."""
        self._limited[limit] += 1
        self._on_closed(peer, reason)

    def close_all(self, on_empty: Callable[[], None]) -> None:
        """Close every connection once its replies have been sent; call ``on_empty`` after the last one has ended."""
        self._on_empty = on_empty
        for connection in tuple(self._peers):
            connection.close()

        if not self._peers:
            on_empty()

    def abort_all(self) -> None:
        """End every remaining connection now."""
        for connection in tuple(self._peers):
            connection.abort()
