"""Long random schedules of streams, checked on what readers receive.

Every piece names its lease and its index, so the reader knows that all pieces are of one call, that none is missing, and that
the end follows all of them, of a completed call.
"""

import random
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from sidecard.core.notes import LeaseEnded
from sidecard.core.settings import BackendSettings, BreakerSettings
from sidecard_client.protocol import wire
from tests.host import Actor, Host, packed
from tests.laws.table_checker import TableChecker
from tests.simulation.schedules import live, steps

_STEPS = steps(20_000)
_STEPS_OF_LIVES = (60, 200, 700)
_KIB = 1024
_CALM = {"default": BackendSettings(breaker=BreakerSettings(enabled=False))}

WORLDS: dict[str, dict[str, Any]] = {
    "defaults": {},
    "small cache": {"cache_max_bytes": 3_000 * _KIB},
    "tiny cache": {"cache_max_bytes": 400 * _KIB},
    "nothing cached": {"ttl_seconds": 0.0, "sharing_window_seconds": 0.0},
    "no elections": {"max_elections": 0},
    "impatient": {"wait_seconds": 3.0, "lease_seconds": 2.0},
}


class Reading:
    """One begin, and what its caller received."""

    def __init__(self, actor: Actor, begin: wire.Begin) -> None:
        self.actor = actor
        self.begin = begin
        self.pieces: list[str] = []
        self.end: wire.AnyReply | None = None
        self.gone = False
        """Its caller has canceled it, or is dead."""


