"""Check the laws of flights on what enters and leaves the engine: events, effects and the time, and nothing else.

The checker predicts no choice (which waiter leads, which entry is evicted). It raises `AssertionError` at the first effect that
a law forbids, and at the end of an event that lacks an effect a law demands. It works in every world: with streams, with a
store, with stale answers and with several backends. Breakers and limits are the `BackendChecker`'s.
"""

from collections.abc import Callable, Sequence
from math import inf

from msgspec import UNSET

from sidecard.core import notes
from sidecard.core.effects import (
    Effect,
    EmitNote,
    SendReply,
    SendView,
    StorePurge,
    StoreRead,
    StoreRelease,
    StoreRemove,
    StoreWrite,
    ViewEffect,
)
from sidecard.core.events import (
    Absent,
    DrainExpired,
    DrainRequested,
    EntriesPurged,
    Event,
    KeyChanged,
    Peer,
    PeerJoined,
    PeerLost,
    PeersHungUp,
    RequestReceived,
    SettingsRead,
    StoreAnswered,
    Tick,
    ViewReleased,
)
from sidecard.core.settings import EngineSettings
from sidecard_client.protocol import wire
from sidecard_client.protocol.view import digest_of
from tests.laws.observed import Asked, Course, Held, Who
from tests.laws.records import Place, oldest_of, purge_covers, scope_of
from tests.laws.stored_answers import StoredAnswers
from tests.laws.view_checker import Published, ViewChecker

_CLOCK_ERROR_SECONDS = 1e-6
"""An age is a difference of instants."""

_FINAL = (*wire.FINAL_REPLIES_OF_BEGIN, wire.Ok, wire.StaleLease)
_DEFERRED = (wire.Get, wire.Delete, wire.Purge, wire.Reload)
"""Requests that a later event may answer."""

_OF_A_LEASE = (wire.Append, wire.Started, wire.Complete, wire.Fail, wire.Renew)
_FOR_THE_STORE = (StoreRead, StoreWrite, StoreRelease, StoreRemove, StorePurge)


