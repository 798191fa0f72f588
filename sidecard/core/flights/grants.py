"""Grant leases.

A lease requires a permit from a backend. The caller next in line for a lease is an *applicant*. `Grants.admit` gives it the
lease, queues it on every backend whose only obstacle is a lack of room, or returns why neither is possible.
"""

from msgspec import Struct, structs

from sidecard.core.accounts.call_records import CallRecorder
from sidecard.core.accounts.ledger import TaskLedgers
from sidecard.core.backends.admission import Admission, Decision
from sidecard.core.backends.backend import Backend, Permit
from sidecard.core.backends.equivalents import Choice
from sidecard.core.backends.prefix_policy import NO_PATIENCE, Patience, patience_of
from sidecard.core.backends.registry import Backends
from sidecard.core.backends.retry_budget import RetryBudget
from sidecard.core.counters import Counters
from sidecard.core.effects import Effect, EmitNote, SendReply
from sidecard.core.flights.endings import TABLE_FULL, Endings, Rejection
from sidecard.core.flights.limits import TableLimits
from sidecard.core.flights.participants import Applicant, HeldLease, SharedPermit
from sidecard.core.flights.serving import WOULD_WAIT, Serving
from sidecard.core.flights.table import Flights
from sidecard.core.notes import QueueFull, Reelected
from sidecard.core.settings import LiveSettings
from sidecard_client.protocol import wire

MAX_TOGETHER = 1024
"""Waiting begins of a batch that get leases at the same moment: some 15 ms of work. The rest keep their place in the queue."""


class LeaseReplies(Struct, frozen=True, eq=False):
    """Books granted leases and makes their replies."""

    settings: LiveSettings
    serving: Serving
    counters: Counters
    ledgers: TaskLedgers
    recorder: CallRecorder

    def granted(self, applicant: Applicant, lease: HeldLease, decision: Decision, now: float) -> list[Effect]:
        """Book a granted lease; return its reply, and a note if it is the result of an election."""
        counters, previous, flight = self.counters, applicant.previous, applicant.flight
        counters.leases_granted += 1
        effects: list[Effect] = []
        if applicant.pending:
            self.ledgers.of(applicant.request.task, applicant.peer.uid, now).waits.observe(now - applicant.joined_at)

        if applicant.first:
            counters.leases_first += 1
            if flight is not None:
                ledger = self.ledgers.of(applicant.request.task, applicant.peer.uid, now)
                ledger.led += 1
                ledger.used_at = now
                if applicant.elected:
                    counters.reelections += 1
                    effects.append(EmitNote(Reelected(flight.key, lease.name, lease.peer.id, flight.elections)))

        elif applicant.tried:
            counters.next_backends += 1
        else:
            counters.retries += 1

        # Holders renew every third of the lifetime that they are sent.
        settings = self.settings.now
        expires_in_seconds = settings.lease_seconds
        if settings.renew_seconds is not None:
            expires_in_seconds = min(expires_in_seconds, 3 * settings.renew_seconds)

        reply = wire.Lease(
            applicant.reply_id,
            lease.name,
            lease.backend,
            expires_in_seconds,
            lease.attempt,
            decision.route,
            decision.obstacles,
            self.recorder.prompts,
            prefix=lease.permit.use is not None and lease.permit.reports_output,
        )
        if lease.request.wanted:
            waiters, idle_seconds = lease.report_waiters(), settings.idle_seconds
            reply = structs.replace(reply, waiters=waiters, idle_seconds=idle_seconds)

        if previous is not None:
            counters.early_refreshes += lease.early_refresh
            counters.stale_given += not lease.early_refresh
            value, age_seconds, backend = self.serving.answer_fields(previous, now)
            reply = structs.replace(reply, stale_value=value, stale_age_seconds=age_seconds, stale_backend=backend)

        effects.append(SendReply(lease.peer.id, reply))
        return effects


