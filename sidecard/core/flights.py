"""Flights, leases, waiters: who computes a key, who waits for it, and who is next.

Everything that changes a flight lives here; what the peers are told about it is the engine's.

========================  ===========================================================================
what happens              what becomes of the flight
========================  ===========================================================================
begin, no flight          `Flights.start`: a lease for the caller
begin, flight             `Flights.join`: the caller waits
complete                  `Flights.finish`: every waiter is released with the value
fail transient/cancelled  `Flights.elect`: the longest-waiting caller that still may gets a new lease;
lease lost or expired     after ``max_elections`` of them, or with nobody waiting, `Flights.finish`
fail fatal/ignored        `Flights.finish`: every waiter is released without a value
fail with next            `Flights.grant` again, to the same caller, on its next backend
========================  ===========================================================================

A lease that ended is not current: whatever comes with it later is refused. That is all a fence is.
"""

from collections import OrderedDict
from collections.abc import Iterator

from sidecard.core.events import Peer
from sidecard.core.timers import Timers
from sidecard_client.wire import DEFAULT_BACKEND, Begin

_REMEMBERED_LEASES = 1024
"""Ended leases whose late `complete` can still be billed to its task: the backend did that work."""


class Waiter:
    """A begin that waits."""

    __slots__ = ("deadline", "flight", "joined_at", "peer", "request")

    def __init__(self, flight: "Flight", peer: Peer, request: Begin, now: float, deadline: float) -> None:
        self.flight = flight
        self.peer = peer
        self.request = request
        self.joined_at = now
        self.deadline = deadline


class HeldLease:
    """Permission to make a call, held by one peer until it ends in one way or another."""

    __slots__ = ("attempt", "backend", "flight", "granted_at", "name", "next_backends", "peer", "request")

    def __init__(
        self,
        name: str,
        flight: "Flight | None",
        peer: Peer,
        request: Begin,
        backends: tuple[str, ...],
        attempt: int,
        now: float,
    ) -> None:
        self.name = name
        self.flight = flight
        self.peer = peer
        self.request = request
        self.backend = backends[0]
        self.next_backends = backends[1:]
        self.attempt = attempt
        self.granted_at = now


class Flight:
    """The one computation of a key that is in progress. It always has a lease; without one it is over."""

    __slots__ = ("attempts", "elections", "key", "lease", "scope", "storable", "waiters")

    def __init__(self, scope: str, key: str) -> None:
        self.scope = scope
        self.key = key
        self.lease: HeldLease
        self.waiters: dict[tuple[int, int], Waiter] = {}
        """By peer and request id, the longest-waiting first."""
        self.elections = 0
        self.attempts = 0
        self.storable = True
        """Cleared by a delete or purge that came meanwhile: what is being computed may be what was to be removed."""


class _PeerTable:
    """What one peer holds and waits for."""

    __slots__ = ("leases", "waiters")

    def __init__(self) -> None:
        self.leases: dict[str, HeldLease] = {}
        self.waiters: dict[int, Waiter] = {}


