"""The loss of a peer: its begins are dropped, its leases count as lost."""

from msgspec import Struct

from sidecard.core.counters import Counters
from sidecard.core.effects import Effect
from sidecard.core.events import Peer
from sidecard.core.flights.departures import Departures
from sidecard.core.flights.leases import HungCalls
from sidecard.core.flights.store.lookups import Lookups
from sidecard.core.flights.store.writes import StoreUpdates
from sidecard.core.flights.streams import Streams
from sidecard.core.flights.table import Flights


class DisconnectOperation(Struct, frozen=True, eq=False):
    """Forgets lost peers."""

    flights: Flights
    streams: Streams
    departures: Departures
    lookups: Lookups
    writes: StoreUpdates
    counters: Counters
    hung_calls: HungCalls

    def peer_lost(self, peer: Peer, now: float) -> list[Effect]:
        """Remove all that belongs to a lost peer; its flights go to the next callers."""
        waiters, applicants, leases = self.flights.of_peer(peer)
        for waiter in waiters:
            # Before its leases end: a peer that waits for its own flight must not be elected.
            self.flights.leave(waiter)
            self.counters.left += 1

        message = "the connection of the process that made this call has ended"
        effects = self.departures.remove_holders(leases, "lost", "transient", message, now, applicants)
        self.lookups.peer_lost(peer)
        self.writes.peer_lost(peer)
        self.streams.lose(peer)
        self.hung_calls.peer_lost(peer)
        self.flights.forget(peer)
        return effects
