"""The client's side of one connection, sans-I/O: request ids, open requests, and which replies may answer them.

A request is open from `Connection.send` to its last reply or `Connection.forget`::

    send ----> unanswered ------------ any last reply -------------> (gone)
                   |                                                   ^
                   +-- Pending, Chunk --> pending -- last reply -------+
                                          |     ^
                                          +Chunk, Note

The owner of a `Connection` moves the bytes and watches the time.
"""

from typing import Protocol

from msgspec import Struct
from msgspec.structs import replace

from sidecard_client.protocol import wire
from sidecard_client.protocol.errors import ProtocolError
from sidecard_client.protocol.frames import FrameBuffer
from sidecard_client.protocol.undecodable import DECODE_ERRORS, replacement_for
from sidecard_client.protocol.wire import (
    FRAME_HEADER_BYTES,
    AnyReply,
    AnyRequest,
    Chunk,
    Error,
    Pending,
    pack,
    unpack_reply,
)

MAX_REPLY_BYTES = 2 * wire.MAX_FRAME_BYTES - 1
"""The first byte of a frame is 0 or 1, whatever limit a daemon is configured to."""


class ConnectionLost(Exception):
    """No reply will arrive over this connection. Never leaves the package; its text is the reason."""

    @property
    def reason(self) -> str:
        """The reason, as text."""
        return str(self)


class ConnectionEnded(ConnectionLost):
    """The connection has ended: the daemon has released all that belonged to it."""


class DaemonUnresponsive(ConnectionLost):
    """No reply arrived in time: the daemon hangs, or the host is overloaded."""


class InvalidReply(ConnectionLost):
    """The received bytes are not a reply to an open request."""


class NotConnected(ConnectionLost):
    """No connection could be made, or the back-off after a failure has not ended."""


class ConnectionRefused(ProtocolError):
    """The daemon closes the whole connection; ``error`` has the reason."""

    def __init__(self, error: Error) -> None:
        super().__init__(f"The daemon closed the connection ({error.code}): {error.message}")
        self.error = error


LATE_SECONDS = 1.0
"""How long a client waits for the daemon's own `wire.Timeout`, beyond its caller's ``wait``."""

RENEWALS_PER_LEASE = 3
"""How often a holder renews a lease in its lifetime: two renewals may be late before it expires."""


MIN_RENEWAL_SECONDS = 0.05


class LeaseWatcher(Protocol):
    """Notified of what happens to a held lease between two requests of its holder."""

    def wanted(self) -> None:
        """Note that another caller waits for the lease's answer. Does not block."""

    def lost(self) -> None:
        """Note that the lease has ended, or its connection. Does not block."""


class Renewal(Struct):
    """A held lease: renewed every ``every_seconds``, next at ``renew_at``."""

    lease: str
    every_seconds: float
    renew_at: float
    watcher: LeaseWatcher | None = None


def renewal_of(lease: wire.Lease, now: float, watcher: LeaseWatcher | None = None) -> Renewal:
    """Plan the renewals of a lease that was granted ``now``."""
    every_seconds = max(lease.expires_in_seconds / RENEWALS_PER_LEASE, MIN_RENEWAL_SECONDS)
    return Renewal(lease.lease, every_seconds, now + every_seconds, watcher)


def _answered_by(*kinds: type[wire.Reply]) -> frozenset[type[wire.Reply]]:
    return frozenset((*kinds, Error))


ANSWERS: dict[type[wire.Request], frozenset[type[wire.Reply]]] = {
    wire.Ping: _answered_by(wire.Pong),
    wire.Begin: _answered_by(Pending, wire.Chunk, *wire.FINAL_REPLIES_OF_BEGIN),
    wire.Append: _answered_by(wire.StaleLease),
    wire.Started: _answered_by(wire.StaleLease),
    wire.Complete: _answered_by(wire.Stored, wire.StaleLease),
    wire.Fail: _answered_by(wire.Ok, wire.StaleLease, Pending, wire.Chunk, *wire.FINAL_REPLIES_OF_BEGIN),
    wire.Renew: _answered_by(wire.Ok, wire.StaleLease),
    wire.Cancel: _answered_by(wire.Ok),
    wire.Get: _answered_by(wire.Hit, wire.Miss, wire.Failed),  # the last for an undecodable value (`undecodable`)
    wire.Put: _answered_by(wire.Stored),
    wire.Delete: _answered_by(wire.Deleted),
    wire.Purge: _answered_by(wire.Deleted),
    wire.Explain: _answered_by(wire.Explained),
    wire.GetView: _answered_by(wire.View),
    wire.RecordHits: _answered_by(),
    wire.Watch: _answered_by(Pending, wire.Note),
    wire.GetStats: _answered_by(wire.Stats),
    wire.GetReport: _answered_by(wire.Report),
    wire.GetHealth: _answered_by(wire.Health),
    wire.GetConfig: _answered_by(wire.Settings),
    wire.GetBreakers: _answered_by(wire.Breakers),
    wire.SetBreaker: _answered_by(wire.Ok),
    wire.RecordMetrics: _answered_by(wire.Recorded),
    wire.GetMetrics: _answered_by(wire.Metrics),
    wire.SetLog: _answered_by(wire.Ok),
    wire.Reload: _answered_by(wire.Reloaded),
}
"""The types of reply that a request may get."""

