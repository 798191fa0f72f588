"""Breaker operations: showing breakers, setting one, and following another host's."""

from msgspec import Struct

from sidecard.core.backends.registry import Backends
from sidecard.core.backends.states import state_of
from sidecard.core.effects import Effect, EmitNote, SendReply
from sidecard.core.events import Peer, RemoteBreakerOpened
from sidecard.core.flights.queues import Queues
from sidecard.core.replies import error, for_operators
from sidecard.nearest import advice
from sidecard_client.protocol import wire
from sidecard_client.protocol.wire import is_local


class BreakerOperations(Struct, frozen=True, eq=False):
    """Show and set breakers."""

    backends: Backends
    queues: Queues

    def breakers(self, peer: Peer, request: wire.GetBreakers, now: float) -> list[Effect]:
        """Show the state of every backend."""
        effects: list[Effect] = [EmitNote(note) for note in self.backends.advance(now)]
        states = {name: state_of(backend, now) for name, backend in self.backends.all().items()}
        return [*effects, SendReply(peer.id, wire.Breakers(request.id, states))]

    def breaker(self, peer: Peer, request: wire.SetBreaker, now: float) -> list[Effect]:
        """Apply an operator's action to one backend that is configured, in use, or one of the two that need no settings."""
        if not peer.operator:
            return [for_operators(peer, request, "breaker")]

        known = self.backends.all()
        if request.backend not in known and not is_local(request.backend):
            text = (
                f"there is no backend {request.backend!r}; {advice(request.backend, known)}. A backend is known from its "
                f"first call, or if the settings have [backends.{request.backend}]"
            )
            return [error(peer, request, "bad_request", text)]

        backend = known.get(request.backend) or self.backends.of(request.backend, peer.uid, now)
        notes = [*backend.breaker.advance(now), *backend.breaker.set(request.action, now)]
        effects: list[Effect] = [SendReply(peer.id, wire.Ok(request.id)), *map(EmitNote, notes)]
        return effects + self.queues.permit_released(backend, now)

    def remote_opened(self, event: RemoteBreakerOpened, now: float) -> list[Effect]:
        """Open the breaker of a backend that another host's breaker has opened. Local backends differ between hosts."""
        backend = self.backends.of(event.backend, now=now)
        if backend.name != event.backend or backend.settings.locality == "local":
            return []

        notes = [*backend.breaker.advance(now), *backend.breaker.open_as_remote(event.seconds, now)]
        return [*map(EmitNote, notes), *self.queues.permit_released(backend, now)]
