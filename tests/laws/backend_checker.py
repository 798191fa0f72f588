"""Backends as seen from outside: who holds which lease, who waits, and what each breaker must be, from events and replies.

The witness predicts nothing that is a matter of policy (which backend, who is next): it says what must never happen, and
what must have happened when an event is over.
"""

from collections import Counter, defaultdict
from dataclasses import dataclass, field

from sidecard.core import notes
from sidecard.core.backends.breaker import CallResult
from sidecard.core.effects import Effect, EmitNote, Send
from sidecard.core.events import (
    DrainExpired,
    DrainRequested,
    Event,
    Peer,
    PeerJoined,
    PeerLost,
    RequestReceived,
    SettingsRead,
    Tick,
)
from sidecard.core.settings import BackendSettings, EngineSettings, settings_of_unnamed
from sidecard_client.protocol import wire
from tests.laws.reference_breaker import ReferenceBreaker

_FINAL = (*wire.FINAL_REPLIES_OF_BEGIN, wire.Ok, wire.StaleLease)
_COUNTER = {
    wire.Hit: "hits",
    wire.Shared: "shared",
    wire.Lease: "leases_first",
    wire.Failed: "failed",
    wire.Rejected: "rejected",
    wire.Timeout: "timeouts",
}
_OF_BACKENDS = frozenset({"saturated", "breaker_open", "budget", "sovereign"})
Who = tuple[int, int]
"""Peer and request id."""


@dataclass(eq=False)
class Asked:
    """A begin, or a fail with ``next``, that has had no end yet."""

    peer: Peer
    begin: wire.Begin
    reply_id: int
    deadline: float
    joins: bool
    """Somebody else is making this call."""
    failed: wire.Fail | None = None
    tried: frozenset[str] = frozenset()
    maybe_tried: frozenset[str] = frozenset()
    pending: bool = False

    @property
    def names(self) -> frozenset[str]:
        """The backends that may certainly still answer it."""
        return frozenset(self.begin.backends or ("default",)) - self.maybe_tried


@dataclass(eq=False)
class Held:
    """A lease that is current."""

    peer: Peer
    begin: wire.Begin
    backend: str
    generation: int
    granted: float
    expires: float
    tried: frozenset[str]
    """Backends that have certainly failed this caller since its last retry."""
    maybe_tried: frozenset[str]
    """And all that it can be, since a lease after a wait may be a retry's or another backend's."""


