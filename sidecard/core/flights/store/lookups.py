"""Store lookups: with a store, a flight begins by asking it.

The store answers later, by `StoreAnswered`. Until then the flight has neither lease nor applicant, and all of its callers
wait, so a hundred callers cost one read. They are sent `Pending` only after `PENDING_AFTER_SECONDS`.

On one host, the fence of a lease decides which holder may store. Among hosts, the *claim* decides, which a shared store grants to one
host at a time. A lost claim costs a second call, never a wrong answer.
"""

from collections.abc import Sequence

from msgspec import Struct

from sidecard.core.accounts.charges import begin_bytes, question_bytes
from sidecard.core.cache.entry import Entry
from sidecard.core.cache.memory import MemoryCache
from sidecard.core.counters import Counters
from sidecard.core.effects import Effect, SendReply, StoreRead, StoreRelease
from sidecard.core.events import Answer, Peer, Unavailable
from sidecard.core.flights.endings import Endings
from sidecard.core.flights.flight import CLAIMED_ELSEWHERE, LOOKING_UP, Flight
from sidecard.core.flights.limits import TableLimits
from sidecard.core.flights.participants import Waiter
from sidecard.core.flights.serving import Serving
from sidecard.core.flights.store.status import PATIENCE_SECONDS, StoreStatus
from sidecard.core.flights.table import Flights
from sidecard.core.scopes import covers
from sidecard_client.protocol import wire

PENDING_AFTER_SECONDS = 0.02
"""Waiting callers are sent `Pending` after this: a read takes far less, and clients give up only after 0.5 s."""


