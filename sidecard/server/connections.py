"""Who is connected: admission, the bounds on it, and what the kernel says about each."""

import itertools
import socket
import struct
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Final, NamedTuple, Protocol

from sidecard.config.schema import Limits
from sidecard.core.events import Peer

_CREDENTIALS = struct.Struct("3i")
"""``struct ucred`` of unix(7): pid, uid, gid."""


_ALL_IDS = 2**32 - 1
_USUAL_OVERFLOW_UID = 65534


def unmapped_uid(proc: Path = Path("/proc")) -> int | None:
    """Return the uid that the kernel shows for all who have none in our user namespace; None where everybody has one.

    See user_namespaces(7). A container's ``nobody``, which may have the same number, cannot be told from them.
    """
    try:
        ranges = [line.split() for line in (proc / "self" / "uid_map").read_text("ascii").splitlines()]
        if sum(int(length) for _, _, length in ranges) >= _ALL_IDS:
            return None

        return int((proc / "sys" / "kernel" / "overflowuid").read_text("ascii"))
    except (OSError, ValueError):
        # A kernel that hides them (ProcSubset=pid does for the second) has not changed the number: hardly anybody does.
        return _USUAL_OVERFLOW_UID


REFUSAL_SECONDS: Final = 1.0
"""How long a connection that is not admitted may take to show in which encoding it is to be told so."""

MAX_REFUSED: Final = 16
"""Connections at a time for which that is waited; further ones are closed at once. Each has a descriptor."""


class Refusal(NamedTuple):
    """Why a connection is not admitted, and how long its first word may be waited for."""

    reason: str
    seconds: float


class Line(Protocol):
    """A connection, as far as the roster ends it."""

    def close(self) -> None:
        """End it once its replies have left."""

    def abort(self) -> None:
        """End it now."""


class Roster:
    """Every connection that is open. ``operator`` tells by uid and gid who is one; the two other callables tell the log.

    ``limited`` counts, by limit, whom one of them kept out or had closed.
    ``unmapped_uid`` is that of peers who are not to be admitted, because it is nobody's in particular (`unmapped_uid`).
    """

    def __init__(
        self,
        limits: Limits,
        operator: Callable[[int, int], bool],
        *,
        on_refused: Callable[[int, str], None],
        on_closed: Callable[[Peer, str], None],
        limited: Counter[str],
        unmapped_uid: int | None = None,
    ) -> None:
        self.limits = limits
        """May be replaced at any time; who is connected stays so."""
        self._operator = operator
        self._on_refused = on_refused
        self._unmapped_uid = unmapped_uid
        self._on_closed = on_closed
        self._limited = limited
        self._ids = itertools.count(1)
        self._peers: dict[Line, Peer] = {}
        self._per_uid: Counter[int] = Counter()
        self._refused: set[Line] = set()
        self._on_empty: Callable[[], None] | None = None

    def __len__(self) -> int:
        return len(self._peers)

    def admit(self, line: Line, connected: socket.socket) -> Peer | Refusal:
        """Take a connection in, unless that would exceed a limit."""
        pid, uid, gid = _CREDENTIALS.unpack(
            connected.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
        )
        # The kernel counts ids without sign.
        uid, gid = uid & 0xFFFFFFFF, gid & 0xFFFFFFFF
        if uid == self._unmapped_uid:
            limit = "unmapped"
            reason = (
                "its uid has no number in this user namespace, so nobody can tell it from others: give both containers the same "
                "UserNS=, or set socket.admit_unmapped"
            )
        elif len(self._peers) >= self.limits.max_peers:
            limit = "max_peers"
            reason = f"limits.max_peers ({self.limits.max_peers}) are connected"
        elif self._per_uid[uid] >= self.limits.max_peers_per_uid:
            limit = "max_peers_per_uid"
            reason = f"limits.max_peers_per_uid ({self.limits.max_peers_per_uid}) of this uid are connected"
        else:
            peer = Peer(next(self._ids), uid, gid, pid, self._operator(uid, gid))
            self._peers[line] = peer
            self._per_uid[uid] += 1
            return peer

        self._limited[limit] += 1
        self._on_refused(uid, reason)
        if len(self._refused) >= MAX_REFUSED:
            return Refusal(reason, 0.0)

        self._refused.add(line)
        return Refusal(reason, REFUSAL_SECONDS)

    def dismiss(self, line: Line) -> bool:
        """Strike a connection off; False where it was never admitted."""
        self._refused.discard(line)
        peer = self._peers.pop(line, None)
        if peer is None:
            return False

        self._per_uid[peer.uid] -= 1
        if not self._per_uid[peer.uid]:
            del self._per_uid[peer.uid]

        if self._on_empty is not None and not self._peers:
            self._on_empty()

        return True

    def tell_closed(self, peer: Peer, limit: str, reason: str) -> None:
        """Take note, and let the log know, that a peer is closed for its own behaviour."""
        self._limited[limit] += 1
        self._on_closed(peer, reason)

    def close_all(self, on_empty: Callable[[], None]) -> None:
        """Close every connection once its replies have left; call ``on_empty`` when the last has gone."""
        self._on_empty = on_empty
        for line in tuple(self._peers):
            line.close()

        if not self._peers:
            on_empty()

    def abort_all(self) -> None:
        """End every connection that is still there."""
        for line in tuple(self._peers):
            line.abort()
