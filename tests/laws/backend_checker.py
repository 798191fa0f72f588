"""Check breakers, limits, queues and budgets on events and replies: the `EventChecker` with what it needs to know of backends.

It predicts nothing that is a matter of policy (which backend, who is next). It says what must never happen, and what must have
happened when an event is over. It is for worlds without streams and stores, whose callers use an id once.
"""

from collections import Counter, defaultdict
from collections.abc import Sequence

from sidecard.core import notes
from sidecard.core.backends.breaker import CallResult
from sidecard.core.effects import Effect, SendReply
from sidecard.core.events import DrainExpired, Event, Peer, Tick
from sidecard.core.settings import BackendSettings, EngineSettings, settings_of_unnamed
from sidecard_client.protocol import wire
from tests.laws.event_checker import EventChecker
from tests.laws.held_callers import HeldCallers
from tests.laws.observed import Asked, Held, Who
from tests.laws.reference_breaker import ReferenceBreaker

_COUNTER = {
    wire.Hit: "hits",
    wire.Shared: "shared",
    wire.Lease: "leases_first",
    wire.Failed: "failed",
    wire.Rejected: "rejected",
    wire.Timeout: "timeouts",
}
_OF_BACKENDS = frozenset({"saturated", "breaker_open", "budget", "sovereign"})
_SMALL_TABLE = 100


