"""The `explain` operation: a task's policy, and the state of a key, without making a begin."""

from msgspec import Struct

from sidecard.core.backends.registry import Backends
from sidecard.core.cache.entry import Entry
from sidecard.core.cache.policy import CachePolicy
from sidecard.core.effects import Effect, SendReply
from sidecard.core.events import Peer
from sidecard.core.flights.failures import Failures
from sidecard.core.flights.store.status import StoreStatus
from sidecard.core.flights.table import Flights
from sidecard.core.operations.policies import policy_of
from sidecard.core.operations.status import StatusOperations
from sidecard.core.replies import not_yours
from sidecard.core.scopes import Scopes
from sidecard_client.protocol import wire


class ExplainOperation(Struct, frozen=True, eq=False):
    """Report policy and state."""

    policy: CachePolicy
    flights: Flights
    store: StoreStatus
    scopes: Scopes
    failures: Failures
    status: StatusOperations
    backends: Backends

    def explain(self, peer: Peer, request: wire.Explain, now: float) -> list[Effect]:
        """Show a task's policy and, for a key, its state, changing neither counters nor the eviction order.

        Origins of settings name files, so only operators see them.
        """
        scope = self.scopes.find(peer, request.namespace)
        if scope is None:
            return [not_yours(peer, request, request.namespace)]

        origins = self.status.run.shown_origins if peer.operator else {}
        policy = policy_of(self.policy.settings.now, request.task, origins)
        prefixes = self._prefixes(scope, request, now)
        if request.key is None:
            explained = wire.Explained(
                request.id, request.task, scope, policy, store=self.store.state, prefixes=prefixes
            )
            return [SendReply(peer.id, explained)]

        entry = self.policy.cache.peek(scope, request.key)
        flight = self.flights.find(scope, request.key)
        if request.context is None:
            failure = self.failures.latest(scope, request.key, now)
        else:
            failure = self.failures.find(scope, request.key, request.context, now)

        explained = wire.Explained(
            request.id,
            request.task,
            scope,
            policy,
            None if entry is None or now >= entry.expires_at else _state_of(entry, now),
            None if flight is None else len(flight.waiters),
            None if failure is None else failure.message,
            self.store.state,
            prefixes,
        )
        return [SendReply(peer.id, explained)]

    def _prefixes(self, scope: str, request: wire.Explain, now: float) -> dict[str, wire.BackendPrefixes]:
        """Return what each backend with prefix affinity has processed of the caller's own prompt."""
        if not request.prefix:
            return {}

        return {
            name: wire.BackendPrefixes(
                affinity.policy.affinity, affinity.policy.min_tokens, affinity.states(scope, request.prefix, now)
            )
            for name, backend in self.backends.all().items()
            if (affinity := backend.affinity) is not None
        }


def _state_of(entry: Entry, now: float) -> wire.EntryState:
    terms = entry.terms
    age_seconds = now - entry.stored_at
    return wire.EntryState(
        age_seconds,
        max(0.0, terms.ttl_seconds - age_seconds),
        max(0.0, terms.ttl_seconds + terms.stale_seconds - max(age_seconds, terms.ttl_seconds)),
        not entry.is_fresh(now),
        entry.charge,
        entry.seconds,
        terms.backend,
        terms.task,
        terms.tags,
        terms.usage,
    )
