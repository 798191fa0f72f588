"""Remove callers that leave, time out, or are lost; their flights go to the next caller."""

from collections.abc import Sequence

from msgspec import Struct

from sidecard.core import notes
from sidecard.core.counters import Counters
from sidecard.core.effects import Effect
from sidecard.core.flights.election import Election
from sidecard.core.flights.endings import CallFailure
from sidecard.core.flights.leases import Leases
from sidecard.core.flights.participants import Applicant, HeldLease, Waiter
from sidecard.core.flights.queues import Queues
from sidecard.core.flights.streams import Streams
from sidecard.core.flights.table import Flights
from sidecard_client.protocol import wire


class Departures(Struct, frozen=True, eq=False):
    """Removes waiters, applicants and holders."""

    flights: Flights
    leases: Leases
    queues: Queues
    election: Election
    streams: Streams
    counters: Counters

    def remove_waiter(self, waiter: Waiter) -> None:
        """Remove a waiter, also as the follower of a stream."""
        self.flights.leave(waiter)
        self.streams.close(waiter.follower)

    def remove_holders(
        self,
        leases: Sequence[HeldLease],
        outcome: notes.Outcome,
        kind: wire.FailureKind,
        message: str,
        now: float,
        applicants: Sequence[Applicant] = (),
    ) -> list[Effect]:
        """End leases whose calls have no outcome, and withdraw applicants; their flights go to the next caller.

        All of them end before the first election. Example: a dead process held two leases, one of them a probe. A caller
        elected for the other flight must find the probe's place free already.
        """
        for applicant in applicants:
            self.flights.withdraw(applicant, now)
            self.counters.left += applicant.first

        effects: list[Effect] = []
        for lease in leases:
            effects += self.leases.unanswered(lease, outcome, message, "nothing", now)

        for lease in leases:
            effects += self.queues.permit_released(lease.permit.backend, now)

        for applicant in applicants:
            effects += self.election.promote_next(applicant, now)

        failure = CallFailure(kind, message)
        for lease in leases:
            unresponsive = lease.peer if outcome == "expired" else None
            effects += self.election.continue_flight(lease.flight, failure, now, unresponsive)

        return effects
