"""The law of flights as invariants over what goes in and what comes out.

The referee knows neither the model's nor the engine's mind: it sees events, effects and the time, and raises
`AssertionError` at the first effect that the law forbids and at the first one that it demands and that is missing.
"""

from collections.abc import Callable
from dataclasses import dataclass

import pytest

from sidecard.core import notes
from sidecard.core.effects import Effect, EmitNote, Send
from sidecard.core.events import DrainExpired, Event, Peer, PeerJoined, PeerLost, RequestReceived, Tick
from sidecard.core.settings import EngineSettings
from sidecard_client.protocol import wire
from tests.laws.records import Place, means, same_process, scope_of


@dataclass(eq=False)
class Wait:
    """A begin that was told to wait."""

    peer: Peer
    place: Place
    deadline: float


@dataclass(eq=False)
class Held:
    """A lease that is current."""

    peer: Peer
    place: Place | None
    expires: float


@dataclass(eq=False)
class Course:
    """What is known of a flight: its elections, and whether its answer may still be stored."""

    elections: int = 0
    may_store: bool = True
    purged_tags: frozenset[str] = frozenset()
    """What that answer must not bear, if it is to be stored."""


@dataclass(eq=False)
class Origin:
    """Where a value came from. No value is used twice."""

    place: Place | None
    tags: tuple[str, ...]
    servable: bool


