"""The effects of the store's answers on the callers that wait for them."""

from msgspec import Struct

from sidecard.core.cache.entry import Entry
from sidecard.core.cache.freshness import accepts_found
from sidecard.core.cache.policy import CachePolicy
from sidecard.core.effects import Effect
from sidecard.core.events import (
    Absent,
    Answer,
    ClaimedRemotely,
    EntriesPurged,
    Found,
    InvalidationsMissed,
    KeyChanged,
    StoreAnswered,
    StoreStateChanged,
    Unavailable,
)
from sidecard.core.flights.election import Election
from sidecard.core.flights.endings import NOT_CACHED, Endings
from sidecard.core.flights.flight import CLAIMED_ELSEWHERE, OVER, Flight
from sidecard.core.flights.serving import Serving
from sidecard.core.flights.store.lookups import Lookups
from sidecard.core.flights.store.status import StoreStatus
from sidecard.core.flights.store.writes import StoreUpdates
from sidecard.core.flights.table import Flights
from sidecard.core.records import Record


class LookupAnswers(Struct, frozen=True, eq=False):
    """Continues flights when the store has answered."""

    flights: Flights
    lookups: Lookups
    status: StoreStatus
    policy: CachePolicy
    serving: Serving
    election: Election
    endings: Endings

    def answered(self, flight: Flight, answer: Answer, now: float) -> list[Effect]:
        """Continue a flight with the store's answer to its question."""
        if isinstance(answer, Absent):
            flight.store_answered(answer.claim)

        entry = self.policy.cache.get(flight.scope, flight.key, now) if flight.reads_entry else None
        if entry is not None:
            # It was stored in memory meanwhile, or it is the doubted entry.
            doubted = self.status.doubts(entry)
            if entry.is_fresh(now) and (isinstance(answer, Unavailable) or not doubted):
                effects = self._serve(flight, entry, now)
                if flight.state == OVER:
                    return effects

                if isinstance(answer, Found) and now - entry.stored_at <= answer.record.age_seconds:
                    return effects + self._replace_stored(flight, now)

                return effects + self._conclude(flight, answer, now)

            if isinstance(answer, Absent) and (doubted or entry.is_fresh(now)):
                self.policy.cache.delete(flight.scope, flight.key, now)

        return self._conclude(flight, answer, now)

    def compute_here(self, flight: Flight, now: float) -> list[Effect]:
        """No host has the answer: serve similar or stale answers where allowed, and admit a caller to compute it."""
        self.flights.timers.clear(flight)
        flight.not_stored()
        effects = self._serve_similar(flight, now)
        leader = next((waiter for waiter in flight.waiters.values() if waiter.may_lead), None)
        effects += self.election.serve_stale(flight, now, exclude=leader)
        effects += self._not_stored(flight, now)
        effects += self.election.elect_next(flight, now, elected=False)
        return effects if flight.state == OVER else effects + self._keep_waiting(flight)

    def _conclude(self, flight: Flight, answer: Answer, now: float) -> list[Effect]:
        match answer:
            case Found() | ClaimedRemotely() if flight.outdated:
                return self.lookups.ask_or_end(flight, now)
            case Found(record) if record.remaining_seconds > 0:
                return self._found(flight, record, now)
            case ClaimedRemotely(seconds):
                return self._wait_for_host(flight, seconds, now)
            case Absent() if not flight.claiming and self.lookups.wants_claim(flight):
                # Only gets were waiting when the store was asked; now a caller needs the claim.
                return [*self._not_stored(flight, now), self.lookups.ask(flight, now, reads_entry=True)]
            case _:
                return self.compute_here(flight, now)

    def _found(self, flight: Flight, record: Record, now: float) -> list[Effect]:
        entry, effects = self.policy.adopt(flight.scope, flight.key, record, now)
        if entry is None:
            # Its value is damaged.
            return self._conclude(flight, Absent(), now)

        effects += self._serve(flight, entry, now)
        return effects if flight.state == OVER else effects + self._replace_stored(flight, now)

    def _replace_stored(self, flight: Flight, now: float) -> list[Effect]:
        """The stored answer is too old for all waiters that remain: let one of them compute another."""
        if not self.lookups.wants_claim(flight):
            return self.compute_here(flight, now)

        leader = next(waiter for waiter in flight.waiters.values() if waiter.may_lead)
        effects = self.election.serve_stale(flight, now, exclude=leader)
        return [*effects, *self._not_stored(flight, now), self.lookups.ask(flight, now, reads_entry=False)]

    def _serve(self, flight: Flight, entry: Entry, now: float) -> list[Effect]:
        """Serve an entry to the waiters that accept its age; end the flight, unless a waiter remains."""
        effects = self.lookups.answer_gets(flight, now, entry)
        terms = entry.terms
        for waiter in list(flight.waiters.values()):
            if not accepts_found(waiter.request, waiter.joined_at, entry, now):
                continue

            self.flights.leave(waiter)
            if waiter.lookup_open:
                effects += self.serving.entry(waiter.peer, waiter.request, entry, now)
            else:
                answer, age_seconds, backend = self.serving.answer_fields(entry, now)
                effects += self.serving.shared(
                    waiter, answer, entry.seconds, backend, terms.usage, now, age_seconds=age_seconds
                )

        if not flight.waiters:
            self.lookups.end(flight)

        return effects

    def _wait_for_host(self, flight: Flight, seconds: float, now: float) -> list[Effect]:
        effects = self.election.serve_stale(flight, now) + self._not_stored(flight, now)
        if not flight.waiters:
            self.lookups.end(flight)
            return effects

        flight.claimed_elsewhere()
        self.flights.timers.set(flight, now + seconds)
        return effects + self._keep_waiting(flight)

    def _serve_similar(self, flight: Flight, now: float) -> list[Effect]:
        """Serve similar requests' answers to the waiters that accept them, or ask for their vectors."""
        effects: list[Effect] = []
        if self.policy.cache.peek(flight.scope, flight.key) is not None:
            return effects  # a stale entry, which one of the waiters is to replace

        for waiter in list(flight.waiters.values()):
            request = waiter.request
            if (request.embeds or request.vector is not None) and (waiter.lookup_open or request.mode == "refresh"):
                answered = self.serving.similar(flight.scope, waiter.peer, request, now)
                if answered is not None:
                    self.flights.leave(waiter)
                    effects += answered

        return effects

    def _not_stored(self, flight: Flight, now: float) -> list[Effect]:
        """Answer the callers that accept only a stored answer: there is none."""
        effects = self.lookups.answer_gets(flight, now, None)
        for waiter in list(flight.waiters.values()):
            if waiter.lookup_open:
                self.serving.count_miss(waiter.peer, waiter.request, now)
                waiter.close_lookup()

            if not waiter.may_lead:
                self.flights.leave(waiter)
                effects.append(self.endings.reject(waiter.peer, waiter.request, NOT_CACHED))

        return effects

    def _keep_waiting(self, flight: Flight) -> list[Effect]:
        """Time out the waiters that wait for no call; send `Pending` to the others."""
        effects: list[Effect] = []
        for waiter in [waiter for waiter in flight.waiters.values() if waiter.no_wait]:
            self.flights.leave(waiter)
            effects.append(self.endings.time_out(waiter.peer, waiter.request, 0.0))

        return effects + self.lookups.send_pending(flight)


