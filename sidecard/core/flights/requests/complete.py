"""`complete`: receive the answer of a lease, store it, and send it to all waiters."""

from typing import Literal

from msgspec import Raw, Struct

from sidecard.core.cache.policy import CachePolicy
from sidecard.core.cache.similarity import SimilarAnswers
from sidecard.core.effects import Effect, SendReply
from sidecard.core.events import Peer
from sidecard.core.flights.failures import Failures
from sidecard.core.flights.flight import Flight
from sidecard.core.flights.leases import Leases, PaidCall
from sidecard.core.flights.participants import HeldLease
from sidecard.core.flights.queues import Queues
from sidecard.core.flights.serving import Serving
from sidecard.core.flights.store.writes import StoreUpdates
from sidecard.core.flights.streams import SharedStream, Streams
from sidecard.core.flights.table import Flights
from sidecard.core.replies import error, reject_value
from sidecard_client.protocol import wire
from sidecard_client.protocol.nesting import nesting_problem
from sidecard_client.protocol.values import NotStoredReason, bound_of


class CompleteOperation(Struct, frozen=True, eq=False):
    """Ends flights with an answer."""

    flights: Flights
    leases: Leases
    queues: Queues
    streams: Streams
    serving: Serving
    answers: "AnswerStorage"

    def complete(self, peer: Peer, request: wire.Complete, now: float) -> list[Effect]:
        """End a lease with its answer."""
        lease = self.flights.held(request.lease, peer)
        if lease is None:
            late = self.leases.bill_late(request.lease, peer, request.usage, now)
            return self.leases.reject_stale(peer, request) + late

        value = bytes(request.value)
        if not value and not lease.request.stream:
            return [error(peer, request, "bad_request", "complete: value is missing; only a stream's is left out")]

        problem = nesting_problem(value)
        if problem is not None:
            return [reject_value(peer, request, problem)]

        backend, flight = lease.permit.backend, lease.flight
        call = self.leases.answered(lease, "done", request.usage, now, spoken=request.spoken)
        if flight is None:
            # A call with a key has lost its flight because its stream was too long to be shared.
            not_stored = self.leases.count_not_stored(lease, request.not_stored, "size")
            reply = SendReply(peer.id, wire.Stored(request.id, stored=False, not_stored=not_stored))
            return [reply, *call.effects, *self.queues.permit_released(backend, now)]

        stream = flight.stream
        if lease.request.stream:
            value = (stream or SharedStream(peer.uid)).packed()

        obstacle, effects = self.answers.store(flight, lease, value, call, request, now)
        if obstacle:
            flight.keep_answer(unshared=True)
            obstacle = self.leases.count_not_stored(lease, "" if request.store else request.not_stored, obstacle)

        effects.append(SendReply(peer.id, wire.Stored(request.id, not obstacle, obstacle)))
        waiters = self.flights.finish(flight)
        if waiters:
            answer, trace = Raw(value), lease.request.trace
            for waiter in waiters:
                effects += self.serving.shared(
                    waiter, answer, call.seconds, lease.backend, call.usage, now, trace=trace
                )

        if stream is not None:
            self.streams.drop(stream)

        effects += call.effects
        effects += self.queues.permit_released(backend, now)
        return effects


class AnswerStorage(Struct, frozen=True, eq=False):
    """Stores answers in memory and writes them to the store, as far as policy and removals allow."""

    policy: CachePolicy
    similar_answers: SimilarAnswers
    failures: Failures
    writes: StoreUpdates

    def store(
        self, flight: Flight, lease: HeldLease, value: bytes, call: PaidCall, request: wire.Complete, now: float
    ) -> tuple[NotStoredReason | Literal[""], list[Effect]]:
        """Store the answer of a flight, if allowed; return why it is not stored, or an empty text if it is."""
        begin, policy = lease.request, self.policy
        settings = policy.settings.now
        task = settings.task(begin.task)
        cacheable = task.cache == "always" or (task.cache == "deterministic" and request.deterministic)
        if not (request.store and cacheable):
            return "policy", []

        if not flight.may_store(request.tags):
            return "removed", []

        scope, key = flight.scope, flight.key
        if self.failures.known:
            self.failures.forget(scope, key)

        ttl_seconds = begin.ttl_seconds if request.ttl_seconds is None else request.ttl_seconds
        if ttl_seconds == 0 and not begin.stale_seconds:
            return "policy", []  # asked not to be kept; what is stored stays for callers that accept it

        placement = self.similar_answers.placement(scope, key, begin) if task.similar else None
        terms = policy.terms(
            scope,
            policy.ttl_seconds(task, ttl_seconds),
            settings.sharing_window_seconds,
            lease.backend,
            call.usage,
            request.tags,
            policy.stale_seconds(task, begin.stale_seconds),
            task.early_refresh,
            begin.task,
            None if placement is None else placement.group,
            0 if placement is None else placement.charge,
        )
        entry, effects = policy.store(key, value, now, terms, call.seconds)
        if entry is None:
            obstacle: NotStoredReason = "policy" if terms.lifetime_seconds <= 0 else "size"
            return obstacle, effects + self.writes.forget(scope, key)

        if placement is not None:
            self.similar_answers.index(placement, key)

        if self.writes.status.state != "none":
            replace = begin.mode == "refresh" or lease.early_refresh or bound_of(begin) is not None
            effects += self.writes.write(entry, now, claim=flight.take_claim(), replace=replace)

        return "", effects
