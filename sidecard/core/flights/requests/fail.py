"""`fail`: receive the failure of a lease, and grant another backend, elect another holder, or end the flight."""

from msgspec import UNSET, Raw, Struct, UnsetType

from sidecard.core.backends.admission import Admission
from sidecard.core.backends.breaker import NO_PAUSE, Pause, is_refusal
from sidecard.core.backends.retry_budget import RetryBudget
from sidecard.core.counters import Counters
from sidecard.core.effects import Effect, SendReply
from sidecard.core.events import Peer
from sidecard.core.flights.election import Election
from sidecard.core.flights.endings import CallFailure, Endings
from sidecard.core.flights.failures import Failures
from sidecard.core.flights.grants import Grants
from sidecard.core.flights.leases import Leases
from sidecard.core.flights.participants import Applicant, HeldLease
from sidecard.core.flights.queues import Queues
from sidecard.core.flights.streams import Streams
from sidecard.core.flights.table import Flights
from sidecard.core.replies import id_in_use
from sidecard_client.protocol import wire
from sidecard_client.protocol.nesting import nesting_problem


class FailOperation(Struct, frozen=True, eq=False):
    """Ends leases whose call has failed."""

    flights: Flights
    streams: Streams
    leases: Leases
    election: Election
    queues: Queues
    attempts: "FurtherAttempts"
    failures: Failures

    def fail(self, peer: Peer, request: wire.Fail, now: float) -> list[Effect]:
        """End a lease with a failure."""
        lease = self.flights.held(request.lease, peer)
        if lease is None:
            return self.leases.reject_stale(peer, request)

        if request.next and (
            self.flights.is_waiting(peer, request.id) or self.streams.find(peer, request.id) is not None
        ):
            return [id_in_use(peer, request)]

        backend, flight, kind, message = lease.permit.backend, lease.flight, request.kind, request.message
        failure = CallFailure(kind, message, lease.request.context, _valid_detail(request))
        if kind == "ignored" and request.answered:
            effects = self.leases.answered(lease, kind, request.usage, now, message=message).effects
            self.leases.count_not_stored(lease, request.not_stored, "invalid" if request.invalid else "other")
        else:
            pause = NO_PAUSE
            if kind == "transient" and request.retry_after_seconds:
                status = request.status if request.status is not None and is_refusal(request.status) else None
                pause = Pause(request.retry_after_seconds, status)

            result = backend.result_of_failure(request)
            effects = self.leases.unanswered(lease, kind, message, result, now, pause)

        if flight is not None:
            self.failures.remember_if_fatal(flight, lease.request.task, failure, request.ttl_seconds, now)
            effects += self.election.interrupt_stream(flight, failure, now)

        # The queue first: a full one then has room for the callers of this flight.
        effects += self.queues.permit_released(backend, now)
        continues, further = self.attempts.request(lease, request, now)
        effects += further
        if not continues:
            effects.append(SendReply(peer.id, wire.Ok(request.id)))
            invalid = kind == "ignored" and request.answered and request.invalid
            effects += self.election.continue_flight(flight, failure, now, invalid=invalid)

        return effects


def _valid_detail(request: wire.Fail) -> Raw | UnsetType:
    """Return a failure's detail; a failure whose detail must not be forwarded is still a failure."""
    detail = bytes(request.detail)
    if not detail or len(detail) > wire.MAX_DETAIL_BYTES or nesting_problem(detail) is not None:
        return UNSET

    return Raw(detail)


class FurtherAttempts(Struct, frozen=True, eq=False):
    """Lets a caller whose call has failed try again: on another backend, or after a pause."""

    flights: Flights
    grants: Grants
    admission: Admission
    retries: RetryBudget
    endings: Endings
    counters: Counters

    def request(self, lease: HeldLease, request: wire.Fail, now: float) -> tuple[bool, list[Effect]]:
        """Give the caller another lease, or let it wait for one; return whether it continues."""
        if not request.next or request.kind == "cancelled" or self.flights.draining:
            return False, []

        wait_seconds = self.endings.wait_seconds(lease.request)
        applicant = Applicant(
            lease.flight,
            lease.peer,
            lease.request,
            lease.memory_bytes,
            request.id,
            now,
            now + wait_seconds,
            first=False,
            failure=request.message,
            tried=lease.tried,
            retries=lease.retries,
            scope=lease.scope,
        )
        effects: list[Effect] = []
        names = self.admission.names(lease.request)
        if not set(names).issubset(lease.tried):
            rejection, effects = self.grants.admit(applicant, now)
            if rejection is None:
                return True, effects

        if not request.retry or request.kind != "transient":
            return False, effects

        pause_seconds = self.retries.backoff_seconds(lease.retries + 1)
        if len(set(names)) == 1:
            # With several backends, another one may be called before this one's pause has passed.
            pause_seconds = max(pause_seconds, request.retry_after_seconds or 0.0)

        if pause_seconds >= wait_seconds:
            return False, effects

        if not self.retries.withdraw(now):
            self.counters.retries_refused += 1
            return False, effects

        applicant.retry_at(now + pause_seconds)
        self.flights.apply(applicant)
        effects.append(self.grants.pending(applicant))
        return True, effects
