"""What the engine asks of the store, and what becomes of it: a flight begins by looking there.

The store answers later, in `StoreAnswered`; meanwhile the flight has neither lease nor applicant, and all its callers wait,
so a hundred of them cost one look. They are told `Pending` only if the store takes longer than `PENDING_AFTER_SECONDS`.

======================  ===========================  ==================================================================
flight                  what happens                 what becomes of it
======================  ===========================  ==================================================================
none                    begin, get                   asking
asking                  found                        over: the entry is in memory, everybody is served
asking                  absent                       the longest-waiting caller gets the lease (`Granting.pass_on`)
asking                  found, damaged               as absent
asking                  elsewhere                    elsewhere: another host computes the key
asking                  unavailable                  as absent, but what memory has and only doubts is served
asking                  removal or news of the key   asking, and once more where the answer may be older than those
elsewhere               news of the key, time is up  asking anew
elsewhere               unshared, the store is down  as absent
any                     over                         its claim, if it has one and no entry was written, is given back
======================  ===========================  ==================================================================

On one host the fence of a lease decides who may store. Over many hosts it is the *claim*, which the store grants to one of
them at a time: a lease of hosts. A claim that is lost costs a second call, never a wrong answer.
"""

from sidecard.core import notes
from sidecard.core.cache.entry import Entry
from sidecard.core.cache.policy import CachePolicy
from sidecard.core.cache.similarity import SimilarAnswers
from sidecard.core.counters import Counters
from sidecard.core.effects import Effect, EmitNote, Send, StorePurge, StoreRead, StoreRelease, StoreRemove, StoreWrite
from sidecard.core.events import (
    Absent,
    Answer,
    ClaimedRemotely,
    EntriesPurged,
    Found,
    InvalidationsMissed,
    KeyChanged,
    Peer,
    Removed,
    StoreAnswered,
    StoreGauges,
    StoreMeasured,
    StoreStateChanged,
    Unavailable,
)
from sidecard.core.flights.flights import Flight, Flights, Removal, Waiter
from sidecard.core.flights.grant import NOT_CACHED, Granting
from sidecard.core.flights.serving import Serving
from sidecard.core.records import Record
from sidecard.core.scopes import covers
from sidecard.core.settings import EngineSettings
from sidecard_client.protocol import wire

PENDING_AFTER_SECONDS = 0.02
"""How long the store may take before those who wait are told so: far above a read, far below the clients' patience (0.5 s)."""

PATIENCE_SECONDS = 0.3
"""How long a get, a delete or a purge waits for the store: below the clients' patience, to whom a daemon that takes longer is
as good as none."""

NO_TICKET = 0
"""Of a removal that nobody waits for."""


