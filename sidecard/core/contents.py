"""The entries themselves, without flights: `get`, `put`, `delete`, `purge`."""

from msgspec import Raw

from sidecard.core.answers import FRESH, error, not_yours
from sidecard.core.counters import Counters
from sidecard.core.effects import Effect, Send
from sidecard.core.entries import NO_USAGE
from sidecard.core.events import Peer
from sidecard.core.flights import Flights
from sidecard.core.scopes import Scopes, covers
from sidecard.core.shelf import Shelf
from sidecard_client import wire


class Contents:
    """Reads and writes entries for those who may."""

    def __init__(self, shelf: Shelf, flights: Flights, scopes: Scopes, count: Counters) -> None:
        self._shelf = shelf
        self._flights = flights
        self._scopes = scopes
        self._count = count

    def get(self, peer: Peer, request: wire.Get, now: float) -> list[Effect]:
        """Read an entry; what is only shared by the window was never stored as far as readers know."""
        scope = self._scopes.find(peer, request.namespace)
        if scope is None:
            return [not_yours(peer, request, request.namespace)]

        entry = self._shelf.cache.get(scope, request.key, now)
        if entry is None or now - entry.stored_at >= entry.terms.ttl_seconds:
            return [Send(peer.id, wire.Miss(request.id))]

        age, terms = now - entry.stored_at, entry.terms
        hit = wire.Hit(
            request.id,
            Raw(entry.value),
            age,
            FRESH,
            entry.seconds,
            entry.dollars,
            terms.backend,
            terms.usage,
        )
        return [Send(peer.id, hit)]

    def put(self, peer: Peer, request: wire.Put, now: float) -> list[Effect]:
        """Write an entry."""
        scope = self._scopes.find(peer, request.namespace)
        if scope is None:
            return [not_yours(peer, request, request.namespace)]

        ttl_seconds = self._shelf.ttl_seconds(wire.DEFAULT_TASK, request.ttl_seconds)
        terms = self._shelf.terms(scope, ttl_seconds, 0.0, wire.DEFAULT_BACKEND, NO_USAGE, request.tags)
        stored, effects = self._shelf.store(request.key, bytes(request.value), now, terms, 0.0)
        return [Send(peer.id, wire.Stored(request.id, stored)), *effects]

    def delete(self, peer: Peer, request: wire.Delete, now: float) -> list[Effect]:
        """Remove an entry and forbid a flight in progress to make one."""
        scope = self._scopes.find(peer, request.namespace)
        if scope is None:
            return [not_yours(peer, request, request.namespace)]

        flight = self._flights.find(scope, request.key)
        if flight is not None:
            flight.storable = False

        deleted = self._shelf.cache.delete(scope, request.key, now)
        self._count.deleted += deleted
        return [Send(peer.id, wire.Deleted(request.id, int(deleted)))]

    def purge(self, peer: Peer, request: wire.Purge, now: float) -> list[Effect]:
        """Remove entries by namespace and tag, for operators."""
        if not peer.operator:
            return [error(peer, request, "denied", "purge is for operators; delete removes single entries of your own")]

        # What tags a flight's answer will bear is known only when it comes, so a purge by tag voids every flight in reach.
        for flight in self._flights:
            if covers(request.namespace, flight.scope):
                flight.storable = False

        scopes = [scope for scope in self._shelf.cache.scopes() if covers(request.namespace, scope)]
        removed = self._shelf.cache.purge(scopes, request.tag, now)
        self._count.deleted += removed
        return [Send(peer.id, wire.Deleted(request.id, removed))]