@dataclass(eq=False)
class BackendChecker:
    """Watches one engine."""

    settings: EngineSettings
    peers: dict[int, Peer] = field(default_factory=dict)
    asked: dict[Who, Asked] = field(default_factory=dict)
    held: dict[str, Held] = field(default_factory=dict)
    unanswered: dict[str, Held] = field(default_factory=dict)
    """Leases that ended before their call did, whose late answer is still to be billed."""
    breakers: dict[str, ReferenceBreaker] = field(default_factory=dict)
    grants: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    counts: Counter[str] = field(default_factory=Counter)
    billed_dollars: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    draining: bool = False
    names: set[str] = field(default_factory=set)
    """Of all leases that there ever were."""
    passed_by: set[tuple[str, str]] = field(default_factory=set)
    """Backends that had room when a caller was not let through, and what it was told: wrong, if nobody was before it."""
    _answers: list[wire.AnyReply] = field(default_factory=list)
    _exact: bool = True
    """No lease has ended between two effects of this event: what is free is known at each of them."""

    def backend(self, name: str) -> BackendSettings:
        """Return what holds for a backend."""
        return self.settings.backends.get(name) or settings_of_unnamed(name)

    def breaker(self, name: str) -> ReferenceBreaker:
        """Return a backend's breaker."""
        if name not in self.breakers:
            self.breakers[name] = ReferenceBreaker(self.backend(name).breaker)

        return self.breakers[name]

    def live(self, name: str) -> int:
        """Count a backend's leases that are current."""
        return sum(held.backend == name for held in self.held.values())

    def watch(self, event: Event, effects: list[Effect], now: float) -> None:
        """Judge one event's effects."""
        self._answers = []
        self.passed_by = set()
        for breaker in self.breakers.values():
            breaker.start(now)

        before = len(self.held)
        self._take_in(event, now)
        self._exact = before == len(self.held) or not isinstance(event, Tick)
        asker, request = (event.peer, event.request) if isinstance(event, RequestReceived) else (None, None)
        for effect in effects:
            if isinstance(effect, EmitNote):
                self._hear(effect.note, now)
            else:
                assert isinstance(effect, Send), "an effect for a store that there is not"
                assert effect.peer in self.peers, "an effect addresses a lost peer"
                self._reply(effect.peer, effect.reply, asker, request, now)

        self._judge_rest(event, now)

    def _take_in(self, event: Event, now: float) -> None:
        match event:
            case PeerJoined(peer):
                self.peers[peer.id] = peer
            case PeerLost(peer):
                self._lose(peer, now)
            case RequestReceived(peer, request):
                self._ask(peer, request, now)
            case Tick():
                for name in [name for name, held in self.held.items() if held.expires <= now]:
                    self._end(name, "nothing", now)
            case DrainRequested():
                self.draining = True
            case SettingsRead(settings) if settings is not None:
                self._reconfigure(settings)
            case DrainExpired():
                pass

    def _reconfigure(self, settings: EngineSettings) -> None:
        limited = [name for name in self.grants if self.backend(name).requests_per_minute]
        self.settings = settings
        for name, breaker in self.breakers.items():
            breaker.reconfigure(self.backend(name).breaker)

        # A limit that is new knows of no earlier calls.
        self.grants = defaultdict(list, {name: self.grants[name] for name in limited})

    def _judge_rest(self, event: Event, now: float) -> None:
        """What must be so when an event is over."""
        for name, breaker in self.breakers.items():
            assert breaker.due is None, f"the breaker of {name} should have told: {breaker.due}"

        assert all(asked.pending for asked in self.asked.values()), "neither an end nor pending"
        match event:
            case RequestReceived(_, request):
                later = isinstance(request, wire.Begin | wire.Fail) and not self._answers
                assert later or len(self._answers) == 1, f"{request} was answered {self._answers}"
            case Tick():
                assert all(now < asked.deadline for asked in self.asked.values()), "a caller outlived its deadline"
            case DrainExpired() if self.draining:
                assert not self.asked, "a caller outlived the drain"
            case _:
                pass

    # What comes in ---------------------------------------------------------------------------------------------------

    def _ask(self, peer: Peer, request: wire.AnyRequest, now: float) -> None:
        match request:
            case wire.Begin() if (peer.id, request.id) not in self.asked:
                self.counts["begins"] += 1
                wait = self.settings.wait_seconds if request.wait_seconds is None else request.wait_seconds
                joins = request.key is not None and self._in_flight(peer, request.key)
                self.asked[peer.id, request.id] = Asked(peer, request, request.id, now + wait, joins)
            case wire.Complete(lease=name):
                self._complete(peer, name, request.usage, now)
            case wire.Fail(lease=name) if name in self.held and self.held[name].peer == peer:
                self._fail(peer, request, now)
            case wire.Renew(lease=name) if name in self.held and self.held[name].peer == peer:
                self.held[name].expires = now + self.settings.lease_seconds
            case wire.Cancel():
                self._cancel(peer, request.target, now)
            case wire.SetBreaker() if peer.operator:
                self.breaker(request.backend).act(request.action)
            case _:
                pass

    def _in_flight(self, peer: Peer, key: str) -> bool:
        flights = {(held.peer.uid, held.begin.key) for held in self.held.values()}
        flights |= {(asked.peer.uid, asked.begin.key) for asked in self.asked.values()}
        return (peer.uid, key) in flights

    def _complete(self, peer: Peer, name: str, usage: wire.Usage | None, now: float) -> None:
        held = self.held.get(name)
        if held is None:
            late = self.unanswered.get(name)
            if late is not None and late.peer == peer:
                self._bill(self.unanswered.pop(name).backend, usage)
        elif held.peer == peer:
            self._bill(held.backend, usage)
            self._end(name, self._verdict_of_answer(held, usage, now), now, answered=True)

    def _fail(self, peer: Peer, request: wire.Fail, now: float) -> None:
        held = self.held[request.lease]
        settings = self.backend(held.backend)
        verdict: CallResult = "nothing"
        told_off = 0.0
        answered = request.kind == "ignored" and request.answered
        if answered:
            self._bill(held.backend, request.usage)
            verdict = self._verdict_of_answer(held, request.usage, now)
        elif request.kind == "fatal":
            verdict = "success"
        elif request.kind == "transient" and request.retry_after_seconds:
            told_off = request.retry_after_seconds
        elif request.kind == "transient":
            verdict = settings.timeouts if request.timeout else "failure"

        self._end(request.lease, verdict, now, told_off, answered=answered)
        if request.next:
            wait = self.settings.wait_seconds if held.begin.wait_seconds is None else held.begin.wait_seconds
            self.asked[peer.id, request.id] = Asked(
                peer,
                held.begin,
                request.id,
                now + wait,
                joins=False,
                failed=request,
                tried=held.tried,
                maybe_tried=held.maybe_tried,
            )

    def _verdict_of_answer(self, held: Held, usage: wire.Usage | None, now: float) -> CallResult:
        breaker = self.backend(held.backend).breaker
        first_chunk = (usage and usage.first_chunk_seconds) or 0.0
        slow = breaker.slow_seconds and now - held.granted > breaker.slow_seconds
        slow_first = breaker.slow_first_chunk_seconds and first_chunk > breaker.slow_first_chunk_seconds
        return "slow" if slow or slow_first else "success"

    def _bill(self, backend: str, usage: wire.Usage | None) -> None:
        self.counts["billed"] += 1
        self.billed_dollars[backend] += (usage and usage.cost_dollars) or 0.0

    def _end(
        self, name: str, verdict: CallResult, now: float, told_off: float = 0.0, *, answered: bool = False
    ) -> None:
        held = self.held.pop(name)
        self.breaker(held.backend).end(name, held.generation, verdict, now, told_off)
        if not answered:
            self.unanswered[name] = held

    def _cancel(self, peer: Peer, target: int, now: float) -> None:
        for who, asked in list(self.asked.items()):
            if who[0] == peer.id and asked.begin.id == target:
                del self.asked[who]
                self.counts["left"] += asked.failed is None

        for name, held in list(self.held.items()):
            if held.peer == peer and held.begin.id == target:
                self._end(name, "nothing", now)

    def _lose(self, peer: Peer, now: float) -> None:
        del self.peers[peer.id]
        for who in [who for who in self.asked if who[0] == peer.id]:
            self.counts["left"] += self.asked.pop(who).failed is None

        for name in [name for name, held in self.held.items() if held.peer == peer]:
            self._end(name, "nothing", now)

    # What goes out ---------------------------------------------------------------------------------------------------

    def _hear(self, note: notes.Note, now: float) -> None:
        if isinstance(note, notes.BreakerOpened | notes.BreakerProbing | notes.BreakerClosed | notes.BreakerDisabled):
            self.breaker(note.backend).hear(note, now)

    def _reply(
        self, peer_id: int, reply: wire.AnyReply, asker: Peer | None, request: wire.AnyRequest | None, now: float
    ) -> None:
        direct = asker is not None and request is not None and (peer_id, reply.id) == (asker.id, request.id)
        who = (peer_id, reply.id)
        if who not in self.asked or (direct and isinstance(reply, wire.Error)):
            assert direct, f"a reply that nobody waits for: {reply}"
            assert not isinstance(request, wire.Begin) or isinstance(reply, wire.Error)
            self._answers.append(reply)
            return

        asked = self.asked[who]
        if isinstance(reply, wire.Pending):
            assert not asked.pending, "told twice to wait"
            asked.pending = True
            if not asked.joins:
                self._none_free(asked, "pending", now)

            return

        assert isinstance(reply, _FINAL), f"not an end: {reply}"
        del self.asked[who]
        if direct and not asked.pending:
            self._answers.append(reply)

        self._judge_end(asked, reply, now)
        if asked.failed is None:
            self.counts[_COUNTER[type(reply)]] += 1
            if isinstance(reply, wire.Rejected):
                self.counts[f"rejected_{reply.reason}"] += 1

    def _judge_end(self, asked: Asked, reply: wire.AnyReply, now: float) -> None:
        match reply:
            case wire.Lease():
                self._grant(asked, reply, now)
            case wire.Timeout():
                assert now >= asked.deadline, "sent away before its deadline"
            case wire.Rejected("busy"):
                assert self.settings.max_leases < 100, "busy without a small table"
            case wire.Rejected(reason="draining"):
                assert self.draining
            case wire.Rejected(reason=reason, backends=backends) if reason in _OF_BACKENDS:
                assert asked.names <= set(backends) <= set(asked.begin.backends or ("default",))
                assert reason in backends.values()
                for name, why in backends.items():
                    self._judge_obstacle(name, why)

                self._none_free(asked, reason, now)
            case wire.Ok():
                assert asked.failed is not None
                assert not asked.pending, "ok comes at once or not at all"
                if asked.failed.kind != "cancelled" and not self.draining:
                    self._none_free(asked, "ok", now)
            case _:
                pass

    def _grant(self, asked: Asked, reply: wire.Lease, now: float) -> None:
        name, settings = reply.backend, self.backend(reply.backend)
        assert reply.lease not in self.names, "a lease's name was used twice"
        assert not self.draining, "a lease while draining"
        assert now < asked.deadline or not asked.pending, "a lease after the deadline"
        key = asked.begin.key
        assert key is None or all(
            (held.peer.uid, held.begin.key) != (asked.peer.uid, key) for held in self.held.values()
        ), "two live leases of one key"
        retried = asked.failed is not None and asked.failed.retry and asked.failed.kind == "transient" and asked.pending
        assert name in (asked.begin.backends or ("default",)), "a backend that was not asked for"
        assert name not in asked.tried or retried, "a backend that has failed this caller"
        assert not (self.settings.sovereign and settings.locality == "remote"), "a remote backend in sovereign mode"
        for passed, why in reply.passed_over.items():
            self._judge_obstacle(passed, why)

        breaker = self.breaker(name)
        breaker.take(reply.lease, now)
        self.names.add(reply.lease)
        tried = frozenset({name}) if retried else asked.tried | {name}
        expires = now + self.settings.lease_seconds
        maybe_tried = asked.maybe_tried | {name}
        self.held[reply.lease] = Held(
            asked.peer, asked.begin, name, breaker.generation, now, expires, tried, maybe_tried
        )
        limit = settings.max_concurrent
        assert not limit or self.live(name) <= limit, "more than the limit in progress"
        assert len(self.held) <= self.settings.max_leases
        self.grants[name].append(now)
        if settings.requests_per_minute:
            in_minute = [at for at in self.grants[name] if at > now - 60]
            assert len(in_minute) <= settings.requests_per_minute, "more requests within a minute than may be"

    def _judge_obstacle(self, name: str, why: wire.RejectionReason) -> None:
        breaker, settings = self.breaker(name), self.backend(name)
        match why:
            case "breaker_open":
                assert not self._exact or not breaker.admits(), f"{name} is said to be open and is {breaker.state}"
            case "sovereign":
                assert self.settings.sovereign
                assert settings.locality == "remote"
            case "budget":
                assert any(budget.hard for budget in self.settings.budgets.values())
            case _:
                assert why == "saturated"
                assert settings.max_concurrent or settings.requests_per_minute or settings.tokens_per_minute

    def _none_free(self, asked: Asked, told: str, now: float) -> None:
        """Remember which backends could have been called instead of telling a caller that none can."""
        if self._exact and len(self.held) < self.settings.max_leases:
            self.passed_by |= {(name, told) for name in asked.names if self.is_free(name, now)}

    def is_free(self, name: str, now: float) -> bool:
        """Tell whether a backend certainly takes a call, if nobody waits for it."""
        breaker, settings = self.breaker(name), self.backend(name)
        cooled = breaker.state == "open" and breaker.until <= now
        return (
            (cooled or (breaker.admits() and not breaker.overdue(now)))
            and not (self.settings.sovereign and settings.locality == "remote")
            and not (self.settings.budgets and (settings.locality == "remote" or name == "default"))
            and not settings.tokens_per_minute
            and self._has_minute(name, now)
            and (not settings.max_concurrent or self.live(name) < (1 if settings.adaptive else settings.max_concurrent))
        )

    def _has_minute(self, name: str, now: float) -> bool:
        most = self.backend(name).requests_per_minute
        return not most or sum(int(at) + 61 > now for at in self.grants[name]) < most
