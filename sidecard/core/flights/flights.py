"""Flights, leases, waiters: who computes a key, who waits for it, and who is next.

Everything that changes a flight lives here; what the peers are told about it is the engine's.

========================  ===========================================================================
what happens              what becomes of the flight
========================  ===========================================================================
begin, no flight          `Flights.start`, and a lease for the caller, or `Flights.apply`: it waits for a permit;
                          or first a look into the store (`sidecard.core.flights.lookups`), for which it waits by `Flights.join`
begin, flight             `Flights.join`: the caller waits
append                    nothing; those who read along have a feed (`sidecard.core.flights.streams`)
complete                  `Flights.finish`: every waiter is released with the value
fail transient/cancelled  who has seen a chunk is released (`sidecard.core.flights.grant.Granting.interrupt`); the longest-waiting caller that still may (`Flights.next_willing`) gets a new lease, or applies;
lease lost or expired     after ``max_elections`` of them, or with nobody waiting, `Flights.finish`
fail fatal/ignored        `Flights.finish`: every waiter is released without a value
fail with next            the same caller gets another lease, or applies
applicant leaves, or is   `Flights.withdraw`, and the longest-waiting caller is next, as above
turned away
========================  ===========================================================================

A lease that ended is not current: whatever comes with it later is refused. That is all a fence is.
"""

from collections import OrderedDict
from collections.abc import Iterator
from typing import TYPE_CHECKING

from sidecard.core.backends.backend import Backend, Permit
from sidecard.core.events import Peer
from sidecard.core.scopes import covers
from sidecard.core.shares import Share
from sidecard.core.timers import Timers
from sidecard_client.protocol.wire import Begin, Delete, Purge

if TYPE_CHECKING:
    from sidecard.core.cache.entry import Entry
    from sidecard.core.cache.memory import MemoryCache
    from sidecard.core.flights.streams import Feed, Stream

_REMEMBERED_LEASES = 1024
"""Ended leases whose late `complete` can still be billed to its task: the backend did that work."""

MAX_VOIDED_TAGS = 64
"""Purged while one call is made; after more of them nothing of it is stored, whatever its tags."""


class Waiter:
    """A begin that waits."""

    __slots__ = ("deadline", "feed", "flight", "hasty", "joined_at", "looking", "peer", "request", "told")

    def __init__(self, flight: "Flight", peer: Peer, request: Begin, now: float, deadline: float) -> None:
        self.flight = flight
        self.peer = peer
        self.request = request
        self.joined_at = now
        self.deadline = deadline
        self.told = False
        """It was told to wait."""
        self.looking = False
        """Whether there is a stored answer is not known yet."""
        self.hasty = False
        """It waits for the store, but would for nobody's call."""
        self.feed: Feed | None = None
        """From the first chunk of a stream that it was sent; then ``deadline`` moves with each."""


class Removal:
    """A delete or purge that waits for the store. ``removed`` entries are gone already."""

    __slots__ = ("peer", "removed", "request", "ticket")

    def __init__(self, ticket: int, peer: Peer, request: Delete | Purge, removed: int) -> None:
        self.ticket = ticket
        self.peer = peer
        self.request = request
        self.removed = removed


class Applicant:
    """A caller to whom a lease is due: it gets one, waits for a permit or for the time of its retry, or is turned away."""

    __slots__ = (
        "deadline",
        "elected",
        "failure",
        "first",
        "flight",
        "joined_at",
        "not_before",
        "old",
        "peer",
        "pending",
        "queues",
        "reply_id",
        "request",
        "retries",
        "tried",
    )

    def __init__(
        self,
        flight: "Flight | None",
        peer: Peer,
        request: Begin,
        reply_id: int,
        joined_at: float,
        deadline: float,
    ) -> None:
        self.flight = flight
        self.peer = peer
        self.request = request
        self.reply_id = reply_id
        """The id to answer: the begin's, or that of the `fail` that asked for another lease."""
        self.joined_at = joined_at
        self.deadline = deadline
        self.first = True
        """Its begin has had no end yet."""
        self.elected = False
        """Its turn came because a holder failed."""
        self.pending = False
        """It was told to wait."""
        self.old: Entry | None = None
        """A stored answer that it is to have where it gets no other (`sidecard.core.cache.freshness`)."""
        self.failure = ""
        """Why its last call failed, where it is not the first."""
        self.tried: tuple[str, ...] = ()
        """Backends that have failed it, since its last retry."""
        self.retries = 0
        self.not_before = 0.0
        self.queues: tuple[tuple[str, Backend], ...] = ()

    @property
    def flow(self) -> tuple[int, int]:
        """Whose turn it takes in a queue: its uid's, and of that its process', or its connection's where nobody knows the process."""
        return self.peer.uid, self.peer.pid or -self.peer.id