class Schedule:
    """A random life of one daemon under streams."""

    def __init__(self, world: str, seed: str) -> None:
        self.chance = random.Random(seed)
        self.host = Host(backends=_CALM, **WORLDS[world])
        self.trial = SimpleNamespace(script=[])
        self.tables = TableChecker(self.host.engine)
        self.actors: list[Actor] = []
        self.readings: dict[tuple[int, int], Reading] = {}
        self.leases: dict[str, Reading] = {}
        """Those that are held."""
        self.holders: dict[str, Actor] = {}
        """The current or former holder of each lease."""
        self.keys: dict[str, str | None] = {}
        """By lease, the key that it is of."""
        self.appended: dict[str, list[str]] = {}
        """By lease, the pieces that its holder has appended."""
        self.completed: set[str] = set()
        self.ids = 0
        self.moves: dict[Callable[[], None], int] = {
            self.join: 4,
            self.begin: 22,
            self.append: 45,
            self.complete: 8,
            self.fail: 4,
            self.cancel: 4,
            self.renew: 6,
            self.read_on: 12,
            self.lose: 2,
            self.wait: 6,
            self.delete: 1,
        }

    def run(self, steps: int) -> None:
        """Live for a number of steps, then let everything end."""
        for _ in range(steps):
            (move,) = self.chance.choices(list(self.moves), list(self.moves.values()))
            move() if self.actors else self.join()
            self.look()

        self.wind_up()

    # Moves ------------------------------------------------------------------------------------------------------------

    def join(self) -> None:
        """Accept a peer."""
        if len(self.actors) < 7:
            self.actors.append(self.host.peer())

    def begin(self) -> None:
        """Ask for one of few keys, nearly always in pieces."""
        self.ids += 1
        actor = self.chance.choice(self.actors)
        key = self.chance.choice(["hot", "hot", "cold"])
        mode: wire.Mode = self.chance.choice(["use", "use", "use", "use", "refresh", "only_if_cached"])
        wait_seconds = self.chance.choice([None, None, 0.0, 1.0, 20.0])
        begin = wire.Begin(key, id=self.ids, stream=self.chance.random() < 0.85, mode=mode, wait_seconds=wait_seconds)
        begin = msgspec.structs.replace(
            begin,
            max_age_seconds=self.chance.choice([None, None, 0.0, 3.0]),
            context=self.chance.choice(["", "", "a"]),
            wanted=self.chance.random() < 0.5,
        )
        self.readings[actor.peer.id, begin.id] = Reading(actor, begin)
        self.say(actor, begin)

    def append(self) -> None:
        """Append a piece, sometimes a large one, and sometimes to a lease that has ended."""
        name = self.choose_lease()
        if name is None:
            return

        size = self.chance.choice([1, 1, 1, 1, 90 * _KIB, 300 * _KIB])
        number = len(self.appended.setdefault(name, []))
        piece = f"{name}/{number}/".ljust(size, ".")
        self.appended[name].append(piece)
        holder = self.holder(name)
        self.say(holder, wire.Append(name, packed(piece), output=number > 0, id=-1))
        if any(reply.id == -1 for reply in holder.inbox):
            # It was refused.
            self.appended[name].pop()

    def complete(self) -> None:
        """Let a holder end its call well."""
        name = self.choose_lease()
        if name is None:
            return

        holder, reading = self.holder(name), self.leases.get(name)
        stream = reading is not None and reading.begin.stream
        if reading is not None and not stream:
            self.appended[name] = [f"{name}/0/"]

        value = {} if stream else {"value": packed([f"{name}/0/"])}
        self.leases.pop(name, None)
        self.say(holder, wire.Complete(name, id=-2, **value))
        if any(isinstance(reply, wire.Stored) for reply in holder.inbox):
            self.completed.add(name)

    def fail(self) -> None:
        """Let a holder's call fail."""
        name = self.choose_lease()
        if name is None:
            return

        kind: wire.FailureKind = self.chance.choice(["transient", "transient", "cancelled", "fatal", "ignored"])
        holder, reading = self.holder(name), self.leases.pop(name, None)
        if reading is None or self.chance.random() < 0.6:
            context = "" if reading is None else reading.begin.context
            self.say(holder, wire.Fail(name, kind, id=-3, message=f"of context {context!r}"))
            return

        # It asks for another backend, and what it is answered is that begin's again.
        self.ids += 1
        self.readings[holder.peer.id, self.ids] = Reading(holder, reading.begin)
        self.say(
            holder,
            wire.Fail(name, kind, id=self.ids, next=True, retry=True, message=f"of context {reading.begin.context!r}"),
        )

    def cancel(self) -> None:
        """Let a caller take a begin back, whatever has become of it."""
        choices = [reading for reading in self.readings.values() if not reading.gone and reading.actor in self.actors]
        if not choices:
            return

        reading = self.chance.choice(choices)
        # With what came of a `fail` with ``next``, which is the same begin's.
        for other in choices:
            if other.actor is reading.actor and other.begin.id == reading.begin.id and other.end is None:
                other.gone = True

        self.drop_leases(lambda other: other.actor is reading.actor and other.begin.id == reading.begin.id)
        self.say(reading.actor, wire.Cancel(reading.begin.id, id=-4))

    def renew(self) -> None:
        """Let holders renew, one of them or all."""
        names = list(self.leases)
        for name in names if self.chance.random() < 0.7 else names[:1]:
            if name in self.leases:
                self.say(self.holder(name), wire.Renew(name, id=-5))

    def read_on(self) -> None:
        """Let all slow peers read their backlog."""
        self.trial.script.append((self.host.now, f"room for {len(self.host.behind)}"))
        self.host.all_have_read()

    def lose(self) -> None:
        """End a peer."""
        actor = self.chance.choice(self.actors)
        self.actors.remove(actor)
        for reading in self.readings.values():
            if reading.actor is actor:
                reading.gone = reading.gone or reading.end is None

        self.drop_leases(lambda reading: reading.actor is actor)
        self.trial.script.append((self.host.now, f"{actor.peer.id} is lost"))
        actor.inbox.clear()
        actor.dies()

    def wait(self) -> None:
        """Let time pass."""
        seconds = self.chance.choice([0.01, 0.5, 1.0, 5.0, 16.0, 70.0])
        self.trial.script.append((self.host.now, f"{seconds} s pass"))
        self.host.passes(seconds)

    def delete(self) -> None:
        """Forbid a flight in progress to store."""
        self.say(self.chance.choice(self.actors), wire.Delete(self.chance.choice(["hot", "cold"]), id=-6))

    # Checks -----------------------------------------------------------------------------------------------------

    def say(self, actor: Actor, request: wire.AnyRequest) -> None:
        """Send a request."""
        shown = repr(request)
        self.trial.script.append((self.host.now, f"{actor.peer.id} says {shown[:160]}"))
        actor.asks(request)

    def choose_lease(self) -> str | None:
        """Choose a lease, one that has ended now and then."""
        names = list(self.leases)
        if self.chance.random() < 0.05:
            names = [name for name in self.appended if self.holders[name] in self.actors] or names

        return self.chance.choice(names) if names else None

    def holder(self, name: str) -> Actor:
        """Return the present or last holder of a lease."""
        return self.holders[name]

    def drop_leases(self, which: Callable[[Reading], bool]) -> None:
        """Take note that leases end."""
        for name in [name for name, reading in self.leases.items() if which(reading)]:
            del self.leases[name]

    def look(self) -> None:
        """Check what has arrived, and the engine's tables."""
        self.tables.check(self.host.now)
        for note in self.host.notes:
            if isinstance(note, LeaseEnded):
                # No reply says that a lease expired.
                self.leases.pop(note.lease, None)

        self.host.notes.clear()
        for actor in self.actors:
            for reply in actor.receives():
                if isinstance(reply, wire.Wanted):
                    assert self.holders[reply.lease] is actor, "another peer is told of a holder's waiters"
                elif reply.id > 0:
                    self.check(self.readings[actor.peer.id, reply.id], reply)
                elif isinstance(reply, wire.StaleLease):
                    pass
                elif isinstance(reply, wire.Error):
                    # An append to a lease that is no stream's, and nothing else.
                    assert "append is for the lease" in reply.message, reply

    def check(self, reading: Reading, reply: wire.AnyReply) -> None:
        """Check one reply to a begin."""
        assert not reading.gone, f"{reply} for a begin that was taken back"
        assert reading.end is None, f"{reply} after {reading.end}"
        match reply:
            case wire.Pending():
                assert not reading.pieces
            case wire.Chunk():
                assert reading.begin.stream
                self.see(reading, msgspec.msgpack.decode(reply.chunk))
            case wire.End():
                reading.end = reply
                assert reading.begin.stream
                self.is_whole(reading, reading.pieces)
            case wire.Hit() | wire.Shared():
                reading.end = reply
                assert not reading.begin.stream
                pieces = msgspec.msgpack.decode(reply.value)
                self.is_whole(reading, pieces)
            case wire.Failed(kind="fatal"):
                reading.end = reply
                assert reply.message == f"of context {reading.begin.context!r}", "a failure of another context"
            case wire.Lease():
                assert not reading.pieces, "who has seen a piece may not lead"
                reading.end = reply
                self.leases[reply.lease] = reading
                self.holders[reply.lease] = reading.actor
                self.keys[reply.lease] = reading.begin.key
                self.appended[reply.lease] = []
            case _:
                reading.end = reply

    def see(self, reading: Reading, piece: str) -> None:
        """Take a piece that a reader was sent."""
        lease, number, _ = piece.split("/")
        assert int(number) == len(reading.pieces), "a piece is missing, or came twice"
        assert self.appended[lease][int(number)] == piece
        if reading.pieces:
            assert reading.pieces[0].split("/")[0] == lease, "pieces of two calls are mixed"
        else:
            assert lease in self.leases or lease in self.completed, "the first piece of a broken stream"

        reading.pieces.append(piece)

    def is_whole(self, reading: Reading, pieces: list[str]) -> None:
        """Check an answer that was delivered as whole."""
        answers = [self.appended[name] for name in self.completed if self.keys[name] == reading.begin.key]
        assert pieces in answers, "no answer that anybody has completed, or a piece of it is missing"

    def wind_up(self) -> None:
        """Let all calls end and all readers read: everybody has an end, and nothing is held any more."""
        for _ in range(2_000):
            if not self.host.behind:
                break

            self.read_on()
            self.look()

        self.host.passes(2_000.0)
        for _ in range(2_000):
            self.look()
            if not self.host.behind:
                break

            self.read_on()

        self.look()
        open_ones = [reading.begin for reading in self.readings.values() if not reading.gone and reading.end is None]
        assert open_ones == [], "begins without an end"
        stats = self.host.stats()
        assert (stats.streams, stats.stream_bytes, stats.flights, stats.leases, stats.waiters) == (0, 0, 0, 0, 0)
        ends = stats.hits + stats.shared + stats.leases_first + stats.failed + stats.rejected + stats.timeouts
        assert stats.begins == ends + stats.left


@pytest.mark.parametrize("world", WORLDS)
@pytest.mark.timeout(600)
def test_stream_schedules_deliver_only_whole_answers(world: str) -> None:
    """No reader receives a part as the whole, and nothing is left at the end."""
    live(Schedule, world, _STEPS // len(WORLDS), _STEPS_OF_LIVES)
