"""An engine on trial: every event goes to the engine, to the model that predicts it and to the referee that judges it.

Times, costs and lifetimes that a trial is given should be multiples of 1/8: their sums are exact in binary, so the ledger
and the deadlines are compared without any tolerance.
"""

from collections import defaultdict
from typing import TypeVar

import msgspec

from sidecard.core import notes
from sidecard.core.effects import Effect, EmitNote, Send
from sidecard.core.engine import Engine
from sidecard.core.events import Event, Peer, PeerJoined, PeerLost, RequestReceived, Tick
from sidecard.core.settings import EngineSettings
from sidecard_client.protocol import wire
from tests.laws.records import UNKNOWN, Sent, budget_bytes
from tests.laws.reference_model import Model
from tests.properties.referee import Referee

_Reply = TypeVar("_Reply", bound=wire.Reply)

_OBSERVER = Peer(0, 0, 0, 0, operator=True)
"""Asks for stats and reports; neither the model nor the referee hears of it."""

_MOST_CHARGED_BYTES = 1000
"""More than any entry of a trial is charged beside its value."""

_COUNTED = frozenset(wire.Stats.__struct_fields__) - frozenset(
    {"id", "version", "boot_id", "uptime_seconds", "draining", "peers", "flights", "leases", "waiters", "evicted"}
    | {"cache_entries", "cache_bytes", "cache_max_bytes", "expired_entries", "queued", "permits", "breakers", "store"}
)
"""The counters that the model predicts. How many entries there are, the test of the cache tells."""


