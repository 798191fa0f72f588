"""What would be made of a begin, told without making one: the policy of its task, and what there is of its key."""

from sidecard.core.cache.entry import Entry
from sidecard.core.cache.policy import CachePolicy
from sidecard.core.effects import Effect, Send
from sidecard.core.events import Peer
from sidecard.core.flights.failures import Failures
from sidecard.core.flights.flights import Flights
from sidecard.core.flights.lookups import Lookups
from sidecard.core.operations.policies import policy_of
from sidecard.core.operations.status import StatusOperations
from sidecard.core.replies import not_yours
from sidecard.core.scopes import Scopes
from sidecard_client.protocol import wire


class ExplainOperation:
    """Looks, and changes nothing: neither a count nor what the eviction policy knows."""

    def __init__(
        self,
        shelf: CachePolicy,
        flights: Flights,
        lookups: Lookups,
        scopes: Scopes,
        failures: Failures,
        overview: StatusOperations,
    ) -> None:
        self._shelf = shelf
        self._flights = flights
        self._lookups = lookups
        self._scopes = scopes
        self._failures = failures
        self._overview = overview

    def explain(self, peer: Peer, request: wire.Explain, now: float) -> list[Effect]:
        """Tell what is asked for; origins, which name files of the host, only to operators."""
        scope = self._scopes.find(peer, request.namespace)
        if scope is None:
            return [not_yours(peer, request, request.namespace)]

        run = self._overview.run
        policy = policy_of(self._shelf.settings, request.task, run.shown_origins if peer.operator else {})
        if request.key is None:
            return [Send(peer.id, wire.Explained(request.id, request.task, scope, policy, store=self._lookups.state))]

        entry = self._shelf.cache.peek(scope, request.key)
        if entry is not None and now >= entry.expires_at:
            entry = None

        flight = self._flights.find(scope, request.key)
        failure = self._failures.find(scope, request.key, now)
        explained = wire.Explained(
            request.id,
            request.task,
            scope,
            policy,
            None if entry is None else _state_of(entry, now),
            None if flight is None else len(flight.waiters),
            None if failure is None else failure.message,
            self._lookups.state,
        )
        return [Send(peer.id, explained)]


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
