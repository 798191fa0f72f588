"""Settings operations: `config`, `reload` and `log`.

A reload loses no connection, call in progress, entry or count, except the spending of a budget whose period changes.
"""

from msgspec import Struct

from sidecard.core.accounts.memory import MemoryAccounts
from sidecard.core.backends.budgets import Budgets
from sidecard.core.backends.registry import Backends
from sidecard.core.cache.memory import MemoryCache
from sidecard.core.cache.similarity import SimilarAnswers
from sidecard.core.effects import Effect, EmitNote, ReadSettings, SendReply, SetLogLevel
from sidecard.core.events import Peer, SettingsRead
from sidecard.core.flights.queues import Queues
from sidecard.core.flights.table import Flights
from sidecard.core.operations.status import StatusOperations
from sidecard.core.operations.views import ViewOperations
from sidecard.core.replies import for_operators
from sidecard.core.scopes import Scopes
from sidecard.core.settings import EngineSettings, LiveSettings
from sidecard_client.protocol import wire


class SettingsOperations(Struct, frozen=True, eq=False):
    """Show the settings, have them read again, and apply them.

    Most parts of the engine read `LiveSettings`; those that derive state from settings are reconfigured. The daemon around the
    engine reports settings that take effect at the next start only: addresses, the store, listeners.
    """

    status: StatusOperations
    live: LiveSettings
    flights: Flights
    similar: SimilarAnswers
    queues: Queues
    backends: Backends
    budgets: Budgets
    cache: MemoryCache
    memory: MemoryAccounts
    scopes: Scopes
    views: ViewOperations

    def config(self, peer: Peer, request: wire.GetConfig) -> list[Effect]:
        """Show the running settings to an operator."""
        if not peer.operator:
            return [for_operators(peer, request, "config")]

        run = self.status.run
        return [SendReply(peer.id, wire.Settings(request.id, run.shown_settings, run.shown_origins))]

    def log(self, peer: Peer, request: wire.SetLog) -> list[Effect]:
        """Set the log level, for operators."""
        if not peer.operator:
            return [for_operators(peer, request, "log")]

        return [SendReply(peer.id, wire.Ok(request.id)), SetLogLevel(request.level)]

    def reload(self, peer: Peer, request: wire.Reload) -> list[Effect]:
        """Have the settings read; the reply follows when they are."""
        if not peer.operator:
            return [for_operators(peer, request, "reload")]

        return [ReadSettings(peer.id, request.id)]

    def settings_read(self, event: SettingsRead, now: float) -> list[Effect]:
        """Apply the settings that were read, and reply to the request."""
        effects: list[Effect] = []
        if event.settings is not None:
            effects = self._apply(event.settings, now)
            self.status.run = self.status.run.with_settings(event.shown, event.origins)

        if event.asked_by is not None:
            peer_id, request_id = event.asked_by
            reply = wire.Reloaded(request_id, event.changed, event.needs_restart, event.problems)
            effects.append(SendReply(peer_id, reply, answer_to=wire.Reload))

        return effects

    def _apply(self, settings: EngineSettings, now: float) -> list[Effect]:
        flights, cache = self.flights, self.cache
        before, self.live.now = self.live.now, settings
        self.views.settings_changed(before, settings)
        self.similar.drop_unconfigured()
        flights.reconsider_leases()
        self.scopes.share(settings.shared_namespaces)
        self.memory.resize(settings.max_memory_bytes)
        self.budgets.reconfigure(settings.budgets)
        if cache.max_bytes != settings.cache_max_bytes:
            cache.resize(settings.cache_max_bytes, now)

        if before.namespace_max_bytes != settings.namespace_max_bytes:
            cache.limit(settings.namespace_max_bytes)

        effects: list[Effect] = [EmitNote(note) for note in self.backends.reconfigure(settings, now)]
        return effects + self.queues.reconsider_all(now)
