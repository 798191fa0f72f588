"""A host of peers around a real engine, so that tests read as the conversation that they are about.

    host = Host()
    alice, bob = host.peer(), host.peer()
    alice.asks(Begin("key", id=1))
    assert alice.receives() == [host.lease(1)]

Time passes only when a test says so.
"""

from typing import Any, TypeVar

import msgspec

from sidecard.adapters.zstd import Zstd
from sidecard.core.accounts.app_metrics import merged
from sidecard.core.accounts.billing import Price, no_price
from sidecard.core.cache.compression import Codec
from sidecard.core.cache.similarity import IndexFactory
from sidecard.core.effects import (
    AwaitRead,
    CallRecord,
    EmitNote,
    LogCall,
    ReadSettings,
    SendMetrics,
    SendReply,
    ServeAgain,
    SetLogLevel,
    StoreEffect,
    StoreRead,
    ViewEffect,
)
from sidecard.core.engine import Engine
from sidecard.core.events import (
    Answer,
    BacklogRead,
    DrainExpired,
    DrainRequested,
    Event,
    NoteEmitted,
    Peer,
    PeerJoined,
    PeerLost,
    RequestReceived,
    SettingsRead,
    StoreAnswered,
    Tick,
    WorkContinued,
)
from sidecard.core.notes import Note
from sidecard.core.settings import EngineSettings
from sidecard_client.protocol import wire
from tests.reference_index import ReferenceIndex

_Reply = TypeVar("_Reply", bound=wire.Reply)


class Actor:
    """One peer: it sends requests, receives replies, and disconnects."""

    def __init__(self, host: "Host", peer: Peer) -> None:
        self.host = host
        self.peer = peer
        self.inbox: list[wire.AnyReply] = []

    def asks(self, request: wire.AnyRequest) -> None:
        """Send one request."""
        self.host.happens(RequestReceived(self.peer, request))

    def receives(self) -> list[wire.AnyReply]:
        """Return, and forget, what arrived since the last time."""
        replies, self.inbox = self.inbox, []
        return replies

    def leads(self, key: str, request_id: int = 1, **fields: Any) -> str:
        """Begin, expect a lease, and return its name."""
        self.asks(wire.Begin(key, id=request_id, **fields))
        (reply,) = self.receives()
        assert isinstance(reply, wire.Lease), reply
        return reply.lease

    def waits(self, key: str, request_id: int = 1, **fields: Any) -> None:
        """Begin and expect to wait."""
        self.asks(wire.Begin(key, id=request_id, **fields))
        assert self.receives() == [wire.Pending(request_id)]

    def gets(self, kind: type[_Reply]) -> _Reply:
        """Return the one reply that has arrived since the last time, which is of that kind."""
        (reply,) = self.receives()
        assert isinstance(reply, kind), reply
        return reply

    def calls(self, *backends: str, request_id: int = 1, **fields: Any) -> wire.Lease:
        """Begin without a key on one of ``backends``, expect a lease, and return it."""
        self.asks(wire.Begin(None, id=request_id, backends=backends, **fields))
        return self.gets(wire.Lease)

    def refused(self, *backends: str, request_id: int = 1, **fields: Any) -> wire.Rejected:
        """Begin without a key on one of ``backends``, expect to be refused, and return how."""
        self.asks(wire.Begin(None, id=request_id, backends=backends, **fields))
        return self.gets(wire.Rejected)

    def fails(self, lease: str, kind: wire.FailureKind = "transient", request_id: int = 98, **fields: Any) -> None:
        """Report that a call has failed; the replies stay in the inbox."""
        self.asks(wire.Fail(lease, kind, id=request_id, **fields))

    def completes(self, lease: str, value: Any, **fields: Any) -> None:
        """Bring an answer and expect that it is taken."""
        self.asks(wire.Complete(lease, packed(value), id=99, **fields))
        (reply,) = (reply for reply in self.receives() if reply.id == 99)
        assert isinstance(reply, wire.Stored), reply

    def appends(self, lease: str, *chunks: Any) -> None:
        """Bring pieces of an answer and expect that they are taken."""
        for chunk in chunks:
            self.asks(wire.Append(lease, packed(chunk), id=97))

        assert not [reply for reply in self.inbox if reply.id == 97], self.inbox

    def reads(self) -> tuple[list[Any], wire.AnyReply | None]:
        """Return the pieces that have arrived since the last time, and what came after them."""
        replies = self.receives()
        pieces = [msgspec.msgpack.decode(reply.chunk) for reply in replies if isinstance(reply, wire.Chunk)]
        rest = [reply for reply in replies if not isinstance(reply, wire.Chunk)]
        assert len(rest) <= 1, rest
        assert not rest or replies[-1] is rest[0], "nothing comes after the end"
        return pieces, rest[0] if rest else None

    def dies(self) -> None:
        """Lose the connection."""
        del self.host.actors[self.peer.id]
        self.host.happens(PeerLost(self.peer))


