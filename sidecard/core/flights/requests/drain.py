"""The drain before the daemon stops: no new leases, then an answer for every waiter."""

from sidecard.core.effects import Effect, EmitNote
from sidecard.core.flights.election import Election
from sidecard.core.flights.endings import DRAINING
from sidecard.core.flights.streams import Streams
from sidecard.core.flights.table import Flights
from sidecard.core.notes import DrainStarted


class DrainOperation:
    """Starts and ends a drain."""

    def __init__(self, flights: Flights, election: Election, streams: Streams) -> None:
        self._flights = flights
        self._election = election
        self._streams = streams

    def start(self, now: float) -> list[Effect]:
        """Grant no new leases from now on; reject the callers that wait for one."""
        effects: list[Effect] = [EmitNote(DrainStarted(len(self._flights), self._flights.waiter_count))]
        self._flights.draining = True
        for applicant in self._flights.applicants():
            self._flights.withdraw(applicant)
            effects += self._election.reject_applicant(applicant, DRAINING, now)

        return effects

    def expire(self, now: float) -> list[Effect]:
        """Reject every waiter, and end every reader of a whole answer."""
        effects = [effect for flight in self._flights for effect in self._election.dismiss_waiters(flight, now)]
        for reader in self._streams.whole_answers():
            self._streams.close(reader)
            effects.append(DRAINING.reply(reader.peer, reader.request_id))

        return effects