class EventChecker:
    """Checks one run of the engine.

    ``stores``: there is a store, whose entries outlive the run. ``is_client`` returns whether a pid uses our clients, which
    present a lease only on the connection that received it.
    """

    def __init__(
        self, settings: EngineSettings, *, stores: bool = False, is_client: Callable[[int], bool] = lambda _: False
    ) -> None:
        self.settings = settings
        self.peers: dict[int, Peer] = {}
        self.asked: dict[Who, Asked] = {}
        self.held: dict[str, Held] = {}
        self.draining = False
        self._hung_up: set[int] = set()
        """Ids of peers."""
        self._stores = stores
        self._is_client = is_client
        self._holders: dict[str, int] = {}
        """Peer ids by lease name, of all leases ever granted."""
        self._courses: dict[Place, Course] = {}
        self._stored = StoredAnswers()
        self.views = ViewChecker()
        self._keys: dict[bytes, str] = {}
        """By their digests, all keys that were asked for."""
        self._deferred: set[Who] = set()
        self._unnoted: set[str] = set()
        """Leases that this event ended and whose `LeaseEnded` has not come."""
        self._max_elections = settings.max_elections

    def watch(self, event: Event, effects: Sequence[Effect], now: float) -> None:
        """Check the effects of one event."""
        request = event.request if isinstance(event, RequestReceived) else None
        asker = event.peer if isinstance(event, RequestReceived) else None
        presented = None if asker is None or request is None else self._presented(asker, request)
        self._take_in(event, effects, now)
        if asker is not None and request is not None:
            self._take_request(asker, request, presented, effects, now)

        direct: list[wire.AnyReply] = []
        replied = False
        for effect in effects:
            replied |= isinstance(effect, SendReply)
            if isinstance(effect, ViewEffect):
                assert isinstance(effect, SendView) or not replied, "a reply precedes a change of a view"
                self.views.perform(effect, asker, request, self.settings, now)
            elif isinstance(effect, EmitNote):
                self._note(effect.note, now)
            elif isinstance(effect, SendReply):
                assert effect.peer_id in self.peers or effect.peer_id == 0, "an effect addresses a lost peer"
                self._reply(effect, asker, request, presented, direct, now)
            else:
                assert self._stores or not isinstance(effect, _FOR_THE_STORE), (
                    "an effect for a store that does not exist"
                )
                if isinstance(effect, StoreRead) and isinstance(event, StoreAnswered):
                    # If the store answers at once, that never ends.
                    assert effect.claim or not isinstance(event.answer, Absent), "a question is asked again"

        assert not self._unnoted, "a lease ended without a note"
        if asker is not None and request is not None and asker.id:
            self._check_request(asker, request, presented, effects, direct, now)

        self._check_rest(event, now)
        self._check_views(now)
        if isinstance(event, DrainExpired):
            assert not self.views.views, "a view is read whose hits nobody books any more"

    def key_of(self, published: Published) -> str:
        """Return the key of a publication."""
        return self._keys[published.effect.digest]

    # Events -----------------------------------------------------------------------------------------------------------

    def _take_in(self, event: Event, effects: Sequence[Effect], now: float) -> None:
        del effects
        match event:
            case PeerJoined(peer):
                assert peer.id not in self.peers
                self.peers[peer.id] = peer
            case PeersHungUp(peers):
                self._hung_up.update(peer.id for peer in peers)
            case PeerLost(peer):
                del self.peers[peer.id]
                self.views.peer_lost(peer.id)
                self._leave([who for who in self.asked if who[0] == peer.id])
                self._end([name for name, held in self.held.items() if held.peer == peer], None, now)
            case ViewReleased(number):
                self.views.released(number)
            case Tick():
                self._end([name for name, held in self.held.items() if held.due(self.settings) <= now], None, now)
            case DrainRequested():
                self.draining = True
            case KeyChanged(scope, key, how="removed"):
                self._remove(lambda place: place == (scope, key), None)
            case EntriesPurged(namespace, tag, None):
                self._remove(lambda place: purge_covers(namespace, place[0]), tag)
            case SettingsRead(settings) if settings is not None:
                self._reconfigure(settings)
            case _:
                pass

    def _reconfigure(self, settings: EngineSettings) -> None:
        self.settings = settings
        self._max_elections = max(self._max_elections, settings.max_elections)

    def _take_request(
        self, asker: Peer, request: wire.Request, presented: Held | None, effects: Sequence[Effect], now: float
    ) -> None:
        who = (asker.id, request.id)
        key: str | None = getattr(request, "key", None)
        if key is not None:
            self._keys.setdefault(digest_of(key), key)

        match request:
            case wire.Begin() if who not in self.asked:
                self._ask(asker, request, request.id, now)
            case wire.Complete() | wire.Fail() if presented is not None and not _is_refused(who, effects):
                self._end([request.lease], request, now)
                if isinstance(request, wire.Fail) and request.next:
                    self._ask_again(presented, request, now)
            case wire.Cancel(target=target):
                waiting = [
                    other for other, asked in self.asked.items() if other[0] == asker.id and asked.begin.id == target
                ]
                self._leave(waiting)
                led = [name for name, held in self.held.items() if held.peer == asker and held.begin.id == target]
                # An id may be used again once its begin has a lease: then the wait is canceled, and the lease lives on.
                self._end([name for name in led if not waiting or name in _noted(effects)], None, now)
            case wire.Append(chunk=chunk) if presented is not None and presented.begin.stream:
                presented.chunks.append(bytes(chunk))
                presented.last_chunk = now
                self._extend_deadlines(presented.asked.course, now)
            case wire.Renew() if presented is not None:
                presented.expires = now + self.settings.lease_seconds
            case _ if isinstance(request, _DEFERRED):
                self._deferred.add(who)

    def _ask(self, asker: Peer, begin: wire.Begin, reply_id: int, now: float) -> Asked:
        scope = scope_of(self.settings, asker, begin.namespace)
        place = None if scope is None or begin.key is None else (scope, begin.key)
        seconds = self.settings.wait_seconds if begin.wait_seconds is None else begin.wait_seconds
        # A caller that does not wait for other callers still waits for the store, however long that takes.
        deadline = now + seconds if seconds > 0 else inf
        asked = self.asked[asker.id, reply_id] = Asked(asker, begin, reply_id, place, seconds, deadline, now)
        if place is not None:
            current = self._courses.get(place)
            if current is None or current.voided:
                current = self._courses[place] = asked.course

            asked.course = current

        return asked

    def _ask_again(self, presented: Held, request: wire.Fail, now: float) -> Asked:
        asked = self._ask(presented.peer, presented.begin, request.id, now)
        asked.failed, asked.course = request, presented.asked.course
        return asked

    def _leave(self, callers: list[Who]) -> None:
        """Forget callers that wait for nothing any more."""
        for who in callers:
            del self.asked[who]

    def _end(self, names: list[str], request: wire.Complete | wire.Fail | None, now: float) -> None:
        """End leases by their holder's request, or without a word of it."""
        del now
        for name in names:
            del self.held[name]
            if not isinstance(request, wire.Complete):
                self._unnoted.add(name)

    def _presented(self, asker: Peer, request: wire.Request) -> Held | None:
        if not isinstance(request, _OF_A_LEASE):
            return None

        if self._is_client(asker.pid):
            assert self._holders.get(request.lease) == asker.id, (
                f"a client presents a lease that its connection never received: {request}"
            )

        held = self.held.get(request.lease)
        return held if held is not None and held.peer == asker else None

    def _extend_deadlines(self, course: Course, now: float) -> None:
        for asked in self.asked.values():
            # A reader of a whole answer does not wait for the call of the same key that is in progress.
            if asked.course is course and asked.begin.stream and asked.deadline < inf:
                # Also where it has just passed: a chunk that comes before the tick is in time.
                asked.deadline = now + asked.wait_seconds

    # Effects ----------------------------------------------------------------------------------------------------------

    def _note(self, note: notes.Note, now: float) -> None:
        del now
        if isinstance(note, notes.LeaseEnded):
            assert note.lease in self._unnoted, "a lease ended twice, or is not over"
            self._unnoted.remove(note.lease)

    def _reply(
        self,
        effect: SendReply,
        asker: Peer | None,
        request: wire.Request | None,
        presented: Held | None,
        direct: list[wire.AnyReply],
        now: float,
    ) -> None:
        who, reply = (effect.peer_id, effect.reply.id), effect.reply
        is_direct = asker is not None and request is not None and who == (asker.id, request.id)
        if is_direct:
            direct.append(reply)

        asked = self.asked.get(who)
        if isinstance(reply, wire.Wanted):
            self._inform(effect.peer_id, reply)
        elif asked is None or (is_direct and not self._may_end(asked, request, reply)):
            assert is_direct or who in self._deferred, f"a reply that nobody waits for: {reply}"
            assert not is_direct or not isinstance(request, wire.Begin) or isinstance(reply, wire.Error)
            if is_direct and isinstance(reply, wire.Hit) and isinstance(request, wire.Get):
                assert asker is not None
                self._check_served(self._place(asker, request), reply, now)

            self._deferred.discard(who)
        elif isinstance(reply, wire.Pending):
            assert not asked.pending, "two replies say that the caller waits"
            asked.pending = True
            self._wait(asked, now)
        elif isinstance(reply, wire.Chunk):
            asked.chunks += 1
            assert asked.begin.stream, "a chunk for a caller without a stream"
            if reply.source in {"cache", "stale"}:
                asked.deadline = inf  # the answer is whole: its reader decides how long it takes
        else:
            assert isinstance(reply, _FINAL), f"not a final reply: {reply}"
            del self.asked[who]
            self._check_end(asked, reply, request, presented, now)

    def _inform(self, peer_id: int, reply: wire.Wanted) -> None:
        """The holder is notified of its first waiter."""
        held = self.held[reply.lease]
        assert (held.peer.id, held.begin.id) == (peer_id, reply.id), "another peer is told of a holder's waiters"
        assert held.begin.wanted, "a holder is told of its waiters that did not ask for it"
        assert not held.informed, "a holder is told twice of its waiters"
        held.informed = True

    @staticmethod
    def _may_end(asked: Asked, request: wire.Request | None, reply: wire.AnyReply) -> bool:
        """Return whether a direct reply is the begin's, and not that of another request with its id."""
        if isinstance(request, wire.Begin):
            return request is asked.begin and not (isinstance(reply, wire.Error) and asked.pending)

        return request is asked.failed or (
            isinstance(reply, wire.FINAL_REPLIES_OF_BEGIN) and not isinstance(reply, wire.Error)
        )

    def _wait(self, asked: Asked, now: float) -> None:
        """A caller received `Pending`."""

    def _check_end(
        self, asked: Asked, reply: wire.AnyReply, request: wire.Request | None, presented: Held | None, now: float
    ) -> None:
        ours = presented is not None and asked.place is not None and asked.course is presented.asked.course
        _check_age(asked, reply, now)

        match reply:
            case wire.Lease():
                assert not asked.chunks, "a caller that has received a chunk leads"
                assert not self.draining, "a lease while draining"
                assert now < asked.deadline or not asked.pending, "a lease after the deadline"
                self._grant(asked, reply, now)
            case wire.Timeout():
                assert asked.wait_seconds <= 0 or now >= asked.deadline, "a timeout before the deadline"
            case wire.Rejected(reason="draining"):
                assert self.draining
            case wire.Failed() if isinstance(request, wire.Fail) and ours and not self._has_left(asked, reply):
                assert presented is not None
                if request.kind != "fatal" or asked.begin.context == presented.begin.context:
                    assert (reply.kind, reply.message) == (request.kind, request.message), "another failure"
                else:
                    assert reply.kind != "fatal", "a failure of another context"
                    assert reply.detail is UNSET, "the response to a request of another context"
            case wire.Hit():
                self._check_served(asked.place, reply, now)
            case wire.Shared() if isinstance(request, wire.Complete) and presented is not None:
                assert not ours or presented.begin.stream or bytes(reply.value) == bytes(request.value), (
                    "another answer"
                )
            case wire.Shared() if isinstance(request, wire.Begin):
                self._check_served(asked.place, reply, now)
            case wire.Ok() | wire.StaleLease():
                assert asked.failed is not None
            case _:
                pass

    def _has_left(self, asked: Asked, reply: wire.Failed) -> bool:
        """Return whether a caller has hung up and is dismissed as such: its flight has ended without an election."""
        return asked.peer.id in self._hung_up and reply.kind == "cancelled"

    def _grant(self, asked: Asked, reply: wire.Lease, now: float) -> Held:
        place = asked.place
        assert reply.lease not in self._holders, "a lease's name was used twice"
        for held in self.held.values():
            if place is not None and held.place == place:
                assert held.asked.course is not asked.course, "two live leases of one flight"
                assert held.asked.course.voided or asked.course.voided, "two flights of one key that callers can join"
                held.asked.course.replaced |= held.asked.course.voided and not asked.course.voided

        self._holders[reply.lease] = asked.peer.id
        held = Held(asked, reply.backend, now, now + self.settings.lease_seconds, informed=reply.waiters > 0)
        self.held[reply.lease] = held
        if place is not None:
            course = asked.course
            course.leases += 1
            course.nexts += asked.failed is not None
            assert course.leases <= 1 + self._max_elections + course.nexts, "more holders than elections allow"

        return held

    def _check_served(self, place: Place | None, reply: wire.Hit | wire.Shared, now: float) -> None:
        assert place is not None
        if not self._stores:
            self._stored.check(place, reply, now)

    # The end of an event ----------------------------------------------------------------------------------------------

    def _check_request(
        self,
        asker: Peer,
        request: wire.Request,
        presented: Held | None,
        effects: Sequence[Effect],
        direct: list[wire.AnyReply],
        now: float,
    ) -> None:
        replies = [reply for reply in direct if not isinstance(reply, wire.Chunk | wire.End)]
        who = (asker.id, request.id)
        match request:
            case wire.Append() | wire.Started() | wire.Complete() | wire.Fail() | wire.Renew() if presented is None:
                assert [type(reply) for reply in replies] == [wire.StaleLease], (
                    f"a lease that is not current: {replies}"
                )
                others = [effect for effect in effects if isinstance(effect, SendReply)]
                assert len(others) == 1, "a lease that is not current changed something"
            case wire.Append():
                assert not replies or isinstance(replies[0], wire.Error)
            case wire.Started():
                assert not replies
            case wire.Complete():
                assert presented is not None
                assert len(replies) == 1, f"{request} was answered {replies}"
                if isinstance(replies[0], wire.Stored):
                    self._completed(request, presented, replies[0], now)
            case wire.Renew() if isinstance(replies[0], wire.Ok):
                assert presented is not None
                presented.informed = replies[0].waiters > 0
            case wire.GetView():
                sent = [effect for effect in effects if isinstance(effect, SendView)]
                assert len(sent) + len(replies) == 1, f"a view was asked for, and the answer is {effects}"
            case wire.RecordHits():
                assert all(isinstance(reply, wire.Error) for reply in replies)
            case wire.Begin():
                asked = self.asked.get(who)
                assert asked is None or asked.pending or asked.chunks or self._stores, "neither an end nor pending"
            case _:
                assert len(replies) + (who in self._deferred) == 1, f"{request} was answered {replies}"
                self._finished(asker, request, presented, replies, now)

    def _finished(
        self, asker: Peer, request: wire.Request, presented: Held | None, replies: Sequence[wire.AnyReply], now: float
    ) -> None:
        match request:
            case wire.Fail(kind="fatal" | "ignored", invalid=False) if isinstance(replies[0], wire.Ok):
                assert presented is not None
                stream, context = presented.begin.stream, presented.begin.context
                waiting = self._waiting(presented.asked.course)
                if request.kind == "fatal":
                    waiting = [asked for asked in waiting if asked.begin.context == context]

                assert stream or presented.place is None or not waiting, "a waiter outlived the end of its flight"
            case wire.Delete():
                place = self._place(asker, request)
                self._remove(lambda other: other == place, None)
            case wire.Purge() if asker.operator:
                self._remove(lambda other: purge_covers(request.namespace, other[0]), request.tag)
            case wire.Put() if isinstance(replies[0], wire.Stored):
                place = self._place(asker, request)
                assert place is not None
                self._stored.keep(self.settings, place, bytes(request.value), request, None, now)
            case _:
                pass

    def _completed(self, request: wire.Complete, presented: Held, reply: wire.Stored, now: float) -> None:
        place, begin = presented.place, presented.begin
        if place is None:
            assert not reply.stored
            return

        course = presented.asked.course
        ttl_seconds = begin.ttl_seconds if request.ttl_seconds is None else request.ttl_seconds
        kept = ttl_seconds != 0 or bool(begin.stale_seconds)
        may_store = (
            kept
            and request.store
            and course.may_store
            and not course.replaced
            and course.purged_tags.isdisjoint(request.tags)
        )
        assert not reply.stored or may_store, "an answer was stored that may not be"
        if reply.stored:
            value = _listed(presented.chunks) if begin.stream else bytes(request.value)
            self._stored.keep(self.settings, place, value, request, begin, now)
        elif may_store:
            # It was too large, or its lifetime was 0: the key's value has changed nevertheless.
            self._stored.drop(place)

        for asked in self._waiting(course):
            assert asked.begin.stream, "a waiter outlived the end of its flight"

        for asked in self.asked.values():
            if asked.course is course:
                asked.deadline = inf

    def _waiting(self, course: Course) -> list[Asked]:
        return [asked for asked in self.asked.values() if asked.course is course and asked.pending and not asked.chunks]

    def _remove(self, reaches: Callable[[Place], bool], tag: str | None) -> None:
        # Without a call in progress nothing is voided: a later call starts after the removal.
        for held in self.held.values():
            course = held.asked.course
            if held.place is not None and reaches(held.place) and tag is not None:
                course.purged_tags |= {tag}
            elif held.place is not None and reaches(held.place):
                course.may_store = False

        self._stored.remove(reaches, tag)

    def _check_rest(self, event: Event, now: float) -> None:
        busy = {held.asked.course for held in self.held.values()} | {asked.course for asked in self.asked.values()}
        for place in [place for place, course in self._courses.items() if course not in busy]:
            del self._courses[place]

        for held in self.held.values():
            assert held.informed or not held.begin.wanted or not self._waiting(held.asked.course), (
                "a holder does not know that callers wait"
            )

        if isinstance(event, Tick):
            assert all(now < asked.deadline for asked in self.asked.values()), "a waiter outlived its deadline"
        elif isinstance(event, DrainExpired):
            waiting = [asked for asked in self.asked.values() if asked.failed is None and asked.pending]
            assert not waiting, "a waiter outlived the drain"

    def _check_views(self, now: float) -> None:
        """Check that what may be read without a question is what a `Get` would be answered, and that it is read by its own."""
        self.views.check_access(self.peers, self.settings)
        for scope, published in self.views.readable(now):
            hit = wire.Hit(0, published.value, now - published.record.stored_at, False, 0.0, 0.0, "", wire.Usage())
            self._check_served((scope, self.key_of(published)), hit, now)

    def _place(self, peer: Peer, request: wire.Get | wire.Put | wire.Delete) -> Place | None:
        scope = scope_of(self.settings, peer, request.namespace)
        return None if scope is None else (scope, request.key)


