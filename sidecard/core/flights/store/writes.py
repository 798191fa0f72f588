"""Writes and removals of entries in the store, and the requests that wait for a removal."""

from msgspec import Struct

from sidecard.core.accounts.charges import removal_bytes
from sidecard.core.accounts.memory import MemoryPool
from sidecard.core.cache.entry import Entry
from sidecard.core.cache.purges import CachePurge
from sidecard.core.counters import Counters
from sidecard.core.effects import NO_TICKET, Effect, SendReply, StorePurge, StoreRemove, StoreWrite
from sidecard.core.events import Peer, Removed, StoreAnswered
from sidecard.core.flights.store.lookups import Lookups
from sidecard.core.flights.store.status import PATIENCE_SECONDS, PendingRemoval, StoreStatus
from sidecard.core.flights.table import Flights
from sidecard.core.records import Record
from sidecard_client.protocol import wire


class StoreUpdates(Struct, frozen=True, eq=False):
    """Passes new entries and removals to the store."""

    flights: Flights
    status: StoreStatus
    lookups: Lookups
    counters: Counters
    memory: MemoryPool
    removals: dict[int, PendingRemoval] = {}
    purges: dict[CachePurge, PendingRemoval] = {}
    """Those of ``removals`` that are purges."""

    def write(self, entry: Entry, now: float, *, claim: str = "", replace: bool = True) -> list[Effect]:
        """Write an entry that memory has just stored; see `StoreWrite`. There must be a store."""
        terms = entry.terms
        record = Record(
            entry.value,
            entry.seconds,
            terms.ttl_seconds,
            terms.window_seconds,
            terms.backend,
            terms.usage,
            terms.tags,
            task=terms.task,
            compressed=entry.compressed,
        )
        if record.remaining_seconds <= 0:
            # Stale from the beginning: for this host's memory alone.
            return self.forget(terms.scope, entry.key)

        return [StoreWrite(terms.scope, entry.key, record, claim, replace, now)]

    def forget(self, scope: str, key: str) -> list[Effect]:
        """Remove an entry whose newer answer is not stored."""
        return [] if self.status.state == "none" else [StoreRemove(NO_TICKET, scope, key)]

    def delete(self, scope: str, peer: Peer, request: wire.Delete, removed: int, now: float) -> list[Effect]:
        """Remove an entry from the store and answer the request. Memory has removed ``removed`` entries."""
        removal = PendingRemoval(NO_TICKET, peer, request, removed)
        if self.status.state == "none":
            return [self._deleted(removal)]

        effects = self._answer_or_wait(removal, now)
        effects.insert(0, StoreRemove(removal.ticket, scope, request.key))
        flight = self.flights.find(scope, request.key)
        return effects if flight is None else effects + self.lookups.ask_again(flight, now)

    def purge(self, peer: Peer, request: wire.Purge, purge: CachePurge, now: float) -> list[Effect]:
        """Remove entries from the store and answer the request when memory has removed its entries, too."""
        purge.reported = 0
        removal = PendingRemoval(NO_TICKET, peer, request, purge=purge)
        effects = self._answer_or_wait(removal, now)
        if self.status.state == "none":
            return effects

        ticket = removal.ticket if removal.awaits_store else NO_TICKET
        effects.insert(0, StorePurge(ticket, request.namespace, request.tag, request.task))
        return effects + self.lookups.ask_again_within(request.namespace, now)

    def removed(self, event: StoreAnswered) -> list[Effect]:
        """Take the store's answer to a removal, if its requester still waits."""
        removal = self.removals.get(event.ticket)
        if removal is None:
            return []

        removal.awaits_store = False
        removal.removed_by_store = event.answer.count if isinstance(event.answer, Removed) else 0
        return self._end(removal)

    def purged(self, purge: CachePurge) -> list[Effect]:
        """Answer the requester of a purge whose last batch was removed from memory, if it still waits."""
        removal = self.purges.get(purge)
        if removal is not None:
            return self._end(removal)

        if purge.reported is not None:
            self.counters.deleted += purge.count - purge.reported

        return []

    def removal_due(self, removal: PendingRemoval) -> list[Effect]:
        """Answer with the count so far: the store, or memory, takes too long and removes its entries later."""
        self._drop(removal)
        return [self._deleted(removal)]

    def peer_lost(self, peer: Peer) -> None:
        """Forget the removals of a lost peer."""
        for removal in list(self.removals.values()):
            if removal.peer.id == peer.id:
                self._forget(removal)

    def _answer_or_wait(self, removal: PendingRemoval, now: float) -> list[Effect]:
        """Answer a removal that waits for nothing, or may not; otherwise number it, and wait for at most `PATIENCE_SECONDS`."""
        removal.awaits_store = self.status.answers
        waits = removal.awaits_store or removal.in_progress
        if not (waits and self.memory.try_charge(removal.peer.uid, removal_bytes(removal.request))):
            removal.awaits_store = False
            return [self._deleted(removal)]

        removal.ticket = self.status.next_ticket()
        self.removals[removal.ticket] = removal
        if removal.purge is not None:
            self.purges[removal.purge] = removal

        self.flights.timers.set(removal, now + PATIENCE_SECONDS)
        return []

    def _end(self, removal: PendingRemoval) -> list[Effect]:
        """Answer a removal, unless it still waits."""
        if removal.awaits_store or removal.in_progress:
            return []

        self._forget(removal)
        return [self._deleted(removal)]

    def _forget(self, removal: PendingRemoval) -> None:
        self._drop(removal)
        self.flights.timers.clear(removal)

    def _drop(self, removal: PendingRemoval) -> None:
        del self.removals[removal.ticket]
        self.memory.release(removal.peer.uid, removal_bytes(removal.request))
        if removal.purge is not None:
            del self.purges[removal.purge]

    def _deleted(self, removal: PendingRemoval) -> SendReply:
        self.counters.deleted += removal.count
        if removal.purge is not None:
            removal.purge.reported = removal.purge.count

        reply = wire.Deleted(removal.request.id, removal.count, removal.in_progress)
        return SendReply(removal.peer.id, reply, type(removal.request))