class Flights:
    """All flights, leases and waiters, with their deadlines. Nothing here is keyed on anything but ids that are never reused."""

    def __init__(self, boot_id: str, lease_seconds: float) -> None:
        self._boot_id = boot_id
        self._lease_seconds = lease_seconds
        self._sequence = 0
        self._flights: dict[tuple[str, str], Flight] = {}
        self._leases: dict[str, HeldLease] = {}
        self._peers: dict[int, _PeerTable] = {}
        self._ended: OrderedDict[str, HeldLease] = OrderedDict()
        self.timers: Timers[HeldLease | Waiter] = Timers()
        self.waiter_count = 0

    def __len__(self) -> int:
        return len(self._flights)

    def __iter__(self) -> Iterator[Flight]:
        return iter(list(self._flights.values()))

    @property
    def lease_count(self) -> int:
        """Leases that are current."""
        return len(self._leases)

    def find(self, scope: str, key: str) -> Flight | None:
        """Return the flight of a key."""
        return self._flights.get((scope, key))

    def start(self, scope: str, key: str, peer: Peer, request: Begin, now: float) -> HeldLease:
        """Begin a flight, held by ``peer``."""
        flight = self._flights[scope, key] = Flight(scope, key)
        return self.grant(flight, peer, request, request.backends or (DEFAULT_BACKEND,), now)

    def grant(
        self, flight: Flight | None, peer: Peer, request: Begin, backends: tuple[str, ...], now: float
    ) -> HeldLease:
        """Give a lease on the first of ``backends``; None as the flight for a call that nobody shares."""
        self._sequence += 1
        attempt = 1
        if flight is not None:
            flight.attempts += 1
            attempt = flight.attempts

        lease = HeldLease(f"{self._boot_id}-{self._sequence}", flight, peer, request, backends, attempt, now)
        if flight is not None:
            flight.lease = lease

        self._leases[lease.name] = lease
        self._table(peer).leases[lease.name] = lease
        self.timers.set(lease, now + self._lease_seconds)
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
        self.timers.set(lease, now + self._lease_seconds)

    def end_lease(self, lease: HeldLease, *, answered: bool) -> None:
        """Make a lease not current; where its call has not ``answered``, remember whom to bill should it still do so."""
        del self._leases[lease.name]
        self.timers.clear(lease)
        del self._peers[lease.peer.id].leases[lease.name]
        if not answered:
            self._ended[lease.name] = lease
            if len(self._ended) > _REMEMBERED_LEASES:
                self._ended.popitem(last=False)

    def join(self, flight: Flight, peer: Peer, request: Begin, now: float, wait_seconds: float) -> Waiter:
        """Let a caller wait for a flight's end."""
        waiter = Waiter(flight, peer, request, now, now + wait_seconds)
        flight.waiters[peer.id, request.id] = waiter
        self._table(peer).waiters[request.id] = waiter
        self.timers.set(waiter, waiter.deadline)
        self.waiter_count += 1
        return waiter

    def waiting(self, peer: Peer, request_id: int) -> Waiter | None:
        """Return the peer's waiting begin of that id."""
        table = self._peers.get(peer.id)
        return table.waiters.get(request_id) if table is not None else None

    def leases_of_request(self, peer: Peer, request_id: int) -> list[HeldLease]:
        """Return the peer's leases that its begin of that id led to."""
        table = self._peers.get(peer.id)
        return [] if table is None else [lease for lease in table.leases.values() if lease.request.id == request_id]

    def leave(self, waiter: Waiter) -> None:
        """Take one waiter out. Nobody else notices."""
        del waiter.flight.waiters[waiter.peer.id, waiter.request.id]
        del self._peers[waiter.peer.id].waiters[waiter.request.id]
        self.timers.clear(waiter)
        self.waiter_count -= 1

    def release(self, flight: Flight) -> list[Waiter]:
        """Take all waiters out and return them, the longest-waiting first."""
        waiters = list(flight.waiters.values())
        for waiter in waiters:
            self.leave(waiter)

        return waiters

    def finish(self, flight: Flight) -> list[Waiter]:
        """End a flight whose lease has ended; return who waited."""
        del self._flights[flight.scope, flight.key]
        return self.release(flight)

    def elect(self, flight: Flight, now: float, hung: Peer | None = None) -> HeldLease | None:
        """Make the longest-waiting caller that still may wait the holder; None where there is none.

        Willingness is checked here, at the grant: 1. a waiter's deadline passes; 2. the lease is lost; 3. the tick that
        would have told the waiter comes after. A lease granted in 2 would go to somebody who has stopped listening.

        Where the last holder ``hung``, callers of other processes come first: those of its own hang as well, and each
        lease given to them would cost the others another `lease_seconds`.
        """
        willing = [waiter for waiter in flight.waiters.values() if waiter.deadline > now]
        if hung is not None:
            willing = [waiter for waiter in willing if not _same_process(waiter.peer, hung)] or willing

        if not willing:
            return None

        waiter = willing[0]
        self.leave(waiter)
        flight.elections += 1
        return self.grant(flight, waiter.peer, waiter.request, waiter.request.backends or (DEFAULT_BACKEND,), now)

    def of_peer(self, peer: Peer) -> tuple[list[Waiter], list[HeldLease]]:
        """Return what a peer waits for and what it holds."""
        table = self._peers.get(peer.id)
        return ([], []) if table is None else (list(table.waiters.values()), list(table.leases.values()))

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
