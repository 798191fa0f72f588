"""Long random schedules of several hosts with one store.

See `tests.simulation.schedules` for their number and seed.
"""

import random
from typing import NamedTuple

import pytest
from msgspec import structs

from sidecard.core.effects import (
    AwaitRead,
    EmitNote,
    LogCall,
    ReadSettings,
    SendMetrics,
    SendReply,
    ServeAgain,
    SetLogLevel,
    StoreEffect,
    ViewEffect,
)
from sidecard.core.engine import Engine
from sidecard.core.events import Event, Peer, PeerJoined, PeerLost, RequestReceived, Tick, WorkContinued
from sidecard.core.settings import EngineSettings
from sidecard_client.protocol import wire
from tests.host import packed, unpacked
from tests.laws.event_checker import EventChecker
from tests.laws.table_checker import TableChecker
from tests.simulation.reference_store import CLAIM_SECONDS, LONGEST_DELAY_SECONDS, Clock, Line, Server
from tests.simulation.schedules import live, steps

_STEPS = steps(40_000)
_STEPS_OF_A_LIFE = 400
_WAIT_SECONDS = 5.0
_BATCH_SECONDS = 0.01
"""Pause before a batch of an engine's jobs."""

_SETTLED_SECONDS = 8 * LONGEST_DELAY_SECONDS
"""After so long, every host knows of a change."""


class World(NamedTuple):
    """What may happen."""

    removals: bool = False
    cuts: bool = False
    deaths: bool = False
    kind: str = "shared"


WORLDS = {
    "calm": World(),
    "removals": World(removals=True),
    "cuts": World(cuts=True),
    "hosts that die": World(deaths=True),
    "everything": World(removals=True, cuts=True, deaths=True),
    "a store of its own": World(removals=True, cuts=True, kind="own"),
}


class Held(NamedTuple):
    """A held lease."""

    lease: str
    key: str
    granted_at: float
    mode: str


class Caller:
    """One peer: at most one begin at a time."""

    def __init__(self, peer: Peer) -> None:
        self.peer = peer
        self.asked: tuple[int, str, float, str] | None = None
        self.held: Held | None = None


