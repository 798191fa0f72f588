"""Elect the next holder of a flight that has lost its lease or its applicant, or end the flight."""

from msgspec import Struct

from sidecard.core.cache.freshness import FreshnessPolicy
from sidecard.core.effects import Effect
from sidecard.core.events import Peer
from sidecard.core.flights.endings import DRAINING, Endings, Rejection
from sidecard.core.flights.flight import Flight
from sidecard.core.flights.grants import Grants
from sidecard.core.flights.participants import Applicant, Waiter
from sidecard.core.flights.serving import Serving
from sidecard.core.flights.streams import Streams
from sidecard.core.flights.table import Flights
from sidecard.core.settings import LiveSettings
from sidecard_client.protocol.wire import FailureKind


class Election(Struct, frozen=True, eq=False):
    """Decides which caller computes a flight next."""

    settings: LiveSettings
    flights: Flights
    grants: Grants
    streams: Streams
    serving: Serving
    freshness: FreshnessPolicy
    endings: Endings

    def continue_flight(
        self,
        flight: Flight | None,
        kind: FailureKind,
        message: str,
        now: float,
        unresponsive: Peer | None = None,
        *,
        invalid: bool = False,
    ) -> list[Effect]:
        """Continue a flight whose lease ended without an answer: with the next holder, or by its end.

        ``unresponsive`` is the last holder, if its lease expired. ``invalid``: its answer was rejected by its own caller.
        """
        if flight is None:
            return []

        effects = self.interrupt_stream(flight, kind, message, now)
        may_continue = invalid or kind in {"transient", "cancelled"}
        if may_continue and self.flights.draining:
            return effects + self._dismiss(flight, now)

        if (
            may_continue
            and flight.elections < self.settings.now.max_elections
            and self.flights.next_candidate(flight, now) is not None
        ):
            flight.count_election()
            return effects + self.elect_next(flight, now, elected=True, unresponsive=unresponsive)

        flight.keep_answer(unshared=kind == "ignored")
        return effects + self.endings.fail_waiters(flight.key, self.flights.finish(flight), kind, message, now)

    def elect_next(
        self, flight: Flight, now: float, *, elected: bool, unresponsive: Peer | None = None
    ) -> list[Effect]:
        """Admit the longest-waiting caller that can be admitted; without one, end the flight.

        ``elected``: a failed holder is replaced. See `Flights.next_candidate` for ``unresponsive``.
        """
        if self.flights.draining:
            return self._dismiss(flight, now)

        effects: list[Effect] = []
        while (waiter := self.flights.next_candidate(flight, now, unresponsive)) is not None:
            self.flights.leave(waiter)
            applicant = Applicant(
                flight,
                waiter.peer,
                waiter.request,
                waiter.memory_bytes,
                waiter.request.id,
                waiter.joined_at,
                waiter.deadline,
                elected=elected,
                pending=waiter.pending,
                previous=self.freshness.find_stale(flight.scope, waiter.request, now),
            )
            rejection, admitted = self.grants.admit(applicant, now)
            effects += admitted
            if rejection is None:
                return effects

            effects += self.serving.without_lease(applicant, rejection, now)

        return effects + self.endings.time_out_waiters(self.flights.finish(flight), now)

    def promote_next(self, applicant: Applicant, now: float) -> list[Effect]:
        """Continue the flight of an applicant that has been withdrawn."""
        if applicant.flight is None:
            return []

        if applicant.first:
            return self.elect_next(applicant.flight, now, elected=applicant.elected)

        return self.continue_flight(applicant.flight, "transient", applicant.failure, now)

    def admit_again(self, applicant: Applicant, now: float) -> list[Effect]:
        """Admit an applicant that has waited, or reject it and continue its flight."""
        rejection, effects = (DRAINING, []) if self.flights.draining else self.grants.admit(applicant, now)
        return effects if rejection is None else effects + self.reject_applicant(applicant, rejection, now)

    def reject_applicant(self, applicant: Applicant, rejection: Rejection, now: float) -> list[Effect]:
        """Reject an applicant that has been withdrawn; its flight goes to the next caller."""
        peer = applicant.peer
        if applicant.first:
            reply = self.endings.reject(peer, applicant.request, rejection)
        else:
            # Its begin has been answered by an earlier lease.
            reply = rejection.reply(peer, applicant.reply_id)

        return [reply, *self.promote_next(applicant, now)]

    def interrupt_stream(self, flight: Flight, kind: FailureKind, message: str, now: float) -> list[Effect]:
        """Discard a failed holder's stream and fail its followers.

        They have seen some of its chunks, and another holder's stream would not continue them.
        """
        if flight.stream is None:
            return []

        self.streams.drop(flight.stream)
        flight.end_stream()
        waiters = [waiter for waiter in flight.waiters.values() if waiter.follower is not None]
        for waiter in waiters:
            self.flights.leave(waiter)
            self.streams.close(waiter.follower)

        self.streams.broken += len(waiters)
        return self.endings.fail_waiters(flight.key, waiters, kind, message, now)

    def serve_stale(self, flight: Flight, now: float, exclude: Waiter | None = None) -> list[Effect]:
        """Serve the stale entry to all waiters that accept it, except ``exclude``, the next holder."""
        effects: list[Effect] = []
        for waiter in [waiter for waiter in flight.waiters.values() if waiter is not exclude]:
            entry = self.freshness.find_stale(flight.scope, waiter.request, now)
            if entry is not None:
                self.flights.leave(waiter)
                effects += self.serving.entry_if_room(waiter.peer, waiter.request, entry, now, stale=True)

        return effects

    def dismiss_waiters(self, flight: Flight, now: float) -> list[Effect]:
        """Reject all waiters of a flight, because the daemon is stopping."""
        waiters = self.flights.release(flight)
        for waiter in waiters:
            self.streams.close(waiter.follower)

        return self.endings.reject_waiters(waiters, DRAINING, now)

    def _dismiss(self, flight: Flight, now: float) -> list[Effect]:
        effects = self.dismiss_waiters(flight, now)
        self.flights.finish(flight)
        return effects
