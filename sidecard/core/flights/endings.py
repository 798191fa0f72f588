"""Begins that end without an answer: rejected, timed out, or failed."""

from collections.abc import Iterable
from typing import NamedTuple

from msgspec import UNSET, Raw, Struct, UnsetType, structs

from sidecard.core.accounts.call_records import CallRecorder
from sidecard.core.accounts.ledger import TaskLedgers
from sidecard.core.counters import Counters
from sidecard.core.effects import Effect, EmitNote, SendReply
from sidecard.core.events import Peer
from sidecard.core.flights.limits import TableLimits
from sidecard.core.flights.participants import Waiter
from sidecard.core.notes import FlightFailed, Table
from sidecard.core.settings import LiveSettings
from sidecard_client.protocol import wire

_HUNG_UP = "the caller has closed its connection"
_NO_BACKENDS: dict[str, wire.RejectionReason] = {}


class CallFailure(NamedTuple):
    """Why a call has no answer, as its waiters receive it."""

    kind: wire.FailureKind
    message: str
    context: str = ""
    """Of the call's request."""
    detail: Raw | UnsetType = UNSET

    def concerns(self, request: wire.Begin) -> bool:
        """Return whether the caller of ``request`` would fail alike: a ``fatal`` failure may be caused by the context."""
        return self.kind != "fatal" or request.context == self.context


class Rejection(NamedTuple):
    """Why a caller gets no lease."""

    reason: wire.RejectionReason
    retry_after_seconds: float | None = None
    backends: dict[str, wire.RejectionReason] = _NO_BACKENDS
    status: int | None = None
    """As `sidecard_client.protocol.wire.Rejected.status`."""

    def reply(self, peer: Peer, request_id: int, *stale_answer: object) -> SendReply:
        """Return the reply; ``stale_answer`` is its value, its age and its backend, if the caller may have one."""
        rejected = wire.Rejected(request_id, self.reason, self.retry_after_seconds, self.backends, *stale_answer)  # type: ignore[arg-type]  # mypy cannot check these
        if self.status is not None:
            rejected = structs.replace(rejected, status=self.status)

        return SendReply(peer.id, rejected)


DRAINING = Rejection("draining")
NOT_CACHED = Rejection("not_cached")
TABLE_FULL = Rejection("busy")


class Endings(Struct, frozen=True, eq=False):
    """Ends begins without an answer, and books it in counters, ledgers and call log."""

    settings: LiveSettings
    limits: TableLimits
    counters: Counters
    ledgers: TaskLedgers
    recorder: CallRecorder

    def wait_seconds(self, request: wire.Begin) -> float:
        """Return for how long a caller waits."""
        return self.settings.now.wait_seconds if request.wait_seconds is None else request.wait_seconds

    def reject(self, peer: Peer, request: wire.Begin, rejection: Rejection, *stale_answer: object) -> SendReply:
        """End a begin with a rejection."""
        self.counters.reject(rejection.reason)
        self.ledgers.of(request.task, peer.uid).count_rejection(rejection.reason)
        self.recorder.record_rejection(peer, request, rejection.reason)
        return rejection.reply(peer, request.id, *stale_answer)

    def reject_full(self, peer: Peer, request: wire.Begin, table: Table, limit: int | None = None) -> list[Effect]:
        """End a begin because a table is full."""
        return [self.reject(peer, request, TABLE_FULL), *self.limits.note_full(table, limit)]

    def time_out(self, peer: Peer, request: wire.Begin, waited_seconds: float) -> SendReply:
        """End a begin at its own deadline."""
        self.counters.timeouts += 1
        self.ledgers.of(request.task, peer.uid).timeouts += 1
        self.count_wait(request, waited_seconds)
        self.recorder.record_timeout(peer, request, waited_seconds)
        return SendReply(peer.id, wire.Timeout(request.id, waited_seconds))

    def time_out_waiters(self, waiters: Iterable[Waiter], now: float) -> list[Effect]:
        """End the begins of waiters that have left their flight."""
        return [self.time_out(waiter.peer, waiter.request, now - waiter.joined_at) for waiter in waiters]

    def reject_waiters(self, waiters: Iterable[Waiter], rejection: Rejection, now: float) -> list[Effect]:
        """End the begins of waiters that have left their flight; those past their deadline time out."""
        return [
            self.time_out(waiter.peer, waiter.request, now - waiter.joined_at)
            if waiter.deadline <= now
            else self.reject(waiter.peer, waiter.request, rejection)
            for waiter in waiters
        ]

    def fail_waiters(self, key: str, waiters: list[Waiter], failure: CallFailure, now: float) -> list[Effect]:
        """End the begins of waiters whose flight, or whose stream, has failed."""
        if not waiters:
            return []

        kind, message, _, detail = failure
        effects: list[Effect] = [EmitNote(FlightFailed(key, kind, message, len(waiters)))]
        for waiter in waiters:
            if waiter.deadline <= now:
                effects.append(self.time_out(waiter.peer, waiter.request, now - waiter.joined_at))
            else:
                self.counters.failed += 1
                self.count_wait(waiter.request, now - waiter.joined_at)
                effects.append(SendReply(waiter.peer.id, wire.Failed(waiter.request.id, kind, message, detail)))

        return effects

    def end_hung_up(self, waiters: Iterable[Waiter]) -> list[Effect]:
        """End the begins of waiters that have hung up: they have left, and nobody reads these replies."""
        effects: list[Effect] = []
        for waiter in waiters:
            self.counters.left += 1
            effects.append(SendReply(waiter.peer.id, wire.Failed(waiter.request.id, "cancelled", _HUNG_UP)))

        return effects

    def count_wait(self, request: wire.Begin, waited_seconds: float) -> None:
        """Book how long a caller has waited."""
        self.ledgers.of(request.task).waits.observe(waited_seconds)
