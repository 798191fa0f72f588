"""`append`: receive the next chunk of a streamed answer."""

from msgspec import Struct

from sidecard.core.effects import Effect
from sidecard.core.events import Peer
from sidecard.core.flights.election import Election
from sidecard.core.flights.endings import CallFailure
from sidecard.core.flights.leases import Leases
from sidecard.core.flights.participants import HeldLease
from sidecard.core.flights.queues import Queues
from sidecard.core.flights.serving import Serving
from sidecard.core.flights.streams import MAX_STREAM_BYTES, SharedStream, Streams
from sidecard.core.flights.table import Flights
from sidecard.core.replies import error, reject_value
from sidecard_client.protocol import wire
from sidecard_client.protocol.nesting import MAX_PIECE_DEPTH, nesting_problem


class AppendOperation(Struct, frozen=True, eq=False):
    """Adds chunks to streams and sends them to the followers."""

    flights: Flights
    leases: Leases
    streams: Streams
    serving: Serving
    election: Election
    queues: Queues

    def append(self, peer: Peer, request: wire.Append, now: float) -> list[Effect]:
        """Add a chunk and send it to all followers of the stream."""
        lease = self.flights.held(request.lease, peer)
        if lease is None:
            return self.leases.reject_stale(peer, request)

        if not lease.request.stream:
            text = "append is for the lease of a begin with stream: send this answer by complete"
            return [error(peer, request, "bad_request", text)]

        chunk = bytes(request.chunk)
        problem = nesting_problem(chunk, MAX_PIECE_DEPTH)
        if problem is not None:
            return [reject_value(peer, request, problem)]

        self.flights.progressed(lease, now)
        effects = self._add(lease, peer, chunk, now)
        if request.output:
            effects += self.queues.first_output(lease, now)

        return effects

    def _add(self, lease: HeldLease, peer: Peer, chunk: bytes, now: float) -> list[Effect]:
        flight = lease.flight
        if flight is None:
            return []

        stream = flight.stream
        if stream is None:
            stream = flight.start_stream(self.streams.hold(SharedStream(peer.uid)))

        if not self.streams.append(stream, chunk):
            # The holder goes on without sharing; callers that have seen no chunk make their own calls.
            limit_bytes = self.streams.limit_bytes
            text = (
                f"the stream is too long to share: the limit is {MAX_STREAM_BYTES} bytes for one stream "
                f"and {limit_bytes} bytes for all"
            )
            lease.detach()
            return self.election.continue_flight(flight, CallFailure("ignored", text), now)

        effects: list[Effect] = []
        for waiter in flight.waiters.values():
            if waiter.request.stream:
                effects += self.serving.follow(waiter, lease, stream, now)

        return effects