class Referee:
    """Watches one engine."""

    def __init__(self, settings: EngineSettings) -> None:
        self.settings = settings
        self.peers: dict[int, Peer] = {}
        self.waits: dict[tuple[int, int], Wait] = {}
        """By peer and request id, the longest-waiting first."""
        self.held: dict[str, Held] = {}
        self.names: set[str] = set()
        self.courses: dict[Place, Course] = {}
        self.origins: dict[bytes, Origin] = {}
        self._direct: list[wire.AnyReply] = []
        self._dropped: dict[Place | None, tuple[notes.Outcome, Peer]] = {}
        """Leases that ended in this event, by place; those without a key are all alike."""

    def watch(self, event: Event, effects: list[Effect], now: float) -> None:
        """Judge one event's effects."""
        self._direct, self._dropped = [], {}
        asker, request = (event.peer, event.request) if isinstance(event, RequestReceived) else (None, None)
        self._leave(event)
        presented = self._presented(asker, request)
        for effect in effects:
            if isinstance(effect, EmitNote):
                self._hear(effect.note)
            elif not isinstance(effect, Send):
                pytest.fail(f"an effect for a store that there is not: {effect}")
            elif asker is not None and effect.peer == asker.id and self._answers(asker, request, effect.reply):
                self._direct.append(effect.reply)
                self._granted_directly(asker, request, presented, effect.reply, now)
            else:
                self._end_wait(effect, request, now)

        if asker is not None and request is not None:
            self._judge_answer(asker, request, presented, effects, now)

        self._judge_rest(event, now)

    def _leave(self, event: Event) -> None:
        match event:
            case PeerJoined(peer):
                self.peers[peer.id] = peer
            case PeerLost(peer):
                del self.peers[peer.id]
                self.waits = {who: wait for who, wait in self.waits.items() if who[0] != peer.id}
            case RequestReceived(peer, wire.Cancel() as cancel):
                self.waits.pop((peer.id, cancel.target), None)
            case _:
                pass

    def _presented(self, asker: Peer | None, request: wire.Request | None) -> Held | None:
        if asker is None or not isinstance(request, wire.Complete | wire.Fail | wire.Renew):
            return None

        held = self.held.get(request.lease)
        return held if held is not None and held.peer == asker else None

    def _answers(self, asker: Peer, request: wire.Request | None, reply: wire.AnyReply) -> bool:
        """Tell whether a reply is the direct one of the request rather than the end of a wait."""
        if request is None or reply.id != request.id:
            return False

        return (asker.id, reply.id) not in self.waits or isinstance(reply, wire.Error)

    def _hear(self, note: notes.Note) -> None:
        if isinstance(note, notes.LeaseEnded):
            assert note.lease in self.held, "a lease ended twice"
            held = self.held.pop(note.lease)
            self._dropped[held.place] = (note.outcome, held.peer)

    def _grant(self, peer: Peer, place: Place | None, reply: wire.Lease, now: float) -> None:
        assert reply.lease not in self.names, "a lease's name was used twice"
        assert place is None or place not in self._led(), "two live leases of one key"
        self.names.add(reply.lease)
        self.held[reply.lease] = Held(peer, place, now + self.settings.lease_seconds)

    def _led(self) -> set[Place | None]:
        return {held.place for held in self.held.values()}

    def _granted_directly(
        self, asker: Peer, request: wire.Request | None, presented: Held | None, reply: wire.AnyReply, now: float
    ) -> None:
        if not isinstance(reply, wire.Lease):
            return

        if isinstance(request, wire.Begin):
            place = self._place(asker, request)
            self._grant(asker, place, reply, now)
            if place is not None:
                assert place not in self.courses, "a flight began while another was in progress"
                self.courses[place] = Course()
        else:
            assert isinstance(request, wire.Fail)
            assert request.next
            assert presented is not None
            assert presented not in self.held.values(), "a next lease while the last one lives"
            self._grant(asker, presented.place, reply, now)

    def _end_wait(self, effect: Send, request: wire.Request | None, now: float) -> None:
        assert effect.peer in self.peers, "an effect addresses a lost peer"
        who, reply = (effect.peer, effect.reply.id), effect.reply
        assert who in self.waits, f"a reply that nobody waits for: {reply}"
        wait = self.waits[who]
        match reply:
            case wire.Lease():
                self._judge_election(wait, now)
                self.courses[wait.place].elections += 1
                assert self.courses[wait.place].elections <= self.settings.max_elections, "too many elections"
                self._grant(wait.peer, wait.place, reply, now)
            case wire.Shared():
                assert isinstance(request, wire.Complete)
                assert bytes(reply.value) == bytes(request.value), "a waiter got another answer"
            case wire.Failed() if isinstance(request, wire.Fail):
                assert (reply.kind, reply.message) == (request.kind, request.message)
            case wire.Failed():
                assert reply.kind in {"transient", "cancelled"}
            case wire.Timeout():
                assert now >= wait.deadline, "a waiter was sent away before its deadline"
            case wire.Rejected():
                assert reply.reason == "draining"
            case _:
                raise AssertionError(f"not an end of a wait: {reply}")

        del self.waits[who]

    def _judge_election(self, elected: Wait, now: float) -> None:
        """The longest-waiting one that may still wait; after a hang, of another process where there is one."""
        assert now < elected.deadline, "a waiter was elected after its deadline"
        outcome, holder = self._dropped[elected.place]
        rivals = [wait for wait in self.waits.values() if wait.place == elected.place and now < wait.deadline]
        if outcome == "expired":
            rivals = [wait for wait in rivals if not same_process(wait.peer, holder)] or rivals

        assert rivals[0] is elected, "the elected waiter is not the longest-waiting"

    def _judge_answer(
        self, asker: Peer, request: wire.Request, presented: Held | None, effects: list[Effect], now: float
    ) -> None:
        assert len(self._direct) == 1, f"{len(self._direct)} direct replies"
        (reply,) = self._direct
        match request:
            case wire.Begin():
                assert isinstance(reply, (wire.Pending, *wire.FINAL_REPLIES_OF_BEGIN))
                if isinstance(reply, wire.Pending):
                    place = self._place(asker, request)
                    assert place is not None
                    seconds = self.settings.wait_seconds if request.wait_seconds is None else request.wait_seconds
                    self.waits[asker.id, request.id] = Wait(asker, place, now + seconds)
                self._judge_served(asker, request, reply)
            case wire.Complete() | wire.Fail() | wire.Renew() if presented is None:
                others = [effect for effect in effects if not isinstance(effect, EmitNote)]
                assert isinstance(reply, wire.StaleLease)
                assert len(others) == 1, "a lease that is not current changed something"
            case wire.Complete():
                assert presented is not None
                self._completed(request, presented, reply)
            case wire.Fail() if request.kind in {"fatal", "ignored"} and not isinstance(reply, wire.Lease):
                assert presented is not None
                assert not self._waiting(presented.place), "a waiter outlived the end of its flight"
            case wire.Renew():
                assert presented is not None
                presented.expires = now + self.settings.lease_seconds
            case _:
                self._judge_contents(asker, request, reply)

    def _judge_contents(self, asker: Peer, request: wire.Request, reply: wire.AnyReply) -> None:
        match request:
            case wire.Get():
                self._judge_served(asker, request, reply)
            case wire.Put() if isinstance(reply, wire.Stored):
                self.origins[bytes(request.value)] = Origin(self._place(asker, request), request.tags, reply.stored)
            case wire.Delete() if isinstance(reply, wire.Deleted):
                place = self._place(asker, request)
                self._forbid(lambda other: other == place, None)
            case wire.Purge() if isinstance(reply, wire.Deleted):
                self._forbid(lambda other: other is not None and means(request.namespace, other[0]), request.tag)
            case _:
                pass

    def _completed(self, request: wire.Complete, presented: Held, reply: wire.AnyReply) -> None:
        assert isinstance(reply, wire.Stored)
        course = None if presented.place is None else self.courses[presented.place]
        allowed = course is not None and (
            request.store and course.may_store and course.purged_tags.isdisjoint(request.tags)
        )
        assert allowed or not reply.stored, "an answer was stored that may not be"
        del self.held[request.lease]
        assert not self._waiting(presented.place), "a waiter outlived the end of its flight"
        self.origins[bytes(request.value)] = Origin(presented.place, request.tags, reply.stored)

    def _judge_served(self, asker: Peer, request: wire.Begin | wire.Get, reply: wire.AnyReply) -> None:
        if isinstance(reply, wire.Hit | wire.Shared):
            origin = self.origins[bytes(reply.value)]
            assert origin.place == self._place(asker, request), "a value crossed into another place"
            assert origin.servable, "a value was served that was never stored, or removed since"

    def _forbid(self, reaches: Callable[[Place | None], bool], tag: str | None) -> None:
        for place, course in self.courses.items():
            if reaches(place) and tag is not None:
                course.purged_tags |= {tag}
            elif reaches(place):
                course.may_store = False

        for origin in self.origins.values():
            origin.servable &= not reaches(origin.place) or (tag is not None and tag not in origin.tags)

    def _judge_rest(self, event: Event, now: float) -> None:
        led = self._led()
        self.courses = {place: course for place, course in self.courses.items() if place in led}
        assert all(wait.place in led for wait in self.waits.values()), "a waiter waits for a flight that is over"
        match event:
            case PeerLost(peer):
                assert all(held.peer != peer for held in self.held.values()), "a lost peer holds a lease"
            case Tick():
                assert all(now < wait.deadline for wait in self.waits.values()), "a waiter outlived its deadline"
                assert all(now < held.expires for held in self.held.values()), "a lease outlived its holder's silence"
            case DrainExpired():
                assert not self.waits, "a waiter outlived the drain"
            case _:
                pass

    def _waiting(self, place: Place | None) -> bool:
        return any(wait.place == place for wait in self.waits.values())

    def _place(self, peer: Peer, request: wire.Begin | wire.Get | wire.Put | wire.Delete) -> Place | None:
        scope = scope_of(self.settings, peer, request.namespace)
        return None if scope is None or request.key is None else (scope, request.key)