class HeldLease:
    """Permission to make a call, held by one peer until it ends in one way or another."""

    __slots__ = (
        "attempt",
        "backend",
        "early",
        "flight",
        "granted_at",
        "name",
        "peer",
        "permit",
        "request",
        "retries",
        "tried",
    )

    def __init__(self, name: str, applicant: Applicant, backend: str, permit: Permit, attempt: int, now: float) -> None:
        self.name = name
        self.flight = applicant.flight
        self.peer = applicant.peer
        self.request = applicant.request
        self.backend = backend
        self.permit = permit
        self.tried = (*applicant.tried, backend)
        self.retries = applicant.retries
        self.attempt = attempt
        self.granted_at = now
        self.early = applicant.old is not None and applicant.old.is_fresh(now)
        """The answer that it is to replace is still in its time."""


class Flight:
    """The one computation of a key that is in progress.

    It has a lease or an applicant for one, or a question to the store is open; without any of these it is over.
    """

    __slots__ = (
        "applicant",
        "attempts",
        "claim",
        "claiming",
        "elections",
        "key",
        "lease",
        "looked",
        "outdated",
        "scope",
        "slow",
        "storable",
        "stream",
        "ticket",
        "uid",
        "unshared",
        "voided_tags",
        "waiters",
    )

    def __init__(self, scope: str, key: str, uid: int) -> None:
        self.scope = scope
        self.key = key
        self.uid = uid
        """Who has begun it."""
        self.lease: HeldLease | None = None
        self.applicant: Applicant | None = None
        self.waiters: dict[tuple[int, int], Waiter] = {}
        """By peer and request id, the longest-waiting first."""
        self.elections = 0
        self.attempts = 0
        self.storable = True
        """Cleared by a delete or purge that came meanwhile: what is being computed may be what was to be removed."""
        self.voided_tags: frozenset[str] = frozenset()
        """Those that were purged meanwhile: an answer that comes with one of them is not stored."""
        self.stream: Stream | None = None
        """What the holder has brought of an answer that comes in pieces, from the first one on."""
        self.unshared = False
        """There is an answer, which may be given to nobody who comes later."""
        # Of its look into the store, which `sidecard.core.flights.lookups` tells.
        self.ticket = 0
        """The question that is open; 0 for none."""
        self.looked = False
        """An entry is being looked for, and not only the claim."""
        self.claiming = False
        """A claim was asked for."""
        self.outdated = False
        """The answer may be older than what has become known since."""
        self.slow = False
        """Who waits is to be told so."""
        self.claim = ""
        """The right, among all hosts, to compute the key; empty where there is none."""

    def may_store(self, tags: tuple[str, ...]) -> bool:
        """Tell whether an answer that bears ``tags`` may be stored, as far as what was removed meanwhile goes."""
        return self.storable and self.voided_tags.isdisjoint(tags)

    def concerns(self, task: str) -> bool:
        """Tell whether anybody who may have made its call asks for ``task``. A key that callers choose may be of several."""
        parties = (self.lease, self.applicant, *self.waiters.values())
        return any(party is not None and party.request.task == task for party in parties)


class _PeerTable:
    """What one peer holds and waits for."""

    __slots__ = ("applicants", "leases", "waiters")

    def __init__(self) -> None:
        self.applicants: dict[int, Applicant] = {}
        """By the id that is to be answered."""
        self.leases: dict[str, HeldLease] = {}
        self.waiters: dict[int, Waiter] = {}


