"""Check the engine's own tables after each event: what it has counted is what it has, and no timer or queue names what is gone."""

from collections import Counter
from math import inf

from sidecard.core.accounts.charges import begin_bytes, flight_bytes, question_bytes, removal_bytes
from sidecard.core.backends.backend import Backend
from sidecard.core.backends.prompt_caches.provider import WARM_BYTES, ProviderCache
from sidecard.core.backends.prompt_caches.slots import SlotModel
from sidecard.core.engine import Engine
from sidecard.core.flights.failures import charge_of
from sidecard.core.flights.flight import CLAIMED_ELSEWHERE, LEASED, LOOKING_UP, QUEUED, Flight
from sidecard.core.flights.participants import Applicant, HeldLease, Waiter
from sidecard.core.flights.streams import CHUNK_OVERHEAD_BYTES, FOLLOWER_BYTES, STREAM_OVERHEAD_BYTES

_CENT_FRACTION = 1e-9

_MAX_HEADER_BYTES = 5
"""Longest header of a list in msgpack."""

_OF_STATE = {
    LOOKING_UP: (False, False, 1),
    CLAIMED_ELSEWHERE: (False, False, 0),
    QUEUED: (False, True, 0),
    LEASED: (True, False, 0),
}
"""By a flight's state: whether it has a lease, whether it has an applicant, and how many questions to the store."""


