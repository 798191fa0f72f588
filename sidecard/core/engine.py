"""The engine: events in, effects out. The only place where cache, flights and ledger meet.

No I/O, no ``await``, no clock, no randomness, no logging: ``now`` is an argument, timers are data (`Engine.next_deadline`).
Nothing here raises for a peer's fault; it answers.
"""

import re
from typing import TYPE_CHECKING, Any, assert_never

from msgspec import Raw

from sidecard.core import notes
from sidecard.core.cache import Cache
from sidecard.core.counters import Counters
from sidecard.core.effects import Effect, Send, Tell
from sidecard.core.entries import NO_USAGE, Entry, Terms
from sidecard.core.events import (
    DrainExpired,
    DrainRequested,
    Event,
    Peer,
    PeerJoined,
    PeerLost,
    RequestReceived,
    Tick,
)
from sidecard.core.flights import Flight, Flights, HeldLease, Waiter
from sidecard.core.ledger import Books
from sidecard.core.settings import EngineSettings
from sidecard_client import wire

if TYPE_CHECKING:
    from collections.abc import Callable

_MAX_REMEMBERED = 4096
_FRESH = False
"""The ``stale`` of every answer: this version serves none that is."""

_FOREIGN_NAMESPACE = re.compile(r"(\d+|\*):[^:]+")

_Outcome = notes.Outcome


