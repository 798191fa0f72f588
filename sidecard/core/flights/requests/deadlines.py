"""The tick: handle every timer that is due."""

from msgspec import Struct

from sidecard.core.backends.backend import Backend
from sidecard.core.cache.memory import MemoryCache
from sidecard.core.effects import Effect
from sidecard.core.flights.departures import Departures
from sidecard.core.flights.endings import Endings
from sidecard.core.flights.flight import Flight
from sidecard.core.flights.leases import HungCalls
from sidecard.core.flights.participants import Applicant, HeldLease, Waiter
from sidecard.core.flights.queues import MAX_AT_ONCE, Queues
from sidecard.core.flights.store.lookups import Lookups
from sidecard.core.flights.store.status import PendingRemoval
from sidecard.core.flights.store.writes import StoreUpdates
from sidecard.core.flights.table import Flights

MAX_DUE = 512
"""Items of one tick, which take about 2 ms: thousands of waiters may have the same deadline. The next tick is due at once."""


class DeadlineOperation(Struct, frozen=True, eq=False):
    """Handles the timers of all kinds of items."""

    flights: Flights
    hung_calls: HungCalls
    departures: Departures
    queues: Queues
    endings: Endings
    lookups: Lookups
    writes: StoreUpdates
    cache: MemoryCache

    def tick(self, now: float) -> list[Effect]:  # noqa: C901 - one case for each kind of item
        """Handle what is due, up to `MAX_DUE` items."""
        effects: list[Effect] = []
        timers = self.flights.timers
        for _ in range(MAX_DUE):
            due = timers.pop_due(now)
            if due is None:
                break

            match due:
                case Waiter() if due.deadline > now:
                    # A chunk has moved the deadline since.
                    timers.set(due, due.deadline)
                case Waiter():
                    self.departures.remove_waiter(due)
                    effects += self.endings.time_out_waiters([due], now)
                case Applicant():
                    effects += self.queues.applicant_due(due, now)
                case Backend():
                    effects += self.queues.permit_released(due, now)
                    if len(effects) >= MAX_AT_ONCE:
                        break  # it may be due again at once
                case Flight():
                    effects += self.lookups.flight_due(due, now)
                case PendingRemoval():
                    effects += self.writes.removal_due(due)
                case HeldLease():
                    effects += self._expire(due, now)

        self.cache.expire(now)
        return effects

    def _expire(self, lease: HeldLease, now: float) -> list[Effect]:
        due_at = self.flights.due_at(lease)
        if due_at > now:
            # A chunk has moved the end since.
            self.flights.timers.set(lease, due_at)
            return []

        message = self.hung_calls.expired(lease, now)
        return self.departures.remove_holders([lease], "expired", "transient", message, now)