class Flights:
    """All flights, leases and waiters, with their deadlines. Nothing here is keyed on anything but ids that are never reused."""

    def __init__(self, boot_id: str, lease_seconds: float) -> None:
        self._boot_id = boot_id
        self.lease_seconds = lease_seconds
        """May be changed at any time; a lease has what held when it was granted or renewed last."""
        self._sequence = 0
        self._flights: dict[tuple[str, str], Flight] = {}
        self._leases: dict[str, HeldLease] = {}
        self._peers: dict[int, _PeerTable] = {}
        self._applicants: dict[Applicant, None] = {}
        self._ended: OrderedDict[str, HeldLease] = OrderedDict()
        self.timers: Timers[HeldLease | Waiter | Applicant | Backend | Flight | Removal | MemoryCache] = Timers()
        self.given_up: list[Flight] = []
        """Those that are over and whose claim was not used."""
        self.flights_by_uid = Share()
        self.leases_by_uid = Share()
        self.waiters_by_uid = Share()

    def __len__(self) -> int:
        return len(self._flights)

    def __iter__(self) -> Iterator[Flight]:
        return iter(list(self._flights.values()))

    @property
    def waiter_count(self) -> int:
        """Begins that wait, for an answer or for a permit."""
        return self.waiters_by_uid.total

    @property
    def lease_count(self) -> int:
        """Leases that are current."""
        return len(self._leases)

    def find(self, scope: str, key: str) -> Flight | None:
        """Return the flight of a key."""
        return self._flights.get((scope, key))

    @property
    def applicant_count(self) -> int:
        """Callers that wait for a lease."""
        return len(self._applicants)

    @property
    def claim_count(self) -> int:
        """Flights that this host computes for all hosts."""
        return sum(bool(flight.claim) for flight in self._flights.values())

    def start(self, scope: str, key: str, uid: int) -> Flight:
        """Begin a flight, which needs a lease or an applicant at once."""
        flight = self._flights[scope, key] = Flight(scope, key, uid)
        self.flights_by_uid.take(uid)
        return flight

    def apply(self, applicant: Applicant) -> None:
        """Let a caller wait for a lease."""
        if applicant.flight is not None:
            applicant.flight.applicant = applicant

        self._applicants[applicant] = None
        self._table(applicant.peer).applicants[applicant.reply_id] = applicant
        if applicant.first:
            self.waiters_by_uid.take(applicant.peer.uid)

        self.timers.set(applicant, min(applicant.deadline, applicant.not_before or applicant.deadline))

    def withdraw(self, applicant: Applicant) -> None:
        """Let a caller wait no longer, for whatever reason."""
        if applicant.flight is not None:
            applicant.flight.applicant = None

        del self._applicants[applicant]
        del self._peers[applicant.peer.id].applicants[applicant.reply_id]
        if applicant.first:
            self.waiters_by_uid.give_back(applicant.peer.uid)

        self.timers.clear(applicant)
        for _, backend in applicant.queues:
            backend.queue.remove(applicant.flow, applicant)

        applicant.queues = ()

    def grant(self, applicant: Applicant, backend: str, permit: Permit, now: float) -> HeldLease:
        """Give a lease."""
        self._sequence += 1
        attempt = 1
        flight = applicant.flight
        if flight is not None:
            flight.attempts += 1
            attempt = flight.attempts

        lease = HeldLease(f"{self._boot_id}-{self._sequence}", applicant, backend, permit, attempt, now)
        if flight is not None:
            flight.lease = lease

        self._leases[lease.name] = lease
        self.leases_by_uid.take(lease.peer.uid)
        self._table(lease.peer).leases[lease.name] = lease
        self.timers.set(lease, now + self.lease_seconds)
        return lease

    def held(self, name: str, peer: Peer) -> HeldLease | None:
        """Return the current lease of that name if ``peer`` holds it. This is the fence."""
        lease = self._leases.get(name)
        return lease if lease is not None and lease.peer.id == peer.id else None

    def ended(self, name: str, peer: Peer) -> HeldLease | None:
        """Return, once, a lease of ``peer`` that has ended before its call did."""
        lease = self._ended.get(name)
        if lease is None or lease.peer.id != peer.id:
            return None

        return self._ended.pop(name)

    def renew(self, lease: HeldLease, now: float) -> None:
        """Keep a lease."""
        self.timers.set(lease, now + self.lease_seconds)

    def end_lease(self, lease: HeldLease, *, answered: bool) -> None:
        """Make a lease not current; where its call has not ``answered``, remember whom to bill should it still do so."""
        del self._leases[lease.name]
        self.leases_by_uid.give_back(lease.peer.uid)
        if lease.flight is not None:
            lease.flight.lease = None

        self.timers.clear(lease)
        del self._peers[lease.peer.id].leases[lease.name]
        if not answered:
            self._ended[lease.name] = lease
            if len(self._ended) > _REMEMBERED_LEASES:
                self._ended.popitem(last=False)

    def detach(self, lease: HeldLease) -> None:
        """Let a holder go on alone, with nobody to share its answer with; its flight is over."""
        if lease.flight is not None:
            lease.flight.lease = None
            lease.flight = None

    def join(self, flight: Flight, peer: Peer, request: Begin, now: float, wait_seconds: float) -> Waiter:
        """Let a caller wait for a flight's end."""
        waiter = Waiter(flight, peer, request, now, now + wait_seconds)
        flight.waiters[peer.id, request.id] = waiter
        self._table(peer).waiters[request.id] = waiter
        self.timers.set(waiter, waiter.deadline)
        self.waiters_by_uid.take(peer.uid)
        return waiter

    def waiting(self, peer: Peer, request_id: int) -> Waiter | Applicant | None:
        """Return what of the peer waits for an answer to that id."""
        table = self._peers.get(peer.id)
        return None if table is None else table.waiters.get(request_id) or table.applicants.get(request_id)

    def applicants_of_request(self, peer: Peer, request_id: int) -> list[Applicant]:
        """Return the peer's applicants that its begin of that id led to."""
        table = self._peers.get(peer.id)
        return [] if table is None else [one for one in table.applicants.values() if one.request.id == request_id]

    def leases_of_request(self, peer: Peer, request_id: int) -> list[HeldLease]:
        """Return the peer's leases that its begin of that id led to."""
        table = self._peers.get(peer.id)
        return [] if table is None else [lease for lease in table.leases.values() if lease.request.id == request_id]

    def leave(self, waiter: Waiter) -> None:
        """Take one waiter out. Nobody else notices."""
        del waiter.flight.waiters[waiter.peer.id, waiter.request.id]
        del self._peers[waiter.peer.id].waiters[waiter.request.id]
        self.timers.clear(waiter)
        self.waiters_by_uid.give_back(waiter.peer.uid)

    def release(self, flight: Flight) -> list[Waiter]:
        """Take all waiters out and return them, the longest-waiting first."""
        waiters = list(flight.waiters.values())
        for waiter in waiters:
            self.leave(waiter)

        return waiters

    def finish(self, flight: Flight) -> list[Waiter]:
        """End a flight whose lease has ended; return who waited."""
        del self._flights[flight.scope, flight.key]
        self.flights_by_uid.give_back(flight.uid)
        if flight.claim:
            self.given_up.append(flight)

        return self.release(flight)

    def next_willing(self, flight: Flight, now: float, hung: Peer | None = None) -> Waiter | None:
        """Return the longest-waiting caller that still may wait, who is to apply next; None where there is none.

        Willingness is checked here, at the grant: 1. a waiter's deadline passes; 2. the lease is lost; 3. the tick that
        would have told the waiter comes after. A lease granted in 2 would go to somebody who has stopped listening.

        Where the last holder ``hung``, callers of other processes come first: those of its own hang as well, and each
        lease given to them would cost the others another `lease_seconds`.
        """
        willing = (waiter for waiter in flight.waiters.values() if waiter.deadline > now or waiter.hasty)
        if hung is None:
            return next(willing, None)

        waiters = list(willing)
        return next((waiter for waiter in waiters if not _same_process(waiter.peer, hung)), next(iter(waiters), None))

    def void(self, namespace: str | None, tag: str | None = None, task: str | None = None) -> None:
        """Forbid the flights in progress to store what a purge of ``namespace``, ``tag`` and ``task`` reaches.

        Which tags an answer bears is known only when it comes: 1. a call is made; 2. its tag is purged, because what it
        was made of has changed; 3. the answer comes with that tag. So the flight remembers the tag, as long as it lasts.
        """
        for flight in self._flights.values():
            if not covers(namespace, flight.scope) or not (task is None or flight.concerns(task)):
                continue

            if tag is None or len(flight.voided_tags) >= MAX_VOIDED_TAGS:
                flight.storable = False
            else:
                flight.voided_tags |= {tag}

    def applicants(self) -> list[Applicant]:
        """Return all applicants."""
        return list(self._applicants)

    def of_peer(self, peer: Peer) -> tuple[list[Waiter], list[Applicant], list[HeldLease]]:
        """Return what a peer waits for, applies for, and holds."""
        table = self._peers.get(peer.id)
        if table is None:
            return [], [], []

        return list(table.waiters.values()), list(table.applicants.values()), list(table.leases.values())

    def forget(self, peer: Peer) -> None:
        """Drop the table of a lost peer, which holds nothing any more and waits for nothing."""
        self._peers.pop(peer.id, None)

    def _table(self, peer: Peer) -> _PeerTable:
        table = self._peers.get(peer.id)
        if table is None:
            table = self._peers[peer.id] = _PeerTable()

        return table


def _same_process(one: Peer, other: Peer) -> bool:
    """Tell whether two peers are certainly one process; pid 0 is anybody's of another pid namespace."""
    return one.id == other.id or (one.pid == other.pid != 0 and one.uid == other.uid)
