"""Planted bugs: each breaks one thing in engine or clients as a person might, and the simulation must find it.

``setting`` is the world in which the bug matters most. ``happenings`` is how much may happen in lives of that world, from seed 1
on, until the bug is found: at least five times what it took when the mutant was written.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Any, NamedTuple
from unittest.mock import patch

from sidecard.core.backends.breaker import Breaker, BreakerPass
from sidecard.core.cache.entry import Entry
from sidecard.core.cache.eviction import GreedyDual
from sidecard.core.cache.memory import MemoryCache
from sidecard.core.cache.view.publisher import Publisher
from sidecard.core.events import Peer
from sidecard.core.flights.departures import Departures
from sidecard.core.flights.election import Election
from sidecard.core.flights.leases import Leases
from sidecard.core.flights.participants import HeldLease
from sidecard.core.flights.requests.append import AppendOperation
from sidecard.core.flights.requests.deadlines import DeadlineOperation
from sidecard.core.flights.requests.drain import DrainOperation
from sidecard.core.flights.streams import Streams
from sidecard.core.flights.table import Flights
from sidecard.core.scopes import Scopes
from sidecard_client import CallFailed
from sidecard_client._async.connection import AsyncConnection
from sidecard_client._sync.connector import Connector
from sidecard_client.call import streams as streaming
from sidecard_client.protocol import wire
from sidecard_client.protocol.connection import Connection, ConnectionEnded, ConnectionLost
from sidecard_client.view import attachment
from tests.simulation.host.processes import monotonic

Original = Callable[..., Any]

Replacement = tuple[Any, str, Callable[[Any], Any]]
"""The class, the name of its method or property, and what returns the replacement of that."""


@contextmanager
def planted(replacements: Iterable[Replacement]) -> Iterator[None]:
    """Replace methods for as long as the context lasts."""
    with ExitStack() as stack:
        for owner, name, replace in replacements:
            stack.enter_context(patch.object(owner, name, replace(getattr(owner, name))))

        yield


class Mutant(NamedTuple):
    """One bug."""

    setting: str
    happenings: int
    replacements: tuple[Replacement, ...]


def _append_of_anybody(append: Original) -> Original:
    def mutant(self: AppendOperation, peer: Peer, request: wire.Append, now: float) -> Any:
        lease = self.flights._leases.get(request.lease)
        return append(self, peer if lease is None else lease.peer, request, now)

    return mutant


def _keep_permit_of_cancelled(end: Original) -> Original:
    def mutant(self: Leases, lease: HeldLease, outcome: str, *rest: Any, **options: Any) -> Any:
        if outcome == "cancelled":
            self.flights.end_lease(lease, answered=False)
            return []

        return end(self, lease, outcome, *rest, **options)

    return mutant


def _tick_without_leaving(tick: Original) -> Original:
    def mutant(self: DeadlineOperation, now: float) -> Any:
        def leave(flights: Flights, waiter: Any) -> None:
            del flights._peers[waiter.peer.id].waiters[waiter.request.id]
            flights.timers.clear(waiter)
            flights.waiters_by_uid.give_back(waiter.peer.uid)

        with patch.object(Flights, "leave", leave):
            return tick(self, now)

    return mutant


def _first_who_waits(_: Original) -> Original:
    def mutant(_self: Flights, flight: Any, _now: float, _unresponsive: Any = None) -> Any:
        return next(iter(flight.waiters.values()), None)

    return mutant


def nothing(_: Original) -> Original:
    """Do nothing."""
    return lambda *_, **__: None


def no_effects(_: Original) -> Original:
    """Return no effects."""
    return lambda *_, **__: []


def _open_too_late(open_: Original) -> Original:
    def mutant(self: Streams, *arguments: Any) -> Any:
        feed = open_(self, *arguments)
        feed.position = min(1, max(0, len(feed.stream.chunks) - 1))
        return feed

    return mutant


def purged_twice(remove: Original) -> Original:
    """Remove each batch of hidden entries twice."""

    def mutant(self: MemoryCache, entry: Entry) -> Any:
        hidden = remove(self, entry)
        purge = self._purges.hiding(entry.terms)
        if purge is not None:
            purge.count += 1
            self.count -= 1

        return hidden

    return mutant


def found_though_hidden(get: Original) -> Original:
    """Look up entries without regard to purges."""

    def mutant(self: MemoryCache, *place: Any) -> Any:
        pending, self._pending = self._pending, {}
        try:
            return get(self, *place)
        finally:
            self._pending = pending

    return mutant


def batch_without_the_last(walk: Original) -> Original:
    """Forget the last entry of each batch."""

    def mutant(self: GreedyDual, steps: int) -> Any:
        return walk(self, steps)[:-1]

    return mutant


def _purge_what_is_fresh(purge: Original) -> Original:
    def mutant(self: MemoryCache, *what: Any) -> Any:
        now = what[2]
        stale = [entry for table in self._tables.values() for entry in table.values() if not entry.is_fresh(now)]
        removed = purge(self, *what)
        for entry in stale:
            self._insert(Entry(entry.key, b"stale", entry.stored_at, 0.0, entry.terms), entry.charge)

        return removed

    return mutant


def _leave_with_timer(_: Original) -> Original:
    def mutant(self: Flights, waiter: Any) -> None:
        del waiter.flight.waiters[waiter.peer.id, waiter.request.id]
        del self._peers[waiter.peer.id].waiters[waiter.request.id]
        self.waiters_by_uid.give_back(waiter.peer.uid)

    return mutant


def _forgive_silence(vanished: Original) -> Original:
    def mutant(self: Departures, leases: list[HeldLease], outcome: str, *rest: Any) -> Any:
        if outcome == "expired" and leases[0].flight is not None and not leases[0].flight.waiters:
            self.flights.renew(leases[0], rest[2])
            return []

        return vanished(self, leases, outcome, *rest)

    return mutant


def _drain_without_applicants(drain: Original) -> Original:
    def mutant(self: DrainOperation, now: float) -> Any:
        with patch.object(Flights, "applicants", lambda _: []):
            return drain(self, now)

    return mutant


def _record_of_any_generation(record: Original) -> Original:
    def mutant(self: Breaker, given: BreakerPass, *rest: Any) -> Any:
        return record(self, BreakerPass(self.generation, given.issued_at), *rest)

    return mutant


def _same_scope_for_all(find: Original) -> Original:
    def mutant(self: Scopes, peer: Peer, namespace: str) -> Any:
        known: dict[Any, str] = self._known  # a key that is too short is the bug
        scope = known.get(namespace)
        if scope is None:
            scope = find(self, peer, namespace)
            if scope is not None:
                known[namespace] = scope

        return scope

    return mutant


def _finish_without_the_last(finish: Original) -> Original:
    def mutant(self: Flights, flight: Any) -> Any:
        waiters = finish(self, flight)
        return waiters[:-1] if len(waiters) > 1 else waiters

    return mutant


def _deliver_to_the_first(deliver: Original) -> Original:
    def mutant(self: AsyncConnection, replies: list[Any]) -> None:
        known = {*self._unanswered, *self._pending, *self._queues}
        for reply in replies:
            first = next(iter(self._unanswered), reply.id)
            deliver(self, [reply if reply.id in known else _under_id(reply, first)])

    return mutant


def _tell_again(_: Original) -> Original:
    def mutant(self: Connector, connection: Any, request: Any, wait_seconds: float | None = None) -> Any:
        started = monotonic()
        try:
            reply = connection.exchange(request)
        except ConnectionEnded:
            connection.usable = False
            try:
                again, reply = self.first_reply(lambda request_id: _under_id(request, request_id))
            except ConnectionLost as lost:
                return lost

            self.give_back(again)
            return reply
        except ConnectionLost as lost:
            connection.usable = False
            return lost

        return reply if type(reply) is not wire.Pending else self.wait(connection, reply.id, wait_seconds, started)

    return mutant


def _under_id(request: Any, request_id: int) -> Any:
    """Return a request under another id."""
    return type(request)(**{**{name: getattr(request, name) for name in request.__struct_fields__}, "id": request_id})


def _broken_is_whole(follow: Original) -> Original:
    def mutant(*arguments: Any) -> Any:
        with suppress(CallFailed):
            yield from follow(*arguments)

    return mutant


def _poll_nothing(_: Original) -> Original:
    return lambda _descriptor: lambda _milliseconds: []


MUTANTS: dict[str, Mutant] = {
    "append checks the lease and not its holder": Mutant(
        "streams", 30_000, ((AppendOperation, "append", _append_of_anybody),)
    ),
    "the permit of a cancelled call stays out": Mutant(
        "scarce", 10_000, ((Leases, "_end", _keep_permit_of_cancelled),)
    ),
    "a waiter that timed out stays on its flight's list": Mutant(
        "plain", 10_000, ((DeadlineOperation, "tick", _tick_without_leaving),)
    ),
    "an elected waiter has stopped waiting": Mutant(
        "impatient", 20_000, ((Flights, "next_candidate", _first_who_waits),)
    ),
    "a purge lets flights in progress store": Mutant("stale", 20_000, ((Flights, "void", nothing),)),
    "a late follower of a stream misses a chunk": Mutant("streams", 10_000, ((Streams, "open", _open_too_late),)),
    "a purge leaves stale entries": Mutant("stale", 20_000, ((MemoryCache, "purge", _purge_what_is_fresh),)),
    "the timer of a waiter that leaves goes on": Mutant("plain", 10_000, ((Flights, "leave", _leave_with_timer),)),
    "a holder that hangs keeps its lease if no caller waits": Mutant(
        "plain", 30_000, ((Departures, "remove_holders", _forgive_silence),)
    ),
    "a drain forgets callers that wait for a permit": Mutant(
        "scarce", 150_000, ((DrainOperation, "start", _drain_without_applicants),)
    ),
    "a breaker counts calls of earlier generations": Mutant(
        "scarce", 100_000, ((Breaker, "record", _record_of_any_generation),)
    ),
    "two uids share one private namespace": Mutant("plain", 10_000, ((Scopes, "find", _same_scope_for_all),)),
    "followers of a broken stream get chunks of the next one": Mutant(
        "streams", 10_000, ((Election, "interrupt_stream", no_effects),)
    ),
    "the last of several waiters is forgotten": Mutant(
        "calm", 10_000, ((Flights, "finish", _finish_without_the_last),)
    ),
    "views: a deleted entry stays readable": Mutant("views", 30_000, ((Publisher, "withdraw", nothing),)),
    "client: a view outlives its daemon": Mutant("views", 30_000, ((attachment, "_new_poll", _poll_nothing),)),
    "client: the reply to a canceled request goes to another": Mutant(
        "impatient", 30_000, ((Connection, "forget", nothing), (AsyncConnection, "_deliver", _deliver_to_the_first))
    ),
    "client: an answer is sent again on another connection": Mutant(
        "plain", 20_000, ((Connector, "exchange", _tell_again),)
    ),
    "client: a broken stream ends as a whole one does": Mutant(
        "streams", 50_000, ((streaming, "_follow_chunks", _broken_is_whole),)
    ),
}
