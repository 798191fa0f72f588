"""Entry operations: `get`, `put`, `delete` and `purge`."""

from msgspec import Struct

from sidecard.core.cache.memory import MemoryCache
from sidecard.core.cache.policy import CachePolicy
from sidecard.core.effects import Effect, EmitNote, SendReply
from sidecard.core.events import Peer
from sidecard.core.flights.failures import Failures
from sidecard.core.flights.serving import Serving
from sidecard.core.flights.store.lookups import Lookups
from sidecard.core.flights.store.status import StoreStatus
from sidecard.core.flights.store.writes import StoreUpdates
from sidecard.core.flights.table import Flights
from sidecard.core.notes import Evicted
from sidecard.core.records import NO_USAGE
from sidecard.core.replies import error, not_yours, reject_value
from sidecard.core.scopes import Scopes
from sidecard_client.protocol import wire
from sidecard_client.protocol.nesting import nesting_problem


class EntryOperations(Struct, frozen=True, eq=False):
    """Read and write entries for authorized peers."""

    policy: CachePolicy
    flights: Flights
    lookups: Lookups
    store: StoreStatus
    writes: StoreUpdates
    serving: Serving
    scopes: Scopes
    failures: Failures

    def get(self, peer: Peer, request: wire.Get, now: float) -> list[Effect]:
        """Read an entry, from memory or the store; one that is kept for the sharing window alone is a miss."""
        scope = self.scopes.find(peer, request.namespace)
        if scope is None:
            return [not_yours(peer, request, request.namespace)]

        entry = self.policy.cache.get(scope, request.key, now)
        if entry is None or self.store.doubts(entry):
            effects = self.lookups.get(scope, peer, request, now)
            if effects is not None:
                return effects

        return [SendReply(peer.id, self.serving.read(request, entry, now))]

    def put(self, peer: Peer, request: wire.Put, now: float) -> list[Effect]:
        """Store an entry."""
        scope = self.scopes.find(peer, request.namespace)
        if scope is None:
            return [not_yours(peer, request, request.namespace)]

        value = bytes(request.value)
        problem = nesting_problem(value)
        if problem is not None:
            return [reject_value(peer, request, problem)]

        policy, settings = self.policy, self.policy.settings.now
        if request.task in settings.uncached_tasks:
            return [SendReply(peer.id, wire.Stored(request.id, stored=False))]

        task = settings.task(request.task)
        ttl_seconds, stale_seconds = policy.ttl_seconds(task, request.ttl_seconds), policy.stale_seconds(task, None)
        terms = policy.terms(
            scope, ttl_seconds, 0.0, wire.DEFAULT_BACKEND, NO_USAGE, request.tags, stale_seconds, task=request.task
        )
        if self.failures.known:
            self.failures.forget(scope, request.key)

        entry, effects = policy.store(request.key, value, now, terms, 0.0)
        if entry is None:
            effects += self.writes.forget(scope, request.key)
        elif self.writes.status.state != "none":
            effects += self.writes.write(entry, now)

        return [SendReply(peer.id, wire.Stored(request.id, entry is not None)), *effects]

    def delete(self, peer: Peer, request: wire.Delete, now: float) -> list[Effect]:
        """Remove an entry, and prevent a flight in progress from storing one."""
        scope = self.scopes.find(peer, request.namespace)
        if scope is None:
            return [not_yours(peer, request, request.namespace)]

        self.flights.void_key(scope, request.key)
        self.failures.forget(scope, request.key)
        deleted = self.policy.cache.delete(scope, request.key, now)
        return self.writes.delete(scope, peer, request, int(deleted), now)

    def purge(self, peer: Peer, request: wire.Purge, now: float) -> list[Effect]:
        """Remove entries by namespace, tag and task, for operators."""
        if not peer.operator:
            return [error(peer, request, "denied", "purge is for operators; delete removes single entries of your own")]

        self.flights.void(request.namespace, request.tag, request.task)
        self.failures.purge(request.namespace)
        purge = self.policy.purge(request.namespace, request.tag, now, request.task)
        return self.writes.purge(peer, request, purge, now)


class EntryRemoval(Struct, frozen=True, eq=False):
    """The job that removes the entries that purges and changed limits have left behind, and answers purges that end."""

    cache: MemoryCache
    writes: StoreUpdates

    @property
    def has_work(self) -> bool:
        """Whether entries are to be removed."""
        return self.cache.has_work

    def do_batch(self, now: float) -> list[Effect]:
        """Remove a batch."""
        evicted = self.cache.evicted
        effects: list[Effect] = []
        for purge in self.cache.sweep(now):
            effects += self.writes.purged(purge)

        if self.cache.evicted > evicted:
            effects.append(EmitNote(Evicted(self.cache.evicted - evicted)))

        return effects
