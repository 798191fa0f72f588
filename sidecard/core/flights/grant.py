"""Who gets a lease, and what becomes of a flight that has none.

A lease needs a permit of a backend. A caller to whom a lease is due is an `Applicant`: it is seated (gets the lease, or
waits in the queues of all backends that only lack room), or refused. Whenever a permit comes back, the backend's queue
is served (`Granting.freed`); whenever a flight loses its lease or its applicant, its longest-waiting caller is next
(`Granting.land`, `Granting.pass_on`).
"""

from typing import Any, NamedTuple

from msgspec import UNSET

from sidecard.core import notes
from sidecard.core.accounts.call_records import CallRecorder
from sidecard.core.accounts.daemon_metrics import DaemonMetrics
from sidecard.core.accounts.ledger import TaskLedgers
from sidecard.core.backends.admission import Admission, Choice, Decision
from sidecard.core.backends.backend import Backend
from sidecard.core.backends.registry import Backends
from sidecard.core.backends.retry_budget import RetryBudget
from sidecard.core.cache.entry import Entry
from sidecard.core.cache.freshness import FreshnessPolicy
from sidecard.core.counters import Counters
from sidecard.core.effects import Effect, EmitNote, Send
from sidecard.core.events import Peer
from sidecard.core.flights.flights import Applicant, Flight, Flights, HeldLease, Waiter
from sidecard.core.flights.serving import Serving
from sidecard.core.flights.streams import Streams
from sidecard.core.settings import EngineSettings
from sidecard_client.protocol import wire

_UNSAID: dict[str, wire.RejectionReason] = {}
_NOTHING_BROUGHT = (UNSET, 0.0, "")


class Refusal(NamedTuple):
    """Why there is no lease."""

    reason: wire.RejectionReason
    retry_after_seconds: float | None = None
    backends: dict[str, wire.RejectionReason] = _UNSAID

    def sent(self, peer: Peer, request_id: int) -> Send:
        """Return the reply that says so."""
        return Send(peer.id, wire.Rejected(request_id, self.reason, self.retry_after_seconds, self.backends))

    def sent_with(self, brought: tuple[Any, float, str], peer: Peer, request_id: int) -> Send:
        """Return the reply that says so, with what `Serving.brought` says of an older answer."""
        rejected = wire.Rejected(request_id, self.reason, self.retry_after_seconds, self.backends, *brought)
        return Send(peer.id, rejected)


_WOULD_WAIT = Refusal("saturated")
"""Of a caller that would have to wait for a permit, and has something better."""

DRAINING = Refusal("draining")
NOT_CACHED = Refusal("not_cached")


