"""View operations: `view`, which shares the view of a namespace, and `hits`, which reports what was read from one."""

from msgspec import Struct

from sidecard.core.effects import Effect
from sidecard.core.events import Peer, ViewFailed
from sidecard.core.replies import error, not_yours
from sidecard.core.scopes import Scopes, namespace_of
from sidecard_client.protocol import wire


class ViewOperations(Struct, frozen=True, eq=False):
    """Shares views with the peers that may read them, and accounts for their hits."""

    scopes: Scopes
    no_views: str
    """Why there are no views; empty if there are."""

    def view(self, peer: Peer, request: wire.GetView, now: float) -> list[Effect]:  # noqa: ARG002 - `now` is for the view's age
        """Share the view of an own namespace."""
        if self._own_scope(peer, request.namespace) is None:
            return [not_yours(peer, request, request.namespace)]

        reason = self.no_views or "this daemon publishes no entries"
        return [error(peer, request, "unavailable", f"no view: {reason}; read answers through the socket")]

    def hits(self, peer: Peer, request: wire.RecordHits, now: float) -> list[Effect]:  # noqa: ARG002 - as above
        """Account for hits that a peer has read from a view."""
        items = (*request.hits, *request.streams, *request.gets)
        problem = _problem(items)
        return [error(peer, request, "bad_request", f"hits: {problem}")] if problem else []

    def failed(self, event: ViewFailed, now: float) -> list[Effect]:  # noqa: ARG002 - as above
        """Forget a view whose file could not be made."""
        return []

    def _own_scope(self, peer: Peer, namespace: str) -> str | None:
        """Return the scope that the peer's own name means, even for an operator: memory that it maps shows all of the scope."""
        scope = self.scopes.find(peer, namespace_of(namespace) or namespace)
        return scope if ":" not in namespace or scope == namespace else None


def _problem(items: tuple[wire.HitItem, ...]) -> str:
    """Return what is wrong with reported hits; empty if nothing is."""
    if len(items) > wire.MAX_HIT_ITEMS:
        return f"{len(items)} items; send at most {wire.MAX_HIT_ITEMS} at once"

    hits = sum(count for _, count, _, _ in items)
    if hits > wire.MAX_REPORTED_HITS:
        return f"{hits} hits; send at most {wire.MAX_REPORTED_HITS} at once"

    if any(first_at > last_at for _, _, first_at, last_at in items):
        return "the first of some hits is later than the last"

    return ""