class StoreEvents(Struct, frozen=True, eq=False):
    """Handles the store's events: its answers, its state, and changes by other hosts."""

    flights: Flights
    lookups: Lookups
    answers: LookupAnswers
    writes: StoreUpdates
    status: StoreStatus
    policy: CachePolicy

    def answered(self, event: StoreAnswered, now: float) -> list[Effect]:
        """Handle an answer, to a lookup or to a removal."""
        flight = self.lookups.answered(event.ticket, event.answer)
        if flight is None:
            return self.writes.removed(event)

        return self.answers.answered(flight, event.answer, now)

    def state_changed(self, event: StoreStateChanged, now: float) -> list[Effect]:
        """Handle a new state. While the store is down, no answer of another host can arrive."""
        effects = self.status.changed(event)
        if effects and event.state == "down":
            for flight in self.flights:
                if flight.state == CLAIMED_ELSEWHERE:
                    effects += self.answers.compute_here(flight, now)

        return effects

    def key_changed(self, event: KeyChanged, now: float) -> list[Effect]:
        """Handle a change of a key by another host."""
        if event.how in {"stored", "removed"}:
            self.policy.cache.delete(event.scope, event.key, now)
            if event.how == "removed":
                self.flights.void_key(event.scope, event.key)

        flight = self.flights.find(event.scope, event.key)
        if flight is None:
            return []

        if event.how == "unshared" and flight.state == CLAIMED_ELSEWHERE:
            return self.answers.compute_here(flight, now)

        return self.lookups.ask_again(flight, now)

    def entries_purged(self, event: EntriesPurged, now: float) -> list[Effect]:
        """Handle a purge by another host."""
        self.policy.purge(event.namespace, event.tag, now, event.task)
        self.flights.void(event.namespace, event.tag, event.task)
        return self.lookups.ask_again_within(event.namespace, now)

    def invalidations_missed(self, _: InvalidationsMissed, now: float) -> list[Effect]:
        """Doubt all entries in memory, and all open questions."""
        self.policy.doubt_all()
        return self.lookups.ask_again_within(None, now)
