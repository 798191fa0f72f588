"""The law of flights at the daemon's edge: what goes into the engine and what comes out, held against each other.

As `tests.properties.referee` for worlds without them, but for streams, stores, stale answers, permits and several backends.
The notary knows nothing of the engine's mind; what it must not be in any state is `tests.laws.table_checker`'s.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from math import inf

from sidecard.core import notes
from sidecard.core.effects import Effect, EmitNote, Send
from sidecard.core.events import DrainExpired, Event, Peer, PeerJoined, PeerLost, RequestReceived, SettingsRead, Tick
from sidecard.core.settings import EngineSettings
from sidecard_client.protocol import wire
from tests.laws.records import Place, means, scope_of

_FINAL = (*wire.FINAL_REPLIES_OF_BEGIN, wire.Ok, wire.StaleLease)
_LATER = (wire.Get, wire.Delete, wire.Purge, wire.Reload)
"""Requests whose answer may come in another event."""

Who = tuple[int, int]


@dataclass(eq=False)
class Asked:
    """A begin, or a fail with ``next``, that has had no end yet."""

    peer: Peer
    begin: wire.Begin
    place: Place | None
    wait_seconds: float
    deadline: float
    since: float
    failed: wire.Fail | None = None
    pending: bool = False
    seen: int = 0


@dataclass(eq=False)
class Held:
    """A lease that is current."""

    peer: Peer
    begin: wire.Begin
    place: Place | None
    expires: float
    pieces: list[bytes] = field(default_factory=list)


@dataclass(eq=False)
class Course:
    """What is known of a flight: its leases, and whether its answer may still be stored."""

    leases: int = 0
    nexts: int = 0
    may_store: bool = True


@dataclass(eq=False)
class Kept:
    """An answer that was stored."""

    value: bytes
    tags: tuple[str, ...]
    at: float
    ttl_seconds: float
    stale_seconds: float
    servable: bool = True


class EventChecker:
    """Watches one run of the daemon. ``stores`` says that there is a store, whose entries outlive it.

    ``is_app`` tells by its pid whether a process uses our clients, which never present a lease but on its own connection.
    """

    def __init__(self, settings: EngineSettings, *, stores: bool, is_app: Callable[[int], bool]) -> None:
        self.settings = settings
        self._is_app = is_app
        self.asked: dict[Who, Asked] = {}
        self.held: dict[str, Held] = {}
        self._stores = stores
        self._names: dict[str, int] = {}
        """Of all leases that there ever were, with the peer that got each."""
        self._peers: dict[int, Peer] = {}
        self._courses: dict[Place, Course] = {}
        self._kept: dict[Place, list[Kept]] = {}
        self._later: set[Who] = set()
        self._max_elections = settings.max_elections

    def watch(self, event: Event, effects: Sequence[Effect], now: float) -> None:
        """Judge one event's effects."""
        request = event.request if isinstance(event, RequestReceived) else None
        asker = event.peer if isinstance(event, RequestReceived) else None
        presented = self._take_in(event, asker, request, now)
        direct: list[wire.AnyReply] = []
        for effect in effects:
            if isinstance(effect, EmitNote):
                if isinstance(effect.note, notes.LeaseEnded):
                    assert effect.note.lease in self.held, "a lease ended twice"
                    del self.held[effect.note.lease]
            elif isinstance(effect, Send):
                assert effect.peer in self._peers or effect.peer == 0, "an effect addresses a lost peer"
                self._reply(effect, asker, request, presented, direct, now)

        if asker is not None and request is not None and asker.id:
            self._judge_request(asker, request, presented, effects, direct, now)

        self._judge_rest(event, now)

    # What comes in ----------------------------------------------------------------------------------------------------

    def _take_in(  # noqa: C901, PLR0912 - one case for each thing that comes in
        self, event: Event, asker: Peer | None, request: wire.Request | None, now: float
    ) -> Held | None:
        match event:
            case PeerJoined(peer):
                assert peer.id not in self._peers
                self._peers[peer.id] = peer
            case PeerLost(peer):
                del self._peers[peer.id]
                self.asked = {who: asked for who, asked in self.asked.items() if who[0] != peer.id}
            case SettingsRead(settings) if settings is not None:
                self.settings = settings
                self._max_elections = max(self._max_elections, settings.max_elections)
            case _:
                pass

        if asker is None or request is None:
            return None

        who = (asker.id, request.id)
        presented = self._presented(asker, request)
        match request:
            case wire.Begin() if who not in self.asked:
                self._ask(asker, request, request.id, now)
            case wire.Fail(next=True) if presented is not None and who not in self.asked:
                self._ask(asker, presented.begin, request.id, now).failed = request
            case wire.Cancel(target=target):
                for other, asked in list(self.asked.items()):
                    if other[0] == asker.id and asked.begin.id == target:
                        del self.asked[other]
            case wire.Append(chunk=chunk) if presented is not None and presented.begin.stream:
                presented.pieces.append(bytes(chunk))
                self._grow_patient(presented.place, now)
            case wire.Renew() if presented is not None:
                presented.expires = now + self.settings.lease_seconds
            case _ if isinstance(request, _LATER):
                self._later.add(who)

        return presented

    def _ask(self, asker: Peer, begin: wire.Begin, reply_id: int, now: float) -> Asked:
        scope = scope_of(self.settings, asker, begin.namespace)
        place = None if scope is None or begin.key is None else (scope, begin.key)
        seconds = self.settings.wait_seconds if begin.wait_seconds is None else begin.wait_seconds
        # Who waits for nobody waits for the store all the same, as long as that takes.
        deadline = now + seconds if seconds > 0 else inf
        asked = self.asked[asker.id, reply_id] = Asked(asker, begin, place, seconds, deadline, now)
        return asked

    def _presented(self, asker: Peer, request: wire.Request) -> Held | None:
        if not isinstance(request, wire.Append | wire.Complete | wire.Fail | wire.Renew):
            return None

        if self._is_app(asker.pid):
            assert self._names.get(request.lease) == asker.id, (
                f"a client presents a lease that its connection never had: {request}"
            )

        held = self.held.get(request.lease)
        return held if held is not None and held.peer == asker else None

    def _grow_patient(self, place: Place | None, now: float) -> None:
        for asked in self.asked.values():
            if asked.place == place and asked.begin.stream:
                # Also where it has just passed: a piece that comes before the tick is in time.
                asked.deadline = now + asked.wait_seconds

    # What goes out ----------------------------------------------------------------------------------------------------

    def _reply(
        self,
        effect: Send,
        asker: Peer | None,
        request: wire.Request | None,
        presented: Held | None,
        direct: list[wire.AnyReply],
        now: float,
    ) -> None:
        who, reply = (effect.peer, effect.reply.id), effect.reply
        is_direct = asker is not None and request is not None and who == (asker.id, request.id)
        asked = self.asked.get(who)
        if asked is None or (is_direct and not self._may_end(asked, request, reply)):
            if is_direct:
                direct.append(reply)
                if isinstance(reply, wire.Hit) and isinstance(request, wire.Get):
                    assert asker is not None
                    self._judge_served(self._place(asker, request), bytes(reply.value), reply, now)
            else:
                assert who in self._later, f"a reply that nobody waits for: {reply}"

            self._later.discard(who)
            return

        if is_direct:
            direct.append(reply)

        if isinstance(reply, wire.Pending):
            assert not asked.pending, "told twice to wait"
            asked.pending = True
        elif isinstance(reply, wire.Chunk):
            asked.seen += 1
            assert asked.begin.stream, "a piece for one who wants no stream"
            if reply.source in {"cache", "stale"}:
                asked.deadline = inf  # it is whole: how long it takes is up to the reader
        else:
            assert isinstance(reply, _FINAL), f"not an end: {reply}"
            del self.asked[who]
            self._judge_end(asked, reply, request, presented, now)

    @staticmethod
    def _may_end(asked: Asked, request: wire.Request | None, reply: wire.AnyReply) -> bool:
        """Tell whether a direct reply is that of the begin, and not of another request with its id."""
        if isinstance(request, wire.Begin):
            return request is asked.begin and not (isinstance(reply, wire.Error) and asked.pending)

        return request is asked.failed or (
            isinstance(reply, wire.FINAL_REPLIES_OF_BEGIN) and not isinstance(reply, wire.Error)
        )

    def _judge_end(
        self, asked: Asked, reply: wire.AnyReply, request: wire.Request | None, presented: Held | None, now: float
    ) -> None:
        match reply:
            case wire.Lease():
                assert not asked.seen, "who has seen a piece may not lead"
                assert now < asked.deadline or not asked.pending, "a lease for one who has stopped waiting"
                self._grant(asked, reply, now)
            case wire.Timeout():
                assert asked.wait_seconds <= 0 or now >= asked.deadline, "sent away before its time"
            case wire.Hit():
                self._judge_served(asked.place, bytes(reply.value), reply, now)
            case wire.Shared() if (
                isinstance(request, wire.Complete) and presented is not None and not presented.begin.stream
            ):
                assert bytes(reply.value) == bytes(request.value) or asked.place != presented.place, "another answer"
            case wire.Ok() | wire.StaleLease():
                assert asked.failed is not None
            case _:
                pass

    def _grant(self, asked: Asked, reply: wire.Lease, now: float) -> None:
        place = asked.place
        assert reply.lease not in self._names, "a lease's name was used twice"
        assert place is None or all(held.place != place for held in self.held.values()), "two live leases of one key"
        self._names[reply.lease] = asked.peer.id
        self.held[reply.lease] = Held(asked.peer, asked.begin, place, now + self.settings.lease_seconds)
        if place is not None:
            course = self._courses.setdefault(place, Course())
            course.leases += 1
            course.nexts += asked.failed is not None
            assert course.leases <= 1 + self._max_elections + course.nexts, "more holders than elections allow"

    def _judge_served(self, place: Place | None, value: bytes, reply: wire.Hit, now: float) -> None:
        """An answer that is served must be the one that was kept last, or still be on its way to this reader."""
        assert place is not None
        if self._stores:
            return

        kept = [one for one in self._kept.get(place, ()) if one.value == value]
        assert kept, "an answer was served that was never stored there"
        last = kept[-1]
        assert last.servable, "an answer was served that was removed"
        assert last is self._kept[place][-1], "an answer was served though a newer one was stored"
        age_seconds = now - last.at
        limit_seconds = last.ttl_seconds + (last.stale_seconds if reply.stale else 0.0)
        assert age_seconds <= limit_seconds, f"an answer was served that is {age_seconds} s old"

    # When it is over --------------------------------------------------------------------------------------------------

    def _judge_request(
        self,
        asker: Peer,
        request: wire.Request,
        presented: Held | None,
        effects: Sequence[Effect],
        direct: list[wire.AnyReply],
        now: float,
    ) -> None:
        replies = [reply for reply in direct if not isinstance(reply, wire.Chunk | wire.End)]
        match request:
            case wire.Append() | wire.Complete() | wire.Fail() | wire.Renew() if presented is None:
                assert [type(reply) for reply in replies] == [wire.StaleLease], (
                    f"a lease that is not current: {replies}"
                )
                others = [effect for effect in effects if isinstance(effect, Send)]
                assert len(others) == 1, "a lease that is not current changed something"
            case wire.Append():
                assert not replies or isinstance(replies[0], wire.Error)
            case wire.Complete():
                assert presented is not None
                if replies and isinstance(replies[0], wire.Stored):
                    self._completed(request, presented, replies[0], now)
            case wire.Delete() if replies or (asker.id, request.id) in self._later:
                place = self._place(asker, request)
                self._remove(lambda other: other == place, None)
            case wire.Purge() if asker.operator:
                self._remove(lambda other: means(request.namespace, other[0]), request.tag)
            case wire.Put() if replies and isinstance(replies[0], wire.Stored):
                self._keep(
                    self._place(asker, request), bytes(request.value), request.tags, request.ttl_seconds, None, now
                )
            case wire.Begin():
                asked = self.asked.get((asker.id, request.id))
                assert asked is None or asked.pending or asked.seen or self._stores, "neither an end nor pending"
            case _:
                late = (asker.id, request.id) in self._later
                assert len(replies) + late == 1, f"{request} was answered {replies}"

    def _completed(self, request: wire.Complete, presented: Held, reply: wire.Stored, now: float) -> None:
        place = presented.place
        self.held.pop(request.lease, None)
        if place is None:
            assert not reply.stored
            return

        course = self._courses[place]
        assert not reply.stored or (request.store and course.may_store), "an answer was stored that may not be"
        begin = presented.begin
        value = _listed(presented.pieces) if begin.stream else bytes(request.value)
        ttl_seconds = begin.ttl_seconds if request.ttl_seconds is None else request.ttl_seconds
        if reply.stored:
            self._keep(place, value, request.tags, ttl_seconds, begin, now)
        elif request.store and course.may_store:
            # It was too large, or dead at once: what the key means has changed all the same.
            self._kept.pop(place, None)

        for asked in self.asked.values():
            if asked.place == place:
                assert asked.seen or asked.pending is False or asked.begin.stream, (
                    "a waiter outlived the end of its flight"
                )
                asked.deadline = inf

    def _keep(
        self,
        place: Place | None,
        value: bytes,
        tags: tuple[str, ...],
        ttl_seconds: float | None,
        begin: wire.Begin | None,
        now: float,
    ) -> None:
        if place is None:
            return

        settings = self.settings
        stale_seconds = settings.stale_seconds
        if begin is not None and begin.stale_seconds is not None:
            stale_seconds = begin.stale_seconds

        ttl = settings.ttl_seconds if ttl_seconds is None else ttl_seconds
        window_seconds = settings.sharing_window_seconds if begin is not None else 0.0
        kept = self._kept.setdefault(place, [])
        kept.append(Kept(value, tags, now, ttl, max(stale_seconds, window_seconds - ttl)))
        del kept[:-8]

    def _remove(self, reaches: Callable[[Place], bool], tag: str | None) -> None:
        for place, course in self._courses.items():
            course.may_store &= not reaches(place)

        for place, kept in self._kept.items():
            if reaches(place):
                for one in kept:
                    one.servable &= tag is not None and tag not in one.tags

    def _judge_rest(self, event: Event, now: float) -> None:
        busy = {held.place for held in self.held.values()} | {asked.place for asked in self.asked.values()}
        for place in [place for place in self._courses if place not in busy]:
            del self._courses[place]

        match event:
            case PeerLost(peer):
                assert all(held.peer != peer for held in self.held.values()), "a lost peer holds a lease"
            case Tick():
                assert all(now < asked.deadline for asked in self.asked.values()), "a waiter outlived its deadline"
                assert all(now < held.expires for held in self.held.values()), "a lease outlived its holder's silence"
            case DrainExpired():
                waiting = [asked for asked in self.asked.values() if asked.failed is None and asked.pending]
                assert not waiting, "a waiter outlived the drain"
            case _:
                pass

    def _place(self, peer: Peer, request: wire.Get | wire.Put | wire.Delete) -> Place | None:
        scope = scope_of(self.settings, peer, request.namespace)
        return None if scope is None else (scope, request.key)


def _listed(pieces: list[bytes]) -> bytes:
    """Return the list of pieces, as msgpack has it."""
    assert len(pieces) < 16
    return bytes((0x90 + len(pieces),)) + b"".join(pieces)
