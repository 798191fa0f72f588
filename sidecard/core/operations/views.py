"""The `view` operation, and the events that withdraw or retire views."""

from msgspec import Struct

from sidecard.core.accounts.call_records import CallRecorder
from sidecard.core.cache.view.publisher import Publisher
from sidecard.core.cache.view.views import NoViewError, budget_of
from sidecard.core.effects import Effect, EmitNote, SendView
from sidecard.core.events import ClocksStepped, Peer, ViewFailed, ViewReleased
from sidecard.core.flights.table import Flights
from sidecard.core.notes import ViewUnavailable
from sidecard.core.operations.view_hits import ViewHits
from sidecard.core.replies import error, not_yours
from sidecard.core.scopes import Scopes
from sidecard.core.settings import EngineSettings
from sidecard_client.protocol import wire
from sidecard_client.protocol.view import LAYOUT


class ViewOperations(Struct, frozen=True, eq=False):
    """Shares views with the peers that may read them."""

    scopes: Scopes
    publisher: Publisher
    flights: Flights
    recorder: CallRecorder
    reports: ViewHits
    no_views: str
    """Why the daemon can make no views; empty if it can."""

    def view(self, peer: Peer, request: wire.GetView, now: float) -> list[Effect]:
        """Share the view of an own namespace: the peer can read all entries that are in it, now or later."""
        scope = self.scopes.find_own(peer, request.namespace)
        if scope is None:
            return [not_yours(peer, request, request.namespace)]

        try:
            if self.no_views:
                raise NoViewError(self.no_views)

            if self.flights.draining:
                raise NoViewError("the daemon is stopping")

            view = self.publisher.views.open(scope, request.namespace, peer, now)
        except NoViewError as obstacle:
            text = f"no view of namespace {request.namespace!r}: {obstacle}; its answers come over the socket"
            return [error(peer, request, "unavailable", text)]

        reply = wire.View(request.id, view.number, LAYOUT, view.size, now, self.recorder.enabled)
        return [SendView(peer.id, reply, view.number)]

    def failed(self, event: ViewFailed, now: float) -> list[Effect]:
        """Forget a view whose file could not be made."""
        is_new = self.publisher.views.failed(event.view, event.reason, now)
        self.publisher.reserve()
        return [EmitNote(ViewUnavailable(event.reason))] if is_new else []

    def peer_lost(self, peer: Peer) -> None:
        """Note that a connection has ended."""
        self.reports.peer_lost(peer)
        self.publisher.views.peer_lost(peer)

    def released(self, event: ViewReleased) -> list[Effect]:
        """Give the memory of a retired view back to the entries."""
        self.publisher.views.released(event.view)
        self.publisher.reserve()
        return []

    def stopped(self) -> None:
        """Retire all views: later hits would not be booked."""
        self.publisher.views.retire_all()

    def settings_changed(self, before: EngineSettings, settings: EngineSettings) -> None:
        """Withdraw all entries: other answers may be served now. Retire all views if their readers or sizes change."""
        if before.shared_namespaces != settings.shared_namespaces or budget_of(before) != budget_of(settings):
            self.publisher.views.retire_all()
        elif before != settings:
            self.publisher.withdraw_covered(None)

    def clocks_stepped(self, event: ClocksStepped) -> None:
        """Withdraw all entries if the host slept: a client's clock may not count sleep."""
        if event.slept_seconds:
            self.publisher.withdraw_covered(None)