class Trial:
    """One engine, its model, its referee, and a clock that moves only when told."""

    def __init__(self, settings: EngineSettings) -> None:
        self.now = 1000.0
        self.settings = settings
        self.engine = Engine(settings, boot_id="boot", version="0", now=self.now, shown_settings={}, shown_origins={})
        self.model = Model(settings)
        self.referee = Referee(settings)
        self.peers: list[Peer] = []
        self.granted: list[tuple[Peer, str]] = []
        """Every lease there ever was, with who got it."""
        self.script: list[tuple[float, Event]] = []
        """What happened, to be told where it ends badly."""
        self.broken = False
        """An event's comparison has failed, or is going on."""
        self._peer_ids = 0
        self._request_ids = 1000
        self._values = 0

    def join(self, uid: int, pid: int) -> Peer:
        """Accept a connection of a user's process; root's is an operator's."""
        self._peer_ids += 1
        peer = Peer(self._peer_ids, uid, uid, pid, operator=uid == 0)
        self.peers.append(peer)
        self.happen(PeerJoined(peer))
        return peer

    def lose(self, peer: Peer) -> None:
        """End a connection."""
        self.peers.remove(peer)
        self.happen(PeerLost(peer))

    def ask(self, peer: Peer, request: wire.AnyRequest) -> None:
        """Let a peer send a request."""
        self.happen(RequestReceived(peer, request))

    def next_id(self) -> int:
        """Return an id for a request that is no begin: never that of a begin, so that replies can be told apart."""
        self._request_ids += 1
        return self._request_ids

    def next_value(self, size: int = 0) -> msgspec.Raw:
        """Return a value as it stands in a request, unlike any other."""
        self._values += 1
        return msgspec.Raw(wire.pack([self._values, b"v" * size]))

    def tick(self) -> None:
        """Tell the engine that it is time, and expect that it then waits for the future."""
        self.happen(Tick())
        deadline = self.engine.next_deadline()
        assert deadline is None or deadline > self.now, "the next deadline has passed already"

    def happen(self, event: Event) -> None:
        """Let one event happen and compare what comes of it."""
        self.broken = True
        self.script.append((self.now, event))
        effects = self.engine.handle(event, self.now)
        self.referee.watch(event, effects, self.now)
        self._follow_entries(effects)
        predicted = self.model.handle(event, self.now)
        sent = [(effect.peer, effect.reply) for effect in effects if isinstance(effect, Send)]
        told, expected = _by_request(sent), _by_request(predicted)
        assert told == expected, f"the engine says {told}, the model {expected}"
        for peer_id, reply in sent:
            if isinstance(reply, wire.Lease):
                self.model.name_lease(peer_id, reply.id, reply.lease)
                self.granted.append((next(peer for peer in self.peers if peer.id == peer_id), reply.lease))

        self.check_stats()
        self.broken = False

    def check_stats(self) -> None:
        """Compare counters and gauges, and hold the counters against each other."""
        stats = self._observe(wire.GetStats(), wire.Stats)
        model = self.model
        told = {name: getattr(stats, name) for name in _COUNTED}
        expected = {name: model.counts[name] for name in _COUNTED}
        assert told == expected, {name: (told[name], expected[name]) for name in told if told[name] != expected[name]}
        assert stats.begins == (
            stats.hits
            + stats.shared
            + stats.leases_first
            + stats.failed
            + stats.rejected
            + stats.timeouts
            + stats.left
            + stats.waiters
        )
        assert (stats.flights, stats.leases, stats.waiters) == (
            len(model.flights),
            len(model.leases),
            len(model.waiters()),
        )
        assert (stats.permits, stats.queued) == (stats.leases, 0)
        assert (stats.peers, stats.draining) == (len(model.peers), model.draining)
        assert stats.waiters <= self.settings.max_waiters
        assert stats.flights <= self.settings.max_flights
        assert stats.leases <= self.settings.max_leases
        assert stats.cache_bytes <= budget_bytes(self.settings)
        assert stats.cache_entries >= len(model.live(self.now))
        assert self.engine.idle == (not model.leases and not model.waiters())
        self._check_health(stats)
        due = [lease.expires for lease in model.leases] + [waiter.deadline for waiter in model.waiters()]
        deadline = self.engine.next_deadline()
        assert not due or (deadline is not None and deadline <= min(due)), "nobody would wake the engine in time"

    def check_report(self) -> None:
        """Compare the ledger of every task and in total, and hold its sums against each other."""
        report = self._observe(wire.GetReport(), wire.Report)
        for task, ledger in report.tasks.items():
            book = self.model.books[task]
            assert ledger.calls == book.hits + book.shared + book.leads
            for name in book.__dataclass_fields__.keys() - {"leads"}:
                assert getattr(ledger, name) == getattr(book, name), (task, name)

        for ledger in [report.total, *report.tasks.values()]:
            assert ledger.served_dollars == (
                ledger.billed_dollars + ledger.saved_by_cache_dollars + ledger.saved_by_sharing_dollars
            )
            assert ledger.served_seconds == (
                ledger.billed_seconds
                + ledger.saved_by_cache_seconds
                + ledger.saved_by_sharing_seconds
                + ledger.waited_seconds
            )

        for name in ("calls", "hits", "shared", "upstream_calls", "served_seconds", "served_dollars"):
            assert getattr(report.total, name) == sum(getattr(ledger, name) for ledger in report.tasks.values())

    def end(self) -> None:
        """Lose everybody, let all time pass, and expect that nothing is left."""
        for peer in list(self.peers):
            self.lose(peer)

        assert self.engine.idle
        for _ in range(100_000):
            deadline = self.engine.next_deadline()
            if deadline is None:
                break

            self.now = max(self.now, deadline)
            self.tick()

        stats = self._observe(wire.GetStats(), wire.Stats)
        assert (stats.flights, stats.leases, stats.waiters, stats.peers) == (0, 0, 0, 0)
        assert (stats.cache_entries, stats.cache_bytes) == (0, 0)
        assert self.engine.next_deadline() is None
        flights = self.engine._flights
        assert (len(flights), len(flights.timers), flights._peers) == (0, 0, {})
        self.check_report()

    def _check_health(self, stats: wire.Stats) -> None:
        """Nobody is told that something is full which has room now."""
        health = self._observe(wire.GetHealth(), wire.Health)
        assert (health.status == "draining") == self.model.draining
        for table in ("flights", "leases", "waiters"):
            room = getattr(stats, table) < getattr(self.settings, f"max_{table}")
            assert not (room and any(f"table of {table}" in reason for reason in health.reasons)), health.reasons

    def _observe(self, request: wire.AnyRequest, kind: type[_Reply]) -> _Reply:
        (effect,) = self.engine.handle(RequestReceived(_OBSERVER, request), self.now)
        assert isinstance(effect, Send)
        assert isinstance(effect.reply, kind)
        return effect.reply

    def _follow_entries(self, effects: list[Effect]) -> None:
        """Tell the model what the cache alone decides: which entries were evicted, and whether one is too large."""
        told = [effect.note for effect in effects if isinstance(effect, EmitNote)]
        refused = [note for note in told if isinstance(note, notes.EntryRefused)]
        assert all(note.size_bytes + _MOST_CHARGED_BYTES > note.max_bytes for note in refused)
        self.model.too_large = bool(refused)
        evicted = sum(note.count for note in told if isinstance(note, notes.Evicted))
        if evicted:
            tables = self.engine._policy.cache._tables
            gone = [place for place in self.model.live(self.now) if place[1] not in tables.get(place[0], {})]
            assert len(gone) == evicted, "evicted are live entries, and all that are told of"
            for place in gone:
                self.model.forget(place)


def _by_request(sent: list[Sent]) -> dict[tuple[int, int], list[wire.AnyReply]]:
    """Group replies by peer and request id, with what only the engine can know left out."""
    grouped = defaultdict[tuple[int, int], list[wire.AnyReply]](list)
    for peer_id, reply in sent:
        grouped[peer_id, reply.id].append(_plain(reply))

    return grouped


def _plain(reply: wire.AnyReply) -> wire.AnyReply:
    match reply:
        case wire.Lease():
            return msgspec.structs.replace(reply, lease=UNKNOWN)
        case wire.Error() | wire.Failed():
            return msgspec.structs.replace(reply, message=UNKNOWN)
        case _:
            return reply
