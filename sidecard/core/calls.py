"""The conversation about calls: `begin`, `complete`, `fail`, `renew`, `cancel`, and what happens without anybody saying so.

Decides what the peers are told. Who holds and who waits is `sidecard.core.flights`, what is stored `sidecard.core.shelf`.
"""

from msgspec import Raw

from sidecard.core import notes
from sidecard.core.answers import FRESH, error, not_yours
from sidecard.core.counters import Counters
from sidecard.core.effects import Effect, Send, Tell
from sidecard.core.entries import NO_USAGE, Entry
from sidecard.core.events import Peer
from sidecard.core.flights import Flight, Flights, HeldLease, Waiter
from sidecard.core.ledger import Books
from sidecard.core.scopes import Scopes
from sidecard.core.settings import EngineSettings
from sidecard.core.shelf import Shelf
from sidecard_client import wire


class Calls:
    """Answers "must I make this call?" and hears how it went."""

    def __init__(self, settings: EngineSettings, boot_id: str, shelf: Shelf, scopes: Scopes, count: Counters) -> None:
        self.flights = Flights(boot_id, settings.lease_seconds)
        self.books = Books(settings.max_tasks)
        self.draining = False
        self._told_full: set[str] = set()
        """Tables whose being full has been told, and which had no room since."""
        self._settings = settings
        # Clients renew every third of what they are told.
        renew_seconds = settings.renew_seconds or settings.lease_seconds / 3
        self._expires_in_seconds = min(settings.lease_seconds, 3 * renew_seconds)
        self._shelf = shelf
        self._scopes = scopes
        self._count = count

    def begin(self, peer: Peer, request: wire.Begin, now: float) -> list[Effect]:
        """Answer the question: hit, shared, wait, lead, or no."""
        scope = self._scopes.find(peer, request.namespace)
        if scope is None:
            return [not_yours(peer, request, request.namespace)]

        if request.stream:
            return [error(peer, request, "unavailable", "this version shares no streams: begin without stream")]

        if self.flights.waiting(peer, request.id) is not None:
            text = f"id {request.id} is already waiting on this connection: use an id once, or cancel it first"
            return [error(peer, request, "bad_request", text)]

        key = request.key
        if key is not None and request.mode != "refresh":
            entry = self._shelf.cache.get(scope, key, now)
            if entry is not None:
                self._count.begins += 1
                return [Send(peer.id, self._served(request, entry, now))]

        flight = None if key is None else self.flights.find(scope, key)
        self._count.begins += 1
        if key is not None:
            self._count.misses += request.mode != "refresh"

        if request.mode == "only_if_cached":
            return [self._rejection(peer, request, "not_cached")]

        if self.draining:
            return [self._rejection(peer, request, "draining")]

        if flight is not None:
            return self._join(flight, peer, request, now)

        return self._lead(scope, peer, request, now)

    def _served(self, request: wire.Begin, entry: Entry, now: float) -> wire.Hit | wire.Shared:
        age = now - entry.stored_at
        book = self.books.of(request.task)
        terms, dollars = entry.terms, entry.dollars
        if age < terms.ttl_seconds:
            book.hit(entry)
            self._count.hits += 1
            kind: type[wire.Hit | wire.Shared] = wire.Hit
        else:
            book.share(entry.seconds, dollars, 0.0)
            self._count.shared += 1
            kind = wire.Shared

        return kind(request.id, Raw(entry.value), age, FRESH, entry.seconds, dollars, terms.backend, terms.usage)

    def _lead(self, scope: str, peer: Peer, request: wire.Begin, now: float) -> list[Effect]:
        settings, flights = self._settings, self.flights
        if flights.lease_count >= settings.max_leases:
            return self._busy(peer, request, "leases", settings.max_leases)

        if request.key is None:
            lease = flights.grant(None, peer, request, request.backends or (wire.DEFAULT_BACKEND,), now)
        elif len(flights) >= settings.max_flights:
            return self._busy(peer, request, "flights", settings.max_flights)
        else:
            lease = flights.start(scope, request.key, peer, request, now)
            self.books.of(request.task).led += 1

        self._told_full.clear()
        self._count.leases_first += 1
        return [self._granted(lease, request.id)]

    def _join(self, flight: Flight, peer: Peer, request: wire.Begin, now: float) -> list[Effect]:
        wait_seconds = self._settings.wait_seconds if request.wait_seconds is None else request.wait_seconds
        if wait_seconds <= 0:
            self._count.timeouts += 1
            return [Send(peer.id, wire.Timeout(request.id, 0.0))]

        if self.flights.waiter_count >= self._settings.max_waiters:
            return self._busy(peer, request, "waiters", self._settings.max_waiters)

        self.flights.join(flight, peer, request, now, wait_seconds)
        self._told_full.discard("waiters")
        return [Send(peer.id, wire.Pending(request.id))]

    def _granted(self, lease: HeldLease, request_id: int) -> Send:
        self._count.leases_granted += 1
        return Send(
            lease.peer.id,
            wire.Lease(request_id, lease.name, lease.backend, self._expires_in_seconds, lease.attempt),
        )

    def _rejection(self, peer: Peer, request: wire.Begin, reason: wire.RejectionReason) -> Send:
        self._count.reject(reason)
        return Send(peer.id, wire.Rejected(request.id, reason))

    def _busy(self, peer: Peer, request: wire.Begin, table: notes.Table, limit: int) -> list[Effect]:
        effects: list[Effect] = [self._rejection(peer, request, "busy")]
        # Said once per time that a table fills, not once per refused call.
        if table not in self._told_full:
            self._told_full.add(table)
            effects.append(Tell(notes.Saturated(table, limit)))

        return effects

    def complete(self, peer: Peer, request: wire.Complete, now: float) -> list[Effect]:
        """Take the answer of a lease and give it to all who wait."""
        usage = request.usage or NO_USAGE
        dollars = usage.cost_dollars or 0.0
        lease = self.flights.held(request.lease, peer)
        if lease is None:
            late = self.flights.ended(request.lease, peer)
            if late is not None:
                self.books.of(late.request.task).bill(now - late.granted_at, dollars)

            return self._stale(peer, request, request.lease)

        seconds = now - lease.granted_at
        self.flights.end_lease(lease, answered=True)
        self._count.completed += 1
        self.books.of(lease.request.task).bill(seconds, dollars)
        flight = lease.flight
        if flight is None:
            return [Send(peer.id, wire.Stored(request.id, stored=False))]

        stored, effects = False, list[Effect]()
        value = bytes(request.value)
        if request.store and flight.storable:
            ttl_seconds = self._shelf.ttl_seconds(lease.request.task, request.ttl_seconds, lease.request.ttl_seconds)
            window_seconds = self._settings.sharing_window_seconds
            terms = self._shelf.terms(flight.scope, ttl_seconds, window_seconds, lease.backend, usage, request.tags)
            stored, effects = self._shelf.store(flight.key, value, now, terms, seconds)

        effects.append(Send(peer.id, wire.Stored(request.id, stored)))
        answer = Raw(value)
        for waiter in self.flights.finish(flight):
            saved_seconds = self.books.of(waiter.request.task).share(seconds, dollars, now - waiter.joined_at)
            self._count.shared += 1
            shared = wire.Shared(
                waiter.request.id,
                answer,
                0.0,
                FRESH,
                saved_seconds,
                dollars,
                lease.backend,
                usage,
            )
            effects.append(Send(waiter.peer.id, shared))

        return effects

    def fail(self, peer: Peer, request: wire.Fail, now: float) -> list[Effect]:
        """Take the failure of a lease: the next backend, the next holder, or the end."""
        lease = self.flights.held(request.lease, peer)
        if lease is None:
            return self._stale(peer, request, request.lease)

        self._count.fail_lease(request.kind)
        effects = self._end_unanswered(lease, request.kind, request.message)
        if request.next and lease.next_backends and request.kind != "cancelled":
            # The flight goes on under a new lease of the same caller; its waiters notice nothing.
            again = self.flights.grant(lease.flight, peer, lease.request, lease.next_backends, now)
            return [*effects, self._granted(again, request.id)]

        effects.append(Send(peer.id, wire.Ok(request.id)))
        return effects + self._land(lease.flight, request.kind, request.message, now)

    def _end_unanswered(self, lease: HeldLease, outcome: notes.Outcome, message: str) -> list[Effect]:
        self.flights.end_lease(lease, answered=False)
        key = None if lease.flight is None else lease.flight.key
        return [Tell(notes.LeaseEnded(outcome, key, lease.name, lease.backend, lease.peer.id, message))]

    def _land(
        self, flight: Flight | None, kind: wire.FailureKind, message: str, now: float, hung: Peer | None = None
    ) -> list[Effect]:
        """A flight's lease has ended without an answer: elect, or end the flight."""
        if flight is None:
            return []

        may_pass = kind in {"transient", "cancelled"}
        if may_pass and self.draining:
            effects = self._reject_waiters(flight, now)
            self.flights.finish(flight)
            return effects

        if may_pass and flight.elections < self._settings.max_elections:
            lease = self.flights.elect(flight, now, hung)
            if lease is not None:
                self._count.reelections += 1
                note = notes.Reelected(flight.key, lease.name, lease.peer.id, flight.elections)
                return [Tell(note), self._granted_by_election(lease)]

        waiters = self.flights.finish(flight)
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
        self.books.of(lease.request.task).led += 1
        return self._granted(lease, lease.request.id)

    def renew(self, peer: Peer, request: wire.Renew, now: float) -> list[Effect]:
        """Keep a lease."""
        lease = self.flights.held(request.lease, peer)
        if lease is None:
            return self._stale(peer, request, request.lease)

        self.flights.renew(lease, now)
        return [Send(peer.id, wire.Ok(request.id))]

    def cancel(self, peer: Peer, request: wire.Cancel, now: float) -> list[Effect]:
        """Take a waiting begin, or the lease that it has just led to, back."""
        effects: list[Effect] = [Send(peer.id, wire.Ok(request.id))]
        waiter = self.flights.waiting(peer, request.target)
        if waiter is not None:
            self.flights.leave(waiter)
            self._count.left += 1
            return effects

        for lease in self.flights.leases_of_request(peer, request.target):
            self._count.fail_lease("cancelled")
            effects += self._end_unanswered(lease, "cancelled", "the caller took its begin back")
            effects += self._land(lease.flight, "cancelled", "the holder took its begin back", now)

        return effects

    def lose(self, peer: Peer, now: float) -> list[Effect]:
        """Forget a peer: its waits are dropped, its leases are lost."""
        waiters, leases = self.flights.of_peer(peer)
        for waiter in waiters:
            # Before the leases: a peer that waits for its own flight must not be elected.
            self.flights.leave(waiter)
            self._count.left += 1

        effects: list[Effect] = []
        for lease in leases:
            self._count.lost += 1
            message = "the connection of the process that made this call has ended"
            effects += self._end_unanswered(lease, "lost", message)
            effects += self._land(lease.flight, "transient", message, now)

        self.flights.forget(peer)
        return effects

    def tick(self, now: float) -> list[Effect]:
        """End what is due."""
        effects: list[Effect] = []
        while (due := self.flights.timers.pop_due(now)) is not None:
            if isinstance(due, Waiter):
                self.flights.leave(due)
                effects.append(self._timed_out(due, now))
            else:
                self._count.expired += 1
                message = (
                    f"the process that made this call did not renew its lease for {self._settings.lease_seconds:g} s"
                )
                effects += self._end_unanswered(due, "expired", message)
                effects += self._land(due.flight, "transient", message, now, hung=due.peer)

        self._shelf.cache.expire(now)
        return effects

    def _timed_out(self, waiter: Waiter, now: float) -> Send:
        self._count.timeouts += 1
        return Send(waiter.peer.id, wire.Timeout(waiter.request.id, now - waiter.joined_at))

    def _reject_waiters(self, flight: Flight, now: float) -> list[Effect]:
        return [
            self._timed_out(waiter, now)
            if waiter.deadline <= now
            else self._rejection(waiter.peer, waiter.request, "draining")
            for waiter in self.flights.release(flight)
        ]

    def _stale(self, peer: Peer, request: wire.Complete | wire.Fail | wire.Renew, lease: str) -> list[Effect]:
        self._count.stale_leases += 1
        op = type(request).__name__.lower()
        return [Send(peer.id, wire.StaleLease(request.id)), Tell(notes.StaleLeaseRefused(op, lease, peer.id))]

    def full_tables(self) -> list[str]:
        """Name the tables that have no room now."""
        levels = {
            "flights": (len(self.flights), self._settings.max_flights),
            "leases": (self.flights.lease_count, self._settings.max_leases),
            "waiters": (self.flights.waiter_count, self._settings.max_waiters),
        }
        return [table for table, (level, limit) in levels.items() if level >= limit]

    def drain(self) -> list[Effect]:
        """Grant no new leases from now on."""
        self.draining = True
        return [Tell(notes.DrainStarted(len(self.flights), self.flights.waiter_count))]

    def give_up_draining(self, now: float) -> list[Effect]:
        """Give every waiter its end."""
        return [effect for flight in self.flights for effect in self._reject_waiters(flight, now)]