_AFTER_PENDING = frozenset({wire.Chunk, wire.Note, *wire.FINAL_REPLIES_OF_BEGIN})


class Connection:
    """One connection that carries any number of requests at the same time. After a `ProtocolError` it must be closed."""

    __slots__ = ("_frames", "_unanswered", "next_id", "pending", "wanted")

    def __init__(self, max_reply_bytes: int = MAX_REPLY_BYTES) -> None:
        self.pending: set[int] = set()
        """Ids of the requests whose first reply was `Pending` or a chunk of a stream."""
        self.wanted: set[str] = set()
        """Leases for whose answer another caller waits. The owner of the connection takes them out."""
        self._frames = FrameBuffer(max_reply_bytes)
        self.next_id = 1
        """The id that the next request gets. A request that has it already saves `send` a copy."""
        self._unanswered: dict[int, frozenset[type[wire.Reply]]] = {}

    def __repr__(self) -> str:
        """Show the counts."""
        return f"<Connection {len(self._unanswered)} unanswered, {len(self.pending)} pending>"

    def __len__(self) -> int:
        """Count the open requests."""
        return len(self._unanswered) + len(self.pending)

    def send(self, request: AnyRequest) -> tuple[int, bytes]:
        """Open a request. Returns its id, which replaces ``request.id``, and the bytes to send."""
        request_id = self.next_id
        self.next_id = request_id + 1
        if request.id != request_id:
            request = replace(request, id=request_id)

        payload = pack(request)
        self._unanswered[request_id] = ANSWERS[request.__class__]
        return request_id, len(payload).to_bytes(FRAME_HEADER_BYTES, "big") + payload

    def forget(self, request_id: int) -> None:
        """Close a request. Replies to it that still arrive are dropped."""
        self._unanswered.pop(request_id, None)
        self.pending.discard(request_id)

    def receive(self, data: bytes | memoryview) -> list[AnyReply]:
        """Take received bytes and return the complete replies to open requests; note every `wire.Wanted`.

        Raises `ProtocolError` for bytes that cannot be decoded, and for a reply that no open request expects;
        `ConnectionRefused` for an `Error` about the whole connection (id 0).
        """
        replies = []
        unanswered = self._unanswered
        for payload in self._frames.feed(data):
            try:
                reply = unpack_reply(payload)
            except DECODE_ERRORS as fault:
                reply = _undecodable(payload, fault)

            request_id = reply.id
            kind = reply.__class__
            expected = unanswered.get(request_id)
            if expected is not None and kind in expected:
                del unanswered[request_id]
                if kind is Pending or kind is Chunk:
                    self.pending.add(request_id)
            elif request_id in self.pending and kind in _AFTER_PENDING:
                if kind is not wire.Chunk and kind is not wire.Note:
                    self.pending.remove(request_id)

            elif isinstance(reply, wire.Wanted) and 0 < request_id < self.next_id:
                self.wanted.add(reply.lease)
                continue
            elif expected is None and 0 < request_id < self.next_id and request_id not in self.pending:
                continue  # a late reply to a closed request
            else:
                raise _unexpected(reply, expected)

            replies.append(reply)

        return replies


def _undecodable(payload: bytes | memoryview, fault: Exception) -> wire.Failed:
    # The chunks that follow an undecodable chunk of a stream find their request closed, and are dropped.
    reply = replacement_for(payload, fault)
    if reply is None:
        raise ProtocolError(f"The daemon sent a frame that is no reply: {fault}") from fault

    return reply


def _unexpected(reply: wire.Reply, expected: frozenset[type[wire.Reply]] | None) -> ProtocolError:
    if isinstance(reply, Error) and reply.id == 0:
        return ConnectionRefused(reply)

    for request, answers in ANSWERS.items():
        if answers is expected:
            return ProtocolError(f"The daemon answered {request.__name__} with {type(reply).__name__}.")

    return ProtocolError(
        f"The daemon sent a {type(reply).__name__} with the id {reply.id}, which no open request expects."
    )
