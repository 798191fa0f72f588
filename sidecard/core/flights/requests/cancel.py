"""`cancel`: withdraw a waiting begin, or the lease that it has just led to."""

from msgspec import Struct

from sidecard.core.counters import Counters
from sidecard.core.effects import Effect, SendReply
from sidecard.core.events import Peer
from sidecard.core.flights.departures import Departures
from sidecard.core.flights.participants import Waiter
from sidecard.core.flights.streams import Streams
from sidecard.core.flights.table import Flights
from sidecard_client.protocol import wire


class CancelOperation(Struct, frozen=True, eq=False):
    """Removes callers that withdraw their begin."""

    flights: Flights
    streams: Streams
    departures: Departures
    counters: Counters

    def cancel(self, peer: Peer, request: wire.Cancel, now: float) -> list[Effect]:
        """Remove everything that the begin with the ``target`` id has led to."""
        effects: list[Effect] = [SendReply(peer.id, wire.Ok(request.id))]
        waiting = self.flights.waiting(peer, request.target)
        if isinstance(waiting, Waiter):
            self.departures.remove_waiter(waiting)
            self.counters.left += 1
            return effects

        applicants, leases = self.flights.of_request(peer, request.target)
        if waiting is None:
            # The follower of a whole answer, if there is one; its begin was counted when the answer was found.
            self.streams.close(self.streams.find(peer, request.target))
        else:
            applicants = [waiting]

        message = "the caller canceled its begin"
        return effects + self.departures.remove_holders(leases, "cancelled", "cancelled", message, now, applicants)
