"""The `started` operation: record the first output of a lease's call."""

from msgspec import Struct

from sidecard.core.effects import Effect
from sidecard.core.events import Peer
from sidecard.core.flights.leases import Leases
from sidecard.core.flights.queues import Queues
from sidecard.core.flights.table import Flights
from sidecard_client.protocol import wire


class StartedOperation(Struct, frozen=True, eq=False):
    """Ends holds at first outputs."""

    flights: Flights
    leases: Leases
    queues: Queues

    def started(self, peer: Peer, request: wire.Started, now: float) -> list[Effect]:
        """Record the first output of a lease's call."""
        lease = self.flights.held(request.lease, peer)
        if lease is None:
            return self.leases.reject_stale(peer, request)

        return self.queues.first_output(lease, now)
