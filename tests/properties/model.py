"""The law of flights, told a second time and as naively as possible: lists, linear searches, no timers, no eviction.

It is written from the law and from the text of `sidecard_client.wire`, not from the engine, so that a disagreement
between the two is a finding. It knows neither the names of leases (it is told them by `Model.name_lease`) nor what the
engine evicts (it is told by `Model.forget`).
"""

from collections import Counter

from msgspec import Raw

from sidecard.core.events import DrainExpired, DrainRequested, Event, Peer, PeerJoined, PeerLost, RequestReceived, Tick
from sidecard.core.ledger import OTHER_TASKS
from sidecard.core.settings import EngineSettings
from sidecard_client import wire
from tests.properties.records import UNKNOWN, Answer, Flight, Lease, Place, Sent, Sums, Waiter, means, scope_of


class Model:
    """Predicts every reply to every event."""

    def __init__(self, settings: EngineSettings) -> None:
        self.settings = settings
        self.peers: list[Peer] = []
        self.leases: list[Lease] = []
        self.ended: list[Lease] = []
        """Those that ended unanswered: should their call still be answered, it was made and is billed."""
        self.flights: list[Flight] = []
        self.entries: dict[Place, Answer] = {}
        self.draining = False
        self.counts: Counter[str] = Counter()
        self.books: dict[str, Sums] = {}
        self._out: list[Sent] = []

    def handle(self, event: Event, now: float) -> list[Sent]:
        """Return the replies that the event must have; those to one request are in order."""
        self._out = []
        match event:
            case PeerJoined(peer):
                self.peers.append(peer)
            case PeerLost(peer):
                self._lose(peer, now)
            case Tick():
                self._tick(now)
            case DrainRequested():
                self.draining = True
            case DrainExpired():
                for waiter in self.waiters():
                    self._reject(waiter.peer, waiter.begin, "draining")
                for flight in self.flights:
                    flight.waiters = []
            case RequestReceived(peer, request):
                self._answer(peer, request, now)

        return self._out

    def name_lease(self, peer_id: int, reply_id: int, name: str) -> None:
        """Tell the name of a lease that was just predicted."""
        (lease,) = [
            lease for lease in self.leases if (lease.peer.id, lease.reply_id, lease.name) == (peer_id, reply_id, UNKNOWN)
        ]
        lease.name = name

    def forget(self, place: Place) -> None:
        """Tell that the engine has evicted an entry."""
        del self.entries[place]

    def waiters(self) -> list[Waiter]:
        """Return all waiters."""
        return [waiter for flight in self.flights for waiter in flight.waiters]

    def live(self, now: float) -> dict[Place, Answer]:
        """Return the entries that somebody may be served now."""
        return {place: answer for place, answer in self.entries.items() if answer.kind(now)}

    def _answer(self, peer: Peer, request: wire.AnyRequest, now: float) -> None:
        match request:
            case wire.Begin() | wire.Get() | wire.Put() | wire.Delete():
                scope = scope_of(self.settings, peer, request.namespace)
                if scope is None:
                    self._say(peer, wire.Error(request.id, "denied", UNKNOWN))
                elif isinstance(request, wire.Begin):
                    self._begin(scope, peer, request, now)
                else:
                    self._touch((scope, request.key), peer, request, now)
            case wire.Complete() | wire.Fail() | wire.Renew():
                self._present(peer, request, now)
            case wire.Cancel():
                self._cancel(peer, request, now)
            case wire.Purge():
                self._purge(peer, request, now)
            case _:
                raise NotImplementedError(request)

    def _begin(self, scope: str, peer: Peer, begin: wire.Begin, now: float) -> None:
        if any(waiter.peer == peer and waiter.begin.id == begin.id for waiter in self.waiters()):
            self._say(peer, wire.Error(begin.id, "bad_request", UNKNOWN))
            return

        self.counts["begins"] += 1
        place = None if begin.key is None else (scope, begin.key)
        if place is not None and begin.mode != "refresh" and self._serve(place, peer, begin, now):
            return

        flight = next((flight for flight in self.flights if flight.place == place), None)
        if begin.mode == "only_if_cached":
            self._reject(peer, begin, "not_cached")
        elif self.draining:
            self._reject(peer, begin, "draining")
        elif flight is not None:
            self._join(flight, peer, begin, now)
        elif len(self.leases) >= self.settings.max_leases:
            self._reject(peer, begin, "busy")
        elif place is None:
            self._grant(peer, begin, None, now)
        elif len(self.flights) >= self.settings.max_flights:
            self._reject(peer, begin, "busy")
        else:
            self.flights.append(Flight(place))
            self._grant(peer, begin, self.flights[-1], now)

    def _serve(self, place: Place, peer: Peer, begin: wire.Begin, now: float) -> bool:
        answer = self.live(now).get(place)
        if answer is None:
            self.counts["misses"] += 1
        elif answer.kind(now) is wire.Hit:
            self.counts["hits"] += 1
            self._book(begin).hit(answer)
            self._tell(wire.Hit, peer, begin, answer, now, answer.seconds)
        else:
            self.counts["shared"] += 1
            self._tell(wire.Shared, peer, begin, answer, now, self._book(begin).share(answer, 0.0))

        return answer is not None

    def _join(self, flight: Flight, peer: Peer, begin: wire.Begin, now: float) -> None:
        wait_seconds = self.settings.wait_seconds if begin.wait_seconds is None else begin.wait_seconds
        waiter = Waiter(peer, begin, now, now + wait_seconds)
        if wait_seconds == 0:
            self._time_out(waiter, now)
        elif len(self.waiters()) >= self.settings.max_waiters:
            self._reject(peer, begin, "busy")
        else:
            flight.waiters.append(waiter)
            self._say(peer, wire.Pending(begin.id))

    def _present(self, peer: Peer, request: wire.Complete | wire.Fail | wire.Renew, now: float) -> None:
        lease = next((lease for lease in self.leases if lease.name == request.lease and lease.peer == peer), None)
        if lease is None:
            self.counts["stale_leases"] += 1
            self._say(peer, wire.StaleLease(request.id))
            for late in [late for late in self.ended if late.name == request.lease and late.peer == peer]:
                if isinstance(request, wire.Complete):
                    self.ended.remove(late)
                    self._book(late.begin).bill(now - late.granted, _cost(request))
        elif isinstance(request, wire.Renew):
            lease.expires = now + self.settings.lease_seconds
            self._say(peer, wire.Ok(request.id))
        elif isinstance(request, wire.Complete):
            self._complete(lease, request, now)
        elif request.next and request.kind != "cancelled" and lease.has_next:
            self._end(lease, f"failed_{request.kind}")
            self._grant(peer, lease.begin, lease.flight, now, request.id, lease)
        else:
            self._say(peer, wire.Ok(request.id))
            self._end(lease, f"failed_{request.kind}")
            self._land(lease.flight, request.kind, request.message, now)

    def _complete(self, lease: Lease, request: wire.Complete, now: float) -> None:
        self.leases.remove(lease)
        self.counts["completed"] += 1
        usage = request.usage or wire.Usage()
        expires = now + self._ttl_seconds(lease.begin.task, request.ttl_seconds, lease.begin.ttl_seconds)
        shared_until = now + self.settings.sharing_window_seconds
        seconds = now - lease.granted
        answer = Answer(
            bytes(request.value), now, expires, shared_until, seconds, lease.backend, usage, request.tags
        )
        self._book(lease.begin).bill(seconds, answer.dollars)
        flight = lease.flight
        may_store = request.store and flight is not None and flight.may_store
        stored = flight is not None and may_store and self._store(flight.place, answer, now)
        self._say(lease.peer, wire.Stored(request.id, stored))
        if flight is not None:
            self.flights.remove(flight)
            for waiter in flight.waiters:
                self.counts["shared"] += 1
                saved_seconds = self._book(waiter.begin).share(answer, now - waiter.since)
                self._tell(wire.Shared, waiter.peer, waiter.begin, answer, now, saved_seconds)

    def _store(self, place: Place, answer: Answer, now: float) -> bool:
        # What may not be stored still replaces what is there: the key means something else now.
        self.entries.pop(place, None)
        if answer.kind(now) is None:
            return False

        if not answer.fits(place, self.settings):
            self.counts["refused_too_large"] += 1
            return False

        self.counts["stored"] += 1
        self.entries[place] = answer
        return True

    def _end(self, lease: Lease, outcome: str) -> None:
        self.leases.remove(lease)
        self.ended.append(lease)
        self.counts[outcome] += 1

    def _land(self, flight: Flight | None, kind: wire.FailureKind, message: str, now: float) -> None:
        """Decide what becomes of a flight whose lease has ended without an answer."""
        if flight is None:
            return

        may_elect = kind not in {"fatal", "ignored"} and not self.draining
        willing = [waiter for waiter in flight.waiters if now < waiter.deadline]
        if may_elect and willing and flight.elections < self.settings.max_elections:
            elected = min(willing, key=lambda waiter: waiter.since)
            flight.waiters.remove(elected)
            flight.elections += 1
            self.counts["reelections"] += 1
            self._grant(elected.peer, elected.begin, flight, now)
            return

        self.flights.remove(flight)
        for waiter in flight.waiters:
            if waiter not in willing:
                self._time_out(waiter, now)
            elif self.draining and kind not in {"fatal", "ignored"}:
                self._reject(waiter.peer, waiter.begin, "draining")
            else:
                self.counts["failed"] += 1
                self._say(waiter.peer, wire.Failed(waiter.begin.id, kind, message))

    def _cancel(self, peer: Peer, request: wire.Cancel, now: float) -> None:
        self._say(peer, wire.Ok(request.id))
        for flight in self.flights:
            for waiter in flight.waiters:
                if waiter.peer == peer and waiter.begin.id == request.target:
                    flight.waiters.remove(waiter)
                    self.counts["left"] += 1
                    return

        for lease in [lease for lease in self.leases if lease.peer == peer and lease.begin.id == request.target]:
            self._end(lease, "failed_cancelled")
            self._land(lease.flight, "cancelled", UNKNOWN, now)

    def _touch(self, place: Place, peer: Peer, request: wire.Get | wire.Put | wire.Delete, now: float) -> None:
        answer = self.entries.get(place)
        match request:
            case wire.Get():
                if answer is not None and now < answer.expires:
                    self._tell(wire.Hit, peer, request, answer, now, answer.seconds)
                else:
                    self._say(peer, wire.Miss(request.id))
            case wire.Put():
                expires = now + self._ttl_seconds(wire.DEFAULT_TASK, request.ttl_seconds)
                answer = Answer(bytes(request.value), now, expires, tags=request.tags)
                self._say(peer, wire.Stored(request.id, self._store(place, answer, now)))
            case wire.Delete():
                for flight in self.flights:
                    flight.may_store &= flight.place != place
                self._say(peer, wire.Deleted(request.id, self._remove([place], now)))

    def _purge(self, peer: Peer, request: wire.Purge, now: float) -> None:
        if not peer.operator:
            self._say(peer, wire.Error(request.id, "denied", UNKNOWN))
            return

        # Which tags a flight's answer will bear is not known yet, so a purge by tag forbids them all.
        for flight in self.flights:
            flight.may_store &= not means(request.namespace, flight.place[0])

        meant = [
            place
            for place, answer in self.entries.items()
            if means(request.namespace, place[0]) and (request.tag is None or request.tag in answer.tags)
        ]
        self._say(peer, wire.Deleted(request.id, self._remove(meant, now)))

    def _remove(self, places: list[Place], now: float) -> int:
        count = len(self.live(now).keys() & set(places))
        self.counts["deleted"] += count
        for place in places:
            self.entries.pop(place, None)

        return count

    def _tick(self, now: float) -> None:
        for flight in self.flights:
            for waiter in [waiter for waiter in flight.waiters if now >= waiter.deadline]:
                flight.waiters.remove(waiter)
                self._time_out(waiter, now)

        for lease in [lease for lease in self.leases if now >= lease.expires]:
            self._end(lease, "expired")
            self._land(lease.flight, "transient", UNKNOWN, now)

        self.entries = self.live(now)

    def _lose(self, peer: Peer, now: float) -> None:
        self.peers.remove(peer)
        for flight in self.flights:
            self.counts["left"] += sum(waiter.peer == peer for waiter in flight.waiters)
            flight.waiters = [waiter for waiter in flight.waiters if waiter.peer != peer]

        for lease in [lease for lease in self.leases if lease.peer == peer]:
            self._end(lease, "lost")
            self._land(lease.flight, "transient", UNKNOWN, now)

    def _grant(
        self,
        peer: Peer,
        begin: wire.Begin,
        flight: Flight | None,
        now: float,
        reply_id: int | None = None,
        before: Lease | None = None,
    ) -> None:
        """Grant a lease; ``before`` is the same caller's last one, whose begin has had its end already."""
        lease = Lease(peer, begin, begin.id, now, now + self.settings.lease_seconds, flight)
        if before is not None and reply_id is not None:
            lease.reply_id, lease.turn = reply_id, before.turn + 1
        else:
            self.counts["leases_first"] += 1
            self._book(begin).leads += flight is not None

        if flight is not None:
            flight.leases += 1
            lease.attempt = flight.leases

        self.leases.append(lease)
        self.counts["leases_granted"] += 1
        self._say(peer, wire.Lease(lease.reply_id, UNKNOWN, lease.backend, self.settings.lease_seconds, lease.attempt))

    def _tell(
        self,
        kind: type[wire.Hit | wire.Shared],
        peer: Peer,
        request: wire.Request,
        answer: Answer,
        now: float,
        saved_seconds: float,
    ) -> None:
        age, value, dollars = now - answer.made, Raw(answer.value), answer.dollars
        self._say(peer, kind(request.id, value, age, False, saved_seconds, dollars, answer.backend, answer.usage))

    def _reject(self, peer: Peer, begin: wire.Begin, reason: wire.RejectionReason) -> None:
        self.counts["rejected"] += 1
        self.counts[f"rejected_{reason}"] += 1
        self._say(peer, wire.Rejected(begin.id, reason))

    def _time_out(self, waiter: Waiter, now: float) -> None:
        self.counts["timeouts"] += 1
        self._say(waiter.peer, wire.Timeout(waiter.begin.id, now - waiter.since))

    def _ttl_seconds(self, task: str, *asked: float | None) -> float:
        if self.settings.cache_max_bytes == 0:
            return 0.0

        said = [ttl_seconds for ttl_seconds in asked if ttl_seconds is not None]
        return said[0] if said else self.settings.task_ttl_seconds.get(task, self.settings.ttl_seconds)

    def _book(self, begin: wire.Begin) -> Sums:
        full = len(self.books) >= self.settings.max_tasks
        return self.books.setdefault(OTHER_TASKS if full and begin.task not in self.books else begin.task, Sums())

    def _say(self, peer: Peer, reply: wire.AnyReply) -> None:
        self._out.append((peer.id, reply))


def _cost(request: wire.Complete) -> float:
    return (request.usage.cost_dollars or 0.0) if request.usage is not None else 0.0
