"""The conversation about calls: `begin`, `complete`, `fail`, `renew`, `cancel`, and what happens without anybody saying so.

Decides what the peers are told. Who holds and who waits is `sidecard.core.flights.flights`, who gets a lease
`sidecard.core.flights.grant`, what is stored `sidecard.core.cache.policy`.
"""

from collections.abc import Sequence
from typing import Literal

from msgspec import Raw, structs

from sidecard.core import notes
from sidecard.core.accounts.billing import Billing
from sidecard.core.accounts.call_records import CallRecorder
from sidecard.core.accounts.daemon_metrics import DaemonMetrics
from sidecard.core.backends.admission import Admission
from sidecard.core.backends.backend import Backend
from sidecard.core.backends.breaker import CallResult
from sidecard.core.backends.registry import Backends
from sidecard.core.cache.entry import Entry
from sidecard.core.cache.freshness import FreshnessPolicy
from sidecard.core.cache.memory import MemoryCache
from sidecard.core.cache.policy import CachePolicy
from sidecard.core.cache.similarity import SimilarAnswers
from sidecard.core.counters import Counters
from sidecard.core.effects import Effect, EmitNote, Send
from sidecard.core.events import BacklogRead, Peer
from sidecard.core.flights.failures import Failures
from sidecard.core.flights.flights import Applicant, Flight, Flights, HeldLease, Removal, Waiter
from sidecard.core.flights.grant import DRAINING, NOT_CACHED, Granting
from sidecard.core.flights.lookups import Lookups
from sidecard.core.flights.serving import Serving
from sidecard.core.flights.streams import MAX_STREAM_BYTES, Stream, Streams
from sidecard.core.replies import error, not_yours
from sidecard.core.scopes import Scopes
from sidecard.core.settings import EngineSettings
from sidecard_client.protocol import wire

LeaseOutcome = Literal["done"] | notes.Outcome

SHRINK_PAUSE_SECONDS = 0.005
"""Between batches of a cache that becomes smaller, so that peers are served meanwhile."""