class Lookups:
    """The engine's side of the store; without one, all of this does nothing."""

    def __init__(
        self,
        settings: EngineSettings,
        flights: Flights,
        granting: Granting,
        policy: CachePolicy,
        serving: Serving,
        similar: SimilarAnswers,
        count: Counters,
    ) -> None:
        self.state: wire.StoreState = "none" if settings.store == "none" else "up"
        self.reason = ""
        self.gauges = StoreGauges()
        self._shared = settings.store == "shared"
        self._flights = flights
        self._granting = granting
        self._policy = policy
        self._serving = serving
        self._similar = similar
        self._count = count
        self._tickets = NO_TICKET
        self._asking: dict[int, Flight] = {}
        self._elsewhere: dict[Flight, None] = {}
        self._readers: dict[Flight, list[tuple[Peer, wire.Get]]] = {}
        self._removals: dict[int, Removal] = {}

    # What the rest of the engine asks -------------------------------------------------------------------------------

    @property
    def answers(self) -> bool:
        """There is a store that can be asked."""
        return self.state in {"up", "read_only"}

    @property
    def awaited(self) -> int:
        """Keys that another host computes for callers of this one."""
        return len(self._elsewhere)

    def complaints(self) -> list[str]:
        """Say, in sentences, what is not fine with the store."""
        gauges = self.gauges
        if self.state == "down":
            said = [
                f"The store cannot be used: {self.reason} What is in memory is served, and calls in flight are shared."
            ]
        elif self.state == "read_only":
            said = [f"The store takes no entries: {self.reason} What it has is served."]
        else:
            said = []

        if said and gauges.store_pending:
            said.append(f"{gauges.store_pending} entries and removals wait to be written to the store.")

        return said

    def doubts(self, entry: Entry) -> bool:
        """Tell whether the store should be asked before this entry is served: news of it may have been missed."""
        return entry.terms.trust != self._policy.trust and self.answers

    def concerns(self, flight: Flight | None, request: wire.Begin) -> bool:
        """Tell whether a begin is for `begin`: its flight asks the store, or there is none and the store is to be asked."""
        if flight is not None:
            return flight.ticket != NO_TICKET

        # Who wants a fresh answer has nothing to look for in a store that only we use.
        return self.answers and not self._granting.draining and (self._shared or request.mode != "refresh")

    def begin(self, scope: str, flight: Flight | None, peer: Peer, request: wire.Begin, now: float) -> list[Effect]:
        """Let a caller wait for the store's answer."""
        if not self._granting.has_place(peer.uid):
            return self._granting.busy(peer, request, "waiters", self._granting.settings.max_waiters)

        assert request.key is not None  # noqa: S101 - for the type checker: calls without a key are no flights
        effects: list[Effect] = []
        if flight is None:
            flight = self._granting.start(scope, request.key, peer.uid)
            if flight is None:
                return self._granting.no_flight(peer, request)

        wait_seconds = self._granting.wait_seconds(request)
        waiter = self._flights.join(flight, peer, request, now, wait_seconds)
        waiter.looking = request.mode != "refresh"
        waiter.hasty = wait_seconds <= 0
        if waiter.hasty:
            # It waits for nobody's call, but must look before it makes its own.
            self._flights.timers.clear(waiter)

        self._granting.has_room_for_waiters()
        if flight.ticket == NO_TICKET:
            effects.append(self._ask(flight, now, look=request.mode != "refresh"))
        elif flight.slow:
            waiter.told = True
            effects.append(Send(peer.id, wire.Pending(request.id)))

        return effects

    def read(self, scope: str, peer: Peer, request: wire.Get, now: float) -> list[Effect] | None:
        """Let a get wait for the store's answer; None where the store is not to be asked."""
        flight = self._flights.find(scope, request.key)
        # Where somebody computes the key, the store was asked before and had nothing.
        if not self.answers or (flight is not None and flight.ticket == NO_TICKET):
            return None

        effects: list[Effect] = []
        if flight is None:
            flight = self._granting.start(scope, request.key, peer.uid)
            if flight is None:
                return None

            effects.append(self._ask(flight, now, look=True))

        self._readers.setdefault(flight, []).append((peer, request))
        return effects

    def write(self, entry: Entry, now: float, *, claim: str = "", replace: bool = True) -> list[Effect]:
        """Let the store keep what was just stored in memory; see `StoreWrite`."""
        if self.state == "none":
            return []

        terms = entry.terms
        record = Record(
            entry.value,
            entry.seconds,
            terms.ttl_seconds,
            terms.window_seconds,
            terms.backend,
            terms.usage,
            terms.tags,
            task=terms.task,
            compressed=entry.compressed,
        )
        if record.remaining_seconds <= 0:
            # Stale from the beginning, which is for this host's memory alone.
            return self.forget(terms.scope, entry.key)

        return [StoreWrite(terms.scope, entry.key, record, claim, replace, now)]

    def forget(self, scope: str, key: str) -> list[Effect]:
        """Let the store remove an entry whose newer answer was not stored."""
        return [] if self.state == "none" else [StoreRemove(NO_TICKET, scope, key)]

    def delete(self, scope: str, peer: Peer, request: wire.Delete, removed: int, now: float) -> list[Effect]:
        """Let the store remove an entry, of which memory has removed ``removed``; answer the request."""
        if self.state == "none":
            return [self._deleted(peer, request, removed)]

        ticket = self._await_removal(peer, request, removed, now)
        effects: list[Effect] = [StoreRemove(ticket, scope, request.key)]
        if ticket == NO_TICKET:
            effects.append(self._deleted(peer, request, removed))

        flight = self._flights.find(scope, request.key)
        return effects if flight is None else effects + self._look_again(flight, now)

    def purge(self, peer: Peer, request: wire.Purge, removed: int, now: float) -> list[Effect]:
        """Let the store remove entries, of which memory has removed ``removed``; answer the request."""
        if self.state == "none":
            return [self._deleted(peer, request, removed)]

        ticket = self._await_removal(peer, request, removed, now)
        effects: list[Effect] = [StorePurge(ticket, request.namespace, request.tag, request.task)]
        if ticket == NO_TICKET:
            effects.append(self._deleted(peer, request, removed))

        return effects + self._look_again_within(request.namespace, now)

    def lose(self, peer: Peer) -> None:
        """Forget a peer's reads and removals."""
        for flight, readers in list(self._readers.items()):
            self._readers[flight] = [(reader, request) for reader, request in readers if reader.id != peer.id]

        for removal in list(self._removals.values()):
            if removal.peer.id == peer.id:
                self._forget(removal)

    def due(self, flight: Flight, now: float) -> list[Effect]:
        """A flight's time has come: who waits is to be told so, or can wait no longer, or the store is to be asked again."""
        if flight.ticket not in self._asking:
            return self._look_again(flight, now)

        if not flight.slow:
            flight.slow = True
            self._flights.timers.set(flight, now + PATIENCE_SECONDS - PENDING_AFTER_SECONDS)
            return self._tell_waiting(flight)

        entry = self._policy.cache.get(flight.scope, flight.key, now)
        return [
            Send(peer.id, wire.Miss(request.id) if entry is None else self._serving.hit(request, entry, now), wire.Get)
            for peer, request in self._readers.pop(flight, ())
        ]

    def overdue(self, removal: Removal) -> list[Effect]:
        """The store takes too long: it does it later, and what memory had is what can be told."""
        del self._removals[removal.ticket]
        return [self._deleted(removal.peer, removal.request, removal.removed)]

    def settle(self) -> list[Effect]:
        """Give the claims back of flights that are over."""
        given_up = self._flights.given_up
        if not given_up:
            return []

        effects: list[Effect] = [
            StoreRelease(flight.scope, flight.key, flight.claim, flight.unshared) for flight in given_up
        ]
        given_up.clear()
        return effects

    # What the store says --------------------------------------------------------------------------------------------

    def answered(self, event: StoreAnswered, now: float) -> list[Effect]:
        """Take the store's answer."""
        flight = self._asking.pop(event.ticket, None)
        if flight is None:
            return self._removed(event)

        flight.ticket = NO_TICKET
        self._flights.timers.clear(flight)
        answer = event.answer
        if isinstance(answer, Absent):
            flight.claim = answer.claim
        elif isinstance(answer, Unavailable):
            self._count.store_unanswered += 1

        entry = self._policy.cache.get(flight.scope, flight.key, now) if flight.looked else None
        if entry is not None and (entry.is_fresh(now) or self.doubts(entry)):
            # Either it came meanwhile, or it is the one that is doubted.
            if entry.is_fresh(now) and (isinstance(answer, Unavailable) or not self.doubts(entry)):
                return self._serve(flight, entry, now)

            if isinstance(answer, Absent):
                self._policy.cache.delete(flight.scope, flight.key, now)

        return self._conclude(flight, answer, now)

    def _conclude(self, flight: Flight, answer: Answer, now: float) -> list[Effect]:
        match answer:
            case Found() | ClaimedRemotely() if flight.outdated:
                return self._ask_or_end(flight, now)
            case Found(record) if record.remaining_seconds > 0:
                return self._found(flight, record, now)
            case ClaimedRemotely(seconds):
                return self._wait_elsewhere(flight, seconds, now)
            case Absent() if self._claim_missing(flight):
                # Only readers were there when the question was put.
                return [*self._miss(flight), self._ask(flight, now, look=True)]
            case _:
                return self._lead(flight, now)

    def _removed(self, event: StoreAnswered) -> list[Effect]:
        removal = self._removals.get(event.ticket)
        if removal is None:
            return []  # who has asked is gone, or was told

        self._forget(removal)
        # All that memory had, the store had, but for what it would not take.
        counted = event.answer.count if isinstance(event.answer, Removed) else 0
        return [self._deleted(removal.peer, removal.request, max(removal.removed, counted))]

    def turned(self, event: StoreStateChanged, now: float) -> list[Effect]:
        """Take note of how the store is."""
        before, self.state, self.reason = self.state, event.state, event.reason
        if before == event.state:
            return []

        note = (
            notes.StoreRecovered(self.gauges.store_pending)
            if event.state == "up"
            else notes.StoreFailed(event.state, event.reason)
        )
        effects: list[Effect] = [EmitNote(note)]
        if event.state == "down":
            for flight in list(self._elsewhere):
                effects += self._lead(flight, now)

        return effects

    def key_changed(self, event: KeyChanged, now: float) -> list[Effect]:
        """Another host has changed an entry, or has ended a computation."""
        flight = self._flights.find(event.scope, event.key)
        if event.how in {"stored", "removed"}:
            self._policy.cache.delete(event.scope, event.key, now)
            if flight is not None and event.how == "removed":
                flight.storable = False

        if flight is None:
            return []

        if event.how == "unshared" and flight in self._elsewhere:
            return self._lead(flight, now)

        return self._look_again(flight, now)

    def purged(self, event: EntriesPurged, now: float) -> list[Effect]:
        """Another host purges."""
        self._policy.purge(event.namespace, event.tag, now, event.task)
        self._flights.void(event.namespace, event.tag, event.task)
        return self._look_again_within(event.namespace, now)

    def news_missed(self, event: InvalidationsMissed, now: float) -> list[Effect]:  # noqa: ARG002 - as its siblings
        """What memory has may be old."""
        self._policy.distrust()
        return self._look_again_within(None, now)

    def measured(self, event: StoreMeasured, now: float) -> list[Effect]:  # noqa: ARG002 - as its siblings
        """Keep what the store shows."""
        self.gauges = event.gauges
        return []

    # Inside ----------------------------------------------------------------------------------------------------------

    def _ask(self, flight: Flight, now: float, *, look: bool) -> StoreRead:
        self._tickets += 1
        self._count.store_reads += look
        flight.ticket = self._tickets
        flight.looked = look
        flight.outdated = False
        flight.claiming = self._shared and self.state == "up" and not self._granting.draining and _leads(flight)
        self._asking[flight.ticket] = flight
        self._flights.timers.set(flight, now + PENDING_AFTER_SECONDS)
        return StoreRead(flight.ticket, flight.scope, flight.key, flight.claiming, look)

    def _look_again(self, flight: Flight, now: float) -> list[Effect]:
        """What the store answers to an earlier question may be older than what has just become known: put it anew.

        One question at a time: of a claim that comes with an answer that nobody waits for, nobody would know.
        """
        if flight.ticket != NO_TICKET:
            flight.outdated = True
        elif flight in self._elsewhere:
            del self._elsewhere[flight]
            return self._ask_or_end(flight, now)

        return []

    def _ask_or_end(self, flight: Flight, now: float) -> list[Effect]:
        if flight.waiters or self._readers.get(flight):
            return [self._ask(flight, now, look=True)]

        self._end(flight)
        return []

    def _look_again_within(self, namespace: str | None, now: float) -> list[Effect]:
        return [
            effect
            for flight in (*self._asking.values(), *self._elsewhere)
            if covers(namespace, flight.scope)
            for effect in self._look_again(flight, now)
        ]

    def _found(self, flight: Flight, record: Record, now: float) -> list[Effect]:
        entry, effects = self._policy.adopt(flight.scope, flight.key, record, now)
        if entry is None:
            return self._conclude(flight, Absent(), now)

        self._count.store_hits += 1
        return effects + self._serve(flight, entry, now)

    def _serve(self, flight: Flight, entry: Entry, now: float) -> list[Effect]:
        effects: list[Effect] = [
            Send(peer.id, self._serving.hit(request, entry, now), wire.Get)
            for peer, request in self._readers.pop(flight, ())
        ]
        terms = entry.terms
        for waiter in self._end(flight):
            if waiter.looking:
                effects += self._serving.entry(waiter.peer, waiter.request, entry, now)
            else:
                waited_seconds, age_seconds = now - waiter.joined_at, now - entry.stored_at
                answer = self._policy.compression.answer(entry)
                reply = self._serving.answer(
                    waiter.peer,
                    waiter.request,
                    answer,
                    entry.seconds,
                    terms.backend,
                    terms.usage,
                    waited_seconds=waited_seconds,
                    age_seconds=age_seconds,
                )
                effects += self._serving.deliver(waiter.peer, waiter.request, reply)

        return effects

    def _wait_elsewhere(self, flight: Flight, seconds: float, now: float) -> list[Effect]:
        effects = self._granting.serve_stale(flight, now) + self._miss(flight)
        if not flight.waiters:
            self._end(flight)
            return effects

        flight.slow = True
        self._elsewhere[flight] = None
        self._flights.timers.set(flight, now + seconds)
        return effects + self._dismiss_hasty(flight) + self._tell_waiting(flight)

    def _lead(self, flight: Flight, now: float) -> list[Effect]:
        """Nobody has the answer: somebody is to fetch it."""
        self._elsewhere.pop(flight, None)
        self._flights.timers.clear(flight)
        effects = self._serve_similar(flight, now)
        leader = next((waiter for waiter in flight.waiters.values() if _may_lead(waiter)), None)
        effects += self._granting.serve_stale(flight, now, but=leader) + self._miss(flight)
        flight.slow = True
        effects += self._granting.pass_on(flight, now, elected=False)
        if self._flights.find(flight.scope, flight.key) is flight:
            effects += self._dismiss_hasty(flight) + self._tell_waiting(flight)

        return effects

    def _serve_similar(self, flight: Flight, now: float) -> list[Effect]:
        """Let those who have just learned that nothing is stored have the answer to a similar request, or be asked for a vector."""
        effects: list[Effect] = []
        if self._policy.cache.peek(flight.scope, flight.key) is not None:
            return effects  # a stale one, which one of them is to replace

        for waiter in list(flight.waiters.values()):
            request = waiter.request
            if (request.embeds or request.vector is not None) and (waiter.looking or request.mode == "refresh"):
                answered = self._serving.similar(self._similar, flight.scope, waiter.peer, request, now)
                if answered is not None:
                    self._flights.leave(waiter)
                    effects += answered

        return effects

    def _miss(self, flight: Flight) -> list[Effect]:
        """Nothing is stored: say so to those who want nothing else."""
        effects: list[Effect] = [
            Send(peer.id, wire.Miss(request.id), wire.Get) for peer, request in self._readers.pop(flight, ())
        ]
        for waiter in list(flight.waiters.values()):
            if waiter.looking:
                self._serving.missed(waiter.request)
                waiter.looking = False

            if waiter.request.mode == "only_if_cached":
                self._flights.leave(waiter)
                effects.append(self._granting.rejection(waiter.peer, waiter.request, NOT_CACHED))

        return effects

    def _dismiss_hasty(self, flight: Flight) -> list[Effect]:
        effects: list[Effect] = []
        for waiter in [waiter for waiter in flight.waiters.values() if waiter.hasty]:
            self._flights.leave(waiter)
            effects.append(self._granting.timed_out(waiter.peer, waiter.request, 0.0))

        return effects

    def _tell_waiting(self, flight: Flight) -> list[Effect]:
        effects: list[Effect] = []
        for waiter in flight.waiters.values():
            if not waiter.told:
                waiter.told = True
                effects.append(Send(waiter.peer.id, wire.Pending(waiter.request.id)))

        return effects

    def _end(self, flight: Flight) -> list[Waiter]:
        self._flights.timers.clear(flight)
        self._readers.pop(flight, None)
        return self._flights.finish(flight)

    def _claim_missing(self, flight: Flight) -> bool:
        """Tell whether callers came, since the store was asked, of whom one is to compute the key, and nobody claimed it."""
        return self._shared and self.state == "up" and not flight.claiming and _leads(flight)

    def _await_removal(self, peer: Peer, request: wire.Delete | wire.Purge, removed: int, now: float) -> int:
        if not self.answers:
            return NO_TICKET

        self._tickets += 1
        removal = self._removals[self._tickets] = Removal(self._tickets, peer, request, removed)
        self._flights.timers.set(removal, now + PATIENCE_SECONDS)
        return self._tickets

    def _forget(self, removal: Removal) -> None:
        del self._removals[removal.ticket]
        self._flights.timers.clear(removal)

    def _deleted(self, peer: Peer, request: wire.Delete | wire.Purge, removed: int) -> Send:
        self._count.deleted += removed
        return Send(peer.id, wire.Deleted(request.id, removed), type(request))


def _leads(flight: Flight) -> bool:
    return any(map(_may_lead, flight.waiters.values()))


def _may_lead(waiter: Waiter) -> bool:
    return waiter.request.mode != "only_if_cached"