class OneHost:
    """One engine, its callers, and its line to the store."""

    def __init__(self, life: "Schedule", name: str) -> None:
        self.life = life
        self.clock = life.clock
        settings = EngineSettings(
            ttl_seconds=20.0,
            sharing_window_seconds=0.0,
            lease_seconds=2.0,
            cache_max_bytes=20_000,
            store=life.world.kind,  # type: ignore[arg-type]  # one of its words
        )
        self.engine = Engine(
            settings, boot_id=name, version="0", now=self.clock.now, shown_settings={}, shown_origins={}
        )
        self.engine._cache.inline_entries = 0
        self.engine._cache.sweep_steps = 2
        self._works_soon = False
        self.line = Line(life.server, name, life.chance, self.happens)
        self.events = EventChecker(settings, stores=True)
        self.tables = TableChecker(self.engine)
        self.callers: dict[int, Caller] = {}
        self.removing: dict[tuple[int, int], tuple[str | None, float]] = {}
        self.reading: set[tuple[int, int]] = set()
        self.alive = True
        self._ids = 0
        for _ in range(4):
            self.join()

    def join(self) -> None:
        """Accept a connection."""
        self._ids += 1
        caller = Caller(Peer(self._ids, 0, 0, 0, operator=True))
        self.callers[self._ids] = caller
        self.happens(PeerJoined(caller.peer))

    def happens(self, event: Event) -> None:
        """Give the engine an event, and do what it says."""
        if not self.alive:
            return

        wanted: list[StoreEffect] = []
        effects = self.engine.handle(event, self.clock.now)
        self.events.watch(event, effects, self.clock.now)
        self.tables.check(self.clock.now, ticked=isinstance(event, Tick))
        for effect in effects:
            if isinstance(effect, SendReply):
                self.receives(self.callers[effect.peer_id], effect.reply)
            elif not isinstance(
                effect,
                SendMetrics | ServeAgain | EmitNote | AwaitRead | LogCall | SetLogLevel | ReadSettings | ViewEffect,
            ):
                wanted.append(effect)

        for effect in wanted:
            self.line.perform(effect)

        due = self.engine.next_deadline()
        if due is not None:
            self.clock.at(due, self.tick)

        if self.engine.has_work and not self._works_soon:
            self._works_soon = True
            self.clock.at(self.clock.now + _BATCH_SECONDS, self.work)

    def work(self) -> None:
        """Do a batch of the engine's jobs."""
        self._works_soon = False
        self.happens(WorkContinued())

    def tick(self) -> None:
        """Wake the engine, if it still wants that."""
        due = self.engine.next_deadline()
        if self.alive and due is not None and due <= self.clock.now:
            self.happens(Tick())

    def asks(self, caller: Caller, request: wire.AnyRequest) -> None:
        """Send a request."""
        self.happens(RequestReceived(caller.peer, request))

    def receives(self, caller: Caller, reply: wire.AnyReply) -> None:
        """Take a reply, and check it."""
        if isinstance(reply, wire.Deleted):
            key, _ = self.removing.pop((caller.peer.id, reply.id))
            self.life.removed(key)
        elif isinstance(reply, wire.Pending):
            assert caller.asked is not None
            assert caller.asked[0] == reply.id
        elif (caller.peer.id, reply.id) in self.reading:
            self.reading.discard((caller.peer.id, reply.id))
            assert isinstance(reply, wire.Miss) or unpacked(reply) in self.life.versions
        elif type(reply) in wire.FINAL_REPLIES_OF_BEGIN:
            assert caller.asked is not None, f"a second end: {reply}"
            request_id, key, asked_at, mode = caller.asked
            assert reply.id == request_id
            caller.asked = None
            self.life.ended(caller, reply, key, asked_at, mode)


