"""Routing and admission: which backend gets a call, by resilience, limits, cost and sovereignty.

`Admission.decide` orders the backends by the route and takes the first that admits the call. Each of the others is either
worth waiting for (all permits are out, or the minute's limit is used up) or an obstacle; if all are obstacles, the call is
rejected.
"""

import math
from collections.abc import Callable, Hashable, Sequence

from msgspec import Struct

from sidecard.core.backends.backend import Backend, Permit
from sidecard.core.backends.breaker import Breaker
from sidecard.core.backends.budgets import Budget, Budgets
from sidecard.core.backends.equivalents import Choice, by_prefix
from sidecard.core.backends.prefix_policy import Patience
from sidecard.core.backends.registry import Backends
from sidecard.core.effects import Effect, EmitNote
from sidecard.core.settings import ANY_TASK, LiveSettings
from sidecard.core.shares import in_spare
from sidecard_client.protocol.wire import DEFAULT_BACKEND, Begin, RejectionReason, Route

LATENCY_HALF_LIFE_SECONDS = 300.0
"""Half-life of an unused backend's latency under the route ``fastest``, so that one that was slow once is tried again."""

_SOONEST: tuple[RejectionReason, ...] = ("saturated", "breaker_open", "budget", "sovereign")
"""Reasons, by how soon they may pass."""

_NO_OBSTACLES: dict[str, RejectionReason] = {}


class Decision(Struct):
    """Result of `Admission.decide`.

    ``chosen`` admits the call; else ``queues`` are worth waiting for; else the call is rejected for ``reason``.
    """

    route: Route
    chosen: Choice | None = None
    queues: tuple[Choice, ...] = ()
    obstacles: dict[str, RejectionReason] = _NO_OBSTACLES
    retry_after_seconds: float | None = None
    status: int | None = None
    """The HTTP status with which the backend that reopens first requested its pause."""

    @property
    def reason(self) -> RejectionReason:
        """Of several reasons, the one expected to end first."""
        return next(reason for reason in _SOONEST if reason in self.obstacles.values())


def _status_of_pause(choices: list[Choice], obstacles: dict[str, RejectionReason], now: float) -> int | None:
    """Return the status with which the backend that reopens first requested its pause, if it did."""

    def seconds_until(breaker: Breaker) -> float:
        seconds = breaker.retry_after_seconds(now)
        return math.inf if seconds is None else seconds

    open_breakers = [backend.breaker for name, backend in choices if obstacles[name] == "breaker_open"]
    return min(open_breakers, key=seconds_until).status


def queue_place(request: Begin, flow: tuple[int, int]) -> Hashable:
    """Return the place in queues that the begins of one batch share; None for one of its own."""
    return (flow, request.batch) if request.batch else None


