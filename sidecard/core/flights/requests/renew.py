"""`renew`: keep a lease."""

from msgspec import Struct

from sidecard.core.effects import Effect, SendReply
from sidecard.core.events import Peer
from sidecard.core.flights.leases import Leases
from sidecard.core.flights.table import Flights
from sidecard_client.protocol import wire


class RenewOperation(Struct, frozen=True, eq=False):
    """Prolongs leases."""

    flights: Flights
    leases: Leases

    def renew(self, peer: Peer, request: wire.Renew, now: float) -> list[Effect]:
        """Prolong a lease. The reply has the number of callers that wait for its answer."""
        lease = self.flights.held(request.lease, peer)
        if lease is None:
            return self.leases.reject_stale(peer, request)

        self.flights.renew(lease, now)
        return [SendReply(peer.id, wire.Ok(request.id, lease.report_waiters()))]
