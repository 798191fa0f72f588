"""The drain before the daemon stops: no new leases, then a reply to every waiter."""

from msgspec import Struct

from sidecard.core.effects import Effect, EmitNote
from sidecard.core.flights.election import Election
from sidecard.core.flights.endings import DRAINING
from sidecard.core.flights.streams import Streams
from sidecard.core.flights.table import Flights
from sidecard.core.notes import DrainStarted


class DrainOperation(Struct, frozen=True, eq=False):
    """Starts and ends a drain."""

    flights: Flights
    election: Election
    streams: Streams

    def start(self, now: float) -> list[Effect]:
        """Grant no new leases from now on; reject the callers that wait for one."""
        effects: list[Effect] = [EmitNote(DrainStarted(len(self.flights), self.flights.waiter_count))]
        self.flights.draining = True
        for applicant in self.flights.applicants():
            self.flights.withdraw(applicant, now)
            effects += self.election.reject_applicant(applicant, DRAINING, now)

        return effects

    def expire(self, now: float) -> list[Effect]:
        """Reject every waiter, and end every follower of a whole answer."""
        effects = [effect for flight in self.flights for effect in self.election.dismiss_waiters(flight, now)]
        for follower in self.streams.whole_answers():
            self.streams.close(follower)
            effects.append(DRAINING.reply(follower.peer, follower.request_id))

        return effects
