"""The table of open connections: which peers are admitted, within which limits, and with which kernel-verified credentials.

``max_peers`` is the limit of all uids together. Its last part is for those whom the others must not exclude:

==============================  ===========================================================
a uid may add one more while    if it
==============================  ===========================================================
7/8 of ``max_peers`` are used   has `FEW_PEERS` connections or more
31/32 are used                  has fewer, as a newcomer
all are used                    is an operator
==============================  ===========================================================

No uid has more than ``max_peers_per_uid``. A connection counts from its admission, before anything else is made for it.
"""

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

CONNECTION_BYTES: Final = 4096
"""What a connection takes, about: freed at its end, and kept by the C library."""

FEW_PEERS: Final = 16
"""Connections of a uid that needs no more than the room for newcomers."""

NEWCOMERS_PART: Final = 8
"""The last eighth of ``max_peers`` is for newcomers and operators."""

OPERATORS_PART: Final = 32
"""The last 32nd is for operators only."""

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
    """Why a connection is not admitted, and how many seconds to wait for its first bytes before closing it (0: not at all)."""

    uid: int
    limit: str
    reason: str
    seconds: float
    credentials: tuple[int, int, int]
    """pid, uid and gid."""


class Closable(Protocol):
    """A connection, as the table sees it."""

    has_view: bool
    """The peer has received a view."""

    def end_output(self) -> None:
        """Send no more replies than those that are queued, and serve requests as before."""

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
        self.ended = 0
        """How many admitted connections have ended."""
        self._peers: dict[Closable, Peer] = {}
        self._admitted = 0
        self._per_uid: Counter[int] = Counter()
        self._explaining = 0
        """Denied connections that are open for the reason to be sent."""
        self._on_empty: Callable[[], None] | None = None
        self._readers: set[Closable] = set()
        """Connections with views whose end `end_views` awaits."""
        self._on_reported: Callable[[], None] = lambda: None

    def __len__(self) -> int:
        """Count the admitted connections."""
        return self._admitted

    def admit(self, connected: socket.socket) -> Peer | AdmissionDenied:
        """Count a connection unless a limit forbids it. Call `join` or `withdraw` next, or `admit_again` if denied.

        A denial is final, and reported, if it leaves no time to send the reason.
        """
        credentials = _CREDENTIALS.unpack(
            connected.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
        )
        admission = self._admit(*credentials)
        if isinstance(admission, AdmissionDenied):
            if self._explaining >= MAX_DENIED:
                self._report_denied(admission)
                return admission._replace(seconds=0.0)

            self._explaining += 1

        return admission

    def admit_again(self, denied: AdmissionDenied) -> Peer | AdmissionDenied:
        """Decide again, and finally, now that the ends of other connections have been handled that came before this one."""
        admission = self._admit(*denied.credentials)
        if isinstance(admission, Peer):
            self.withdraw(denied)
        else:
            self._report_denied(admission)

        return admission

    def _admit(self, pid: int, uid: int, gid: int) -> Peer | AdmissionDenied:
        credentials = pid, uid & 0xFFFFFFFF, gid & 0xFFFFFFFF  # kernel ids are unsigned
        _, uid, gid = credentials
        operator = self._is_operator(uid, gid)
        denied = self._denial(uid, operator)
        if denied is not None:
            return AdmissionDenied(uid, *denied, DENIAL_SECONDS, credentials)

        self._admitted += 1
        self._per_uid[uid] += 1
        return Peer(next(self._ids), uid, gid, pid, operator)

    def _report_denied(self, denied: AdmissionDenied) -> None:
        self._limited[denied.limit] += 1
        self._on_denied(denied.uid, denied.reason)

    def _denial(self, uid: int, operator: bool) -> tuple[str, str] | None:  # noqa: FBT001 - as in `Peer`
        """Return the limit that forbids one more connection of a uid, and the reason in words; None if there is none."""
        limits, own = self.limits, self._per_uid.get(uid, 0)
        if uid == self._unmapped_uid:
            return "unmapped", (
                "its uid is not mapped into this user namespace, so it cannot be distinguished from other unmapped users: "
                "give both containers the same UserNS=, or set socket.admit_unmapped"
            )

        if self._admitted >= limits.max_peers:
            return "max_peers", f"limits.max_peers ({limits.max_peers}) are connected"

        if own >= limits.max_peers_per_uid:
            return "max_peers_per_uid", (
                f"limits.max_peers_per_uid ({limits.max_peers_per_uid}) of this uid are connected"
            )

        if not operator:
            reserved = limits.max_peers // (OPERATORS_PART if own < FEW_PEERS else NEWCOMERS_PART)
            if self._admitted >= limits.max_peers - reserved:
                return "max_peers", (
                    f"{self._admitted} of limits.max_peers ({limits.max_peers}) are connected, and the rest is reserved for "
                    + (
                        "operators"
                        if own < FEW_PEERS
                        else f"operators and for uids with fewer than {FEW_PEERS} connections"
                    )
                )

        return None

    def join(self, connection: Closable, peer: Peer) -> None:
        """Add the connection of an admitted peer."""
        self._peers[connection] = peer
        if self._on_empty is not None:
            connection.close()

    def withdraw(self, admission: Peer | AdmissionDenied) -> None:
        """Forget an admission, or a denial to be explained, that led to no connection, or whose connection has ended."""
        if isinstance(admission, Peer):
            self.ended += 1
            self._admitted -= 1
            self._per_uid[admission.uid] -= 1
            if not self._per_uid[admission.uid]:
                del self._per_uid[admission.uid]

        elif admission.seconds:
            self._explaining -= 1

    def remove(self, connection: Closable) -> bool:
        """Remove a connection that has ended. Return whether it had joined."""
        peer = self._peers.pop(connection, None)
        if peer is None:
            return False

        self.withdraw(peer)
        if connection in self._readers:
            self._readers.remove(connection)
            if not self._readers:
                self._on_reported()

        if self._on_empty is not None and not self._peers:
            self._on_empty()

        return True

    def report_closed(self, peer: Peer, limit: str, reason: str) -> None:
        """Count and report a peer that is closed for its own behavior."""
        self._limited[limit] += 1
        self._on_closed(peer, reason)

    def end_views(self, on_reported: Callable[[], None]) -> None:
        """Notify the peers that received views of the daemon's end; call ``on_reported`` once all of them have ended their connections.

        They report their last hits before that.
        """
        self._on_reported = on_reported
        self._readers = {connection for connection in self._peers if connection.has_view}
        for connection in tuple(self._readers):
            connection.end_output()

        if not self._readers:
            on_reported()

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
