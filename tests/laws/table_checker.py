"""Sums and tables of an engine that must be right whenever nothing is going on in it."""

from collections import Counter
from collections.abc import Sequence

from sidecard.core.effects import Effect, Send
from sidecard.core.engine import Engine
from sidecard.core.events import Event, Tick
from sidecard.core.flights.flight import CLAIMED_ELSEWHERE, LEASED, LOOKING_UP, QUEUED, Flight
from sidecard.core.flights.participants import Applicant, HeldLease, Waiter
from sidecard_client.protocol import wire


def audit(engine: Engine, event: Event, effects: Sequence[Effect], now: float) -> None:
    """Hold what the engine has counted against what it has, after an event."""
    _audit_permits(engine, effects)
    _audit_bytes(engine)
    _audit_tables(engine)
    _audit_timers(engine, event, now)


def audit_emptiness(engine: Engine) -> None:
    """Expect that nothing is left, when everybody is gone and all time has passed."""
    flights, lookups, streams = engine._flights, engine._lookups, engine._streams
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
        "readers": len(streams.readers),
        "stream bytes": streams.bytes,
        "entries": engine._policy.cache.count,
        "bytes": engine._policy.cache.bytes,
        "permits": sum(backend.permits for backend in engine._backends.all().values()),
        "connected": engine._status.peers,
    }
    assert not any(left.values()), f"something is left: {left}"
    assert engine.idle


def _audit_permits(engine: Engine, effects: Sequence[Effect]) -> None:
    flights = engine._flights
    out = Counter(lease.permit.backend for lease in flights._leases.values())
    for backend in engine._backends.all().values():
        assert backend.permits == out[backend], f"{backend.name} has given {backend.permits}, {out[backend]} are out"

    for effect in effects:
        if isinstance(effect, Send) and isinstance(effect.reply, wire.Lease):
            backend = engine._backends.of(effect.reply.backend)
            assert not backend.limit or backend.permits <= backend.limit, f"{backend.name} is above its limit"


def _audit_bytes(engine: Engine) -> None:
    cache, streams = engine._policy.cache, engine._streams
    entries = [entry for table in cache._tables.values() for entry in table.values()]
    assert cache.bytes == sum(entry.charge for entry in entries)
    assert cache.count == len(entries)
    assert cache.bytes + cache.reserved <= cache.budget or not cache.count, "the cache is above its budget"
    held = {id(reader.stream): reader.stream for reader in streams.readers.values()}
    held |= {id(flight.stream): flight.stream for flight in engine._flights if flight.stream is not None}
    assert streams.bytes == cache.reserved == sum(stream.charge for stream in held.values())


def _audit_tables(engine: Engine) -> None:
    flights = engine._flights
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
    for (scope, key), flight in flights._flights.items():
        assert (scope, key) == (flight.scope, flight.key)
        waiting += len(flight.waiters)
        held, applying = flight.lease is not None, flight.applicant is not None
        asks = list(engine._lookups.questions.values()).count(flight)
        assert (held, applying, asks) == {
            LOOKING_UP: (False, False, 1),
            CLAIMED_ELSEWHERE: (False, False, 0),
            QUEUED: (False, True, 0),
            LEASED: (True, False, 0),
        }.get(flight.state), (
            f"a flight of {key} is {flight.state}: lease {held}, applicant {applying}, questions {asks}"
        )
        assert not held or flight.lease in flights._leases.values()

    assert waiting == waiters, "a waiter waits for a flight that is over"


def _audit_timers(engine: Engine, event: Event, now: float) -> None:
    flights = engine._flights
    for item in flights.timers._live:
        match item:
            case HeldLease():
                assert flights._leases.get(item.name) is item, "a timer of a lease that has ended"
            case Waiter():
                assert item.flight.waiters.get((item.peer.id, item.request.id)) is item, (
                    "a timer of one who waits no more"
                )
            case Applicant():
                assert item in flights._applicants, "a timer of one who applies no more"
            case Flight():
                assert flights._flights.get((item.scope, item.key)) is item, "a timer of a flight that is over"
            case _:
                pass

    timed = flights.timers._live
    assert all(lease in timed for lease in flights._leases.values()), "a lease that never ends"
    assert all(applicant in timed for applicant in flights._applicants), "an applicant that is never told"
    for flight in flights._flights.values():
        assert all(waiter in timed or waiter.no_wait for waiter in flight.waiters.values()), (
            "a waiter that is never told"
        )

    if isinstance(event, Tick):
        deadline = engine.next_deadline()
        assert deadline is None or deadline > now, "the next deadline has passed already"