class Admission:
    """Choose backends for begins, and issue permits."""

    def __init__(self, settings: LiveSettings, backends: Backends, budgets: Budgets) -> None:
        self._settings = settings
        self._backends = backends
        self._budgets = budgets
        self._rank: dict[Route, Callable[[Choice, float], float]] = {
            "cheapest": self._dollars,
            "fastest": self._latency,
            "least_busy": self._load,
            "weighted": self._credit,
        }

    @property
    def sovereign(self) -> bool:
        """Whether remote backends are forbidden."""
        return self._settings.now.sovereign

    def names(self, request: Begin) -> tuple[str, ...]:
        """Return the backends that may answer a begin, in its order of preference, without duplicates."""
        names = request.backends
        if not names:
            names = self._settings.now.tasks.get(request.task, ANY_TASK).backends or (DEFAULT_BACKEND,)

        return names if len(names) == 1 else tuple(dict.fromkeys(names))

    def wants_prefix(self, request: Begin) -> bool:
        """Return whether a backend that may answer a begin has ``prefix_affinity``."""
        scheduled = self._settings.now.prefix_backends
        return bool(scheduled) and not scheduled.isdisjoint(self.names(request))

    def route(self, request: Begin) -> Route:
        """Return how a begin's backends are ordered."""
        return request.route or self._settings.now.tasks.get(request.task, ANY_TASK).route or "order"

    def has_queue_room(self, backend: Backend, request: Begin, flow: tuple[int, int]) -> bool:
        """Return whether a flow may queue one more caller; its first number is the uid."""
        place = queue_place(request, flow)
        if place is not None and backend.queue.has_place(place):
            return True

        limit, waiting = backend.settings.max_queue, len(backend.queue)
        return waiting < limit or in_spare(backend.queue.of_group(flow), waiting, limit, self._settings.now.spare_share)

    def decide(  # noqa: C901 - the order of the questions is the point
        self,
        request: Begin,
        names: Sequence[str],
        flow: tuple[int, int],
        now: float,
        scope: str,
        patience: Patience,
    ) -> tuple[Decision, list[Effect]]:
        """Choose among ``names`` for a caller of ``flow``; also return notes of breakers that changed with time.

        A caller with ``patience`` waits for a backend that is processing one of its prefixes.
        """
        effects: list[Effect] = []
        choices: list[Choice] = []
        for name in names:
            backend = self._backends.of(name, flow[0], now)
            choices.append((name, backend))
            if backend.breaker.state != "closed":  # time alone does not change a closed one
                effects += map(EmitNote, backend.breaker.advance(now))

        route = self.route(request)
        if route != "order" and len(choices) > 1:
            rank = self._rank[route]
            choices.sort(key=lambda choice: rank(choice, now))  # stable: equals keep the caller's order

        if request.prefix and len(choices) > 1 and any(backend.affinity is not None for _, backend in choices):
            allowed = [choice for choice in choices if self.policy_obstacle(request.task, choice[1], now) is None]
            forbidden = [choice for choice in choices if choice not in allowed]
            choices = by_prefix(allowed, route, scope, request, now) + forbidden

        decision = Decision(route)
        waits: list[Choice] = []
        obstacles: dict[str, RejectionReason] = {}
        for choice in choices:
            name, backend = choice
            reason = self.obstacle(request.task, backend, now)
            affinity = backend.affinity
            held = reason is None and affinity is not None and affinity.holds(scope, request, patience, now)
            if (
                (held or reason == "saturated")
                and self.has_queue_room(backend, request, flow)
                # Two names may share `OTHER_BACKENDS`; a caller is in a queue at most once.
                and all(waiting is not backend for _, waiting in waits)
            ):
                waits.append(choice)
                if held:
                    obstacles[name] = "saturated"
                    break  # it is held there for a prefix, not for a permit: no other backend serves it better

            if reason is None:
                decision.chosen = choice
                if route == "weighted" and (affinity is None or not request.prefix):
                    self._charge(choice, choices, request.task, now)

                break

            obstacles[name] = reason

        if obstacles:
            decision.obstacles = obstacles
            decision.queues = tuple(waits)
            if decision.chosen is None and not waits:
                self._explain(decision, request.task, choices, now)

        return decision, effects

    def policy_obstacle(self, task: str, backend: Backend, now: float) -> RejectionReason | None:
        """Return what forbids the call regardless of load: sovereignty or a budget."""
        if self._settings.now.sovereign and backend.settings.locality == "remote":
            return "sovereign"

        if self._budgets.by_name and backend.costs and self._rejecting_budget(task, backend, now) is not None:
            return "budget"

        return None

    def obstacle(self, task: str, backend: Backend, now: float) -> RejectionReason | None:
        """Return why a new caller cannot have a permit. Queued callers come first, even if there is room now."""
        reason = self.policy_obstacle(task, backend, now) or backend.obstacle(now)
        return reason or ("saturated" if backend.queue and backend.has_ready(now) else None)

    def acquire(self, backend: Backend, task: str, now: float) -> Permit:
        """Issue a permit of a backend that admits the call, and reserve its expected cost."""
        permit = backend.acquire(now)
        if self._budgets.by_name:
            expected = self._backends.expected_dollars(backend) or 0.0
            covering = self._budgets.covering(task, backend.name)
            permit.reserved = tuple((budget, budget.reserve(expected)) for budget in covering)

        return permit

    def may_share(self, task: str, permit: Permit) -> bool:
        """Return whether a call of ``task`` is covered by a permit of its batch: no further budget limits that task."""
        if not self._budgets.by_name:
            return True

        reserved = {id(budget) for budget, _ in permit.reserved}
        return all(id(budget) in reserved for budget in self._budgets.covering(task, permit.backend.name))

    def release_reservation(self, permit: Permit) -> None:
        """Return what a permit had reserved, at the end of its call."""
        for budget, dollars in permit.reserved:
            budget.release(dollars)

        permit.reserved = ()

    def _explain(self, decision: Decision, task: str, choices: list[Choice], now: float) -> None:
        """Add to a rejection when to ask again, and with which status a backend requested its pause."""
        obstacles = decision.obstacles
        decision.retry_after_seconds = self._retry_after_seconds(task, choices, obstacles, now)
        if decision.reason == "breaker_open":
            decision.status = _status_of_pause(choices, obstacles, now)

        self._count_rejecting_budgets(task, choices, obstacles, now)

    def _retry_after_seconds(
        self, task: str, choices: list[Choice], obstacles: dict[str, RejectionReason], now: float
    ) -> float | None:
        """Return when, if known, the first of the backends may admit calls again."""
        times = [
            seconds
            for name, backend in choices
            if (seconds := self._seconds_until(task, backend, obstacles[name], now)) is not None
        ]
        return min(times, default=None)

    def _seconds_until(self, task: str, backend: Backend, reason: RejectionReason, now: float) -> float | None:
        if reason == "breaker_open":
            return backend.breaker.retry_after_seconds(now)

        if reason == "budget":
            rejecting = self._rejecting_budget(task, backend, now)
            return None if rejecting is None else rejecting.resets_in_seconds(now)

        # One place in a queue becomes free after about one call.
        return backend.latency.value if reason == "saturated" and backend.latency.known else None

    def _rejecting_budget(self, task: str, backend: Backend, now: float) -> Budget | None:
        expected = self._backends.expected_dollars(backend) or 0.0
        age_seconds = self._backends.expected_age_seconds(backend, now)
        return self._budgets.rejecting(task, backend.name, expected, now, age_seconds)

    def _count_rejecting_budgets(
        self, task: str, choices: list[Choice], obstacles: dict[str, RejectionReason], now: float
    ) -> None:
        """Count a rejected call once for each budget that had no room for it."""
        if "budget" in obstacles.values():
            rejecting = [
                self._rejecting_budget(task, backend, now) for name, backend in choices if obstacles[name] == "budget"
            ]
            for budget in dict.fromkeys(budget for budget in rejecting if budget is not None):
                budget.count_rejected(now)

    def _dollars(self, choice: Choice, _: float) -> float:
        expected = self._backends.expected_dollars(choice[1])
        return float("inf") if expected is None else expected

    @staticmethod
    def _latency(choice: Choice, now: float) -> float:
        """Prefer unmeasured backends, or they would stay so; but one call at a time, for they may never answer."""
        latency = choice[1].latency
        if not latency.known and choice[1].permits:
            return float("inf")

        return latency.value * math.exp2(-latency.idle_seconds(now) / LATENCY_HALF_LIFE_SECONDS)

    @staticmethod
    def _load(choice: Choice, _: float) -> float:
        backend = choice[1]
        calls = backend.permits + len(backend.queue)
        return calls / backend.limit if backend.limit else calls / max(1, calls + 1)

    @staticmethod
    def _credit(choice: Choice, _: float) -> float:
        backend = choice[1]
        return -(backend.credit + backend.settings.weight)

    def _charge(self, chosen: Choice, choices: list[Choice], task: str, now: float) -> None:
        """Smooth weighted round robin, as in nginx: all eligible backends earn their weight, the chosen one pays the total.

        Without randomness and without bursts: 3 to 1 is AABA and not AAAB. Backends that cannot be called earn nothing, or
        they would get all calls immediately when they recover.
        """
        total = 0.0
        for choice in choices:
            backend = choice[1]
            if choice is chosen or self.obstacle(task, backend, now) is None:
                backend.credit += backend.settings.weight
                total += backend.settings.weight

        chosen[1].credit -= total
