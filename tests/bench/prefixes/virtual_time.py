"""Virtual time for a real engine: what happens later, and the callers that wait for their leases."""

from collections.abc import Callable, Iterator
from heapq import heappop, heappush
from itertools import count

from sidecard_client.protocol import wire
from tests.host import Actor, Host


class VirtualTime:
    """The events of one host, in the order of their times."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._numbers = count()
        self._waiting: dict[int, tuple[Actor, Callable[[wire.Lease], None]]] = {}

    @property
    def goes_on(self) -> bool:
        """Whether anything is left to happen."""
        return bool(self._events or self._waiting)

    def at(self, time: float, event: Callable[[], None]) -> None:
        """Let something happen at an instant."""
        heappush(self._events, (time, next(self._numbers), event))

    def begin(self, actor: Actor, request: wire.Begin, granted: Callable[[wire.Lease], None]) -> None:
        """Send a begin. Its lease goes to ``granted``, by `deliver`."""
        self._waiting[actor.peer.id] = actor, granted
        actor.asks(request)

    def due(self) -> Iterator[Callable[[], None]]:
        """Let time pass until something is due; yield each event that is."""
        times = [self._events[0][0]] if self._events else []
        deadline = self._host.engine.next_deadline()
        times += [] if deadline is None else [deadline]
        self._host.passes(max(0.0, min(times) - self._host.now))
        while self._events and self._events[0][0] <= self._host.now:
            yield heappop(self._events)[2]

    def deliver(self) -> None:
        """Pass on the leases that were granted."""
        for actor, granted in list(self._waiting.values()):
            for reply in actor.receives():
                if isinstance(reply, wire.Lease):
                    del self._waiting[actor.peer.id]
                    granted(reply)
                else:
                    assert isinstance(reply, wire.Pending | wire.Stored), reply