class Lookups(Struct, frozen=True, eq=False):
    """Asks the store, and keeps the callers that wait for its answer."""

    flights: Flights
    status: StoreStatus
    limits: TableLimits
    endings: Endings
    serving: Serving
    cache: MemoryCache
    counters: Counters
    questions: dict[int, Flight] = {}
    """By ticket, the flights whose question to the store is open."""
    gets: dict[Flight, list[tuple[Peer, wire.Get]]] = {}

    def concerns(self, flight: Flight | None, request: wire.Begin) -> bool:
        """Return whether a begin waits for the store: its flight does, or it has none and the store is to be asked."""
        if flight is not None:
            return flight.state == LOOKING_UP

        # A refresh reads no entry, so it asks only a store that grants claims.
        status = self.status
        return status.answers and not self.flights.draining and (status.shared or request.mode != "refresh")

    def begin(self, scope: str, flight: Flight | None, peer: Peer, request: wire.Begin, now: float) -> list[Effect]:
        """Let a begin wait for the store's answer."""
        charge = begin_bytes(request)
        full = self.limits.full_for_waiter(peer.uid, charge)
        if full is not None:
            return self.endings.reject_full(peer, request, full)

        assert request.key is not None  # noqa: S101 - for the type checker: calls without a key have no flight
        if flight is None:
            flight = self.limits.start_flight(scope, request.key, peer.uid)
            if flight is None:
                return self.endings.reject_full(peer, request, "flights")

        effects = self.release_claims()  # before the question: a voided flight of the key may have had the claim
        reads_entry = request.mode != "refresh"
        waiter = self.flights.join(flight, peer, request, charge, now, self.endings.wait_seconds(request))
        if reads_entry:
            waiter.open_lookup()

        if flight.state != LOOKING_UP:
            effects.append(self.ask(flight, now, reads_entry=reads_entry))
        elif flight.pending:
            effects += self.send_pending(flight)

        return effects

    def get(self, scope: str, peer: Peer, request: wire.Get, now: float) -> list[Effect] | None:
        """Let a get wait for the store's answer; None if the store is not to be asked."""
        flight = self.flights.find(scope, request.key)
        # If the key is being computed, the store has been asked before and had no entry.
        if not self.status.answers or (flight is not None and flight.state != LOOKING_UP):
            return None

        if self.limits.full_memory(peer.uid, question_bytes(request.key)) is not None:
            return None

        effects: list[Effect] = []
        if flight is None:
            flight = self.limits.start_flight(scope, request.key, peer.uid)
            if flight is None:
                return None

            effects += self.release_claims()
            effects.append(self.ask(flight, now, reads_entry=True))

        self.limits.memory.charge(peer.uid, question_bytes(request.key))
        self.gets.setdefault(flight, []).append((peer, request))
        return effects

    def ask(self, flight: Flight, now: float, *, reads_entry: bool) -> StoreRead:
        """Ask the store for a flight's entry, its claim, or both."""
        ticket = self.status.next_ticket()
        self.counters.store_reads += reads_entry
        claiming = self.wants_claim(flight)
        flight.store_asked(reads_entry=reads_entry, claiming=claiming)
        self.questions[ticket] = flight
        self.flights.timers.set(flight, now + PENDING_AFTER_SECONDS)
        return StoreRead(ticket, flight.scope, flight.key, claiming, reads_entry)

    def wants_claim(self, flight: Flight) -> bool:
        """Return whether a question about a flight's key requests the claim: a caller here would make the call."""
        return self.status.grants_claims and not self.flights.draining and flight.needs_holder()

    def answered(self, ticket: int, answer: Answer) -> Flight | None:
        """Close a question and return its flight; None if the ticket is not of a lookup."""
        flight = self.questions.pop(ticket, None)
        if flight is not None:
            self.flights.timers.clear(flight)
            self.counters.store_unanswered += isinstance(answer, Unavailable)

        return flight

    def ask_again(self, flight: Flight, now: float) -> list[Effect]:
        """A flight's key has changed: do not trust the open question's answer, or ask a new question.

        One question at a time: if it were abandoned, a claim in its answer would be lost.
        """
        if flight.state == LOOKING_UP:
            flight.outdate()
        elif flight.state == CLAIMED_ELSEWHERE:
            return self.ask_or_end(flight, now)

        return []

    def ask_again_within(self, namespace: str | None, now: float) -> list[Effect]:
        """Do `ask_again` for all flights of a namespace; None means all."""
        return [
            effect
            for flight in self.flights
            if covers(namespace, flight.scope)
            for effect in self.ask_again(flight, now)
        ]

    def ask_or_end(self, flight: Flight, now: float) -> list[Effect]:
        """Ask the store again, if a caller still waits for the answer."""
        if flight.waiters or self.gets.get(flight):
            return [self.ask(flight, now, reads_entry=True)]

        self.end(flight)
        return []

    def end(self, flight: Flight) -> list[Waiter]:
        """End a flight that asks or has asked the store; return its waiters."""
        self.flights.timers.clear(flight)
        self._take_gets(flight)
        return self.flights.finish(flight)

    def flight_due(self, flight: Flight, now: float) -> list[Effect]:
        """Handle a flight's timer: send `Pending` to its callers, answer its gets, or ask the store again."""
        if flight.state != LOOKING_UP:
            return self.ask_again(flight, now)

        if not flight.pending:
            flight.store_is_slow()
            self.flights.timers.set(flight, now + PATIENCE_SECONDS - PENDING_AFTER_SECONDS)
            return self.send_pending(flight)

        return self.answer_gets(flight, now, self.cache.get(flight.scope, flight.key, now))

    def answer_gets(self, flight: Flight, now: float, entry: Entry | None) -> list[Effect]:
        """Answer the gets that wait for a flight's question."""
        gets = self._take_gets(flight)
        return [SendReply(peer.id, self.serving.read(request, entry, now), wire.Get) for peer, request in gets]

    def _take_gets(self, flight: Flight) -> Sequence[tuple[Peer, wire.Get]]:
        gets = self.gets.pop(flight, ())
        for peer, request in gets:
            self.limits.memory.release(peer.uid, question_bytes(request.key))

        return gets

    def send_pending(self, flight: Flight) -> list[Effect]:
        """Send `Pending` to the waiters of a flight that have not been sent it."""
        effects: list[Effect] = []
        for waiter in flight.waiters.values():
            if not waiter.pending:
                waiter.mark_pending()
                effects.append(SendReply(waiter.peer.id, wire.Pending(waiter.request.id)))

        return effects

    def peer_lost(self, peer: Peer) -> None:
        """Forget the gets of a lost peer."""
        for flight, gets in list(self.gets.items()):
            self.gets[flight] = [(sender, request) for sender, request in gets if sender.id != peer.id]
            for sender, request in gets:
                if sender.id == peer.id:
                    self.limits.memory.release(peer.uid, question_bytes(request.key))

    def release_claims(self) -> list[Effect]:
        """Release the claims of flights that are over or voided."""
        unused = self.flights.unused_claims
        effects: list[Effect] = [
            StoreRelease(flight.scope, flight.key, flight.take_claim(), flight.unshared)
            for flight in unused
            if flight.claim
        ]
        unused.clear()
        return effects
