"""The laws of flights as a second, simplest implementation: lists and linear searches, no timers, no eviction.

It is written from the design and `sidecard/docs/protocol.md`, not from the engine, so a disagreement is a finding.
It knows neither the names of leases (`ReferenceModel.granted`) nor what the engine evicts (`ReferenceModel.forget`).
It covers worlds whose backends take every call, without streams and stores.
"""

import itertools
from collections.abc import Callable
from functools import partial
from operator import itemgetter
from typing import Any

from msgspec import UNSET, Raw, convert, structs

from sidecard.core.events import (
    DrainExpired,
    DrainRequested,
    Event,
    Peer,
    PeerJoined,
    PeerLost,
    PeersHungUp,
    RequestReceived,
    SettingsRead,
    Tick,
)
from sidecard.core.settings import EngineSettings
from sidecard_client.protocol import wire
from tests.laws.records import (
    UNKNOWN,
    Answer,
    Flight,
    Lease,
    Place,
    Refusal,
    Sent,
    Sums,
    Waiter,
    own_scope_of,
    same_process,
    scope_of,
    stale_seconds_of,
    ttl_seconds_of,
)
from tests.laws.reference_entries import ReferenceEntries
from tests.laws.view_checker import LATE_SECONDS, Published, ViewChecker


class ReferenceModel(ReferenceEntries):
    """Predicts every reply to every event."""

    def __init__(self, settings: EngineSettings) -> None:
        super().__init__(settings)
        self.peers: list[Peer] = []
        self.hung_up: list[Peer] = []
        self.leases: list[Lease] = []
        self.ended: list[Lease] = []
        """Leases that ended without an answer: a late answer is still billed."""
        self.flights: list[Flight] = []
        self.draining = False
        self._orders = itertools.count()
        self.views = ViewChecker()
        """What was published, and who has received it."""

    def handle(self, event: Event, now: float) -> list[Sent]:  # noqa: C901 - one case for each event
        """Return the replies to an event; those to one request are in order."""
        self.out = []
        match event:
            case PeerJoined(peer):
                self.peers.append(peer)
            case PeersHungUp(peers):
                self.hung_up += peers
            case PeerLost(peer):
                self._lose(peer, now)
            case Tick():
                self._tick(now)
            case DrainRequested():
                self.draining = True
            case SettingsRead(settings) if settings is not None:
                self.settings = settings
            case DrainExpired():
                for waiter in self.waiters():
                    if now < waiter.deadline:
                        self._reject(waiter.peer, waiter.begin, "draining")
                    else:
                        self._time_out(waiter, now)
                for flight in self.flights:
                    flight.waiters = []
            case RequestReceived(peer, request):
                self._answer(peer, request, now)

        return self.out

    def granted(self, peer_id: int, reply: wire.Lease) -> None:
        """Learn from the engine's reply the name of a predicted lease, and whether its holder knows of waiters.

        Some of them may leave in the same tick, before the grant or after it.
        """
        (lease,) = [
            lease
            for lease in self.leases
            if (lease.peer.id, lease.reply_id, lease.name) == (peer_id, reply.id, UNKNOWN)
        ]
        lease.name = reply.lease
        lease.knows_waiters = reply.waiters > 0

    def check_read(self, scope: str, key: str, published: Published, now: float) -> None:
        """Check that a begin and a get would be answered by what a reader finds in a view, and by nothing else."""
        answer, record = self.entries.get((scope, key)), published.record
        begin = wire.Begin(key, task=record.task)
        assert answer is not None, "a view has an entry that was removed"
        assert answer.kind_for(begin, now) is wire.Hit, "a view has an entry that is no longer fresh"
        assert not answer.drawn(begin, now), "a view has an entry that is to be refreshed"
        found = (published.value, record.stored_at, record.seconds, record.dollars, record.backend)
        expected = (answer.value, answer.made, answer.seconds, answer.dollars, answer.backend)
        assert (bytes(found[0]), *found[1:]) == expected, f"a view has {found}, and the answer is {expected}"
        assert convert(record.meta or {}, wire.Usage) == answer.usage

    def waiters(self) -> list[Waiter]:
        """Return all waiters."""
        return [waiter for flight in self.flights for waiter in flight.waiters]

    def forbid(self, reaches: Callable[[Place], bool], tag: str | None = None) -> None:
        """Let the flights of some places end without an entry, or without one that has ``tag``."""
        for flight in self.flights:
            if reaches(flight.place) and tag is not None:
                flight.purged_tags |= {tag}
            elif reaches(flight.place):
                flight.may_store = False

    def _answer(self, peer: Peer, request: wire.AnyRequest, now: float) -> None:
        match request:
            case wire.Begin() | wire.Get() | wire.Put() | wire.Delete():
                scope = scope_of(self.settings, peer, request.namespace)
                if scope is None:
                    self.say(peer, wire.Error(request.id, "denied", UNKNOWN))
                elif isinstance(request, wire.Begin):
                    self._begin(scope, peer, request, now)
                else:
                    self.touch((scope, request.key), peer, request, now)
            case wire.Complete() | wire.Fail() | wire.Renew():
                self._present(peer, request, now)
            case wire.Cancel():
                self._cancel(peer, request, now)
            case wire.Purge():
                self.purge(peer, request, now)
            case wire.GetView() if own_scope_of(self.settings, peer, request.namespace) is None:
                self.say(peer, wire.Error(request.id, "denied", UNKNOWN))
            case wire.GetView():
                pass  # whether there is one is not predicted
            case wire.RecordHits():
                self._count_read(peer, request, now)
            case _:
                raise NotImplementedError(request)

    def _count_read(self, peer: Peer, request: wire.RecordHits, now: float) -> None:
        """Count hits that were read from a view, as if they had been asked for."""
        scope = own_scope_of(self.settings, peer, request.namespace)
        received = self.views.received.get((peer.id, request.namespace))
        if scope is None and received is None:
            self.say(peer, wire.Error(request.id, "denied", UNKNOWN))
            return

        for streamed, (number, count, _, _) in [
            *((False, item) for item in request.hits),
            *((True, item) for item in request.streams),
        ]:
            published = self.views.by_publication.get(number)
            if published is None or now - published.withdrawn_at > LATE_SECONDS:
                continue

            if published.view.scope != scope and published.view is not received:
                continue

            for name in ("begins", "hits", "view_hits"):
                self.counts[name] += count

            value = published.record.value
            self.counts["chunks_sent"] += streamed * count * (len(value) if isinstance(value, list) else 1)
            book = self.books.setdefault(published.record.task, Sums())
            book.hits += count
            book.saved_by_cache_seconds += count * published.record.seconds
            book.saved_by_cache_dollars += count * published.record.dollars

    def _begin(self, scope: str, peer: Peer, begin: wire.Begin, now: float) -> None:
        if any(waiter.peer == peer and waiter.begin.id == begin.id for waiter in self.waiters()):
            self.say(peer, wire.Error(begin.id, "bad_request", UNKNOWN))
            return

        self.counts["begins"] += 1
        place = None if begin.key is None else (scope, begin.key)
        flight = next((flight for flight in self.flights if flight.place == place and not flight.voided), None)
        alone = flight is None and begin.mode == "use" and not self.draining
        answered, answer = self._answer_stored(place, peer, begin, now, alone=alone)
        if answered:
            return

        if answer is not None and (len(self.flights) >= self.settings.max_flights or self._full(answer, begin, now)):
            self.serve(answer, peer, begin, now)
        elif begin.mode == "only_if_cached":
            self._reject(peer, begin, "not_cached")
        elif self.draining:
            self._reject(peer, begin, "draining")
        elif flight is not None:
            self._join(flight, peer, begin, now)
        elif len(self.leases) >= self.settings.max_leases:
            self._reject(peer, begin, "busy", answer, now)
        elif place is None:
            self._grant(peer, begin, None, now)
        elif len(self.flights) >= self.settings.max_flights:
            self._reject(peer, begin, "busy")
        else:
            self._start(place)
            self._grant(peer, begin, self.flights[-1], now, old=answer)

    def _start(self, place: Place) -> None:
        """Start a flight; voided ones of the place store nothing from now on."""
        for voided in self.flights:
            voided.may_store &= voided.place != place

        self.flights.append(Flight(place))

    def _answer_stored(
        self, place: Place | None, peer: Peer, begin: wire.Begin, now: float, *, alone: bool
    ) -> tuple[bool, Answer | None]:
        """Reply from entries and remembered failures; else return the stale answer that the caller gets with its lease."""
        if place is None or begin.mode == "refresh":
            return False, None

        answer = self.entries.get(place)
        if answer is not None and answer.kind_for(begin, now):
            if alone and answer.drawn(begin, now):
                return False, answer

            self.serve(answer, peer, begin, now)
            return True, None

        failure = self.remembered(place, begin.context, now)
        if failure is not None:
            self.counts["failed"] += 1
            self.counts["failed_again"] += 1
            self.say(peer, wire.Failed(begin.id, "fatal", failure.message, failure.detail))
            return True, None

        old = self.old(place, begin, now)
        if old is not None and not alone:
            self.serve(old, peer, begin, now)
            return True, None

        self.counts["misses"] += 1
        self.book(begin)
        return False, old

    def _full(self, answer: Answer, begin: wire.Begin, now: float) -> bool:
        """Return whether no lease is left while a fresh answer is there."""
        return answer.kind_for(begin, now) is not None and len(self.leases) >= self.settings.max_leases

    def _join(self, flight: Flight, peer: Peer, begin: wire.Begin, now: float) -> None:
        wait_seconds = self.settings.wait_seconds if begin.wait_seconds is None else begin.wait_seconds
        waiter = Waiter(peer, begin, now, now + wait_seconds, next(self._orders))
        if wait_seconds == 0:
            self._time_out(waiter, now)
        elif len(self.waiters()) >= self.settings.max_waiters:
            self._reject(peer, begin, "busy")
        else:
            flight.waiters.append(waiter)
            self.say(peer, wire.Pending(begin.id))
            for lease in self.leases:
                if lease.flight is flight and lease.begin.wanted and not lease.knows_waiters:
                    lease.knows_waiters = True
                    self.say(lease.peer, wire.Wanted(lease.begin.id, lease.name))

    def _present(self, peer: Peer, request: wire.Complete | wire.Fail | wire.Renew, now: float) -> None:
        lease = next((lease for lease in self.leases if lease.name == request.lease and lease.peer == peer), None)
        if lease is None:
            self.counts["stale_leases"] += 1
            self.say(peer, wire.StaleLease(request.id))
            for late in [late for late in self.ended if late.name == request.lease and late.peer == peer]:
                if isinstance(request, wire.Complete):
                    self.ended.remove(late)
                    self.book(late.begin).bill(now - late.granted, _cost(request))
        elif isinstance(request, wire.Renew):
            lease.expires, lease.order = now + self.settings.lease_seconds, next(self._orders)
            waiters = 0 if lease.flight is None else len(lease.flight.waiters)
            lease.knows_waiters = waiters > 0
            self.say(peer, wire.Ok(request.id, waiters))
        elif isinstance(request, wire.Complete):
            self._complete(lease, request, now)
        elif request.next and request.kind != "cancelled" and lease.has_next and not self.draining:
            self._fail(lease, request, now)
            self.counts["next_backends"] += 1
            self._grant(peer, lease.begin, lease.flight, now, request.id, lease)
        else:
            self.say(peer, wire.Ok(request.id))
            self._fail(lease, request, now)
            invalid = request.invalid and request.answered and request.kind == "ignored"
            self._lease_ended(lease.flight, _refusal(lease, request), now, invalid=invalid)

    def _fail(self, lease: Lease, request: wire.Fail, now: float) -> None:
        """End a lease with a failure; a backend that has answered is paid."""
        self._end(lease, f"failed_{request.kind}")
        self._remember(lease, request, now)
        if request.answered and request.kind == "ignored":
            self.ended.remove(lease)
            self.book(lease.begin).bill(now - lease.granted, _cost(request))
            self.book(lease.begin).not_stored += lease.begin.key is not None

    def _remember(self, lease: Lease, request: wire.Fail, now: float) -> None:
        """Remember a fatal failure, if its holder or its task asks for that."""
        seconds = request.ttl_seconds
        if seconds is None:
            seconds = self.settings.task(lease.begin.task).failure_ttl_seconds

        flight = lease.flight
        unvoided = flight is not None and flight.may_store and not flight.purged_tags
        if flight is not None and unvoided and request.kind == "fatal" and seconds:
            self.failures[flight.place, lease.begin.context] = (_refusal(lease, request), now + seconds)

    def _complete(self, lease: Lease, request: wire.Complete, now: float) -> None:
        self.leases.remove(lease)
        self.counts["completed"] += 1
        usage = request.usage or wire.Usage()
        expires = now + ttl_seconds_of(self.settings, lease.begin.task, request.ttl_seconds, lease.begin.ttl_seconds)
        shared_until = now + self.settings.sharing_window_seconds
        seconds = now - lease.granted
        answer = Answer(bytes(request.value), now, expires, shared_until, seconds, lease.backend, usage, request.tags)
        answer.stale_until = expires + stale_seconds_of(self.settings, lease.begin.task, lease.begin.stale_seconds)
        answer.early = self.settings.task(lease.begin.task).early_refresh
        self.book(lease.begin).bill(seconds, answer.dollars)
        flight = lease.flight
        obstacle = _given(request) if flight is None else self._store(flight, lease, request, answer, now)
        self.book(lease.begin).not_stored += bool(obstacle)
        self.say(lease.peer, wire.Stored(request.id, flight is not None and not obstacle, obstacle))
        if flight is not None:
            self.flights.remove(flight)
            for waiter in flight.waiters:
                self.counts["shared"] += 1
                saved_seconds = self.book(waiter.begin).share(answer, now - waiter.since)
                self.tell(wire.Shared, waiter.peer, waiter.begin, answer, now, saved_seconds)

    def _store(self, flight: Flight, lease: Lease, request: wire.Complete, answer: Answer, now: float) -> str:
        """Store an answer, or return why not."""
        if not request.store:
            return _given(request) or "policy"

        if not flight.may_store or flight.purged_tags.intersection(request.tags):
            return "removed"

        self.forget_failures(flight.place.__eq__)
        asked = lease.begin.ttl_seconds if request.ttl_seconds is None else request.ttl_seconds
        if asked == 0 and not lease.begin.stale_seconds:
            return "policy"

        if self.store(flight.place, answer, now):
            return ""

        return "size" if answer.is_there(now) else "policy"

    def _end(self, lease: Lease, outcome: str) -> None:
        self.leases.remove(lease)
        self.ended.append(lease)
        self.counts[outcome] += 1
        if outcome in {"failed_transient", "failed_fatal", "lost", "expired"}:
            self.book(lease.begin).failed += 1

    def _lease_ended(
        self,
        flight: Flight | None,
        failure: Refusal,
        now: float,
        unresponsive: Peer | None = None,
        *,
        invalid: bool = False,
    ) -> None:
        """Elect the next holder of a flight whose lease ended without an answer, or end it; ``unresponsive`` did not renew."""
        if flight is None:
            return

        differ = [waiter for waiter in flight.waiters if not failure.concerns(waiter.begin)]
        if differ:
            alike = [waiter for waiter in flight.waiters if waiter not in differ]
            flight.waiters = differ
            self._refuse(alike, failure, now)
            failure = Refusal("ignored")

        continues = bool(invalid or differ or failure.kind not in {"fatal", "ignored"})
        may_elect = continues and not self.draining
        willing = [waiter for waiter in flight.waiters if now < waiter.deadline]
        candidates = [waiter for waiter in willing if waiter.peer not in self.hung_up]
        if may_elect and candidates and flight.elections < self.settings.max_elections:
            # Callers of an unresponsive process are its other threads: they come last.
            elected = min(
                candidates, key=lambda waiter: unresponsive is not None and same_process(waiter.peer, unresponsive)
            )
            flight.waiters.remove(elected)
            flight.elections += 1
            self.counts["reelections"] += 1
            old = self.old(flight.place, elected.begin, now)
            self._grant(elected.peer, elected.begin, flight, now, old=old)
            return

        self.flights.remove(flight)
        if self.draining and continues:
            for waiter in flight.waiters:
                if waiter in willing:
                    self._reject(waiter.peer, waiter.begin, "draining")
                else:
                    self._time_out(waiter, now)
        else:
            gone = [waiter for waiter in flight.waiters if waiter.peer in self.hung_up]
            for waiter in gone:
                self.counts["left"] += 1
                self.say(waiter.peer, wire.Failed(waiter.begin.id, "cancelled", UNKNOWN))

            self._refuse([waiter for waiter in flight.waiters if waiter not in gone], failure, now)

    def _refuse(self, waiters: list[Waiter], failure: Refusal, now: float) -> None:
        for waiter in waiters:
            if now >= waiter.deadline:
                self._time_out(waiter, now)
            else:
                self.counts["failed"] += 1
                self.book(waiter.begin)
                self.say(waiter.peer, wire.Failed(waiter.begin.id, failure.kind, failure.message, failure.detail))

    def _cancel(self, peer: Peer, request: wire.Cancel, now: float) -> None:
        self.say(peer, wire.Ok(request.id))
        for flight in self.flights:
            for waiter in flight.waiters:
                if waiter.peer == peer and waiter.begin.id == request.target:
                    flight.waiters.remove(waiter)
                    self.counts["left"] += 1
                    return

        for lease in [lease for lease in self.leases if lease.peer == peer and lease.begin.id == request.target]:
            self._end(lease, "failed_cancelled")
            self._lease_ended(lease.flight, Refusal("cancelled"), now)

    def _tick(self, now: float) -> None:
        """Do what is due, in the order in which it was due: a tick may be late. At one instant, what was set first comes first."""
        due: list[tuple[float, int, Callable[[], None]]] = [
            (waiter.deadline, waiter.order, partial(self._end_wait, flight, waiter, now))
            for flight in self.flights
            for waiter in flight.waiters
        ]
        for lease in self.leases:
            ends = min(lease.expires, lease.granted + self.settings.max_call_seconds)
            due.append((ends, lease.order, partial(self._expire, lease, now)))

        for instant, _, happen in sorted(due, key=itemgetter(0, 1)):
            if instant <= now:
                happen()

        self.entries = self.live(now)

    def _end_wait(self, flight: Flight, waiter: Waiter, now: float) -> None:
        if flight in self.flights and waiter in flight.waiters:  # else the end of a lease has ended the wait
            flight.waiters.remove(waiter)
            self._time_out(waiter, now)

    def _expire(self, lease: Lease, now: float) -> None:
        self._end(lease, "expired")
        self._lease_ended(lease.flight, Refusal("transient"), now, lease.peer)

    def _lose(self, peer: Peer, now: float) -> None:
        self.peers.remove(peer)
        for flight in self.flights:
            self.counts["left"] += sum(waiter.peer == peer for waiter in flight.waiters)
            flight.waiters = [waiter for waiter in flight.waiters if waiter.peer != peer]

        for lease in [lease for lease in self.leases if lease.peer == peer]:
            self._end(lease, "lost")
            self._lease_ended(lease.flight, Refusal("transient"), now)

    def _grant(
        self,
        peer: Peer,
        begin: wire.Begin,
        flight: Flight | None,
        now: float,
        reply_id: int | None = None,
        before: Lease | None = None,
        old: Answer | None = None,
    ) -> None:
        """Grant a lease; ``before`` is the same caller's previous lease, whose begin has its final reply already."""
        lease = Lease(peer, begin, begin.id, now, now + self.settings.lease_seconds, flight, next(self._orders))
        if before is not None and reply_id is not None:
            lease.reply_id, lease.turn = reply_id, before.turn + 1
        else:
            self.counts["leases_first"] += 1
            if flight is not None:
                self.book(begin).leads += 1

        if flight is not None:
            flight.leases += 1
            lease.attempt = flight.leases

        self.leases.append(lease)
        self.counts["leases_granted"] += 1
        reply = wire.Lease(lease.reply_id, UNKNOWN, lease.backend, self.settings.lease_seconds, lease.attempt)
        if begin.wanted:
            reply = structs.replace(reply, idle_seconds=self.settings.idle_seconds)

        if old is not None:
            self.counts["stale_given" if old.kind_for(begin, now) is None else "early_refreshes"] += 1
            reply = structs.replace(reply, **_stale_fields(old, now))

        self.say(peer, reply)

    def _reject(
        self,
        peer: Peer,
        begin: wire.Begin,
        reason: wire.RejectionReason,
        old: Answer | None = None,
        now: float = 0.0,
    ) -> None:
        self.counts["rejected"] += 1
        self.counts[f"rejected_{reason}"] += 1
        self.book(begin).rejected += 1
        reply = wire.Rejected(begin.id, reason)
        if old is not None:
            self.counts["stale_given"] += 1
            reply = structs.replace(reply, **_stale_fields(old, now))

        self.say(peer, reply)

    def _time_out(self, waiter: Waiter, now: float) -> None:
        self.counts["timeouts"] += 1
        self.book(waiter.begin).timeouts += 1
        self.say(waiter.peer, wire.Timeout(waiter.begin.id, now - waiter.since))


def _stale_fields(old: Answer, now: float) -> dict[str, Any]:
    """Return the fields with which a lease or a rejection carries a stale answer."""
    return {"stale_value": Raw(old.value), "stale_age_seconds": now - old.made, "stale_backend": old.backend}


def _given(request: wire.Complete) -> str:
    """Return the reason that a holder gives for not storing its answer."""
    return request.not_stored if request.not_stored in {"", *wire.NOT_STORED_REASONS} else "other"


def _refusal(lease: Lease, request: wire.Fail) -> Refusal:
    """Return what the waiters of a failed lease receive."""
    detail = Raw(request.detail) if bytes(request.detail) else UNSET
    return Refusal(request.kind, request.message, detail, lease.begin.context)


def _cost(request: wire.Complete | wire.Fail) -> float:
    return (request.usage.cost_dollars or 0.0) if request.usage is not None else 0.0