class Calls:
    """Answers "must I make this call?" and hears how it went."""

    def __init__(  # noqa: PLR0917 - what the engine is made of meets here
        self,
        settings: EngineSettings,
        flights: Flights,
        granting: Granting,
        admission: Admission,
        backends: Backends,
        billing: Billing,
        policy: CachePolicy,
        lookups: Lookups,
        serving: Serving,
        scopes: Scopes,
        count: Counters,
        metrics: DaemonMetrics,
        recorder: CallRecorder,
        streams: Streams,
        freshness: FreshnessPolicy,
        failures: Failures,
        similar: SimilarAnswers,
    ) -> None:
        self.flights = flights
        self.settings = settings
        """May be replaced at any time."""
        self._granting = granting
        self._admission = admission
        self._backends = backends
        self._billing = billing
        self._policy = policy
        self._lookups = lookups
        self._serving = serving
        self._scopes = scopes
        self._count = count
        self._metrics = metrics
        self._recorder = recorder
        self._streams = streams
        self._freshness = freshness
        self._failures = failures
        self.similar = similar

    @property
    def draining(self) -> bool:
        """No new leases are granted."""
        return self._granting.draining

    def begin(self, peer: Peer, request: wire.Begin, now: float) -> list[Effect]:
        """Answer the question: hit, shared, wait, lead, or no."""
        scope = self._scopes.find(peer, request.namespace)
        if scope is None:
            return [not_yours(peer, request, request.namespace)]

        if self.flights.waiting(peer, request.id) is not None or (
            self._streams.feeds and self._streams.find(peer, request.id) is not None
        ):
            return [_id_in_use(peer, request)]

        if request.vector is not None:
            wrong = self.similar.validate(scope, request)
            if wrong is not None:
                return [error(peer, request, "bad_request", wrong)]

        self._count.begins += 1
        if self.settings.uncached_tasks and request.task in self.settings.uncached_tasks:
            return self._begin_uncached(scope, peer, request, now)

        key = request.key
        if key is not None and request.mode != "refresh":
            entry = self._policy.cache.get(scope, key, now)
            if entry is not None and not self._lookups.doubts(entry):
                if now - entry.stored_at < entry.terms.calm_seconds:
                    return self._granting.serve(peer, request, entry, now)

                return self._begin(scope, peer, request, entry, now)

        return self._begin(scope, peer, request, None, now)

    def _begin_uncached(self, scope: str, peer: Peer, request: wire.Begin, now: float) -> list[Effect]:
        """Answer a begin of a task of which nothing is stored: what was stored before that was so is not looked at."""
        if request.mode == "only_if_cached":
            return [self._granting.rejection(peer, request, NOT_CACHED)]

        return self._begin(scope, peer, structs.replace(request, mode="refresh"), None, now)

    def _begin(self, scope: str, peer: Peer, request: wire.Begin, old: Entry | None, now: float) -> list[Effect]:
        """Answer a begin for which there is no stored answer, or an ``old`` one."""
        flight = None
        if request.key is not None:
            flight = self.flights.find(scope, request.key)
            effects = self._without_call(scope, request.key, flight, peer, request, old, now)
            if effects is not None:
                return effects

            if self._lookups.concerns(flight, request):
                return self._lookups.begin(scope, flight, peer, request, now)

            if (request.embeds or request.vector is not None) and flight is None and old is None:
                effects = self._serving.similar(self.similar, scope, peer, request, now)
                if effects is not None:
                    return effects

            self._serving.missed(request)

        if request.mode == "only_if_cached":
            return [self._granting.rejection(peer, request, NOT_CACHED)]

        if self._granting.draining:
            return [self._granting.rejection(peer, request, DRAINING)]

        if flight is not None:
            return self._join(flight, peer, request, now)

        if old is not None and not self._freshness.allows(request, old, now):
            old = None

        return self._granting.lead(scope, peer, request, now, old)

    def _without_call(
        self,
        scope: str,
        key: str,
        flight: Flight | None,
        peer: Peer,
        request: wire.Begin,
        old: Entry | None,
        now: float,
    ) -> list[Effect] | None:
        """Answer a begin by an entry that is about to be too old, or is, or by a failure that is remembered.

        None where neither does, and somebody has to make the call.
        """
        makes_calls = flight is None and request.mode == "use" and not self._granting.draining
        if old is not None and old.is_fresh(now):
            if makes_calls and self._freshness.is_due_early(old, now):
                return self._granting.lead(scope, peer, request, now, old)

            return self._granting.serve(peer, request, old, now)

        if self._failures and request.mode != "refresh":
            failure = self._failures.find(scope, key, now)
            if failure is not None:
                self._count.failed += 1
                self._count.failed_again += 1
                return [Send(peer.id, wire.Failed(request.id, "fatal", failure.message))]

        if old is None or makes_calls or not self._freshness.allows(request, old, now):
            return None

        return self._granting.serve(peer, request, old, now)

    def _join(self, flight: Flight, peer: Peer, request: wire.Begin, now: float) -> list[Effect]:
        wait_seconds = self._granting.wait_seconds(request)
        if wait_seconds <= 0:
            return [self._granting.timed_out(peer, request, 0.0)]

        if not self._granting.has_place(peer.uid):
            return self._granting.busy(peer, request, "waiters", self.settings.max_waiters)

        waiter = self.flights.join(flight, peer, request, now, wait_seconds)
        waiter.told = True
        self._granting.has_room_for_waiters()
        effects: list[Effect] = [Send(peer.id, wire.Pending(request.id))]
        if flight.stream is not None and flight.lease is not None and request.stream:
            effects += self._follow(waiter, flight.lease, flight.stream, now)

        return effects

    def append(self, peer: Peer, request: wire.Append, now: float) -> list[Effect]:
        """Take the next piece of a stream and let all who read along have it."""
        lease = self.flights.held(request.lease, peer)
        if lease is None:
            return self._stale(peer, request, request.lease)

        if not lease.request.stream:
            text = "append is for the lease of a begin with stream: bring this answer by complete"
            return [error(peer, request, "bad_request", text)]

        flight = lease.flight
        if flight is None:
            return []

        if flight.stream is None:
            flight.stream = self._streams.hold(Stream())

        if not self._streams.append(flight.stream, bytes(request.chunk)):
            return self._outgrown(lease, flight, now)

        self._policy.cache.give_way(now)
        effects: list[Effect] = []
        for waiter in flight.waiters.values():
            if waiter.request.stream:
                effects += self._follow(waiter, lease, flight.stream, now)

        return effects

    def _follow(self, waiter: Waiter, lease: HeldLease, stream: Stream, now: float) -> list[Effect]:
        """Send a reader what it has not seen yet. Each piece gives it as much patience again as it came with."""
        if waiter.feed is None:
            first = wire.Chunk(0, None, "shared", 0.0, lease.backend)
            waiter.feed = self._streams.open(waiter.peer, waiter.request.id, stream, first)

        waiter.deadline = now + self._granting.wait_seconds(waiter.request)
        return self._streams.pump(waiter.feed)

    def _outgrown(self, lease: HeldLease, flight: Flight, now: float) -> list[Effect]:
        """A stream is too large to be shared: its holder goes on alone, and those who have seen none of it ask on their own."""
        message = f"the stream grew beyond what is shared: {MAX_STREAM_BYTES} bytes, or {self._streams.limit_bytes} of all streams"
        self.flights.detach(lease)
        return self._granting.land(flight, "ignored", message, now)

    def complete(self, peer: Peer, request: wire.Complete, now: float) -> list[Effect]:
        """Take the answer of a lease and give it to all who wait."""
        lease = self.flights.held(request.lease, peer)
        if lease is None:
            effects: list[Effect] = []
            late = self.flights.ended(request.lease, peer)
            if late is not None:
                usage = self._billing.priced(late.permit.backend, request.usage)
                effects += self._billing.bill(late, now - late.granted_at, usage, now)

            return self._stale(peer, request, request.lease) + effects

        value = bytes(request.value)
        if not value and not lease.request.stream:
            return [error(peer, request, "bad_request", "complete: value is missing; only a stream's is left out")]

        seconds = now - lease.granted_at
        backend = lease.permit.backend
        usage = self._billing.priced(backend, request.usage)
        self._count.completed += 1
        told = self._answered(lease, "done", seconds, usage, now)
        flight = lease.flight
        if flight is None:
            self._recorder.record_answer(lease, seconds, usage, request.spoken)
            return [Send(peer.id, wire.Stored(request.id, stored=False)), *told, *self._granting.freed(backend, now)]

        stored, effects = False, list[Effect]()
        if lease.request.stream:
            value = (flight.stream or Stream()).packed()

        self._recorder.record_answer(lease, seconds, usage, request.spoken)
        if request.store and flight.may_store(request.tags) and self._is_cacheable(lease.request.task, request):
            stored, effects = self._store(flight, lease, value, seconds, usage, request, now)

        flight.unshared = not stored
        effects.append(Send(peer.id, wire.Stored(request.id, stored)))
        answer = Raw(value)
        for waiter in self.flights.finish(flight):
            waited_seconds = now - waiter.joined_at
            shared = self._serving.answer(
                waiter.peer,
                waiter.request,
                answer,
                seconds,
                lease.backend,
                usage,
                waited_seconds=waited_seconds,
                trace=lease.request.trace,
            )
            if waiter.feed is None:
                effects += self._serving.deliver(waiter.peer, waiter.request, shared)
            else:
                effects += self._streams.finish(waiter.feed, shared)

        if flight.stream is not None:
            self._streams.drop(flight.stream)

        return [*effects, *told, *self._granting.freed(backend, now)]

    def _is_cacheable(self, task: str, request: wire.Complete) -> bool:
        """Tell whether the task's policy lets an answer be stored, whatever its holder wants."""
        cache = self.settings.task(task).cache
        return cache == "always" or (cache == "deterministic" and request.deterministic)

    def _store(
        self,
        flight: Flight,
        lease: HeldLease,
        value: bytes,
        seconds: float,
        usage: wire.Usage,
        request: wire.Complete,
        now: float,
    ) -> tuple[bool, list[Effect]]:
        """Store the answer of a flight in memory, and let the store keep it."""
        begin = lease.request
        placement = self.similar.placement(flight.scope, flight.key, begin)
        terms = self._policy.terms(
            flight.scope,
            self._policy.ttl_seconds(begin.task, request.ttl_seconds, begin.ttl_seconds),
            self.settings.sharing_window_seconds,
            lease.backend,
            usage,
            request.tags,
            self._policy.stale_seconds(begin.task, begin.stale_seconds),
            self.settings.task(begin.task).early_refresh,
            begin.task,
            group=None if placement is None else placement.group,
            group_bytes=0 if placement is None else placement.charge,
        )
        self._failures.forget(flight.scope, flight.key)
        entry, effects = self._policy.store(flight.key, value, now, terms, seconds)
        if entry is not None:
            if placement is not None:
                self.similar.index(placement, flight.key)

            claim, flight.claim = flight.claim, ""
            replace = begin.mode == "refresh" or lease.early
            effects += self._lookups.write(entry, now, claim=claim, replace=replace)
        else:
            effects += self._lookups.forget(flight.scope, flight.key)

        return entry is not None, effects

    def _answered(
        self, lease: HeldLease, outcome: LeaseOutcome, seconds: float, usage: wire.Usage, now: float
    ) -> list[Effect]:
        """End a lease whose backend has answered; learn from it and bill it. Returns what is to be told."""
        backend = lease.permit.backend
        self._backends.learn(backend, seconds, usage, now)
        notes_ = self._end(lease, outcome, backend.result_of_answer(seconds, usage), now, answered=True)
        return notes_ + self._billing.bill(lease, seconds, usage, now)

    def _end(
        self,
        lease: HeldLease,
        outcome: LeaseOutcome,
        verdict: CallResult,
        now: float,
        *,
        answered: bool = False,
        pause_seconds: float = 0.0,
    ) -> list[Effect]:
        """End a lease and give its permit back: the one place for both, whatever the outcome."""
        self.flights.end_lease(lease, answered=answered)
        self._admission.release_reservation(lease.permit)
        self._metrics.count_lease(lease.permit.backend.name, outcome)
        return [EmitNote(note) for note in lease.permit.backend.release(lease.permit, verdict, now, pause_seconds)]

    def fail(self, peer: Peer, request: wire.Fail, now: float) -> list[Effect]:
        """Take the failure of a lease: the next backend, the next holder, or the end."""
        lease = self.flights.held(request.lease, peer)
        if lease is None:
            return self._stale(peer, request, request.lease)

        in_use = self.flights.waiting(peer, request.id) is not None or self._streams.find(peer, request.id) is not None
        if request.next and in_use:
            return [_id_in_use(peer, request)]

        self._count.fail_lease(request.kind)
        effects: list[Effect] = [_ended(lease, request.kind, request.message)]
        backend = lease.permit.backend
        if request.kind == "ignored" and request.answered:
            usage = self._billing.priced(backend, request.usage)
            effects += self._answered(lease, request.kind, now - lease.granted_at, usage, now)
            self._recorder.record_answer(lease, now - lease.granted_at, usage)
        else:
            pause_seconds = (request.retry_after_seconds or 0.0) if request.kind == "transient" else 0.0
            verdict = backend.result_of_failure(request)
            effects += self._end(lease, request.kind, verdict, now, pause_seconds=pause_seconds)
            self._recorder.record_failure(lease, request.kind, request.message, now - lease.granted_at)

        if lease.flight is not None:
            self._remember(lease.flight, lease, request, now)
            effects += self._granting.interrupt(lease.flight, request.kind, request.message, now)

        # The queue first: a full one has room for those of this flight then.
        effects += self._granting.freed(backend, now)
        goes_on, told = self._granting.ask_next(lease, request, now)
        effects += told
        if not goes_on:
            effects.append(Send(peer.id, wire.Ok(request.id)))
            effects += self._granting.land(lease.flight, request.kind, request.message, now)

        return effects

    def _remember(self, flight: Flight, lease: HeldLease, request: wire.Fail, now: float) -> None:
        """Remember a failure that everybody would meet, where that was asked for."""
        seconds = request.ttl_seconds
        if seconds is None:
            seconds = self.settings.task(lease.request.task).failure_ttl_seconds

        # Which tags the answer would have had nobody knows: a purge of any counts.
        if seconds > 0 and request.kind == "fatal" and flight.storable and not flight.voided_tags:
            self._failures.remember(flight.scope, flight.key, request.message, seconds, now)

    def _vanished(
        self,
        leases: Sequence[HeldLease],
        outcome: notes.Outcome,
        kind: wire.FailureKind,
        message: str,
        now: float,
        applicants: Sequence[Applicant] = (),
    ) -> list[Effect]:
        """End leases without an outcome of their calls, and let applicants leave; their flights go to the next.

        All of them end before anybody is next: 1. a process dies that held two leases, the second a probe; 2. who waited
        for the first would be told that the probe is still out.
        """
        for applicant in applicants:
            self._granting.leave(applicant)

        effects: list[Effect] = []
        for lease in leases:
            effects.append(_ended(lease, outcome, message))
            effects += self._end(lease, outcome, "nothing", now)
            self._recorder.record_failure(lease, outcome, message, now - lease.granted_at)

        for lease in leases:
            effects += self._granting.freed(lease.permit.backend, now)

        for applicant in applicants:
            effects += self._granting.instead_of(applicant, now)

        for lease in leases:
            hung = lease.peer if outcome == "expired" else None
            effects += self._granting.land(lease.flight, kind, message, now, hung)

        return effects

    def renew(self, peer: Peer, request: wire.Renew, now: float) -> list[Effect]:
        """Keep a lease."""
        lease = self.flights.held(request.lease, peer)
        if lease is None:
            return self._stale(peer, request, request.lease)

        self.flights.renew(lease, now)
        return [Send(peer.id, wire.Ok(request.id, 0 if lease.flight is None else len(lease.flight.waiters)))]

    def cancel(self, peer: Peer, request: wire.Cancel, now: float) -> list[Effect]:
        """Take a waiting begin, or the lease that it has just led to, back."""
        effects: list[Effect] = [Send(peer.id, wire.Ok(request.id))]
        waiting = self.flights.waiting(peer, request.target)
        if isinstance(waiting, Waiter):
            self.flights.leave(waiting)
            self._streams.abandon(waiting.feed)
            self._count.left += 1
            return effects

        if waiting is None:
            # Of an answer that is whole, and was counted when it was found so.
            self._streams.abandon(self._streams.find(peer, request.target))

        applicants = self.flights.applicants_of_request(peer, request.target) if waiting is None else [waiting]
        leases = self.flights.leases_of_request(peer, request.target)
        for _ in leases:
            self._count.fail_lease("cancelled")

        message = "the caller took its begin back"
        return effects + self._vanished(leases, "cancelled", "cancelled", message, now, applicants)

    def lose(self, peer: Peer, now: float) -> list[Effect]:
        """Forget a peer: its waits are dropped, its leases are lost."""
        waiters, applicants, leases = self.flights.of_peer(peer)
        for waiter in waiters:
            # Before the leases: a peer that waits for its own flight must not be elected.
            self.flights.leave(waiter)
            self._count.left += 1

        self._count.lost += len(leases)
        message = "the connection of the process that made this call has ended"
        effects = self._vanished(leases, "lost", "transient", message, now, applicants)
        self._lookups.lose(peer)
        self._streams.lose(peer)
        self.flights.forget(peer)
        return effects

    def tick(self, now: float) -> list[Effect]:
        """End what is due."""
        effects: list[Effect] = []
        while (due := self.flights.timers.pop_due(now)) is not None:
            match due:
                case Waiter() if due.deadline > now:
                    # A piece came meanwhile.
                    self.flights.timers.set(due, due.deadline)
                case Waiter():
                    self.flights.leave(due)
                    self._streams.abandon(due.feed)
                    effects.append(self._granting.timed_out(due.peer, due.request, now - due.joined_at))
                case Applicant():
                    effects += self._granting.due(due, now)
                case Backend():
                    effects += self._granting.freed(due, now)
                case Flight():
                    effects += self._lookups.due(due, now)
                case Removal():
                    effects += self._lookups.overdue(due)
                case MemoryCache():
                    if due.shrink(now):
                        self.flights.timers.set(due, now + SHRINK_PAUSE_SECONDS)
                case _:
                    self._count.expired += 1
                    silent_seconds = self.settings.lease_seconds
                    message = f"the process that made this call did not renew its lease for {silent_seconds:g} s"
                    effects += self._vanished([due], "expired", "transient", message, now)

        self._policy.cache.expire(now)
        return effects

    def _stale(
        self, peer: Peer, request: wire.Append | wire.Complete | wire.Fail | wire.Renew, lease: str
    ) -> list[Effect]:
        self._count.stale_leases += 1
        op = type(request).__name__.lower()
        return [Send(peer.id, wire.StaleLease(request.id)), EmitNote(notes.StaleLeaseRefused(op, lease, peer.id))]

    def full_tables(self) -> list[str]:
        """Name the tables that have no room now."""
        levels = {
            "flights": (len(self.flights), self.settings.max_flights),
            "leases": (self.flights.lease_count, self.settings.max_leases),
            "waiters": (self.flights.waiter_count, self.settings.max_waiters),
        }
        return [table for table, (level, limit) in levels.items() if level >= limit]

    def drain(self, now: float) -> list[Effect]:
        """Grant no new leases from now on; who waits for one is sent away."""
        effects: list[Effect] = [EmitNote(notes.DrainStarted(len(self.flights), self.flights.waiter_count))]
        self._granting.draining = True
        for applicant in self.flights.applicants():
            self.flights.withdraw(applicant)
            effects += self._granting.turn_away(applicant, DRAINING, now)

        return effects

    def give_up_draining(self, now: float) -> list[Effect]:
        """Give every waiter its end, and every reader."""
        effects = [effect for flight in self.flights for effect in self._granting.reject_waiters(flight, now)]
        for feed in self._streams.detached():
            self._streams.close(feed)
            effects.append(DRAINING.sent(feed.peer, feed.request_id))

        return effects

    def room_for_more(self, event: BacklogRead, now: float) -> list[Effect]:  # noqa: ARG002 - as its siblings
        """A stream that its reader was behind with goes on."""
        return self._streams.has_room(event.peer, event.request_id)


def _id_in_use(peer: Peer, request: wire.Request) -> Send:
    text = f"id {request.id} is already waiting on this connection: use an id once, or cancel it first"
    return error(peer, request, "bad_request", text)


def _ended(lease: HeldLease, outcome: notes.Outcome, message: str) -> EmitNote:
    key = None if lease.flight is None else lease.flight.key
    return EmitNote(notes.LeaseEnded(outcome, key, lease.name, lease.backend, lease.peer.id, message))
