"""End leases: give their permits back, and bill and record their calls."""

from collections.abc import Iterable
from math import inf
from typing import Literal

from msgspec import Struct

from sidecard.core import notes
from sidecard.core.accounts.billing import Billing
from sidecard.core.accounts.call_records import CallRecorder
from sidecard.core.accounts.daemon_metrics import DaemonMetrics
from sidecard.core.accounts.ledger import FAILURES, known_reason
from sidecard.core.backends.admission import Admission
from sidecard.core.backends.breaker import NO_PAUSE, CallResult, Pause
from sidecard.core.backends.registry import Backends
from sidecard.core.counters import Counters
from sidecard.core.effects import Effect, EmitNote, SendReply
from sidecard.core.events import Peer
from sidecard.core.flights.participants import HeldLease
from sidecard.core.flights.table import Flights
from sidecard.core.settings import LiveSettings
from sidecard_client.protocol import wire
from sidecard_client.protocol.values import NotStoredReason

LeaseOutcome = Literal["done"] | notes.Outcome
LeaseRequest = wire.Append | wire.Started | wire.Complete | wire.Fail | wire.Renew


MAX_REMEMBERED = 64
"""The oldest is forgotten first."""

MAX_REPORTED = 32
LONG_SHARE = 0.5
"""Share of ``flights.max_call_seconds`` after which a call in progress is reported."""
_MAX_SENTENCES = 4


class PaidCall(Struct, frozen=True):
    """A call whose backend has answered: how long it took, its priced usage, and the effects of billing it.

    Of a batch, ``seconds`` is the lease's share.
    """

    seconds: float
    usage: wire.Usage
    effects: list[Effect]


class HungCalls(Struct, frozen=True, eq=False):
    """Remembers calls whose lease ended without progress, although their process kept renewing it.

    Such a call may still occupy its backend. So `health` names it until its holder reports or disconnects.
    """

    settings: LiveSettings
    flights: Flights
    by_lease: dict[str, HeldLease] = {}

    def expired(self, lease: HeldLease, now: float) -> str:
        """Return why a lease ends; remember it if its work, and not its process, made no progress."""
        if self.flights.overdue_at(lease) > now:
            lease_seconds = self.settings.now.lease_seconds
            return (
                f"the process that made this call did not renew its lease in time; leases now last {lease_seconds:g} s"
            )

        if len(self.by_lease) >= MAX_REMEMBERED:
            del self.by_lease[next(iter(self.by_lease))]

        self.by_lease[lease.name] = lease
        settings = self.settings.now
        if now >= lease.overdue_at(settings.max_call_seconds, inf):
            return f"the call took longer than flights.max_call_seconds, {settings.max_call_seconds:g} s"

        return f"the stream produced nothing for flights.idle_seconds, {settings.idle_seconds:g} s"

    def reported(self, name: str, peer: Peer) -> None:
        """Forget a call that has made progress after all."""
        lease = self.by_lease.get(name)
        if lease is not None and lease.peer.id == peer.id:
            del self.by_lease[name]

    def peer_lost(self, peer: Peer) -> None:
        """Forget the calls of a lost peer."""
        for name in [name for name, lease in self.by_lease.items() if lease.peer.id == peer.id]:
            del self.by_lease[name]

    def report(self, now: float) -> list[wire.LongCall]:
        """Return the hung calls and those in progress for long, the longest first."""
        granted_by = now - LONG_SHARE * self.settings.now.max_call_seconds
        calls = [_call_of(lease, now, expired=True) for lease in self.by_lease.values()]
        calls += [_call_of(lease, now, expired=False) for lease in self.flights.older_leases(granted_by)]
        return sorted(calls, key=lambda call: -call.seconds)[:MAX_REPORTED]

    def problems(self, now: float) -> list[str]:
        """Return a sentence for each hung call, and for the rest together."""
        hung = [call for call in self.report(now) if call.expired]
        sentences = [
            f"A call of task {call.task!r} on backend {call.backend!r}, by process {call.pid or 'unknown'}, has made no "
            f"progress: it began {call.seconds:.0f} s ago, and its lease has expired."
            for call in hung[:_MAX_SENTENCES]
        ]
        rest = len(self.by_lease) - len(sentences)
        return [*sentences, f"{rest} further calls have made no progress."] if rest else sentences


