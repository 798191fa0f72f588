"""Elect the next holder of a flight that has lost its lease or its applicant, or end the flight."""

from typing import TypeGuard

from msgspec import UNSET, Struct

from sidecard.core.cache.freshness import FreshnessPolicy
from sidecard.core.effects import Effect
from sidecard.core.events import Peer
from sidecard.core.flights.endings import DRAINING, CallFailure, Endings, Rejection
from sidecard.core.flights.flight import Flight
from sidecard.core.flights.grants import Grants
from sidecard.core.flights.participants import Applicant, Waiter
from sidecard.core.flights.serving import Serving
from sidecard.core.flights.streams import Streams
from sidecard.core.flights.table import Flights
from sidecard.core.settings import LiveSettings

_BROKEN_STREAM = CallFailure("transient", "the stream broke: its call failed")


def _is_complete(failure: CallFailure | None) -> TypeGuard[CallFailure]:
    """Return whether a failure that may pass carries the upstream's response."""
    return failure is not None and failure.kind == "transient" and failure.detail is not UNSET


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
        failure: CallFailure,
        now: float,
        unresponsive: Peer | None = None,
        *,
        invalid: bool = False,
    ) -> list[Effect]:
        """Continue a flight whose lease ended without an answer: with the next holder, or by its end.

        ``unresponsive`` is the last holder, if its lease expired. ``invalid``: its answer was rejected by its own caller.
        A ``fatal`` failure is final for the callers that it concerns; the others go on.
        """
        if flight is None:
            return []

        effects = self.interrupt_stream(flight, failure, now)
        differ = any(not failure.concerns(waiter.request) for waiter in flight.waiters.values())
        if differ:
            concerned = [waiter for waiter in flight.waiters.values() if failure.concerns(waiter.request)]
            for waiter in concerned:
                self.flights.leave(waiter)

            effects += self.endings.fail_waiters(flight.key, concerned, failure, now)

        may_continue = invalid or differ or failure.kind in {"transient", "cancelled"}
        if may_continue and self.flights.draining:
            return effects + self._dismiss(flight, now)

        if (
            may_continue
            and flight.elections < self.settings.now.max_elections
            and self.flights.next_candidate(flight, now) is not None
        ):
            flight.count_election()
            return effects + self.elect_next(flight, now, elected=True, unresponsive=unresponsive, failure=failure)

        flight.keep_answer(unshared=failure.kind == "ignored")
        if differ:
            failure = CallFailure("ignored", "the requests that failed differ from this one outside the key")

        gone, others = self._finish(flight)
        return effects + gone + self.endings.fail_waiters(flight.key, others, failure, now)

    def elect_next(
        self,
        flight: Flight,
        now: float,
        *,
        elected: bool,
        unresponsive: Peer | None = None,
        failure: CallFailure | None = None,
    ) -> list[Effect]:
        """Admit the longest-waiting caller that can be admitted; without one, end the flight.

        ``elected``: a holder that failed by ``failure`` is replaced. See `Flights.next_candidate` for ``unresponsive``.
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
                scope=flight.scope,
            )
            rejection, admitted = self.grants.admit(applicant, now)
            effects += admitted
            if rejection is None:
                return effects

            if rejection.reason == "breaker_open" and applicant.previous is None and _is_complete(failure):
                # The failure has closed the backend: its waiters get the response that says so.
                effects += self.endings.fail_waiters(flight.key, [waiter], failure, now)
            else:
                effects += self.serving.without_lease(applicant, rejection, now)

        gone, others = self._finish(flight)
        return effects + gone + self.endings.time_out_waiters(others, now)

    def promote_next(self, applicant: Applicant, now: float) -> list[Effect]:
        """Continue the flight of an applicant that has been withdrawn."""
        if applicant.flight is None:
            return []

        if applicant.first:
            return self.elect_next(applicant.flight, now, elected=applicant.elected)

        return self.continue_flight(applicant.flight, CallFailure("transient", applicant.failure), now)

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

    def interrupt_stream(self, flight: Flight, failure: CallFailure, now: float) -> list[Effect]:
        """Discard a failed holder's stream and fail its followers.

        They have seen some of its chunks, and another holder's stream would not continue them. Those that the failure does not
        concern get one that may pass: if they ask again, they may get an answer.
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
        concerned = [waiter for waiter in waiters if failure.concerns(waiter.request)]
        others = [waiter for waiter in waiters if not failure.concerns(waiter.request)]
        effects = self.endings.fail_waiters(flight.key, concerned, failure, now)
        return effects + self.endings.fail_waiters(flight.key, others, _BROKEN_STREAM, now)

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

    def _finish(self, flight: Flight) -> tuple[list[Effect], list[Waiter]]:
        """End a flight that has no answer, and the begins of its callers that have hung up; return its other waiters."""
        waiters = self.flights.finish(flight)
        gone = [waiter for waiter in waiters if self.flights.has_hung_up(waiter.peer)]
        others = [waiter for waiter in waiters if not self.flights.has_hung_up(waiter.peer)]
        return self.endings.end_hung_up(gone), others

    def _dismiss(self, flight: Flight, now: float) -> list[Effect]:
        effects = self.dismiss_waiters(flight, now)
        self.flights.finish(flight)
        return effects
