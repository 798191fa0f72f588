"""The table of all flights, leases, waiters and applicants, with their deadlines.

A lease that has ended is not current: messages that name it later are rejected. That is all a fence is.
"""

from collections import OrderedDict
from collections.abc import Iterable, Iterator
from itertools import islice, takewhile
from typing import TYPE_CHECKING

from sidecard.core.accounts.charges import flight_bytes
from sidecard.core.accounts.memory import MemoryPool
from sidecard.core.backends.backend import Backend, Permit
from sidecard.core.cache.freshness import is_fresh_for
from sidecard.core.events import Peer
from sidecard.core.flights.flight import CLAIMED_ELSEWHERE, Flight
from sidecard.core.flights.participants import Applicant, HeldLease, PeerTable, SharedPermit, Waiter, same_process
from sidecard.core.scopes import covers
from sidecard.core.settings import LiveSettings
from sidecard.core.shares import Share
from sidecard.core.timers import Timers
from sidecard_client.protocol.wire import Begin

if TYPE_CHECKING:
    from sidecard.core.flights.store.status import PendingRemoval

_REMEMBERED_LEASES = 1024
"""Ended leases whose late `complete` can still be billed to its task: the backend did that work."""


class Flights:
    """All flights and their participants. ``boot_id`` begins the name of each lease; ``memory`` is charged for all of them."""

    def __init__(self, boot_id: str, settings: LiveSettings, memory: MemoryPool) -> None:
        self._boot_id = boot_id
        self._settings = settings
        self._memory = memory
        self.draining = False
        """The daemon is stopping: no new leases."""
        self._sequence = 0
        self._flights: dict[tuple[str, str], Flight] = {}
        """The latest flight of each key."""
        self._replaced: dict[Flight, None] = {}
        """Voided flights whose key has a later flight; each still serves the callers that it had."""
        self._leases: dict[str, HeldLease] = {}
        self._peers: dict[int, PeerTable] = {}
        self._hung_up: set[int] = set()  # ids of peers that can make no call; most of them never had a table
        self._applicants: dict[Applicant, None] = {}
        self._ended: OrderedDict[str, HeldLease] = OrderedDict()
        self.timers: Timers[HeldLease | Waiter | Applicant | Backend | Flight | PendingRemoval] = Timers()
        self.unused_claims: list[Flight] = []
        """Flights that are over or voided, and did not use their claim."""
        self.flights_by_uid = Share()
        """Of the uids that started them."""
        self.leases_by_uid = Share()
        self.waiters_by_uid = Share()

    def __len__(self) -> int:
        return len(self._flights) + len(self._replaced)

    def __iter__(self) -> Iterator[Flight]:
        return iter([*self._flights.values(), *self._replaced])

    @property
    def waiter_count(self) -> int:
        """Begins that wait, for an answer or for a permit."""
        return self.waiters_by_uid.total

    @property
    def lease_count(self) -> int:
        """Current leases."""
        return len(self._leases)

    @property
    def applicant_count(self) -> int:
        """Callers that wait for a lease."""
        return len(self._applicants)

    @property
    def claimed_elsewhere_count(self) -> int:
        """Flights that another host computes."""
        return sum(flight.state == CLAIMED_ELSEWHERE for flight in self._flights.values())

    @property
    def claim_count(self) -> int:
        """Flights that this host computes for all hosts."""
        return sum(bool(flight.claim) for flight in self._flights.values())

    def find(self, scope: str, key: str) -> Flight | None:
        """Return the flight of a key that callers can join.

        1. a call starts; 2. its key is deleted, and the delete is acknowledged; 3. a begin arrives. Its caller must not get
        the answer of 1, so it does not find that flight.
        """
        flight = self._flights.get((scope, key))
        return None if flight is None or flight.voided else flight

    def void_key(self, scope: str, key: str) -> None:
        """Void the call in progress of a key that is removed, and give its claim to other hosts."""
        flight = self._flights.get((scope, key))
        if flight is not None:
            flight.forbid_storing()
            self._release_claim_if_voided(flight)

    def start(self, scope: str, key: str, uid: int) -> Flight:
        """Start a flight; the caller must give it a lease, an applicant or a question to the store."""
        voided = self._flights.get((scope, key))
        if voided is not None:
            voided.replaced()
            self._replaced[voided] = None
            self._release_claim_if_voided(voided)

        flight = self._flights[scope, key] = Flight(scope, key, uid)
        self.flights_by_uid.take(uid)
        self._memory.charge(uid, flight_bytes(scope, key))
        return flight

    def apply(self, applicant: Applicant) -> None:
        """Add an applicant."""
        if applicant.flight is not None:
            applicant.flight.applied(applicant)

        self._applicants[applicant] = None
        self._table(applicant.peer).applied(applicant)
        self._memory.charge(applicant.peer.uid, applicant.memory_bytes)
        if applicant.first:
            self.waiters_by_uid.take(applicant.peer.uid)

        self._set_timer(applicant)

    def _set_timer(self, applicant: Applicant) -> None:
        self.timers.set(applicant, min(applicant.deadline, applicant.not_before or applicant.deadline))

    def withdraw(self, applicant: Applicant, now: float) -> None:
        """Remove an applicant, for any reason."""
        if applicant.flight is not None:
            applicant.flight.applied(None)

        del self._applicants[applicant]
        self._peers[applicant.peer.id].withdrawn(applicant)
        self._memory.release(applicant.peer.uid, applicant.memory_bytes)
        if applicant.first:
            self.waiters_by_uid.give_back(applicant.peer.uid)

        self.timers.clear(applicant)
        applicant.dequeue_all(now)

    def grant(self, applicant: Applicant, backend: str, permit: Permit, now: float) -> HeldLease:
        """Grant a lease."""
        self._sequence += 1
        flight, peer, previous = applicant.flight, applicant.peer, applicant.previous
        settings = self._settings.now
        attempt = 1 if flight is None else flight.attempts + 1
        name = f"{self._boot_id}-{self._sequence}"
        lease = HeldLease(
            name,
            flight,
            peer,
            applicant.request,
            applicant.memory_bytes,
            backend,
            permit,
            attempt,
            now,
            (*applicant.tried, backend),
            applicant.retries,
            previous is not None and is_fresh_for(applicant.request, previous, now),
            now + settings.lease_seconds,
            scope=applicant.scope,
        )
        if flight is not None:
            flight.lease_granted(lease)

        self._leases[name] = lease
        self.leases_by_uid.take(peer.uid)
        self._memory.charge(peer.uid, lease.memory_bytes)
        table = self._peers.get(peer.id) or self._table(peer)
        table.leases[name] = lease
        if lease.request.batch:
            table.permits[lease.request.batch] = (backend, permit)

        self.timers.set(lease, now + min(settings.lease_seconds, settings.max_call_seconds))
        return lease

    def shared_permit(self, peer: Peer, batch: int) -> SharedPermit | None:
        """Return the permit of a batch's call that further begins may join."""
        shared = self._table(peer).permits.get(batch)
        return shared if shared is not None and shared[1].may_grow else None

    def applicants_of_batch(self, peer: Peer, batch: int, limit: int) -> list[Applicant]:
        """Return up to ``limit`` begins of a batch that wait for a permit, the longest-waiting first."""
        return list(islice(self._table(peer).batches.get(batch, ()), limit))

    def held(self, name: str, peer: Peer) -> HeldLease | None:
        """Return the current lease of that name if ``peer`` holds it. This is the fence."""
        lease = self._leases.get(name)
        return lease if lease is not None and lease.peer.id == peer.id else None

    def take_ended(self, name: str, peer: Peer) -> HeldLease | None:
        """Return, once, a lease of ``peer`` that ended before its call did."""
        lease = self._ended.get(name)
        if lease is None or lease.peer.id != peer.id:
            return None

        return self._ended.pop(name)

    def renew(self, lease: HeldLease, now: float) -> None:
        """Prolong a lease."""
        lease.renew(now + self._settings.now.lease_seconds)
        self.timers.set(lease, self.due_at(lease))

    def progressed(self, lease: HeldLease, now: float) -> None:
        """Record a chunk of a lease's stream. Only the first one may bring the lease's end nearer."""
        first = lease.last_chunk_at is None
        lease.record_chunk(now)
        if first:
            self.timers.set(lease, self.due_at(lease))

    def due_at(self, lease: HeldLease) -> float:
        """Return when a lease ends unless it is renewed or its stream goes on."""
        return min(lease.renewed_until, self.overdue_at(lease))

    def overdue_at(self, lease: HeldLease) -> float:
        """Return when a lease ends because its work makes no progress. A reload changes it for leases in progress."""
        settings = self._settings.now
        return lease.overdue_at(settings.max_call_seconds, settings.idle_seconds)

    def reconsider_leases(self) -> None:
        """Apply changed limits to the leases in progress."""
        for lease in self._leases.values():
            self.timers.set(lease, self.due_at(lease))

    def older_leases(self, granted_by: float) -> list[HeldLease]:
        """Return the leases granted at or before an instant, oldest first."""
        return list(takewhile(lambda lease: lease.granted_at <= granted_by, self._leases.values()))

    def host_slept(self, seconds: float, now: float) -> None:
        """Prolong what is in progress: holders and callers slept as well, and renew as soon as they are awake.

        Everything else ages while the host sleeps: entries, budgets, open breakers, retries.
        """
        if seconds <= 0:
            return

        for lease in self._leases.values():
            lease.host_slept(seconds)
            self.renew(lease, now)

        # All flights: the callers of a voided one still wait, after a later flight has replaced it.
        waiters = [waiter for flight in self for waiter in flight.waiters.values()]
        for waiter in waiters:
            waiter.wait_longer(seconds)
            if not waiter.no_wait:
                self.timers.set(waiter, waiter.deadline)

        for applicant in self._applicants:
            applicant.wait_longer(seconds)
            self._set_timer(applicant)

    def end_lease(self, lease: HeldLease, *, answered: bool) -> None:
        """End a lease. Unless its call has ``answered``, remember it, so that a late answer can be billed."""
        del self._leases[lease.name]
        peer, flight = lease.peer, lease.flight
        self.leases_by_uid.give_back(peer.uid)
        self._memory.release(peer.uid, lease.memory_bytes)
        if flight is not None:
            flight.lease_ended()

        self.timers.clear(lease)
        table = self._peers[peer.id]
        del table.leases[lease.name]
        if lease.request.batch and lease.permit.leases == 1:
            latest = table.permits.get(lease.request.batch)
            if latest is not None and latest[1] is lease.permit:
                del table.permits[lease.request.batch]

        if not answered:
            self._ended[lease.name] = lease.ended()
            if len(self._ended) > _REMEMBERED_LEASES:
                self._ended.popitem(last=False)

    def join(
        self, flight: Flight, peer: Peer, request: Begin, memory_bytes: int, now: float, wait_seconds: float
    ) -> Waiter:
        """Let a caller wait for a flight's end."""
        waiter = Waiter(flight, peer, request, memory_bytes, now, now + wait_seconds, no_wait=wait_seconds <= 0)
        self._memory.charge(peer.uid, memory_bytes)
        flight.waiters[peer.id, request.id] = waiter
        self._table(peer).waiters[request.id] = waiter
        if not waiter.no_wait:
            self.timers.set(waiter, waiter.deadline)

        self.waiters_by_uid.take(peer.uid)
        return waiter

    def leave(self, waiter: Waiter) -> None:
        """Remove one waiter."""
        del waiter.flight.waiters[waiter.peer.id, waiter.request.id]
        del self._peers[waiter.peer.id].waiters[waiter.request.id]
        self._memory.release(waiter.peer.uid, waiter.memory_bytes)
        self.timers.clear(waiter)
        self.waiters_by_uid.give_back(waiter.peer.uid)

    def release(self, flight: Flight) -> list[Waiter]:
        """Remove and return all waiters, the longest-waiting first."""
        waiters = list(flight.waiters.values())
        for waiter in waiters:
            self.leave(waiter)

        return waiters

    def finish(self, flight: Flight) -> list[Waiter]:
        """End a flight that has no lease; return its waiters."""
        flight.finish()
        if flight in self._replaced:
            del self._replaced[flight]
        else:
            del self._flights[flight.scope, flight.key]

        self.flights_by_uid.give_back(flight.uid)
        self._memory.release(flight.uid, flight_bytes(flight.scope, flight.key))
        if flight.claim:
            self.unused_claims.append(flight)

        return self.release(flight) if flight.waiters else []

    def next_candidate(self, flight: Flight, now: float, unresponsive: Peer | None = None) -> Waiter | None:
        """Return the longest-waiting caller that is still willing to become the next holder, and has not hung up.

        Willingness is checked at the grant: 1. a waiter's deadline passes; 2. the lease is lost; 3. only then comes
        the tick that would have timed the waiter out. Without the check, the lease granted in 2 goes to a caller that has given up.

        If the last holder was ``unresponsive``, callers of other processes come first: its own process hangs as a whole,
        and each lease granted to it costs the other callers another `lease_seconds`.
        """
        willing = (one for one in flight.waiters.values() if one.is_willing(now) and not self.has_hung_up(one.peer))
        if unresponsive is None:
            return next(willing, None)

        return min(willing, key=lambda waiter: same_process(waiter.peer, unresponsive), default=None)

    def is_waiting(self, peer: Peer, request_id: int) -> bool:
        """Return whether a request of that id waits."""
        table = self._peers.get(peer.id)
        return table is not None and (request_id in table.waiters or request_id in table.applicants)

    def waiting(self, peer: Peer, request_id: int) -> Waiter | Applicant | None:
        """Return the participant that waits for an answer to that id."""
        table = self._peers.get(peer.id)
        return None if table is None else table.waiters.get(request_id) or table.applicants.get(request_id)

    def of_request(self, peer: Peer, request_id: int) -> tuple[list[Applicant], list[HeldLease]]:
        """Return the applicants and leases that a begin of that id has led to."""
        _, applicants, leases = self.of_peer(peer)
        return [one for one in applicants if one.request.id == request_id], [
            lease for lease in leases if lease.request.id == request_id
        ]

    def of_peer(self, peer: Peer) -> tuple[list[Waiter], list[Applicant], list[HeldLease]]:
        """Return all participants of a peer."""
        table = self._peers.get(peer.id)
        if table is None:
            return [], [], []

        return list(table.waiters.values()), list(table.applicants.values()), list(table.leases.values())

    def applicants(self) -> list[Applicant]:
        """Return all applicants."""
        return list(self._applicants)

    def hung_up(self, peers: Iterable[Peer]) -> None:
        """Elect none of ``peers`` from now on."""
        self._hung_up.update(peer.id for peer in peers)

    def has_hung_up(self, peer: Peer) -> bool:
        """Return whether a caller's peer is to be elected no more."""
        return peer.id in self._hung_up

    def forget(self, peer: Peer) -> None:
        """Drop the table of a lost peer, which has no participants any more."""
        self._peers.pop(peer.id, None)
        self._hung_up.discard(peer.id)

    def void(self, namespace: str | None, tag: str | None = None, task: str | None = None) -> None:
        """Void the calls in progress whose answers a purge of ``namespace``, ``tag`` and ``task`` removes."""
        for flight in self._flights.values():
            if covers(namespace, flight.scope) and (task is None or flight.concerns(task)):
                flight.void(tag)
                self._release_claim_if_voided(flight)

    def _release_claim_if_voided(self, flight: Flight) -> None:
        if flight.claim and not flight.storable:
            self.unused_claims.append(flight)

    def _table(self, peer: Peer) -> PeerTable:
        if peer.id not in self._peers:
            self._peers[peer.id] = PeerTable()

        return self._peers[peer.id]
