"""End leases: give their permits back, and bill and record their calls."""

from collections.abc import Iterable
from typing import Literal

from msgspec import Struct

from sidecard.core import notes
from sidecard.core.accounts.billing import Billing
from sidecard.core.accounts.call_records import CallRecorder
from sidecard.core.accounts.daemon_metrics import DaemonMetrics
from sidecard.core.backends.admission import Admission
from sidecard.core.backends.breaker import CallResult
from sidecard.core.backends.registry import Backends
from sidecard.core.counters import Counters
from sidecard.core.effects import Effect, EmitNote, SendReply
from sidecard.core.events import Peer
from sidecard.core.flights.participants import HeldLease
from sidecard.core.flights.table import Flights
from sidecard_client.protocol import wire

LeaseOutcome = Literal["done"] | notes.Outcome
LeaseRequest = wire.Append | wire.Complete | wire.Fail | wire.Renew


class PaidCall(Struct, frozen=True):
    """A call whose backend has answered: how long it took, its priced usage, and the effects of billing it."""

    seconds: float
    usage: wire.Usage
    effects: list[Effect]


class Leases(Struct, frozen=True, eq=False):
    """Ends leases. Exactly one method, `_end`, gives permits back."""

    flights: Flights
    admission: Admission
    backends: Backends
    billing: Billing
    metrics: DaemonMetrics
    recorder: CallRecorder
    counters: Counters

    def answered(
        self,
        lease: HeldLease,
        outcome: LeaseOutcome,
        usage: wire.Usage | None,
        now: float,
        *,
        spoken: wire.Transcript | None = None,
        message: str = "",
    ) -> PaidCall:
        """End a lease whose backend has answered; learn from the call, bill it and record it.

        ``message`` is why the outcome is not ``done``, that is, why the answer is not shared.
        """
        backend, seconds = lease.permit.backend, now - lease.granted_at
        usage = self.billing.priced(backend, usage)
        self.backends.learn(backend, seconds, usage, now)
        effects = [] if outcome == "done" else [_ended_note(lease, outcome, message)]
        effects += self._end(lease, outcome, backend.result_of_answer(seconds, usage), now, answered=True)
        effects += self.billing.bill(lease, seconds, usage, now)
        if self.recorder.enabled:
            self.recorder.record_answer(lease, seconds, usage, spoken)

        return PaidCall(seconds, usage, effects)

    def unanswered(
        self,
        lease: HeldLease,
        outcome: notes.Outcome,
        message: str,
        result: CallResult,
        now: float,
        pause_seconds: float = 0.0,
    ) -> list[Effect]:
        """End a lease whose call has no answer. ``pause_seconds`` is the pause that the backend requested."""
        effects = [_ended_note(lease, outcome, message)]
        effects += self._end(lease, outcome, result, now, pause_seconds=pause_seconds)
        self.recorder.record_failure(lease, outcome, message, now - lease.granted_at)
        return effects

    def bill_late(self, name: str, peer: Peer, usage: wire.Usage | None, now: float) -> list[Effect]:
        """Bill the answer of a lease that has ended: its backend did the work."""
        late = self.flights.take_ended(name, peer)
        if late is None:
            return []

        priced = self.billing.priced(late.permit.backend, usage)
        return self.billing.bill(late, now - late.granted_at, priced, now)

    def reject_stale(self, peer: Peer, request: LeaseRequest) -> list[Effect]:
        """Reject a message whose lease is not current."""
        self.counters.stale_leases += 1
        note = notes.StaleLeaseRefused(type(request).__name__.lower(), request.lease, peer.id)
        return [SendReply(peer.id, wire.StaleLease(request.id)), EmitNote(note)]

    def _end(
        self,
        lease: HeldLease,
        outcome: LeaseOutcome,
        result: CallResult,
        now: float,
        *,
        answered: bool = False,
        pause_seconds: float = 0.0,
    ) -> Iterable[Effect]:
        self.flights.end_lease(lease, answered=answered)
        if outcome == "done":
            self.counters.completed += 1
        else:
            self.counters.end_without_answer(outcome)

        permit = lease.permit
        if permit.reserved:
            self.admission.release_reservation(permit)

        self.metrics.count_lease(permit.backend.name, outcome)
        return map(EmitNote, permit.backend.release(permit, result, now, pause_seconds))


def _ended_note(lease: HeldLease, outcome: notes.Outcome, message: str) -> Effect:
    key = None if lease.flight is None else lease.flight.key
    return EmitNote(notes.LeaseEnded(outcome, key, lease.name, lease.backend, lease.peer.id, lease.peer.pid, message))