class TableChecker:
    """Checks one engine."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._permits: dict[str, int] = {}
        """Before the event."""

    def check(self, now: float, *, ticked: bool = False) -> None:
        """Check all tables after an event; ``ticked`` says that it was a tick."""
        self._check_backends()
        self._check_bytes()
        self._check_flights()
        self._check_timers(now, ticked=ticked)

    def check_empty(self) -> None:
        """Check that nothing is left once all peers are gone and all time has passed."""
        engine = self._engine
        flights, lookups, streams = engine._flights, engine._lookups, engine._streams
        backends = engine._backends.all().values()
        left = {
            "flights": len(flights),
            "leases": flights.lease_count,
            "waiters": flights.waiter_count,
            "applicants": flights.applicant_count,
            "peers": len(flights._peers),
            "timers": len(flights.timers),
            "questions": len(lookups.questions),
            "gets": len(lookups.gets),
            "removals": len(engine._writes.removals),
            "followers": len(streams.followers),
            "memory": sum(engine.memory.by_uid().values()) - self._of_failures() - self._warm_by_uid().total(),
            "entries": engine._policy.cache.count,
            "bytes": engine._policy.cache.bytes,
            "permits": sum(backend.permits for backend in backends),
            "queued": sum(len(backend.queue) for backend in backends),
            "connected": engine._status.peers,
        }
        assert not any(left.values()), f"something is left: {left}"
        assert engine.idle
        for budget in engine._billing.budgets.by_name.values():
            assert abs(budget.reserved_dollars) < _CENT_FRACTION, f"something is reserved of {budget.name}"

    def _of_failures(self) -> int:
        """Return the memory of remembered failures, which outlive their peers."""
        known = self._engine._failures.known.items()
        return sum(charge_of(place, failure.call) for place, failure in known)

    def _check_backends(self) -> None:
        flights, backends = self._engine._flights, self._engine._backends.all()
        out = Counter(lease.permit.backend for lease in flights._leases.values())
        for name, backend in backends.items():
            assert backend.permits == out[backend], (
                f"{name} has given {backend.permits} permits, {out[backend]} are out"
            )
            limit = backend.limit
            assert not limit or backend.permits <= max(limit, self._permits.get(name, 0)), f"{name} is above its limit"
            waiting = list(backend.queue)
            assert len(waiting) == len(set(waiting)) == len(backend.queue)
            assert set(waiting) <= set(flights._applicants), f"the queue of {name} has a caller that waits no more"
            if backend.affinity is not None:
                self._check_prompts(backend)

        self._permits = {name: backend.permits for name, backend in backends.items()}
        for applicant in flights._applicants:
            assert applicant.queues or applicant.not_before, "an applicant waits for nothing"

    def _check_prompts(self, backend: Backend) -> None:
        """Check that callers and calls known to affinity exist, and that what calls process is what they have sent."""
        affinity, permits = backend.affinity, {lease.permit for lease in self._engine._flights._leases.values()}
        assert affinity is not None
        assert set(affinity._callers) <= set(backend.queue), "a caller is known that left the queue"
        held = {item for items in affinity._held.values() for item in items}
        assert held == set(affinity._hold_ends._live), "a held caller without an end of its hold"
        assert all(affinity._callers[item].wanted for item in held)
        uses = [permit.use for permit in permits if permit.use is not None and permit.affinity is affinity]
        cache = affinity._cache
        if isinstance(cache, ProviderCache):
            processing = Counter(
                key
                for use in uses
                for key, tokens in zip(use.chain.keys, use.chain.tokens, strict=True)
                if use.output_at is None and tokens > use.warm_tokens
            )
            assert cache._processing == processing, "a prefix is said to be processed that is not"
        else:
            assert isinstance(cache, SlotModel)
            busy = {id(slot.use) for slot in cache._slots.values() if slot.use is not None}
            assert busy <= {id(use) for use in uses}, "a slot is busy without a call"
            having = {(key, number) for number, slot in cache._slots.items() for key in slot.keys}
            assert having == {(key, number) for key, slots in cache._having.items() for number in slots}

    def _warm_by_uid(self) -> Counter[int]:
        """Recount the memory of prefixes that backends keep."""
        caches = [of.affinity._cache for of in self._engine._backends.all().values() if of.affinity is not None]
        of_providers = [cache for cache in caches if isinstance(cache, ProviderCache)]
        uids = Counter(warm.uid for cache in of_providers for warm in cache._warm.values())
        return Counter({uid: number * WARM_BYTES for uid, number in uids.items()})

    def _check_bytes(self) -> None:
        cache = self._engine._policy.cache
        entries = [entry for table in cache._tables.values() for entry in table.values()]
        assert cache.bytes == sum(entry.charge for entry in entries)
        assert cache.count == len(entries)
        assert cache.bytes <= cache.budget or not cache.count, "the cache is above its budget"
        memory = self._engine.memory
        for pool, charged in ((memory.requests, self._requests_by_uid()), (memory.streams, self._streams_by_uid())):
            assert pool.by_uid() == charged, f"charged {dict(pool.by_uid())}, reachable {dict(charged)}"
            assert pool.total == charged.total()

    def _requests_by_uid(self) -> Counter[int]:
        """Recount the memory of all that waits or is held, and is reachable from the engine's tables."""
        engine = self._engine
        flights, charged = engine._flights, self._warm_by_uid()
        for table in flights._peers.values():
            of_peer: list[Waiter | Applicant | HeldLease] = [*table.waiters.values(), *table.applicants.values()]
            for one in (*of_peer, *table.leases.values()):
                charged[one.peer.uid] += begin_bytes(one.request)

        for flight in flights:
            charged[flight.uid] += flight_bytes(flight.scope, flight.key)

        for gets in engine._lookups.gets.values():
            for peer, get in gets:
                charged[peer.uid] += question_bytes(get.key)

        for removal in engine._writes.removals.values():
            charged[removal.peer.uid] += removal_bytes(removal.request)

        for place, failure in engine._failures.known.items():
            charged[failure.uid] += charge_of(place, failure.call)

        return charged

    def _streams_by_uid(self) -> Counter[int]:
        """Recount the chunks of all streams that a flight or a follower still needs."""
        followers = self._engine._streams.followers.values()
        charged = Counter[int]()
        held = {id(follower.stream): follower.stream for follower in followers}
        held |= {id(flight.stream): flight.stream for flight in self._engine._flights if flight.stream is not None}
        for stream in held.values():
            chunks = sum(len(memoryview(chunk)) + CHUNK_OVERHEAD_BYTES for chunk in stream.chunks)
            size = STREAM_OVERHEAD_BYTES + chunks
            # A replayed value is charged with its list's header.
            charged[stream.uid] += stream.charge if 0 <= stream.charge - size <= _MAX_HEADER_BYTES else size

        for follower in followers:
            charged[follower.peer.uid] += FOLLOWER_BYTES

        return charged

    def _check_flights(self) -> None:
        flights, lookups = self._engine._flights, self._engine._lookups
        waiters = leases = applicants = first = 0
        for table in flights._peers.values():
            waiters += len(table.waiters)
            leases += len(table.leases)
            applicants += len(table.applicants)
            first += sum(applicant.first for applicant in table.applicants.values())

        assert flights.waiter_count == waiters + first
        assert flights.lease_count == leases
        assert flights.applicant_count == applicants
        waiting = 0
        assert all(place == (flight.scope, flight.key) for place, flight in flights._flights.items())
        assert all(flight.voided and not flight.storable for flight in flights._replaced), "a replaced flight may store"
        for flight in flights:
            waiting += len(flight.waiters)
            held, applying = flight.lease is not None, flight.applicant is not None
            questions = list(lookups.questions.values()).count(flight)
            assert (held, applying, questions) == _OF_STATE.get(flight.state), (
                f"a flight of {flight.key} is {flight.state}: lease {held}, applicant {applying}, questions {questions}"
            )
            assert not held or flight.lease in flights._leases.values()

        assert waiting == waiters, "a waiter waits for a flight that is over"
        assert self._engine.idle == (
            not leases and not waiters and not applicants and not self._engine._streams.followers
        )

    def _check_timers(self, now: float, *, ticked: bool) -> None:
        flights = self._engine._flights
        timed = flights.timers._live
        for item in timed:
            match item:
                case HeldLease():
                    assert flights._leases.get(item.name) is item, "a timer of a lease that has ended"
                case Waiter():
                    assert item.flight.waiters.get((item.peer.id, item.request.id)) is item, (
                        "a timer of a waiter that waits no more"
                    )
                case Applicant():
                    assert item in flights._applicants, "a timer of an applicant that waits no more"
                case Flight():
                    assert flights._flights.get((item.scope, item.key)) is item, "a timer of a flight that is over"
                case _:
                    pass

        assert all(lease in timed for lease in flights._leases.values()), "a lease without a deadline"
        assert all(applicant in timed for applicant in flights._applicants), "an applicant without a deadline"
        for flight in flights:
            assert all(waiter in timed or waiter.no_wait for waiter in flight.waiters.values()), (
                "a waiter without a deadline"
            )

        cache, deadlines = (
            self._engine._cache,
            [due for due, number, item in flights.timers._heap if timed.get(item) == number],
        )
        assert flights.timers.no_earlier_than <= min(deadlines, default=inf), (
            "a deadline of which the driver does not know"
        )
        assert cache.wheel.no_expiry_before <= min(cache.wheel.buckets, default=inf), (
            "an expiry of which the driver does not know"
        )
        if ticked:
            deadline = self._engine.next_deadline()
            assert deadline is None or deadline > now, "the next deadline has passed already"