def _is_refused(who: Who, effects: Sequence[Effect]) -> bool:
    """Return whether a request is answered by an error, which leaves its lease as it was."""
    return any(
        isinstance(effect, SendReply)
        and (effect.peer_id, effect.reply.id) == who
        and isinstance(effect.reply, wire.Error)
        for effect in effects
    )


def _check_age(asked: Asked, reply: wire.AnyReply, now: float) -> None:
    """Check that an answer, or the older one that a reply carries, is below its caller's bound or as new as its begin."""
    if isinstance(reply, wire.Hit | wire.Shared | wire.End):
        age_seconds, stale = reply.age_seconds, reply.stale
    elif isinstance(reply, wire.Lease | wire.Rejected) and reply.stale_value is not UNSET:
        age_seconds, stale = reply.stale_age_seconds, True
    else:
        return

    begin, oldest = asked.begin, oldest_of(asked.begin)
    if now - age_seconds < asked.began_at - _CLOCK_ERROR_SECONDS:
        tolerated_seconds = (begin.stale_seconds or 0.0) if stale else 0.0
        assert begin.mode != "refresh", f"a refresh got an older answer: {reply}"
        assert oldest is None or age_seconds < oldest + tolerated_seconds, f"an answer too old for its caller: {reply}"


def _noted(effects: Sequence[Effect]) -> set[str]:
    """Return the leases that effects say have ended."""
    return {
        effect.note.lease
        for effect in effects
        if isinstance(effect, EmitNote) and isinstance(effect.note, notes.LeaseEnded)
    }


def _listed(chunks: list[bytes]) -> bytes:
    """Return the msgpack list of chunks."""
    assert len(chunks) < 16
    return bytes((0x90 + len(chunks),)) + b"".join(chunks)
