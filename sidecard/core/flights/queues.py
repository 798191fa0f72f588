"""Serve the backends' queues: whenever a permit returns, a breaker changes, or time alone makes room."""

from typing import Final

from msgspec import Struct

from sidecard.core.backends.admission import Admission, Decision
from sidecard.core.backends.backend import Backend
from sidecard.core.backends.equivalents import Choice
from sidecard.core.backends.registry import Backends
from sidecard.core.effects import Effect, EmitNote, SendReply
from sidecard.core.flights.election import Election
from sidecard.core.flights.endings import TABLE_FULL, Endings
from sidecard.core.flights.grants import Grants
from sidecard.core.flights.limits import TableLimits
from sidecard.core.flights.participants import Applicant, HeldLease
from sidecard.core.flights.table import Flights
from sidecard_client.protocol import wire

MAX_AT_ONCE: Final = 32
"""Effects of serving a queue, or one batch: at most 12 ms of work, if the longest prefixes of many callers are compared."""


class Queues(Struct, frozen=True, eq=False):
    """Moves applicants through the backends' queues."""

    flights: Flights
    admission: Admission
    backends: Backends
    grants: Grants
    election: Election
    limits: TableLimits
    endings: Endings

    def permit_released(self, backend: Backend, now: float) -> list[Effect]:
        """Serve a backend's queue as far as it has room; if its breaker has opened, empty the queue.

        Call this whenever a permit has returned or a breaker may have changed. Hundreds may be held for one prefix: after
        `MAX_AT_ONCE` effects, the alarm is due at once, so that other peers have their turn.
        """
        if backend.take_reclosed():
            self._enqueue_others(backend, now)

        if not backend.queue:
            return []

        effects: list[Effect] = [EmitNote(note) for note in backend.breaker.advance(now)]
        while backend.queue:
            if len(effects) >= MAX_AT_ONCE:
                self.flights.timers.set(backend, now)
                return effects

            obstacle = backend.obstacle(now)
            if obstacle == "breaker_open":
                effects += self._empty(backend, now)
                break

            if obstacle is not None:
                effects += self._offer_others(backend, now)
                break

            applicant = backend.next_caller(now)
            if applicant is None:
                break

            effects += self._serve(applicant, backend, now)

        self.grants.set_alarm(backend, now)
        return effects

    def first_output(self, lease: HeldLease, now: float) -> list[Effect]:
        """Record the first output of a lease's call; serve the callers that wait for it."""
        permit = lease.permit
        if permit.use is None or permit.affinity is None or not permit.affinity.first_output(permit.use, now):
            return []

        return self.permit_released(permit.backend, now)

    def reconsider_all(self, now: float) -> list[Effect]:
        """Serve every queue again after a change of settings."""
        effects: list[Effect] = []
        for backend in self.backends.all().values():
            if self.admission.sovereign and backend.settings.locality == "remote":
                effects += self._empty(backend, now)

            effects += self.permit_released(backend, now)

        return effects

    def applicant_due(self, applicant: Applicant, now: float) -> list[Effect]:
        """Handle an applicant's timer: its pause before a retry, or its deadline."""
        self.flights.withdraw(applicant, now)
        if now < applicant.deadline:
            applicant.retry_is_due()
            return self.election.admit_again(applicant, now)

        waited_seconds = now - applicant.joined_at
        if applicant.first:
            timeout = self.endings.time_out(applicant.peer, applicant.request, waited_seconds)
        else:
            timeout = SendReply(applicant.peer.id, wire.Timeout(applicant.reply_id, waited_seconds))

        return [timeout, *self.election.promote_next(applicant, now)]

    def _serve(self, applicant: Applicant, backend: Backend, now: float) -> list[Effect]:
        if applicant.deadline <= now:
            # As in `Flights.next_candidate`: the permit returned before the tick that would have timed the applicant out.
            return self.applicant_due(applicant, now)

        if self.admission.policy_obstacle(applicant.request.task, backend, now) is not None:
            # A budget was spent while it waited.
            return self._dequeue(applicant, backend, now)

        choice = applicant.dequeue_served(backend, now)
        self.flights.withdraw(applicant, now)
        if not self.limits.admits_lease(applicant.peer.uid):
            self.limits.count("max_leases")
            return self.election.reject_applicant(applicant, TABLE_FULL, now)

        return self.grants.grant(applicant, choice, Decision(self.admission.route(applicant.request)), now)

    def _enqueue_others(self, backend: Backend, now: float) -> None:
        """Queue applicants that wait for other backends: this backend's breaker was not closed when they applied."""
        for applicant in self.flights.applicants():
            if not applicant.queues or applicant.is_queued_at(backend):
                continue

            choice = next((choice for choice in self._not_queued(applicant) if choice[1] is backend), None)
            if (
                choice is not None
                and self.admission.has_queue_room(backend, applicant.request, applicant.flow)
                and self.admission.policy_obstacle(applicant.request.task, backend, now) is None
            ):
                applicant.enqueue(choice)

    def _offer_others(self, full: Backend, now: float) -> list[Effect]:
        """Offer callers whose hold has ended their other backends, if the one where they were held has become full."""
        effects: list[Effect] = []
        for applicant in [] if full.affinity is None else full.affinity.take_freed(now):
            others = self._not_queued(applicant) if applicant.is_queued_at(full) else []
            if others:
                applicant.wait_no_longer()

            for choice in others:
                obstacle = self.admission.obstacle(applicant.request.task, choice[1], now)
                if obstacle is None:
                    effects += self.applicant_due(applicant, now)
                    break

                # Two names may share `OTHER_BACKENDS`.
                if (
                    obstacle == "saturated"
                    and not applicant.is_queued_at(choice[1])
                    and self.admission.has_queue_room(choice[1], applicant.request, applicant.flow)
                ):
                    applicant.enqueue(choice)
                    self.grants.set_alarm(choice[1], now)

        return effects

    def _not_queued(self, applicant: Applicant) -> list[Choice]:
        """Return the backends that a caller named, has not tried, and does not wait for."""
        names = [name for name in self.admission.names(applicant.request) if name not in applicant.tried]
        named = [(name, self.backends.of(name)) for name in names]
        return [choice for choice in named if not applicant.is_queued_at(choice[1])]

    def _empty(self, backend: Backend, now: float) -> list[Effect]:
        effects: list[Effect] = []
        for applicant in list(backend.queue):
            # A rejected applicant's flight goes to its next caller, whose admission may have changed the queue.
            if applicant.is_queued_at(backend):
                effects += self._dequeue(applicant, backend, now)

        return effects

    def _dequeue(self, applicant: Applicant, backend: Backend, now: float) -> list[Effect]:
        """Remove an applicant from one queue; if it was the last, choose among all backends again."""
        applicant.dequeue(backend, now)
        return [] if applicant.queues else self.applicant_due(applicant, now)