class Grants(Struct, frozen=True, eq=False):
    """Gives leases to applicants, or lets them queue for permits."""

    flights: Flights
    admission: Admission
    backends: Backends
    retries: RetryBudget
    limits: TableLimits
    endings: Endings
    replies: LeaseReplies

    def admit(self, applicant: Applicant, now: float) -> tuple[Rejection | None, list[Effect]]:
        """Give an applicant its lease, or let it queue for a permit; return why, if neither is possible."""
        request = applicant.request
        if not self.limits.admits_lease(applicant.peer.uid):
            return TABLE_FULL, self.limits.note_full("leases")

        names = self.admission.names(request)
        if applicant.tried:
            names = tuple(name for name in names if name not in applicant.tried)

        if request.batch:
            shared = self.flights.shared_permit(applicant.peer, request.batch)
            if shared is not None and shared[0] in names and self.admission.may_share(request.task, shared[1]):
                return None, self._share(applicant, shared, Decision(self.admission.route(request)), now)

        patience = self._patience(applicant, now) if request.prefix else NO_PATIENCE
        decision, effects = self.admission.decide(request, names, applicant.flow, now, applicant.scope, patience)
        if decision.chosen is not None:
            return None, effects + self.grant(applicant, decision.chosen, decision, now)

        if decision.queues and applicant.deadline > now:
            return self._wait(applicant, decision, now, effects)

        if decision.reason == "saturated" and not decision.queues:
            self.limits.count("max_queue")

        for name in decision.obstacles:
            effects += self._note_full_queue(self.backends.of(name))

        return Rejection(decision.reason, decision.retry_after_seconds, decision.obstacles, decision.status), effects

    def grant(self, applicant: Applicant, choice: Choice, decision: Decision, now: float) -> list[Effect]:
        """Give an applicant a lease on a backend that admits; so do others of its batch that wait."""
        name, backend = choice
        permit = self.admission.acquire(backend, applicant.request.task, now)
        if backend.affinity is not None:
            backend.use_prompt(permit, applicant.scope, applicant.request, applicant.peer.uid, now)

        effects = self._give(applicant, name, permit, decision, now)
        batch = applicant.request.batch
        if batch:
            for other in self.flights.applicants_of_batch(applicant.peer, batch, MAX_TOGETHER - 1):
                if not (permit.may_grow and self.limits.admits_lease(other.peer.uid)):
                    break

                allowed = name in self.admission.names(other.request) and name not in other.tried
                if allowed and other.deadline > now and self.admission.may_share(other.request.task, permit):
                    self.flights.withdraw(other, now)
                    effects += self._share(other, (name, permit), decision, now)

        return effects

    def _patience(self, applicant: Applicant, now: float) -> Patience:
        """Return how long a caller may be held for a prefix."""
        if not applicant.patient or applicant.previous is not None:
            return NO_PATIENCE

        if applicant.first and not self.limits.admits_waiter(applicant.peer.uid):
            return NO_PATIENCE

        return patience_of(applicant.held_since, applicant.deadline, now)

    def _share(self, applicant: Applicant, shared: SharedPermit, decision: Decision, now: float) -> list[Effect]:
        name, permit = shared
        permit.share()
        return self._give(applicant, name, permit, decision, now)

    def _give(self, applicant: Applicant, backend: str, permit: Permit, decision: Decision, now: float) -> list[Effect]:
        lease = self.flights.grant(applicant, backend, permit, now)
        if applicant.first:
            self.retries.deposit(now)

        return self.replies.granted(applicant, lease, decision, now)

    def pending(self, applicant: Applicant) -> SendReply:
        """Send `Pending` to an applicant."""
        applicant.mark_pending()
        return SendReply(applicant.peer.id, wire.Pending(applicant.reply_id))

    def set_alarm(self, backend: Backend, now: float) -> None:
        """Set the timer of a backend whose queue may move by time alone."""
        wakes_at = backend.wakes_at(now)
        if wakes_at is None or wakes_at == float("inf"):
            self.flights.timers.clear(backend)
        else:
            self.flights.timers.set(backend, wakes_at)

    def _wait(
        self, applicant: Applicant, decision: Decision, now: float, effects: list[Effect]
    ) -> tuple[Rejection | None, list[Effect]]:
        if applicant.previous is not None:
            return WOULD_WAIT, effects

        if applicant.first and not self.limits.admits_waiter(applicant.peer.uid):
            return TABLE_FULL, effects + self.limits.note_full("waiters")

        self._queue(applicant, decision.queues, now)
        if not applicant.pending:
            effects.append(self.pending(applicant))

        return None, effects

    def _queue(self, applicant: Applicant, choices: tuple[Choice, ...], now: float) -> None:
        for choice in choices:
            choice[1].queue_full_noted = False
            applicant.enqueue(choice)

        self.flights.apply(applicant)
        for _, backend in choices:
            self.set_alarm(backend, now)

    def _note_full_queue(self, backend: Backend) -> list[Effect]:
        if backend.queue_full_noted or len(backend.queue) < max(1, backend.settings.max_queue):
            return []

        backend.queue_full_noted = True
        return [EmitNote(QueueFull(backend.name, backend.settings.max_queue))]
