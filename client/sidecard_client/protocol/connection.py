"""The client's side of one multiplexed connection: ids, which requests are open, and what may answer them. Sans-I/O.

A request is open from `Connection.send` until its last reply or `Connection.forget`::

    send ----> unanswered ------------ any last reply -------------> (gone)
                   |                                                   ^
                   +-- Pending, Chunk --> pending -- last reply -------+
                                          |     ^
                                          +Chunk, Note

Whoever owns the connection moves the bytes and watches the time; nothing here waits or knows a clock.
"""

from msgspec.structs import replace

from sidecard_client.protocol import wire
from sidecard_client.protocol.errors import ProtocolError
from sidecard_client.protocol.frames import FrameBuffer, frame
from sidecard_client.protocol.undecodable import PIECES, UNREADABLE, VALUES, instead_of
from sidecard_client.protocol.wire import AnyReply, AnyRequest, Error, Pending, pack, unpack_reply

MAX_REPLY_BYTES = 2 * wire.MAX_FRAME_BYTES - 1
"""The first byte of a frame is 0 or 1, whatever limit a daemon is configured to."""


class ConnectionLost(Exception):
    """No reply will arrive over this connection. Never leaves the package; its text is the reason."""

    @property
    def reason(self) -> str:
        """Say why."""
        return str(self)


class ConnectionEnded(ConnectionLost):
    """The connection has ended or could not be made, so the daemon holds nothing for it."""


class DaemonUnresponsive(ConnectionLost):
    """No reply came in time: the daemon hangs, or the host is overloaded."""


class InvalidReply(ConnectionLost):
    """The received bytes are no reply to any open request."""


def _answered_by(*kinds: type[wire.Reply]) -> frozenset[type[wire.Reply]]:
    return frozenset((*kinds, Error))


ANSWERS: dict[type[wire.Request], frozenset[type[wire.Reply]]] = {
    wire.Ping: _answered_by(wire.Pong),
    wire.Begin: _answered_by(Pending, wire.Chunk, *wire.FINAL_REPLIES_OF_BEGIN),
    wire.Append: _answered_by(wire.StaleLease),
    wire.Complete: _answered_by(wire.Stored, wire.StaleLease),
    wire.Fail: _answered_by(wire.Ok, wire.StaleLease, Pending, wire.Chunk, *wire.FINAL_REPLIES_OF_BEGIN),
    wire.Renew: _answered_by(wire.Ok, wire.StaleLease),
    wire.Cancel: _answered_by(wire.Ok),
    wire.Get: _answered_by(wire.Hit, wire.Miss, wire.Failed),  # the last where the value cannot be read (`unreadable`)
    wire.Put: _answered_by(wire.Stored),
    wire.Delete: _answered_by(wire.Deleted),
    wire.Purge: _answered_by(wire.Deleted),
    wire.Explain: _answered_by(wire.Explained),
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
"""Which replies a request may get. Anything else is the daemon's fault."""


_AFTER_PENDING = frozenset({wire.Chunk, wire.Note, *wire.FINAL_REPLIES_OF_BEGIN})


class Connection:
    """One connection that carries any number of requests at once. After a `ProtocolError` it must be closed."""

    __slots__ = ("_frames", "_last_id", "_unanswered", "pending")

    def __init__(self, max_reply_bytes: int = MAX_REPLY_BYTES) -> None:
        self.pending: set[int] = set()
        """Ids of the requests whose first answer was `Pending` or a piece of a stream."""
        self._frames = FrameBuffer(max_reply_bytes)
        self._last_id = 0
        self._unanswered: dict[int, frozenset[type[wire.Reply]]] = {}

    def __repr__(self) -> str:
        """Show the counts."""
        return f"<Connection {len(self._unanswered)} unanswered, {len(self.pending)} pending>"

    def __len__(self) -> int:
        """Count the open requests."""
        return len(self._unanswered) + len(self.pending)

    def next_id(self) -> int:
        """Return the id that the next request gets; its own ``id`` may be that one, which saves `send` a copy."""
        return self._last_id + 1

    def send(self, request: AnyRequest) -> tuple[int, bytes]:
        """Open a request; returns the id that it got (whatever its own was) and the bytes to be sent."""
        self._last_id = request_id = self._last_id + 1
        if request.id != request_id:
            request = replace(request, id=request_id)

        payload = pack(request)
        self._unanswered[request_id] = ANSWERS[request.__class__]
        return request_id, frame(payload)

    def forget(self, request_id: int) -> None:
        """Close a request whose replies nobody wants; those that still come are dropped."""
        self._unanswered.pop(request_id, None)
        self.pending.discard(request_id)

    def receive(self, data: bytes) -> list[AnyReply]:
        """Take received bytes and return the replies to open requests that are whole now.

        Raises `ProtocolError` for bytes that are no replies, for a reply to what was never asked,
        and for an `Error` about the connection as a whole (id 0).
        """
        replies = []
        unanswered = self._unanswered
        for payload in self._frames.feed(data):
            try:
                reply = unpack_reply(payload)
            except UNREADABLE as fault:
                reply = _instead_of(payload, fault)

            request_id = reply.id
            kind = reply.__class__
            expected = unanswered.get(request_id)
            if expected is not None and kind in expected:
                del unanswered[request_id]
                if kind is Pending or kind is wire.Chunk:
                    self.pending.add(request_id)
            elif request_id in self.pending and kind in _AFTER_PENDING:
                if kind is not wire.Chunk and kind is not wire.Note:
                    self.pending.remove(request_id)

            elif expected is None and 0 < request_id <= self._last_id and request_id not in self.pending:
                continue  # a late reply to a forgotten request
            else:
                raise ProtocolError(_complaint(reply))

            replies.append(reply)

        return replies


def _instead_of(payload: bytes | memoryview, fault: Exception) -> wire.Failed:
    # What still comes of a stream after a piece that cannot be read is late by then, and dropped.
    reply = instead_of(payload, VALUES | PIECES, fault)
    if reply is None:
        raise ProtocolError(f"The daemon sent a frame that is no reply: {fault}") from fault

    return reply


def _complaint(reply: wire.Reply) -> str:
    if isinstance(reply, Error):
        return f"The daemon gave the connection up ({reply.code}): {reply.message}"

    return f"The daemon sent a {type(reply).__name__} with the id {reply.id}, which no open request expects."