class BackendChecker(EventChecker):
    """Checks one run of the engine."""

    def __init__(self, settings: EngineSettings) -> None:
        super().__init__(settings)
        self.breakers: dict[str, ReferenceBreaker] = {}
        self.counts: Counter[str] = Counter()
        self.billed_dollars: dict[str, float] = defaultdict(float)
        self.passed_over: set[tuple[str, str]] = set()
        """Backends that had room when a caller got no lease, and the reply it got instead: wrong, if no caller was before it."""
        self._grants: dict[str, list[float]] = defaultdict(list)
        self._unanswered: dict[str, Held] = {}
        """Leases that ended before their call did: a late answer is still billed."""
        self._spent: dict[tuple[str, int], float] = defaultdict(float)
        """By budget and period."""
        self.holds = HeldCallers()
        self._exact = True
        """No lease ended between two effects of this event: what is free is known at each of them."""

    def backend(self, name: str) -> BackendSettings:
        """Return the settings of a backend."""
        return self.settings.backends.get(name) or settings_of_unnamed(name, self.settings.local_max_concurrent)

    def breaker(self, name: str) -> ReferenceBreaker:
        """Return a backend's breaker."""
        if name not in self.breakers:
            self.breakers[name] = ReferenceBreaker(self.backend(name).breaker)

        return self.breakers[name]

    def live(self, name: str) -> int:
        """Return how many leases a backend has."""
        return sum(held.backend == name for held in self.held.values())

    def is_free(self, name: str, now: float) -> bool:
        """Return whether a backend certainly takes a call, if no other caller waits for it."""
        breaker, settings = self.breaker(name), self.backend(name)
        cooled = breaker.state == "open" and breaker.until <= now
        return (
            (cooled or (breaker.admits() and not breaker.overdue(now)))
            and not (self.settings.sovereign and settings.locality == "remote")
            and not (self.settings.budgets and self._costs(name))
            and not settings.tokens_per_minute
            and self._has_minute(name, now)
            and (not settings.max_concurrent or self.live(name) < (1 if settings.adaptive else settings.max_concurrent))
        )

    def may_be_held(self, asked: Asked, names: Sequence[str], now: float, *, starts: bool = False) -> bool:
        """Return whether a caller may wait for the prompt of a call in progress at one of these backends.

        ``starts``: it does, and the time for which it may do so begins, unless it has begun already.
        """
        return any(
            self.holds.may_wait(asked, name, self.backend(name), self.held, now, starts=starts) for name in names
        )

    # Events -----------------------------------------------------------------------------------------------------------

    def _take_in(self, event: Event, effects: Sequence[Effect], now: float) -> None:
        self.passed_over = set()
        for breaker in self.breakers.values():
            breaker.start(now)

        before = len(self.held)
        super()._take_in(event, effects, now)
        self._exact = before == len(self.held) or not isinstance(event, Tick)

    def _reconfigure(self, settings: EngineSettings) -> None:
        limited = [name for name in self._grants if self.backend(name).requests_per_minute]
        super()._reconfigure(settings)
        for name, breaker in self.breakers.items():
            breaker.reconfigure(self.backend(name).breaker)

        # A limit that is new knows of no earlier calls.
        self._grants = defaultdict(list, {name: self._grants[name] for name in limited})

    def _take_request(
        self, asker: Peer, request: wire.Request, presented: Held | None, effects: Sequence[Effect], now: float
    ) -> None:
        if isinstance(request, wire.Started) and presented is not None:
            self.holds.with_output.add(request.lease)
        elif isinstance(request, wire.Complete) and presented is None:
            late = self._unanswered.get(request.lease)
            if late is not None and late.peer == asker:
                self._bill(self._unanswered.pop(request.lease), request.usage, now)
        elif (
            isinstance(request, wire.SetBreaker)
            and asker.operator
            # A backend that is not known yet is refused.
            and any(isinstance(effect, SendReply) and isinstance(effect.reply, wire.Ok) for effect in effects)
        ):
            self.breaker(request.backend).act(request.action)

        super()._take_request(asker, request, presented, effects, now)

    def _ask(self, asker: Peer, begin: wire.Begin, reply_id: int, now: float) -> Asked:
        places = {held.place for held in self.held.values()} | {asked.place for asked in self.asked.values()}
        asked = super()._ask(asker, begin, reply_id, now)
        asked.joins = asked.place is not None and asked.place in places
        self.counts["begins"] += 1
        return asked

    def _ask_again(self, presented: Held, request: wire.Fail, now: float) -> Asked:
        asked = super()._ask_again(presented, request, now)
        self.counts["begins"] -= 1
        asked.joins = False
        asked.tried, asked.maybe_tried = presented.asked.tried, presented.asked.maybe_tried
        return asked

    def _leave(self, callers: list[Who]) -> None:
        self.counts["left"] += sum(self.asked[who].failed is None for who in callers)
        super()._leave(callers)

    def _end(self, names: list[str], request: wire.Complete | wire.Fail | None, now: float) -> None:
        for name in names:
            held = self.held[name]
            result, pause_seconds = self._result(held, request, now)
            self.breaker(held.backend).end(name, held.generation, result, now, pause_seconds)
            if isinstance(request, wire.Complete) or (request is not None and _is_answered(request)):
                self._bill(held, request.usage, now)
            else:
                self._unanswered[name] = held

        super()._end(names, request, now)

    def _result(self, held: Held, request: wire.Complete | wire.Fail | None, now: float) -> tuple[CallResult, float]:
        """Return what the end of a call says of its backend, and for how long the backend wants no further calls."""
        match request:
            case wire.Complete():
                return self._speed(held, request.usage, now), 0.0
            case wire.Fail() if _is_answered(request):
                return self._speed(held, request.usage, now), 0.0
            case wire.Fail(kind="fatal"):
                return "success", 0.0
            case wire.Fail(kind="transient") if request.retry_after_seconds:
                return "nothing", request.retry_after_seconds
            case wire.Fail(kind="transient", timeout=False):
                return "failure", 0.0
            case wire.Fail(kind="transient") if self.backend(held.backend).timeouts != "nothing":
                return self.backend(held.backend).timeouts, 0.0
            case wire.Fail(kind="transient" | "ignored"):
                return "neutral", 0.0
            case _:
                return "nothing", 0.0

    def _speed(self, held: Held, usage: wire.Usage | None, now: float) -> CallResult:
        breaker = self.backend(held.backend).breaker
        first_chunk = (usage and usage.first_chunk_seconds) or 0.0
        slow = breaker.slow_seconds and now - held.granted > breaker.slow_seconds
        slow_first = breaker.slow_first_chunk_seconds and first_chunk > breaker.slow_first_chunk_seconds
        return "slow" if slow or slow_first else "success"

    def _bill(self, held: Held, usage: wire.Usage | None, now: float) -> None:
        dollars = (usage and usage.cost_dollars) or 0.0
        self.counts["billed"] += 1
        self.billed_dollars[held.backend] += dollars
        for name, budget in self.settings.budgets.items():
            if budget.task in {None, held.begin.task} and budget.backend in {None, held.backend}:
                self._spent[name, int(now // budget.period_seconds)] += dollars

    # Effects ----------------------------------------------------------------------------------------------------------

    def _note(self, note: notes.Note, now: float) -> None:
        super()._note(note, now)
        if isinstance(note, notes.BreakerOpened | notes.BreakerProbing | notes.BreakerClosed | notes.BreakerDisabled):
            self.breaker(note.backend).change(note, now)

    def _wait(self, asked: Asked, now: float) -> None:
        if not asked.joins:
            self._none_free(asked, "pending", now)

    def _check_end(
        self, asked: Asked, reply: wire.AnyReply, request: wire.Request | None, presented: Held | None, now: float
    ) -> None:
        super()._check_end(asked, reply, request, presented, now)
        match reply:
            case wire.Rejected("busy"):
                assert self.settings.max_leases < _SMALL_TABLE, "busy without a small table"
            case wire.Rejected(reason=reason, backends=backends) if reason in _OF_BACKENDS:
                assert asked.names <= set(backends) <= set(asked.begin.backends or (wire.DEFAULT_BACKEND,))
                assert reason in backends.values()
                for name, why in backends.items():
                    self._check_obstacle(name, why)

                self._none_free(asked, reason, now)
            case wire.Ok():
                assert asked.failed is not None
                assert not asked.pending, "ok comes at once or not at all"
                if asked.failed.kind != "cancelled" and not self.draining:
                    self._none_free(asked, "ok", now)
            case _:
                pass

        if asked.failed is None and type(reply) in _COUNTER:
            self.counts[_COUNTER[type(reply)]] += 1
            if isinstance(reply, wire.Rejected):
                self.counts[f"rejected_{reply.reason}"] += 1

    def _grant(self, asked: Asked, reply: wire.Lease, now: float) -> Held:
        held = super()._grant(asked, reply, now)
        name, settings = reply.backend, self.backend(reply.backend)
        retried = asked.failed is not None and asked.failed.retry and asked.failed.kind == "transient" and asked.pending
        assert name in (asked.begin.backends or (wire.DEFAULT_BACKEND,)), "a backend that was not named"
        assert name not in asked.tried or retried, "a backend that has failed this caller"
        assert not (self.settings.sovereign and settings.locality == "remote"), "a remote backend in sovereign mode"
        for passed, why in reply.passed_over.items():
            self._check_obstacle(passed, why)

        breaker = self.breaker(name)
        breaker.take(reply.lease, now)
        held.generation = breaker.generation
        asked.tried = frozenset({name}) if retried else asked.tried | {name}
        asked.maybe_tried |= {name}
        limit = settings.max_concurrent
        assert not limit or self.live(name) <= limit, "more calls in progress than the limit"
        assert len(self.held) <= self.settings.max_leases
        self._grants[name].append(now)
        if settings.requests_per_minute:
            in_minute = [at for at in self._grants[name] if at > now - 60]
            assert len(in_minute) <= settings.requests_per_minute, "more calls within a minute than the limit"

        for budget_name, budget in self.settings.budgets.items():
            if budget.hard and budget.task in {None, asked.begin.task} and budget.backend in {None, name}:
                spent = self._spent[budget_name, int(now // budget.period_seconds)]
                assert spent < budget.dollars or not self._costs(name), f"a lease beyond the budget {budget_name!r}"

        return held

    def _check_obstacle(self, name: str, why: wire.RejectionReason) -> None:
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
                limits = settings.max_concurrent, settings.requests_per_minute, settings.tokens_per_minute
                assert any(limits) or settings.prefix_affinity != "off"

    def _none_free(self, asked: Asked, reply: str, now: float) -> None:
        """Remember the backends that could have been called when a caller got no lease."""
        # A retry may wait for a backend that has failed it.
        if reply == "pending" and self.may_be_held(asked, asked.begin.backends or (wire.DEFAULT_BACKEND,), now):
            return

        if self._exact and len(self.held) < self.settings.max_leases:
            self.passed_over |= {(name, reply) for name in asked.names if self.is_free(name, now)}

    def _costs(self, name: str) -> bool:
        """Return whether calls of a backend may cost: all but those of a local one that never did."""
        is_local = self.backend(name).locality == "local" and name != wire.DEFAULT_BACKEND
        return not is_local or self.billed_dollars.get(name, 0.0) > 0

    def _has_minute(self, name: str, now: float) -> bool:
        most = self.backend(name).requests_per_minute
        return not most or sum(int(at) + 61 > now for at in self._grants[name]) < most

    # The end of an event ----------------------------------------------------------------------------------------------

    def _check_rest(self, event: Event, now: float) -> None:
        super()._check_rest(event, now)
        for name, breaker in self.breakers.items():
            assert breaker.due is None, f"the breaker of {name} should have changed: {breaker.due}"

        assert all(asked.pending for asked in self.asked.values()), "neither an end nor pending"
        assert not (isinstance(event, DrainExpired) and self.draining and self.asked), "a caller outlived the drain"


def _is_answered(request: wire.Complete | wire.Fail) -> bool:
    """Return whether a failed call was answered nevertheless: it is billed, and its speed counts."""
    return isinstance(request, wire.Fail) and request.kind == "ignored" and request.answered