class Host:
    """An engine, its peers, and a clock that moves only on request."""

    codec: Codec = Zstd()
    """What compresses large answers, should the settings ask for it."""

    def __init__(self, *, wall_offset_seconds: float = 0.0, jitter: float = 0.5, **settings: Any) -> None:
        new_index: IndexFactory = settings.pop("new_index", ReferenceIndex)
        price: Price = settings.pop("price", no_price)
        self.now = 100.0
        self.jitter = jitter
        """What every draw comes to."""
        self.engine = Engine(
            EngineSettings(**settings),
            boot_id="boot",
            version="0",
            now=self.now,
            shown_settings={"cache.max_bytes": 1},
            shown_origins={"cache.max_bytes": "default"},
            wall_offset_seconds=wall_offset_seconds,
            jitter=lambda: self.jitter,
            codec=self.codec,
            new_index=new_index,
            price=price,
        )
        self.actors: dict[int, Actor] = {}
        self.notes: list[Note] = []
        self.wanted: list[StoreEffect] = []
        """What the store is to do, that no test has looked at yet."""
        self.logged: list[CallRecord] = []
        """What the call log was given."""
        self.levels: list[wire.LogLevel] = []
        self.reloads: list[ReadSettings] = []
        """Peers that requested a reload."""
        self.behind: list[AwaitRead] = []
        """Peers that must read before more is sent."""
        self.view_effects: list[ViewEffect] = []
        """What the daemon is to do with its views, in order."""
        self._peers = 0

    def peer(self, uid: int = 1000, gid: int = 1000, *, pid: int = 0, operator: bool = False) -> Actor:
        """Accept a connection."""
        self._peers += 1
        actor = Actor(self, Peer(self._peers, uid, gid, pid, operator))
        self.actors[self._peers] = actor
        self.happens(PeerJoined(actor.peer))
        return actor

    def happens(self, event: Event) -> None:  # noqa: C901, PLR0912 - one branch for each kind of effect
        """Give the engine an event and deliver what it says; an effect for a lost peer is a fault.

        So is a change of a view after a reply: the reply's receiver would not observe it.
        """
        made: list[Note] = []
        replied = False
        for effect in self.engine.handle(event, self.now):
            if isinstance(effect, SendReply):
                replied = True
                self.actors[effect.peer_id].inbox.append(effect.reply)
            elif isinstance(effect, SendMetrics):
                families = list(merged(self.engine.metrics_sources(self.now)[1]))
                self.actors[effect.peer_id].inbox.append(wire.Metrics(effect.request_id, families))
            elif isinstance(effect, ServeAgain):
                self.happens(event)
            elif isinstance(effect, EmitNote):
                self.notes.append(effect.note)
                made.append(effect.note)
            elif isinstance(effect, LogCall):
                self.logged.append(effect.record)
            elif isinstance(effect, SetLogLevel):
                self.levels.append(effect.level)
            elif isinstance(effect, ReadSettings):
                self.reloads.append(effect)
            elif isinstance(effect, AwaitRead):
                self.behind.append(effect)
            elif isinstance(effect, ViewEffect):
                assert not replied, effect
                self.view_effects.append(effect)
            else:
                self.wanted.append(effect)

        if self.engine.watched:
            for note in made:
                self.happens(NoteEmitted(note))

    def all_have_read(self) -> None:
        """Let all slow peers read their backlog, once."""
        behind, self.behind = self.behind, []
        for ask in behind:
            self.happens(BacklogRead(ask.peer_id, ask.request_id))

    def works(self) -> int:
        """Let the engine do all of its own work; return the number of batches."""
        batches = 0
        while self.engine.has_work:
            self.happens(WorkContinued())
            batches += 1

        return batches

    def passes(self, seconds: float) -> None:
        """Let time pass, with a tick at every instant that the engine asks for."""
        self.works()
        end = self.now + seconds
        while (deadline := self.engine.next_deadline()) is not None and deadline <= end:
            self.now = max(self.now, deadline)
            self.happens(Tick())

        self.now = end

    def wants(self) -> list[StoreEffect]:
        """Return, and forget, what the store is to do."""
        wanted, self.wanted = self.wanted, []
        return wanted

    def asked(self) -> StoreRead:
        """Return the one question that the store was asked since the last time."""
        (ask,) = self.wants()
        assert isinstance(ask, StoreRead), ask
        return ask

    def answers(self, ticket: int, answer: Answer) -> None:
        """Let the store answer."""
        self.happens(StoreAnswered(ticket, answer))

    def reads(self, **settings: Any) -> None:
        """Let the daemon have read these settings, and all else as it is by default."""
        self.happens(SettingsRead(EngineSettings(**settings)))

    def drains(self) -> None:
        """Ask the engine to drain."""
        self.happens(DrainRequested())

    def gives_up_draining(self) -> None:
        """End the drain."""
        self.happens(DrainExpired())

    def stats(self) -> wire.Stats:
        """Ask for stats through a peer of its own."""
        return self._asks(wire.GetStats(), wire.Stats)

    def report(self) -> wire.Report:
        """Ask for the report through a peer of its own."""
        return self._asks(wire.GetReport(), wire.Report)

    def breakers(self) -> dict[str, wire.BackendState]:
        """Ask how the backends are through a peer of its own."""
        return self._asks(wire.GetBreakers(), wire.Breakers).backends

    def samples(self) -> dict[str, float]:
        """Ask for all metrics through a peer of its own; return every sample by its name and labels, sorted."""
        families = self._asks(wire.GetMetrics(), wire.Metrics).families
        return {
            sample.name + "".join(f" {label}={value}" for label, value in sorted(sample.labels.items())): sample.value
            for family in families
            for sample in family.samples
        }

    def sets(self, backend: str, action: wire.BreakerAction) -> None:
        """Let an operator set the breaker of a backend, which was in use before."""
        self.engine._backends.of(backend)
        operator = self.peer(0, 0, operator=True)
        operator.asks(wire.SetBreaker(backend, action))
        assert operator.receives() == [wire.Ok(0)]
        operator.dies()

    def _asks(self, request: wire.AnyRequest, kind: type[_Reply]) -> _Reply:
        actor = self.peer()
        actor.asks(request)
        (reply,) = actor.receives()
        actor.dies()
        assert isinstance(reply, kind)
        return reply


def packed(value: Any) -> Any:
    """Return a value as it stands in a request."""
    return msgspec.Raw(wire.pack(value))


def unpacked(reply: wire.AnyReply) -> Any:
    """Return the value that a reply carries."""
    assert isinstance(reply, wire.Hit | wire.Shared), reply
    return msgspec.msgpack.decode(reply.value)
