"""What happened: the only way for the engine to learn anything.

The counterpart to events are effects (`sidecard.core.effects`).
"""

from msgspec import Struct

from sidecard_client.wire import AnyRequest


class Peer(Struct, frozen=True, gc=False):
    """One connection and whom the kernel says is at its other end, as of ``connect()``.

    ``pid`` is 0 where the peer lives in another pid namespace, so nothing is ever keyed on it.
    """

    id: int
    """Never used twice in one run of the daemon."""
    uid: int
    gid: int
    pid: int
    operator: bool


class RequestReceived(Struct, frozen=True):
    """A peer has sent a well-formed request."""

    peer: Peer
    request: AnyRequest


class PeerJoined(Struct, frozen=True):
    """A connection was accepted."""

    peer: Peer


class PeerLost(Struct, frozen=True):
    """A peer's connection has ended, for whatever reason; nothing reaches it any more."""

    peer: Peer


class Tick(Struct, frozen=True):
    """The instant that `Engine.next_deadline` named has come."""


class DrainRequested(Struct, frozen=True):
    """The daemon is about to stop: no new leases, the flights in progress may end."""


class DrainExpired(Struct, frozen=True):
    """The time to drain is over: every waiter gets its end now."""


Event = RequestReceived | PeerJoined | PeerLost | Tick | DrainRequested | DrainExpired
