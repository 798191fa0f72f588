"""Writes and removals of entries in the store, and the requests that wait for a removal."""

from msgspec import Struct

from sidecard.core.cache.entry import Entry
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
    removals: dict[int, PendingRemoval] = {}

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
        if self.status.state == "none":
            return [self._deleted(peer, request, removed)]

        ticket = self._await_removal(peer, request, removed, now)
        effects: list[Effect] = [StoreRemove(ticket, scope, request.key)]
        if ticket == NO_TICKET:
            effects.append(self._deleted(peer, request, removed))

        flight = self.flights.find(scope, request.key)
        return effects if flight is None else effects + self.lookups.ask_again(flight, now)

    def purge(self, peer: Peer, request: wire.Purge, removed: int, now: float) -> list[Effect]:
        """Remove entries from the store and answer the request. Memory has removed ``removed`` entries."""
        if self.status.state == "none":
            return [self._deleted(peer, request, removed)]

        ticket = self._await_removal(peer, request, removed, now)
        effects: list[Effect] = [StorePurge(ticket, request.namespace, request.tag, request.task)]
        if ticket == NO_TICKET:
            effects.append(self._deleted(peer, request, removed))

        return effects + self.lookups.ask_again_within(request.namespace, now)

    def removed(self, event: StoreAnswered) -> list[Effect]:
        """Answer the request that waits for a removal, if there still is one."""
        removal = self.removals.get(event.ticket)
        if removal is None:
            return []

        self._forget(removal)
        # The store had all entries that memory had, except those that it rejected.
        count = event.answer.count if isinstance(event.answer, Removed) else 0
        return [self._deleted(removal.peer, removal.request, max(removal.removed, count))]

    def removal_due(self, removal: PendingRemoval) -> list[Effect]:
        """Answer with memory's count: the store takes too long, and removes its entries later."""
        del self.removals[removal.ticket]
        return [self._deleted(removal.peer, removal.request, removal.removed)]

    def peer_lost(self, peer: Peer) -> None:
        """Forget the removals of a lost peer."""
        for removal in list(self.removals.values()):
            if removal.peer.id == peer.id:
                self._forget(removal)

    def _await_removal(self, peer: Peer, request: wire.Delete | wire.Purge, removed: int, now: float) -> int:
        if not self.status.answers:
            return NO_TICKET

        ticket = self.status.next_ticket()
        removal = self.removals[ticket] = PendingRemoval(ticket, peer, request, removed)
        self.flights.timers.set(removal, now + PATIENCE_SECONDS)
        return ticket

    def _forget(self, removal: PendingRemoval) -> None:
        del self.removals[removal.ticket]
        self.flights.timers.clear(removal)

    def _deleted(self, peer: Peer, request: wire.Delete | wire.Purge, removed: int) -> SendReply:
        self.counters.deleted += removed
        return SendReply(peer.id, wire.Deleted(request.id, removed), type(request))
