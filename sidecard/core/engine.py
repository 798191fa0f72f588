"""The engine: events in, effects out.

No I/O, no ``await``, no clock, no randomness, no logging: ``now`` is an argument, timers are data (`Engine.next_deadline`).
Nothing here raises for a peer's fault; it answers.
"""

from typing import TYPE_CHECKING, Any, assert_never

from sidecard.core.calls import Calls
from sidecard.core.contents import Contents
from sidecard.core.counters import Counters
from sidecard.core.events import DrainExpired, DrainRequested, Event, Peer, PeerJoined, PeerLost, RequestReceived, Tick
from sidecard.core.overview import Overview, Run
from sidecard.core.scopes import Scopes
from sidecard.core.shelf import Shelf
from sidecard_client import wire

if TYPE_CHECKING:
    from collections.abc import Callable

    from sidecard.core.effects import Effect
    from sidecard.core.settings import EngineSettings


class Engine:
    """Answers one question, "I am about to make this call, must I?", for every peer of the host.

    ``shown_settings`` and ``shown_origins`` are what `config` shows, by full name.
    """

    def __init__(
        self,
        settings: "EngineSettings",
        *,
        boot_id: str,
        version: str,
        now: float,
        shown_settings: dict[str, Any],
        shown_origins: dict[str, str],
    ) -> None:
        count = Counters()
        scopes = Scopes(settings.shared_namespaces)
        self._shelf = Shelf(settings, count)
        self._calls = calls = Calls(settings, boot_id, self._shelf, scopes, count)
        contents = Contents(self._shelf, calls.flights, scopes, count)
        run = Run(boot_id, version, now, shown_settings, shown_origins)
        self._overview = overview = Overview(run, self._shelf.cache, calls, count)
        self._answer: dict[type[wire.Request], Callable[[Peer, Any, float], list[Effect]]] = {
            wire.Ping: overview.ping,
            wire.Begin: calls.begin,
            wire.Complete: calls.complete,
            wire.Fail: calls.fail,
            wire.Renew: calls.renew,
            wire.Cancel: calls.cancel,
            wire.Get: contents.get,
            wire.Put: contents.put,
            wire.Delete: contents.delete,
            wire.Purge: contents.purge,
            wire.GetStats: overview.stats,
            wire.GetReport: overview.report,
            wire.GetHealth: overview.health,
            wire.GetConfig: overview.config,
        }

    def handle(self, event: Event, now: float) -> "list[Effect]":
        """Take one event in and return what is to be done, in order. ``now`` must not step back."""
        if isinstance(event, RequestReceived):
            return self._answer[type(event.request)](event.peer, event.request, now)

        match event:
            case PeerJoined():
                self._overview.peers += 1
                return []
            case PeerLost(peer):
                self._overview.peers -= 1
                return self._calls.lose(peer, now)
            case Tick():
                return self._calls.tick(now)
            case DrainRequested():
                return self._calls.drain()
            case DrainExpired():
                return self._calls.give_up_draining(now)
            case _:
                assert_never(event)

    def next_deadline(self) -> float | None:
        """Return the instant at which a `Tick` is due; None where nothing can become due.

        It may lie in the past while a flood of expired entries is worked off batch by batch.
        """
        due = self._calls.flights.timers.next_deadline()
        expiry = self._shelf.cache.next_expiry()
        if due is None or expiry is None:
            return due if expiry is None else expiry

        return min(due, expiry)

    @property
    def idle(self) -> bool:
        """No lease and no waiter is alive."""
        return not self._calls.flights.lease_count and not self._calls.flights.waiter_count