class Schedule:
    """Some hosts, for a while."""

    def __init__(self, world: str, seed: str) -> None:
        self.world = WORLDS[world]
        self.trial = self
        self.chance = random.Random(seed)
        self.clock = Clock()
        self.server = Server(self.clock)
        self.hosts = [OneHost(self, f"host{number}") for number in range(1 if self.world.kind == "own" else 3)]
        self.keys = [f"key-{number}" for number in range(4)]
        self.versions: dict[str, tuple[str, float]] = {}
        """Of each answer, its key and when its lease was granted, or it was put."""
        self.removals: dict[str, float] = {}
        """Of each key, when its last removal was acknowledged."""
        self.ids = 0
        self.script: list[tuple[float, str]] = []

    # What happens

    def run(self, steps: int) -> None:
        """Live, and come to rest."""
        moves = {self.begin: 40, self.end: 25, self.wait: 30, self.leave: 3, self.cancel: 3, self.put: 3, self.read: 3}
        if self.world.removals:
            moves |= {self.remove: 4, self.purge: 1}

        if self.world.cuts:
            moves |= {self.cut: 2}

        if self.world.deaths:
            moves |= {self.die: 1}

        for _ in range(steps):
            (move,) = self.chance.choices(list(moves), list(moves.values()))
            move()
            if not (self.world.removals or self.world.cuts or self.world.deaths):
                self.check_leases()

        for host in self.hosts:
            for caller in list(host.callers.values()):
                if caller.held is not None:
                    self.complete(host, caller)

        for _ in range(40):
            self.pass_time(0.5)

        self.check_rest()

    def choose(self) -> tuple[OneHost, Caller]:
        """Choose a caller."""
        host = self.chance.choice([host for host in self.hosts if host.alive])
        return host, self.chance.choice(list(host.callers.values()))

    def begin(self) -> None:
        """Ask."""
        host, caller = self.choose()
        if caller.asked is None and caller.held is None:
            self.ids += 1
            key = self.chance.choice(self.keys)
            mode = self.chance.choices(["use", "refresh", "only_if_cached"], [20, 1, 2])[0]
            caller.asked = self.ids, key, self.clock.now, mode
            self.note(host, f"{caller.peer.id} begins {key} as {self.ids} {mode}")
            wait_seconds = self.chance.choice([_WAIT_SECONDS, _WAIT_SECONDS, 0.0])
            begin = wire.Begin(key, id=self.ids, mode=mode, wait_seconds=wait_seconds)  # type: ignore[arg-type]
            max_age_seconds = self.chance.choice([None, None, 0.0, 0.2, 2.0])
            host.asks(caller, structs.replace(begin, max_age_seconds=max_age_seconds))

    def end(self) -> None:
        """Complete a lease, or fail it."""
        host, caller = self.choose()
        if caller.held is None:
            return

        if self.chance.random() < 0.75:
            self.complete(host, caller)
        else:
            held, caller.held = caller.held, None
            kind = self.chance.choice(["transient", "fatal", "cancelled"])
            self.note(host, f"{caller.peer.id} fails {held.key} {kind}")
            host.asks(caller, wire.Fail(held.lease, kind, id=-1))  # type: ignore[arg-type]

    def complete(self, host: OneHost, caller: Caller) -> None:
        """Bring an answer."""
        assert caller.held is not None
        held, caller.held = caller.held, None
        version = f"{held.key}/{len(self.versions)}"
        self.versions[version] = held.key, held.granted_at
        self.note(host, f"{caller.peer.id} completes {version}")
        host.asks(caller, wire.Complete(held.lease, packed(version), id=-1))

    def put(self) -> None:
        """Write an entry."""
        host, caller = self.choose()
        key = self.chance.choice(self.keys)
        version = f"{key}/{len(self.versions)}"
        self.versions[version] = key, self.clock.now
        self.note(host, f"{caller.peer.id} puts {version}")
        host.asks(caller, wire.Put(key, packed(version), id=-2))

    def read(self) -> None:
        """Read an entry."""
        host, caller = self.choose()
        key = self.chance.choice(self.keys)
        self.ids += 1
        host.reading.add((caller.peer.id, self.ids))
        self.note(host, f"{caller.peer.id} gets {key}")
        host.asks(caller, wire.Get(key, id=self.ids))

    def remove(self) -> None:
        """Delete an entry."""
        host, caller = self.choose()
        key = self.chance.choice(self.keys)
        self.ids += 1
        host.removing[caller.peer.id, self.ids] = key, self.clock.now
        self.note(host, f"{caller.peer.id} deletes {key}")
        host.asks(caller, wire.Delete(key, id=self.ids))

    def purge(self) -> None:
        """Remove everything."""
        host, caller = self.choose()
        self.ids += 1
        host.removing[caller.peer.id, self.ids] = None, self.clock.now
        self.note(host, f"{caller.peer.id} purges")
        host.asks(caller, wire.Purge(id=self.ids))

    def leave(self) -> None:
        """Lose a connection, and accept another."""
        host, caller = self.choose()
        self.note(host, f"{caller.peer.id} leaves")
        del host.callers[caller.peer.id]
        host.happens(PeerLost(caller.peer))
        host.join()

    def cancel(self) -> None:
        """Take a begin back."""
        host, caller = self.choose()
        if caller.asked is not None:
            target, caller.asked = caller.asked[0], None
            self.note(host, f"{caller.peer.id} cancels {target}")
            host.asks(caller, wire.Cancel(target, id=-3))

    def cut(self) -> None:
        """Cut a host off from the store for a while."""
        host, _ = self.choose()
        if host.line._up:
            self.note(host, "is cut off")
            host.line.cut()
            self.clock.at(self.clock.now + self.chance.uniform(0.1, 2.0), host.line.mend)

    def die(self) -> None:
        """Lose a host, but for the last one."""
        alive = [host for host in self.hosts if host.alive]
        if len(alive) > 1:
            host = self.chance.choice(alive)
            self.note(host, "dies")
            host.alive = False
            self.server.lines.remove(host.line)

    def wait(self) -> None:
        """Let time pass."""
        self.pass_time(self.chance.choice([0.005, 0.03, 0.1, 0.4]))

    def pass_time(self, seconds: float) -> None:
        """Let time pass; living hosts renew their claims and leases."""
        end = self.clock.now + seconds
        while self.clock.now < end:
            for host in self.hosts:
                if host.alive:
                    host.line.renew()
                    for caller in list(host.callers.values()):
                        if caller.held is not None:
                            host.asks(caller, wire.Renew(caller.held.lease, id=-4))

            self.clock.run(min(end, self.clock.now + 0.5))

    def note(self, host: OneHost, text: str) -> None:
        """Record a step, to be shown with a failure."""
        self.script.append((self.clock.now, f"host{self.hosts.index(host)} {text}"))

    # What must be true

    def ended(self, caller: Caller, reply: wire.AnyReply, key: str, asked_at: float, mode: str) -> None:
        """Judge the end of a begin."""
        waited_seconds = self.clock.now - asked_at
        assert waited_seconds <= _WAIT_SECONDS + _SETTLED_SECONDS, "it has waited beyond its deadline"
        if isinstance(reply, wire.Lease):
            assert mode != "only_if_cached"
            caller.held = Held(reply.lease, key, self.clock.now, mode)
        elif isinstance(reply, wire.Hit | wire.Shared):
            version = unpacked(reply)
            of_key, made_at = self.versions[version]
            assert of_key == key, "the answer to another key"
            removed_at = self.removals.get(key)
            certain = not self.world.cuts and removed_at is not None and asked_at > removed_at + _SETTLED_SECONDS
            if certain and isinstance(reply, wire.Hit):
                assert removed_at is not None
                assert made_at >= removed_at - _SETTLED_SECONDS, f"{version} was removed at {removed_at:.3f}"

    def removed(self, key: str | None) -> None:
        """Remember an acknowledged removal."""
        for one in self.keys if key is None else [key]:
            self.removals[one] = self.clock.now

    def check_leases(self) -> None:
        """Without faults and removals, a key has one holder over all hosts."""
        held = [caller.held.key for host in self.hosts for caller in host.callers.values() if caller.held is not None]
        assert len(held) == len(set(held)), "two hosts compute one key"

    def check_rest(self) -> None:
        """In the end nothing is left of anything."""
        for host in self.hosts:
            if host.alive:
                assert all(caller.asked is None for caller in host.callers.values()), "a begin has no end"
                held = sum(caller.held is not None for caller in host.callers.values())
                (stats,) = [
                    effect.reply
                    for effect in host.engine.handle(
                        RequestReceived(next(iter(host.callers.values())).peer, wire.GetStats()), self.clock.now
                    )
                    if isinstance(effect, SendReply)
                ]
                assert isinstance(stats, wire.Stats)
                assert (stats.flights, stats.leases, stats.waiters, stats.awaited) == (held, held, 0, 0)
                assert stats.claims <= held
                assert (
                    stats.begins
                    == (stats.hits + stats.shared + stats.leases_first + stats.failed + stats.rejected)
                    + stats.timeouts
                    + stats.left
                )

        live = [claim for claim, until in self.server.claims.values() if until > self.clock.now]
        assert len(live) <= sum(caller.held is not None for host in self.hosts for caller in host.callers.values())


@pytest.mark.parametrize("world", WORLDS)
def test_store_schedules_agree_on_entries(world: str) -> None:
    """Every begin ends once and in time, with the answer to its key, of what is not removed; nothing is left behind."""
    live(Schedule, world, _STEPS // len(WORLDS), (_STEPS_OF_A_LIFE,))


assert CLAIM_SECONDS < _WAIT_SECONDS, "a caller that waits for a host that dies must be answered"