class Leases(Struct, frozen=True, eq=False):
    """Ends leases. Exactly one method, `_end`, gives permits back."""

    flights: Flights
    admission: Admission
    backends: Backends
    billing: Billing
    metrics: DaemonMetrics
    recorder: CallRecorder
    counters: Counters
    hung_calls: HungCalls

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
        permit = lease.permit
        backend, seconds = permit.backend, now - lease.granted_at
        usage = self.billing.priced(backend, usage)
        calls = permit.count_answer(seconds, usage)
        if permit.use is not None and permit.affinity is not None and permit.granted == 1:
            permit.affinity.learn(permit.use, seconds, usage, now)

        if permit.leases == 1:
            self.backends.learn(backend, seconds, usage if permit.granted == 1 else permit.used, now)

        effects = [] if outcome == "done" else [_ended_note(lease, outcome, message)]
        effects += self._end(lease, outcome, backend.result_of_answer(seconds, usage), now, answered=True)
        effects += self.billing.bill(lease, seconds, usage, now, calls)
        if self.recorder.enabled:
            self.recorder.record_answer(lease, seconds, usage, spoken)

        return PaidCall(seconds / permit.granted, usage, effects)

    def unanswered(
        self,
        lease: HeldLease,
        outcome: notes.Outcome,
        message: str,
        result: CallResult,
        now: float,
        pause: Pause = NO_PAUSE,
    ) -> list[Effect]:
        """End a lease whose call has no answer. ``pause`` is the one that the backend requested."""
        permit = lease.permit
        if permit.answered and permit.leases == 1:  # others of its batch have one
            self.backends.learn(permit.backend, permit.seconds, permit.used, now)

        if result == "nothing" and lease.last_chunk_at is not None:
            result = "neutral"  # the backend has begun to answer

        effects = [_ended_note(lease, outcome, message)]
        effects += self._end(lease, outcome, result, now, pause=pause)
        self.recorder.record_failure(lease, outcome, message, now - lease.granted_at)
        return effects

    def count_not_stored(
        self, lease: HeldLease, given: str, otherwise: NotStoredReason
    ) -> NotStoredReason | Literal[""]:
        """Count an answer that is not stored, for the reason that its holder has given, if any; return the reason.

        An answer to a call without a key is never to be stored: it counts only if its holder says why it has none.
        """
        if not given and lease.request.key is None:
            return ""

        reason = known_reason(given) if given else otherwise
        self.billing.tasks.of(lease.request.task).count_not_stored(reason)
        return reason

    def bill_late(self, name: str, peer: Peer, usage: wire.Usage | None, now: float) -> list[Effect]:
        """Bill the answer of a lease that has ended: its backend did the work."""
        late = self.flights.take_ended(name, peer)
        if late is None:
            return []

        seconds, priced = now - late.granted_at, self.billing.priced(late.permit.backend, usage)
        return self.billing.bill(late, seconds, priced, now, late.permit.count_answer(seconds, priced))

    def reject_stale(self, peer: Peer, request: LeaseRequest) -> list[Effect]:
        """Reject a message whose lease is not current."""
        self.counters.stale_leases += 1
        if self.hung_calls.by_lease and not isinstance(request, wire.Renew):
            self.hung_calls.reported(request.lease, peer)

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
        pause: Pause = NO_PAUSE,
    ) -> Iterable[Effect]:
        self.flights.end_lease(lease, answered=answered)
        if outcome == "done":
            self.counters.completed += 1
        else:
            self.counters.end_without_answer(outcome)
            if outcome in FAILURES:
                self.billing.tasks.of(lease.request.task).failed += 1

        permit = lease.permit
        if permit.reserved and permit.leases == 1:
            self.admission.release_reservation(permit)

        self.metrics.count_lease(permit.backend.name, outcome, lease.peer.uid, now)
        return map(EmitNote, permit.backend.release(permit, result, now, pause))


def _ended_note(lease: HeldLease, outcome: notes.Outcome, message: str) -> Effect:
    key = None if lease.flight is None else lease.flight.key
    return EmitNote(notes.LeaseEnded(outcome, key, lease.name, lease.backend, lease.peer.id, lease.peer.pid, message))


def _call_of(lease: HeldLease, now: float, *, expired: bool) -> wire.LongCall:
    return wire.LongCall(
        lease.request.task, lease.backend, lease.peer.uid, lease.peer.pid, now - lease.granted_at, expired
    )
