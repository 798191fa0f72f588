"""New callers of a key that needs a call: the first one leads its flight, later ones join it."""

from msgspec import Struct

from sidecard.core.cache.entry import Entry
from sidecard.core.effects import Effect, Send
from sidecard.core.events import Peer
from sidecard.core.flights.endings import Endings
from sidecard.core.flights.flight import Flight
from sidecard.core.flights.grants import Grants
from sidecard.core.flights.limits import TableLimits
from sidecard.core.flights.participants import Applicant
from sidecard.core.flights.serving import Serving
from sidecard.core.flights.table import Flights
from sidecard_client.protocol import wire


class NewCallers(Struct, frozen=True, eq=False):
    """Makes callers lead or join flights."""

    flights: Flights
    grants: Grants
    limits: TableLimits
    endings: Endings
    serving: Serving

    def lead(
        self, scope: str, peer: Peer, request: wire.Begin, now: float, previous: Entry | None = None
    ) -> list[Effect]:
        """Let a caller make the call of a key without a flight; if it cannot, it gets the ``previous`` answer, if any."""
        flight = None
        if request.key is not None:
            flight = self.limits.start_flight(scope, request.key, peer.uid)
            if flight is None:
                if previous is None:
                    return self.endings.reject_full(peer, request, "flights")

                return self.serving.entry_if_room(peer, request, previous, now)

        deadline = now + self.endings.wait_seconds(request)
        applicant = Applicant(flight, peer, request, request.id, now, deadline, previous=previous)
        rejection, effects = self.grants.admit(applicant, now)
        if rejection is not None:
            effects += self.serving.without_lease(applicant, rejection, now)
            if flight is not None:
                self.flights.finish(flight)

        return effects

    def join(self, flight: Flight, peer: Peer, request: wire.Begin, now: float) -> list[Effect]:
        """Let a caller wait for a flight's answer, and read its stream."""
        wait_seconds = self.endings.wait_seconds(request)
        if wait_seconds <= 0:
            return [self.endings.time_out(peer, request, 0.0)]

        if not self.limits.admits_waiter(peer.uid):
            return self.endings.reject_full(peer, request, "waiters")

        waiter = self.flights.join(flight, peer, request, now, wait_seconds)
        waiter.mark_pending()
        effects: list[Effect] = [Send(peer.id, wire.Pending(request.id))]
        if flight.stream is not None and flight.lease is not None and request.stream:
            effects += self.serving.follow(waiter, flight.lease, flight.stream, now)

        return effects