class Granting:
    """Grants leases, and finds the next caller for flights that have none."""

    def __init__(  # noqa: PLR0917 - what the engine is made of
        self,
        settings: EngineSettings,
        flights: Flights,
        admission: Admission,
        backends: Backends,
        retries: RetryBudget,
        ledgers: TaskLedgers,
        count: Counters,
        recorder: CallRecorder,
        streams: Streams,
        serving: Serving,
        freshness: FreshnessPolicy,
        metrics: DaemonMetrics,
    ) -> None:
        self.draining = False
        self.settings = settings
        """May be replaced at any time."""
        self._flights = flights
        self._admission = admission
        self._backends = backends
        self._retries = retries
        self._ledgers = ledgers
        self._count = count
        self._recorder = recorder
        self._streams = streams
        self._serving = serving
        self._freshness = freshness
        self._metrics = metrics
        self._told_full: set[notes.Table] = set()
        """Tables whose being full has been told, and which had no room since."""

    # A caller --------------------------------------------------------------------------------------------------------

    def lead(self, scope: str, peer: Peer, request: wire.Begin, now: float, old: Entry | None = None) -> list[Effect]:
        """Let a caller make the call that nobody makes yet; where it cannot, it has the ``old`` answer, if there is one."""
        flights = self._flights
        flight = None
        if request.key is not None:
            flight = self.start(scope, request.key, peer.uid)
            if flight is None:
                return self.no_flight(peer, request) if old is None else self.serve(peer, request, old, now)

        applicant = Applicant(flight, peer, request, request.id, now, now + self.wait_seconds(request))
        applicant.old = old
        refusal, effects = self._seat(applicant, now)
        if refusal is not None:
            effects += self._instead_of_lease(applicant, refusal, now)
            if flight is not None:
                flights.finish(flight)

        return effects

    def serve(self, peer: Peer, request: wire.Begin, entry: Entry, now: float) -> list[Effect]:
        """Serve a stored answer."""
        if request.stream and not self._streams.fits(self._serving.value(entry)):
            return self.busy(peer, request, "streams", self._streams.limit_bytes)

        return self._serving.entry(peer, request, entry, now)

    def serve_stale(self, flight: Flight, now: float, but: Waiter | None = None) -> list[Effect]:
        """Let those who wait for a flight have the stale answer, if there is one that they may; not ``but``, who is to lead."""
        effects: list[Effect] = []
        for waiter in [waiter for waiter in flight.waiters.values() if waiter is not but]:
            old = self._freshness.find(flight.scope, waiter.request, now)
            if old is not None:
                self._flights.leave(waiter)
                effects += self.serve(waiter.peer, waiter.request, old, now)

        return effects

    def start(self, scope: str, key: str, uid: int) -> Flight | None:
        """Start a flight for a caller of ``uid``, where there is room for one."""
        settings = self.settings
        if not self._flights.flights_by_uid.has_room(uid, settings.max_flights, settings.spare_share):
            return None

        self._told_full.discard("flights")
        return self._flights.start(scope, key, uid)

    def no_flight(self, peer: Peer, request: wire.Begin) -> list[Effect]:
        """Refuse a begin for whose flight there is no room."""
        return self.busy(peer, request, "flights", self.settings.max_flights)

    def ask_next(self, lease: HeldLease, request: wire.Fail, now: float) -> tuple[bool, list[Effect]]:
        """Let a caller whose call has failed go on, on another backend or after a pause; tell whether it does."""
        if not request.next or request.kind == "cancelled" or self.draining:
            return False, []

        wait_seconds = self.wait_seconds(lease.request)
        applicant = Applicant(lease.flight, lease.peer, lease.request, request.id, now, now + wait_seconds)
        applicant.first = False
        applicant.failure = request.message
        applicant.tried = lease.tried
        applicant.retries = lease.retries
        effects: list[Effect] = []
        names = self._admission.names(lease.request)
        if not set(names).issubset(lease.tried):
            refusal, effects = self._seat(applicant, now)
            if refusal is None:
                return True, effects

        if not request.retry or request.kind != "transient":
            return False, effects

        pause_seconds = self._retries.backoff_seconds(lease.retries + 1)
        if len(set(names)) == 1:
            # With several, another one may be asked before this one wants to be.
            pause_seconds = max(pause_seconds, request.retry_after_seconds or 0.0)

        if pause_seconds >= wait_seconds:
            return False, effects

        if not self._retries.withdraw(now):
            self._count.retries_refused += 1
            return False, effects

        applicant.tried = ()
        applicant.retries += 1
        applicant.not_before = now + pause_seconds
        self._flights.apply(applicant)
        effects.append(self._pending(applicant))
        return True, effects

    def wait_seconds(self, request: wire.Begin) -> float:
        """Return how long a caller waits."""
        return self.settings.wait_seconds if request.wait_seconds is None else request.wait_seconds

    def due(self, applicant: Applicant, now: float) -> list[Effect]:
        """An applicant's time has come: that of its retry, or its last."""
        self._flights.withdraw(applicant)
        if now >= applicant.deadline:
            waited_seconds = now - applicant.joined_at
            if applicant.first:
                timeout = self.timed_out(applicant.peer, applicant.request, waited_seconds)
            else:
                timeout = Send(applicant.peer.id, wire.Timeout(applicant.reply_id, waited_seconds))

            return [timeout, *self.instead_of(applicant, now)]

        applicant.not_before = 0.0
        return self._seat_again(applicant, now)

    def leave(self, applicant: Applicant) -> None:
        """Take a caller out that wants no lease any more, or is gone; `instead_of` it another is to be found."""
        self._flights.withdraw(applicant)
        self._count.left += applicant.first

    @property
    def _expires_in_seconds(self) -> float:
        # Clients renew every third of what they are told.
        lease_seconds, renew_seconds = self.settings.lease_seconds, self.settings.renew_seconds
        return lease_seconds if renew_seconds is None else min(lease_seconds, 3 * renew_seconds)

    # A backend -------------------------------------------------------------------------------------------------------

    def reconsider(self, now: float) -> list[Effect]:
        """Serve every queue anew, because what backends may be called, and how often, is no longer what it was."""
        effects: list[Effect] = []
        for backend in self._backends.all().values():
            if self.settings.sovereign and backend.settings.locality == "remote":
                effects += self._flush(backend, now)

            effects += self.freed(backend, now)

        return effects

    def freed(self, backend: Backend, now: float) -> list[Effect]:
        """Serve a backend's queue, as far as it has room; where its breaker has opened, send the queue elsewhere.

        To be called whenever a permit came back or a breaker may have changed.
        """
        if backend.take_reclosed():
            self._invite(backend, now)

        if not backend.queue:
            return []

        effects: list[Effect] = [EmitNote(note) for note in backend.breaker.advance(now)]
        while backend.queue:
            obstacle = backend.obstacle(now)
            if obstacle == "breaker_open":
                effects += self._flush(backend, now)
                break

            if obstacle is not None:
                break

            applicant = backend.queue.first()
            if applicant.deadline <= now:
                # As in `Flights.next_willing`: the permit came back before the tick that would have told it.
                effects += self.due(applicant, now)
                continue

            if self._admission.policy_obstacle(applicant.request.task, backend, now) is not None:
                # A budget was used up while it waited.
                effects += self._unqueue(applicant, backend, now)
                continue

            choice = next(choice for choice in applicant.queues if choice[1] is backend)
            backend.queue.serve(applicant.flow, applicant)
            applicant.queues = tuple(other for other in applicant.queues if other is not choice)
            self._flights.withdraw(applicant)
            if not self._has_lease(applicant.peer.uid):
                self._metrics.limited["max_leases"] += 1
                effects += self.turn_away(applicant, Refusal("busy"), now)
                continue

            effects += self._grant(applicant, choice, Decision(self._admission.route(applicant.request)), now)

        self._set_alarm(backend, now)
        return effects

    def _invite(self, backend: Backend, now: float) -> None:
        """Let those stand in a backend's queue who wait for others, and could not be called there when they came."""
        for applicant in self._flights.applicants():
            if not applicant.queues or any(waiting is backend for _, waiting in applicant.queues):
                continue

            named = [
                (name, self._backends.of(name))
                for name in self._admission.names(applicant.request)
                if name not in applicant.tried
            ]
            choice = next((choice for choice in named if choice[1] is backend), None)
            if (
                choice is not None
                and self._admission.has_queue_room(backend, applicant.flow)
                and self._admission.policy_obstacle(applicant.request.task, backend, now) is None
            ):
                backend.queue.push(applicant.flow, applicant)
                applicant.queues += (choice,)

    def _flush(self, backend: Backend, now: float) -> list[Effect]:
        effects: list[Effect] = []
        for applicant in list(backend.queue):
            # One that was sent away may have been the other's flight's: its turn may have changed the queue.
            if any(waiting is backend for _, waiting in applicant.queues):
                effects += self._unqueue(applicant, backend, now)

        return effects

    def _unqueue(self, applicant: Applicant, backend: Backend, now: float) -> list[Effect]:
        """Take an applicant out of one queue; where it was the last, look for a backend afresh."""
        backend.queue.remove(applicant.flow, applicant)
        applicant.queues = tuple(choice for choice in applicant.queues if choice[1] is not backend)
        if applicant.queues:
            return []

        return self.due(applicant, now)

    def _set_alarm(self, backend: Backend, now: float) -> None:
        wakes_at = backend.wakes_at(now)
        if wakes_at is None or wakes_at == float("inf"):
            self._flights.timers.clear(backend)
        else:
            self._flights.timers.set(backend, wakes_at)

    # A flight --------------------------------------------------------------------------------------------------------

    def land(
        self, flight: Flight | None, kind: wire.FailureKind, message: str, now: float, hung: Peer | None = None
    ) -> list[Effect]:
        """A flight's lease has ended without an answer: the next caller, or the end of the flight."""
        if flight is None:
            return []

        effects = self.interrupt(flight, kind, message, now)
        may_pass = kind in {"transient", "cancelled"}
        if may_pass and self.draining:
            return effects + self._send_away(flight, now)

        if (
            may_pass
            and flight.elections < self.settings.max_elections
            and self._flights.next_willing(flight, now) is not None
        ):
            flight.elections += 1
            return effects + self.pass_on(flight, now, elected=True, hung=hung)

        flight.unshared = kind == "ignored"
        return effects + self._fail(flight, self._flights.finish(flight), kind, message, now)

    def interrupt(self, flight: Flight, kind: wire.FailureKind, message: str, now: float) -> list[Effect]:
        """What a flight has of its stream is worth nothing: those who have seen some of it cannot have another's."""
        if flight.stream is None:
            return []

        self._streams.drop(flight.stream)
        flight.stream = None
        readers = [waiter for waiter in flight.waiters.values() if waiter.feed is not None]
        for reader in readers:
            self._flights.leave(reader)
            self._streams.abandon(reader.feed)

        self._streams.broken += len(readers)
        return self._fail(flight, readers, kind, message, now)

    def _fail(
        self, flight: Flight, waiters: list[Waiter], kind: wire.FailureKind, message: str, now: float
    ) -> list[Effect]:
        """Tell those who were taken out of a flight that it has failed."""
        if not waiters:
            return []

        effects: list[Effect] = [EmitNote(notes.FlightFailed(flight.key, kind, message, len(waiters)))]
        for waiter in waiters:
            if waiter.deadline <= now:
                effects.append(self.timed_out(waiter.peer, waiter.request, now - waiter.joined_at))
            else:
                self._count.failed += 1
                self._waited(waiter.request, now - waiter.joined_at)
                effects.append(Send(waiter.peer.id, wire.Failed(waiter.request.id, kind, message)))

        return effects

    def pass_on(self, flight: Flight, now: float, *, elected: bool, hung: Peer | None = None) -> list[Effect]:
        """Seat the longest-waiting caller that can be; without one the flight is over. ``elected`` after a failure."""
        if self.draining:
            return self._send_away(flight, now)

        effects: list[Effect] = []
        while (waiter := self._flights.next_willing(flight, now, hung)) is not None:
            self._flights.leave(waiter)
            peer, request = waiter.peer, waiter.request
            applicant = Applicant(flight, peer, request, request.id, waiter.joined_at, waiter.deadline)
            applicant.pending = waiter.told
            applicant.elected = elected
            applicant.old = self._freshness.find(flight.scope, request, now)
            refusal, told = self._seat(applicant, now)
            effects += told
            if refusal is None:
                return effects

            effects += self._instead_of_lease(applicant, refusal, now)

        effects += [
            self.timed_out(waiter.peer, waiter.request, now - waiter.joined_at)
            for waiter in self._flights.finish(flight)
        ]
        return effects

    def _send_away(self, flight: Flight, now: float) -> list[Effect]:
        """End a flight that has no lease, because the daemon is about to stop."""
        effects = self.reject_waiters(flight, now)
        self._flights.finish(flight)
        return effects

    def reject_waiters(self, flight: Flight, now: float) -> list[Effect]:
        """Refuse all who wait for a flight's end, because the daemon is about to stop."""
        effects: list[Effect] = []
        for waiter in self._flights.release(flight):
            self._streams.abandon(waiter.feed)
            effects.append(
                self.timed_out(waiter.peer, waiter.request, now - waiter.joined_at)
                if waiter.deadline <= now
                else self.rejection(waiter.peer, waiter.request, DRAINING)
            )

        return effects

    # What is said ----------------------------------------------------------------------------------------------------

    def rejection(self, peer: Peer, request: wire.Begin, refusal: Refusal, reply_id: int | None = None) -> Send:
        """End a begin by a refusal."""
        self._refused(peer, request, refusal)
        return refusal.sent(peer, request.id if reply_id is None else reply_id)

    def _refused(self, peer: Peer, request: wire.Begin, refusal: Refusal) -> None:
        self._count.reject(refusal.reason)
        self._recorder.record_rejection(peer, request, refusal.reason)

    def busy(self, peer: Peer, request: wire.Begin, table: notes.Table, limit: int) -> list[Effect]:
        """Refuse a begin for want of room in a table of ours."""
        return [self.rejection(peer, request, Refusal("busy")), *self._full(table, limit)]

    def has_place(self, uid: int) -> bool:
        """Tell whether one more caller of ``uid`` may wait."""
        settings = self.settings
        return self._flights.waiters_by_uid.has_room(uid, settings.max_waiters, settings.spare_share)

    def _has_lease(self, uid: int) -> bool:
        settings = self.settings
        return self._flights.leases_by_uid.has_room(uid, settings.max_leases, settings.spare_share)

    def has_room_for_waiters(self) -> None:
        """A waiter was taken in: that the table is full may be told again."""
        self._told_full.discard("waiters")

    def timed_out(self, peer: Peer, request: wire.Begin, waited_seconds: float) -> Send:
        """End a begin by its own deadline."""
        self._count.timeouts += 1
        self._waited(request, waited_seconds)
        self._recorder.record_timeout(peer, request, waited_seconds)
        return Send(peer.id, wire.Timeout(request.id, waited_seconds))

    def _waited(self, request: wire.Begin, waited_seconds: float) -> None:
        self._ledgers.of(request.task).waits.observe(waited_seconds)

    def _full(self, table: notes.Table, limit: int) -> list[Effect]:
        self._metrics.limited["streams" if table == "streams" else f"max_{table}"] += 1
        # Said once per time that a table fills, not once per refused call.
        if table in self._told_full:
            return []

        self._told_full.add(table)
        return [EmitNote(notes.Saturated(table, limit))]

    # Seats -----------------------------------------------------------------------------------------------------------

    def _seat(self, applicant: Applicant, now: float) -> tuple[Refusal | None, list[Effect]]:
        """Give an applicant its lease, or let it wait for a permit; where neither can be, return why."""
        request = applicant.request
        if not self._has_lease(applicant.peer.uid):
            return Refusal("busy"), self._full("leases", self.settings.max_leases)

        self._told_full.discard("leases")
        names = self._admission.names(request)
        if applicant.tried:
            names = tuple(name for name in names if name not in applicant.tried)

        decision, effects = self._admission.decide(request, names, applicant.flow, now)
        if decision.chosen is not None:
            return None, effects + self._grant(applicant, decision.chosen, decision, now)

        if decision.queues and applicant.deadline > now:
            if applicant.old is not None:
                return _WOULD_WAIT, effects

            if applicant.first and not self.has_place(applicant.peer.uid):
                return Refusal("busy"), effects + self._full("waiters", self.settings.max_waiters)

            self._queue(applicant, decision.queues, now)
            if applicant.first:
                self.has_room_for_waiters()

            if not applicant.pending:
                effects.append(self._pending(applicant))

            return None, effects

        self._metrics.limited["max_queue"] += decision.reason == "saturated" and not decision.queues
        for name in decision.obstacles:
            effects += self._tell_queue_full(self._backends.of(name))

        return Refusal(decision.reason, decision.retry_after_seconds, decision.obstacles), effects

    def _queue(self, applicant: Applicant, choices: tuple[Choice, ...], now: float) -> None:
        applicant.queues = choices
        for _, backend in choices:
            backend.queue_full_noted = False
            backend.queue.push(applicant.flow, applicant)

        self._flights.apply(applicant)
        for _, backend in choices:
            self._set_alarm(backend, now)

    def _pending(self, applicant: Applicant) -> Send:
        applicant.pending = True
        return Send(applicant.peer.id, wire.Pending(applicant.reply_id))

    def _tell_queue_full(self, backend: Backend) -> list[Effect]:
        if backend.queue_full_noted or len(backend.queue) < max(1, backend.settings.max_queue):
            return []

        backend.queue_full_noted = True
        return [EmitNote(notes.QueueFull(backend.name, backend.settings.max_queue))]

    def _seat_again(self, applicant: Applicant, now: float) -> list[Effect]:
        """Seat an applicant that has waited; where that cannot be, turn it away."""
        refusal, effects = (DRAINING, []) if self.draining else self._seat(applicant, now)
        if refusal is None:
            return effects

        return [*effects, *self.turn_away(applicant, refusal, now)]

    def _instead_of_lease(self, applicant: Applicant, refusal: Refusal, now: float) -> list[Effect]:
        """End the begin of an applicant that got no seat: by the older answer, or by a refusal."""
        peer, request, old = applicant.peer, applicant.request, applicant.old
        if old is None:
            return [self.rejection(peer, request, refusal)]

        if refusal is _WOULD_WAIT or old.is_fresh(now):
            return self.serve(peer, request, old, now)

        self._count.stale_given += 1
        self._refused(peer, request, refusal)
        return [refusal.sent_with(self._serving.brought(old, now), peer, request.id)]

    def turn_away(self, applicant: Applicant, refusal: Refusal, now: float) -> list[Effect]:
        """Refuse an applicant that was withdrawn; its flight goes to the next."""
        peer, reply_id = applicant.peer, applicant.reply_id
        # Of one whose begin has had its end, no begin ends here.
        if applicant.first:
            said = self.rejection(peer, applicant.request, refusal, reply_id)
        else:
            said = refusal.sent(peer, reply_id)

        return [said, *self.instead_of(applicant, now)]

    def instead_of(self, applicant: Applicant, now: float) -> list[Effect]:
        """Find the next one where an applicant is out."""
        if applicant.flight is None:
            return []

        if applicant.first:
            return self.pass_on(applicant.flight, now, elected=applicant.elected)

        return self.land(applicant.flight, "transient", applicant.failure, now)

    def _grant(self, applicant: Applicant, choice: Choice, decision: Decision, now: float) -> list[Effect]:
        name, backend = choice
        count, request = self._count, applicant.request
        permit = self._admission.acquire(backend, request.task, now)
        lease = self._flights.grant(applicant, name, permit, now)
        count.leases_granted += 1
        if applicant.pending:
            self._waited(request, now - applicant.joined_at)

        effects: list[Effect] = []
        if applicant.first:
            count.leases_first += 1
            self._retries.deposit(now)
            if applicant.flight is not None:
                self._ledgers.of(request.task).led += 1
                if applicant.elected:
                    count.reelections += 1
                    flight = applicant.flight
                    effects.append(EmitNote(notes.Reelected(flight.key, lease.name, lease.peer.id, flight.elections)))
        elif applicant.tried:
            count.next_backends += 1
        else:
            count.retries += 1

        reply = wire.Lease(
            applicant.reply_id,
            lease.name,
            name,
            self._expires_in_seconds,
            lease.attempt,
            decision.route,
            decision.obstacles,
            self._recorder.prompts,
            *(_NOTHING_BROUGHT if applicant.old is None else self._serving.brought(applicant.old, now)),
        )
        if applicant.old is not None:
            count.early_refreshes += lease.early
            count.stale_given += not lease.early

        effects.append(Send(lease.peer.id, reply))
        return effects
