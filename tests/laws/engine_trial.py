"""One engine under all oracles that apply to it, and a clock that only the test moves.

Times, costs and lifetimes of a trial are multiples of 1/8: their sums are exact in binary, so they are compared without
tolerance.
"""

from collections.abc import Callable
from typing import TypeVar

from sidecard.core.effects import Effect, SendReply, ServeAgain
from sidecard.core.engine import Engine
from sidecard.core.events import Event, Peer, PeerJoined, PeerLost, PeersHungUp, RequestReceived, Tick, WorkContinued
from sidecard.core.settings import EngineSettings
from sidecard_client.protocol import wire
from tests.laws.event_checker import EventChecker
from tests.laws.table_checker import TableChecker

_Reply = TypeVar("_Reply", bound=wire.Reply)
_MOST_TICKS = 100_000


class EngineTrial:
    """Every event goes to the engine; the event checker and the table checker check its effects and what it has become."""

    checker: EventChecker

    def __init__(self, settings: EngineSettings, checker: EventChecker, jitter: Callable[[], float]) -> None:
        self.now = 1000.0
        self.settings = settings
        self.checker = checker
        self.engine = Engine(
            settings, boot_id="boot", version="0", now=self.now, shown_settings={}, shown_origins={}, jitter=jitter
        )
        self.engine._cache.inline_entries = 0
        self.engine._cache.sweep_steps = 4
        self.tables = TableChecker(self.engine)
        self.peers: list[Peer] = []
        self.granted: list[tuple[Peer, str]] = []
        """All leases ever granted, each with its holder."""
        self.script: list[tuple[float, Event]] = []
        """All events, to be shown with a failure."""
        self.broken = False
        """The check of an event failed, or is in progress."""
        self._ids = 1000
        self.observer = Peer(1, 0, 0, 0, operator=True)
        """Sends the requests of `observe`."""
        self._peer_ids = self.observer.id
        self.happen(PeerJoined(self.observer))

    def join(self, uid: int, pid: int) -> Peer:
        """Accept a connection of a user's process; root's is an operator's."""
        self._peer_ids += 1
        peer = Peer(self._peer_ids, uid, uid, pid, operator=uid == 0)
        self.peers.append(peer)
        self.happen(PeerJoined(peer))
        return peer

    def hang_up(self, peer: Peer) -> None:
        """Let a peer close its connection, whose end is read later: what it sent before may come first."""
        self.happen(PeersHungUp([peer]))

    def lose(self, peer: Peer) -> None:
        """End a connection."""
        self.peers.remove(peer)
        self.happen(PeerLost(peer))

    def ask(self, peer: Peer, request: wire.AnyRequest) -> list[wire.AnyReply]:
        """Send a peer's request; return its direct replies."""
        effects = self.happen(RequestReceived(peer, request))
        sent = [effect for effect in effects if isinstance(effect, SendReply)]
        return [one.reply for one in sent if (one.peer_id, one.reply.id) == (peer.id, request.id)]

    def observe(self, request: wire.AnyRequest, kind: type[_Reply]) -> _Reply:
        """Send a request that is not part of the script, and return its reply."""
        event = RequestReceived(self.observer, request)
        effects = self.engine.handle(event, self.now)
        self.checker.watch(event, effects, self.now)
        (reply,) = [
            effect.reply for effect in effects if isinstance(effect, SendReply) and effect.peer_id == self.observer.id
        ]
        assert isinstance(reply, kind)
        return reply

    def next_id(self) -> int:
        """Return an id that no request has used."""
        self._ids += 1
        return self._ids

    def tick(self) -> None:
        """Send the engine a tick."""
        self.happen(Tick())

    def work(self) -> None:
        """Do a batch of the engine's jobs, if there are any."""
        if self.engine.has_work:
            self.happen(WorkContinued())

    def work_to_end(self) -> None:
        """Do all batches of the engine's jobs."""
        while self.engine.has_work:
            self.work()

    def passes(self, seconds: float) -> None:
        """Let time pass, with a tick at every instant that the engine asks for."""
        end = self.now + seconds
        while (deadline := self.engine.next_deadline()) is not None and deadline <= end:
            self.now = max(self.now, deadline)
            self.tick()

        self.now = end

    def happen(self, event: Event) -> list[Effect]:
        """Give the engine one event, and check its effects."""
        self.broken = True
        self.script.append((self.now, event))
        effects = self.engine.handle(event, self.now)
        while effects and isinstance(effects[-1], ServeAgain):
            effects[-1:] = self.engine.handle(event, self.now)

        self.checker.watch(event, effects, self.now)
        for effect in effects:
            if isinstance(effect, SendReply) and isinstance(effect.reply, wire.Lease):
                self.granted.append((self.checker.peers[effect.peer_id], effect.reply.lease))

        self.tables.check(self.now, ticked=isinstance(event, Tick))
        self._check_deadline()
        self.check(event, effects)
        self.broken = False
        return effects

    def check(self, event: Event, effects: list[Effect]) -> None:
        """Check what only this kind of trial knows."""

    def end(self) -> None:
        """Lose all peers, let all time pass, and check that nothing is left."""
        for peer in list(self.peers):
            self.lose(peer)

        assert self.engine.idle
        assert not self.checker.held
        self.work_to_end()
        for _ in range(_MOST_TICKS):
            deadline = self.engine.next_deadline()
            if deadline is None:
                break

            self.now = max(self.now, deadline)
            self.tick()

        self.check_end()
        self.happen(PeerLost(self.observer))
        self.tables.check_empty()

    def check_end(self) -> None:
        """Check what is known once all time has passed, with the observer still there."""

    def _check_deadline(self) -> None:
        due = [asked.deadline for asked in self.checker.asked.values()]
        due += [held.due(self.checker.settings) for held in self.checker.held.values()]
        deadline = self.engine.next_deadline()
        assert not due or (deadline is not None and deadline <= min(due)), "no timer wakes the engine in time"