class Engine:
    """Answers one question, "I am about to make this call, must I?", for every peer of the host."""

    def __init__(
        self,
        settings: EngineSettings,
        *,
        boot_id: str,
        version: str,
        now: float,
        shown_settings: dict[str, Any],
        shown_origins: dict[str, str],
    ) -> None:
        self._settings = settings
        self._boot_id = boot_id
        self._version = version
        self._started_at = now
        self._shown_settings = shown_settings
        self._shown_origins = shown_origins
        self._cache = Cache(settings.cache_max_bytes)
        self._flights = Flights(boot_id, settings.lease_seconds)
        self._books = Books(settings.max_tasks)
        self._count = Counters()
        self._peers = 0
        self._draining = False
        self._full: set[str] = set()
        self._scopes: dict[tuple[int, int, str], str] = {}
        self._terms: dict[tuple[str, float, float, str], Terms] = {}
        self._answer: dict[type[wire.Request], Callable[[Peer, Any, float], list[Effect]]] = {
            wire.Ping: self._ping,
            wire.Begin: self._begin,
            wire.Complete: self._complete,
            wire.Fail: self._fail,
            wire.Renew: self._renew,
            wire.Cancel: self._cancel,
            wire.Get: self._get,
            wire.Put: self._put,
            wire.Delete: self._delete,
            wire.Purge: self._purge,
            wire.GetStats: self._stats,
            wire.GetReport: self._report,
            wire.GetHealth: self._health,
            wire.GetConfig: self._config,
        }

    def handle(self, event: Event, now: float) -> list[Effect]:
        """Take one event in and return what is to be done, in order. ``now`` must not step back."""
        if isinstance(event, RequestReceived):
            return self._answer[type(event.request)](event.peer, event.request, now)

        match event:
            case PeerJoined():
                self._peers += 1
                return []
            case PeerLost(peer):
                return self._lose(peer, now)
            case Tick():
                return self._tick(now)
            case DrainRequested():
                self._draining = True
                return [Tell(notes.DrainStarted(len(self._flights), self._flights.waiter_count))]
            case DrainExpired():
                return [effect for flight in self._flights for effect in self._reject_waiters(flight)]
            case _:
                assert_never(event)

    def next_deadline(self) -> float | None:
        """Return the instant at which a `Tick` is due; None where nothing can become due."""
        due = self._flights.timers.next_deadline()
        expiry = self._cache.next_expiry()
        if due is None or expiry is None:
            return due if expiry is None else expiry

        return min(due, expiry)

    @property
    def idle(self) -> bool:
        """No lease and no waiter is alive."""
        return not self._flights.lease_count and not self._flights.waiter_count

    # -- begin ---------------------------------------------------------------------------------------------------------

    def _begin(self, peer: Peer, request: wire.Begin, now: float) -> list[Effect]:
        scope = self._scope(peer, request.namespace)
        if scope is None:
            return [self._denied(peer, request, f"namespace {request.namespace!r} is not yours; leave the uid out")]

        if request.stream:
            return [_error(peer, request, "unavailable", "this version shares no streams: begin without stream")]

        key = request.key
        if key is not None and request.mode != "refresh":
            entry = self._cache.get(scope, key, now)
            if entry is not None:
                self._count.begins += 1
                return [Send(peer.id, self._served(request, entry, now))]

        flight = None if key is None else self._flights.find(scope, key)
        if flight is not None and self._flights.waiting(peer, request.id) is not None:
            text = f"id {request.id} is already waiting on this connection: use an id once, or cancel it first"
            return [_error(peer, request, "bad_request", text)]

        self._count.begins += 1
        if key is not None:
            self._count.misses += request.mode != "refresh"

        if request.mode == "only_if_cached":
            return [self._rejection(peer, request, "not_cached")]

        if self._draining:
            return [self._rejection(peer, request, "draining")]

        if flight is not None:
            return self._join(flight, peer, request, now)

        return self._lead(scope, peer, request, now)

    def _served(self, request: wire.Begin, entry: Entry, now: float) -> wire.Hit | wire.Shared:
        age = now - entry.stored_at
        book = self._books.of(request.task)
        terms, dollars = entry.terms, entry.dollars
        if age < terms.ttl_seconds:
            book.hit(entry)
            self._count.hits += 1
            kind: type[wire.Hit | wire.Shared] = wire.Hit
        else:
            book.share(entry.seconds, dollars, 0.0)
            self._count.shared += 1
            kind = wire.Shared

        return kind(request.id, Raw(entry.value), age, _FRESH, entry.seconds, dollars, terms.backend, terms.usage)

    def _lead(self, scope: str, peer: Peer, request: wire.Begin, now: float) -> list[Effect]:
        settings, flights = self._settings, self._flights
        if flights.lease_count >= settings.max_leases:
            return self._busy(peer, request, "leases", settings.max_leases)

        if request.key is None:
            lease = flights.grant(None, peer, request, request.backends or (wire.DEFAULT_BACKEND,), now)
        elif len(flights) >= settings.max_flights:
            return self._busy(peer, request, "flights", settings.max_flights)
        else:
            lease = flights.start(scope, request.key, peer, request, now)
            self._books.of(request.task).led += 1

        self._full.clear()
        self._count.leases_first += 1
        return [self._granted(lease, request.id)]

    def _join(self, flight: Flight, peer: Peer, request: wire.Begin, now: float) -> list[Effect]:
        wait_seconds = self._settings.wait_seconds if request.wait_seconds is None else request.wait_seconds
        if wait_seconds <= 0:
            self._count.timeouts += 1
            return [Send(peer.id, wire.Timeout(request.id, 0.0))]

        if self._flights.waiter_count >= self._settings.max_waiters:
            return self._busy(peer, request, "waiters", self._settings.max_waiters)

        self._flights.join(flight, peer, request, now, wait_seconds)
        return [Send(peer.id, wire.Pending(request.id))]

    def _granted(self, lease: HeldLease, request_id: int) -> Send:
        self._count.leases_granted += 1
        return Send(
            lease.peer.id,
            wire.Lease(request_id, lease.name, lease.backend, self._settings.lease_seconds, lease.attempt),
        )

    def _rejection(self, peer: Peer, request: wire.Begin, reason: wire.RejectionReason) -> Send:
        self._count.reject(reason)
        return Send(peer.id, wire.Rejected(request.id, reason))

    def _busy(self, peer: Peer, request: wire.Begin, table: notes.Table, limit: int) -> list[Effect]:
        effects: list[Effect] = [self._rejection(peer, request, "busy")]
        # Said once per time that a table fills, not once per refused call.
        if table not in self._full:
            self._full.add(table)
            effects.append(Tell(notes.Saturated(table, limit)))

        return effects

    # -- the end of a lease --------------------------------------------------------------------------------------------

    def _complete(self, peer: Peer, request: wire.Complete, now: float) -> list[Effect]:
        usage = request.usage or NO_USAGE
        dollars = usage.cost_dollars or 0.0
        lease = self._flights.held(request.lease, peer)
        if lease is None:
            late = self._flights.ended(request.lease, peer)
            if late is not None:
                self._books.of(late.request.task).bill(now - late.granted_at, dollars)

            return self._stale(peer, request, request.lease)

        seconds = now - lease.granted_at
        self._flights.end_lease(lease, answered=True)
        self._count.completed += 1
        self._books.of(lease.request.task).bill(seconds, dollars)
        flight = lease.flight
        if flight is None:
            return [Send(peer.id, wire.Stored(request.id, stored=False))]

        stored, effects = False, list[Effect]()
        value = bytes(request.value)
        if request.store and flight.storable:
            ttl_seconds = self._ttl(lease.request.task, request.ttl_seconds, lease.request.ttl_seconds)
            window_seconds = self._settings.sharing_window_seconds
            terms = self._on_terms(flight.scope, ttl_seconds, window_seconds, lease.backend, usage, request.tags)
            stored, effects = self._store(flight.key, value, now, terms, seconds)

        effects.append(Send(peer.id, wire.Stored(request.id, stored)))
        answer = Raw(value)
        for waiter in self._flights.finish(flight):
            saved_seconds = self._books.of(waiter.request.task).share(seconds, dollars, now - waiter.joined_at)
            self._count.shared += 1
            shared = wire.Shared(
                waiter.request.id,
                answer,
                0.0,
                _FRESH,
                saved_seconds,
                dollars,
                lease.backend,
                usage,
            )
            effects.append(Send(waiter.peer.id, shared))

        return effects

    def _fail(self, peer: Peer, request: wire.Fail, now: float) -> list[Effect]:
        lease = self._flights.held(request.lease, peer)
        if lease is None:
            return self._stale(peer, request, request.lease)

        self._count.fail_lease(request.kind)
        effects = self._end_unanswered(lease, request.kind, request.message)
        if request.next and lease.next_backends and request.kind != "cancelled":
            # The flight goes on under a new lease of the same caller; its waiters notice nothing.
            again = self._flights.grant(lease.flight, peer, lease.request, lease.next_backends, now)
            return [*effects, self._granted(again, request.id)]

        effects.append(Send(peer.id, wire.Ok(request.id)))
        return effects + self._land(lease.flight, request.kind, request.message, now)

    def _end_unanswered(self, lease: HeldLease, outcome: _Outcome, message: str) -> list[Effect]:
        self._flights.end_lease(lease, answered=False)
        key = None if lease.flight is None else lease.flight.key
        return [Tell(notes.LeaseEnded(outcome, key, lease.name, lease.backend, lease.peer.id, message))]

    def _land(self, flight: Flight | None, kind: wire.FailureKind, message: str, now: float) -> list[Effect]:
        """A flight's lease has ended without an answer: elect, or end the flight."""
        if flight is None:
            return []

        if self._draining:
            effects = self._reject_waiters(flight)
            self._flights.finish(flight)
            return effects

        if kind in {"transient", "cancelled"} and flight.elections < self._settings.max_elections:
            lease = self._flights.elect(flight, now)
            if lease is not None:
                self._count.reelections += 1
                note = notes.Reelected(flight.key, lease.name, lease.peer.id, flight.elections)
                return [Tell(note), self._granted_by_election(lease)]

        waiters = self._flights.finish(flight)
        if not waiters:
            return []

        effects = [Tell(notes.FlightFailed(flight.key, kind, message, len(waiters)))]
        for waiter in waiters:
            if waiter.deadline <= now:
                effects.append(self._timed_out(waiter, now))
            else:
                self._count.failed += 1
                effects.append(Send(waiter.peer.id, wire.Failed(waiter.request.id, kind, message)))

        return effects

    def _granted_by_election(self, lease: HeldLease) -> Send:
        self._count.leases_first += 1
        self._books.of(lease.request.task).led += 1
        return self._granted(lease, lease.request.id)

    def _renew(self, peer: Peer, request: wire.Renew, now: float) -> list[Effect]:
        lease = self._flights.held(request.lease, peer)
        if lease is None:
            return self._stale(peer, request, request.lease)

        self._flights.renew(lease, now)
        return [Send(peer.id, wire.Ok(request.id))]

    def _cancel(self, peer: Peer, request: wire.Cancel, now: float) -> list[Effect]:
        effects: list[Effect] = [Send(peer.id, wire.Ok(request.id))]
        waiter = self._flights.waiting(peer, request.target)
        if waiter is not None:
            self._flights.leave(waiter)
            self._count.left += 1
            return effects

        for lease in self._flights.leases_of_request(peer, request.target):
            self._count.fail_lease("cancelled")
            effects += self._end_unanswered(lease, "cancelled", "the caller took its begin back")
            effects += self._land(lease.flight, "cancelled", "the holder took its begin back", now)

        return effects

    def _lose(self, peer: Peer, now: float) -> list[Effect]:
        self._peers -= 1
        waiters, leases = self._flights.of_peer(peer)
        for waiter in waiters:
            # Before the leases: a peer that waits for its own flight must not be elected.
            self._flights.leave(waiter)
            self._count.left += 1

        effects: list[Effect] = []
        for lease in leases:
            self._count.lost += 1
            message = "the connection of the process that made this call has ended"
            effects += self._end_unanswered(lease, "lost", message)
            effects += self._land(lease.flight, "transient", message, now)

        return effects

    def _tick(self, now: float) -> list[Effect]:
        effects: list[Effect] = []
        while (due := self._flights.timers.pop_due(now)) is not None:
            if isinstance(due, Waiter):
                self._flights.leave(due)
                effects.append(self._timed_out(due, now))
            else:
                self._count.expired += 1
                message = (
                    f"the process that made this call did not renew its lease for {self._settings.lease_seconds:g} s"
                )
                effects += self._end_unanswered(due, "expired", message)
                effects += self._land(due.flight, "transient", message, now)

        self._cache.expire(now)
        return effects

    def _timed_out(self, waiter: Waiter, now: float) -> Send:
        self._count.timeouts += 1
        return Send(waiter.peer.id, wire.Timeout(waiter.request.id, now - waiter.joined_at))

    def _reject_waiters(self, flight: Flight) -> list[Effect]:
        return [self._rejection(waiter.peer, waiter.request, "draining") for waiter in self._flights.release(flight)]

    def _stale(self, peer: Peer, request: wire.Complete | wire.Fail | wire.Renew, lease: str) -> list[Effect]:
        self._count.stale_leases += 1
        op = type(request).__name__.lower()
        return [Send(peer.id, wire.StaleLease(request.id)), Tell(notes.StaleLeaseRefused(op, lease, peer.id))]

    # -- entries -------------------------------------------------------------------------------------------------------

    def _get(self, peer: Peer, request: wire.Get, now: float) -> list[Effect]:
        scope = self._scope(peer, request.namespace)
        if scope is None:
            return [self._denied(peer, request, f"namespace {request.namespace!r} is not yours; leave the uid out")]

        entry = self._cache.get(scope, request.key, now)
        if entry is None or now - entry.stored_at >= entry.terms.ttl_seconds:
            return [Send(peer.id, wire.Miss(request.id))]

        age, terms = now - entry.stored_at, entry.terms
        hit = wire.Hit(
            request.id,
            Raw(entry.value),
            age,
            _FRESH,
            entry.seconds,
            entry.dollars,
            terms.backend,
            terms.usage,
        )
        return [Send(peer.id, hit)]

    def _put(self, peer: Peer, request: wire.Put, now: float) -> list[Effect]:
        scope = self._scope(peer, request.namespace)
        if scope is None:
            return [self._denied(peer, request, f"namespace {request.namespace!r} is not yours; leave the uid out")]

        ttl_seconds = self._settings.ttl_seconds if request.ttl_seconds is None else request.ttl_seconds
        terms = self._on_terms(scope, ttl_seconds, 0.0, wire.DEFAULT_BACKEND, NO_USAGE, request.tags)
        stored, effects = self._store(request.key, bytes(request.value), now, terms, 0.0)
        return [Send(peer.id, wire.Stored(request.id, stored)), *effects]

    def _delete(self, peer: Peer, request: wire.Delete, now: float) -> list[Effect]:
        scope = self._scope(peer, request.namespace)
        if scope is None:
            return [self._denied(peer, request, f"namespace {request.namespace!r} is not yours; leave the uid out")]

        flight = self._flights.find(scope, request.key)
        if flight is not None:
            flight.storable = False

        deleted = self._cache.delete(scope, request.key, now)
        self._count.deleted += deleted
        return [Send(peer.id, wire.Deleted(request.id, int(deleted)))]

    def _purge(self, peer: Peer, request: wire.Purge, now: float) -> list[Effect]:
        if not peer.operator:
            return [self._denied(peer, request, "purge is for operators; delete removes single entries of your own")]

        # What tags a flight's answer will bear is known only when it comes, so a purge by tag voids every flight in reach.
        for flight in self._flights:
            if _covers(request.namespace, flight.scope):
                flight.storable = False

        scopes = [scope for scope in self._cache.scopes() if _covers(request.namespace, scope)]
        removed = self._cache.purge(scopes, request.tag, now)
        self._count.deleted += removed
        return [Send(peer.id, wire.Deleted(request.id, removed))]

    def _store(self, key: str, value: bytes, now: float, terms: Terms, seconds: float) -> tuple[bool, list[Effect]]:
        outcome = self._cache.put(key, value, now, terms, seconds)
        effects: list[Effect] = []
        if outcome.evicted:
            effects.append(Tell(notes.Evicted(outcome.evicted)))

        if outcome.too_large:
            self._count.refused_too_large += 1
            effects.append(Tell(notes.EntryRefused(key, len(value), self._cache.max_entry_bytes)))

        stored = outcome.entry is not None
        self._count.stored += stored
        return stored, effects

    def _ttl(self, task: str, *asked: float | None) -> float:
        for ttl_seconds in asked:
            if ttl_seconds is not None:
                return ttl_seconds

        return self._settings.task_ttl_seconds.get(task, self._settings.ttl_seconds)

    def _on_terms(
        self,
        scope: str,
        ttl_seconds: float,
        window_seconds: float,
        backend: str,
        usage: wire.Usage,
        tags: tuple[str, ...],
    ) -> Terms:
        if not self._cache.caching:
            ttl_seconds = 0.0

        if usage != NO_USAGE or tags:
            return Terms(scope, ttl_seconds, window_seconds, backend, usage, tags)

        # Peers may invent as many of these as they like, so remembering them is bounded.
        names = (scope, ttl_seconds, window_seconds, backend)
        terms = self._terms.get(names)
        if terms is None:
            if len(self._terms) >= _MAX_REMEMBERED:
                self._terms.clear()

            terms = self._terms[names] = Terms(*names)

        return terms

    def _scope(self, peer: Peer, namespace: str) -> str | None:
        """Return where a peer's namespace really is: ``uid:name``, ``*:name`` if shared; None where it may not say so."""
        scope = self._scopes.get((peer.uid, peer.gid, namespace))
        if scope is not None:
            return scope

        if ":" in namespace:
            return namespace if peer.operator and _FOREIGN_NAMESPACE.fullmatch(namespace) else None

        shared = self._settings.shared_namespaces.get(namespace)
        admitted = shared is not None and shared.admits(peer.uid, peer.gid)
        scope = f"*:{namespace}" if admitted else f"{peer.uid}:{namespace}"
        if len(self._scopes) >= _MAX_REMEMBERED:
            self._scopes.clear()

        self._scopes[peer.uid, peer.gid, namespace] = scope
        return scope

    def _denied(self, peer: Peer, request: wire.Request, message: str) -> Send:
        return _error(peer, request, "denied", message)

    # -- what people look at -------------------------------------------------------------------------------------------

    def _ping(self, peer: Peer, request: wire.Ping, now: float) -> list[Effect]:
        pong = wire.Pong(request.id, self._version, wire.PROTOCOL_VERSION, self._boot_id, now - self._started_at)
        return [Send(peer.id, pong)]

    def _stats(self, peer: Peer, request: wire.GetStats, now: float) -> list[Effect]:
        stats = wire.Stats(
            request.id,
            version=self._version,
            boot_id=self._boot_id,
            uptime_seconds=now - self._started_at,
            draining=self._draining,
            peers=self._peers,
            flights=len(self._flights),
            leases=self._flights.lease_count,
            waiters=self._flights.waiter_count,
            cache_entries=self._cache.count,
            cache_bytes=self._cache.bytes,
            cache_max_bytes=self._cache.max_bytes,
            evicted=self._cache.evicted,
            expired_entries=self._cache.expired,
            **self._count.fields(),
        )
        return [Send(peer.id, stats)]

    def _report(self, peer: Peer, request: wire.GetReport, now: float) -> list[Effect]:
        report = wire.Report(request.id, now - self._started_at, self._books.total(), self._books.tasks())
        return [Send(peer.id, report)]

    def _health(self, peer: Peer, request: wire.GetHealth, now: float) -> list[Effect]:
        uptime_seconds = now - self._started_at
        reasons = ["The daemon is stopping: it grants no new leases."] if self._draining else []
        reasons += [f"The table of {table} is full: calls are made without the daemon." for table in sorted(self._full)]
        status = "draining" if self._draining else "ok"
        return [
            Send(peer.id, wire.Health(request.id, status, reasons, self._version, self._boot_id, uptime_seconds))  # type: ignore[arg-type]  # one of the two literals
        ]

    def _config(self, peer: Peer, request: wire.GetConfig, now: float) -> list[Effect]:  # noqa: ARG002 - as its siblings
        if not peer.operator:
            return [self._denied(peer, request, "config is for operators: root, the daemon's own uid, or [operators]")]

        return [Send(peer.id, wire.Settings(request.id, self._shown_settings, self._shown_origins))]


def _error(peer: Peer, request: wire.Request, code: wire.ErrorCode, message: str) -> Send:
    return Send(peer.id, wire.Error(request.id, code, message))


def _covers(namespace: str | None, scope: str) -> bool:
    """Tell whether a purge's namespace means ``scope``: None means all, ``NAME`` that name of every uid."""
    return namespace is None or scope == namespace or scope.partition(":")[2] == namespace
