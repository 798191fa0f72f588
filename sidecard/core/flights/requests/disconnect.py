"""The loss of a peer: its begins are dropped, its leases count as lost.

A peer with thousands of them is forgotten in batches (`sidecard.core.jobs`): the end of one connection with 16,000 leases took
0.3 s. Callers that wait for its calls are served as if these had been lost one after another.
"""

from collections import deque

from msgspec import Struct, field

from sidecard.core.counters import Counters
from sidecard.core.effects import Effect
from sidecard.core.events import Peer
from sidecard.core.flights.departures import Departures
from sidecard.core.flights.leases import HungCalls
from sidecard.core.flights.store.lookups import Lookups
from sidecard.core.flights.store.writes import StoreUpdates
from sidecard.core.flights.streams import Streams
from sidecard.core.flights.table import Flights

MAX_AT_ONCE = 256
"""Leases and applicants of a lost peer that end at once, all before the first election (`Departures.remove_holders`)."""

BATCH = 32
"""Those of a batch: 1 ms, with a note for each lease."""

WAITERS_PER_CALLER = 16
"""A waiter is removed in a fraction of the time: no other caller is elected for it."""


class DisconnectOperation(Struct, frozen=True, eq=False):
    """Forgets lost peers."""

    flights: Flights
    streams: Streams
    departures: Departures
    lookups: Lookups
    writes: StoreUpdates
    counters: Counters
    hung_calls: HungCalls

    lost: deque[Peer] = field(default_factory=deque)
    """Lost peers that still have leases or waiting requests to be removed."""

    def peer_lost(self, peer: Peer, now: float) -> list[Effect]:
        """Remove all that belongs to a lost peer, or leave most of it to batches; its flights go to the next callers."""
        self.lost.append(peer)
        return self._remove(peer, now, MAX_AT_ONCE)

    @property
    def has_work(self) -> bool:
        """Whether a lost peer still has something."""
        return bool(self.lost)

    def do_batch(self, now: float) -> list[Effect]:
        """Remove a batch of what belongs to the peer that was lost first."""
        return self._remove(self.lost[0], now, BATCH)

    def _remove(self, peer: Peer, now: float, limit: int) -> list[Effect]:
        """Remove up to ``limit`` waiters, or callers with a lease or a place in a queue; forget a peer with none.

        1. Waiters, or the peer would be elected for its own flights.
        2. Applicants, or they would get the permits of the peer's leases.
        3. Leases.
        """
        waiters, applicants, leases = self.flights.of_peer(peer)
        for waiter in waiters[: WAITERS_PER_CALLER * limit]:
            self.departures.remove_waiter(waiter)
            self.counters.left += 1

        if len(waiters) > WAITERS_PER_CALLER * limit:
            return []

        message = "the connection of the process that made this call has ended"
        leases = leases[: max(0, limit - len(applicants))]
        applicants = applicants[:limit]
        effects = self.departures.remove_holders(leases, "lost", "transient", message, now, applicants)
        if any(self.flights.of_peer(peer)):
            return effects

        self.lost.remove(peer)
        self.lookups.peer_lost(peer)
        self.writes.peer_lost(peer)
        self.streams.lose(peer)
        self.hung_calls.peer_lost(peer)
        self.flights.forget(peer)
        return effects
