"""Which backend gets a call: the one place where resilience, limits, cost and sovereignty are decided.

`Admission.decide` orders the backends by the route and takes the first that admits. What does not admit is either worth
waiting for (all its permits are out, or its minute's share is used up), or refuses.
"""

import math
from collections.abc import Callable, Sequence

from msgspec import Struct

from sidecard.core.backends.backends import FORGET_SECONDS, Backend, Backends, Permit
from sidecard.core.backends.budgets import Budgets
from sidecard.core.effects import Effect, EmitNote
from sidecard.core.settings import EngineSettings
from sidecard.core.shares import in_spare
from sidecard_client.protocol.wire import DEFAULT_BACKEND, Begin, RejectionReason, Route

Choice = tuple[str, Backend]
"""A backend under the name that the caller gave it, which is not its own where it shares the one of all others."""

_SOONEST: tuple[RejectionReason, ...] = ("saturated", "breaker_open", "budget", "sovereign")
"""Reasons, by how soon they may pass."""

_NO_OBSTACLES: dict[str, RejectionReason] = {}


class Decision(Struct):
    """What became of a begin's backends.

    ``chosen`` admits; else ``queues`` are worth waiting for; else the call is refused for ``reason``.
    """

    route: Route
    chosen: Choice | None = None
    queues: tuple[Choice, ...] = ()
    obstacles: dict[str, RejectionReason] = _NO_OBSTACLES
    retry_after_seconds: float | None = None

    @property
    def reason(self) -> RejectionReason:
        """Of several reasons, the one that passes soonest."""
        return next(reason for reason in _SOONEST if reason in self.obstacles.values())


class Admission:
    """Decides about begins, and gives permits."""

    def __init__(self, settings: EngineSettings, backends: Backends, budgets: Budgets) -> None:
        self.settings = settings
        """May be replaced at any time."""
        self._backends = backends
        self._budgets = budgets
        self._rank: dict[Route, Callable[[Choice, float], float]] = {
            "cheapest": self._dollars,
            "fastest": self._latency,
            "least_busy": self._load,
            "weighted": self._credit,
        }

    def names(self, request: Begin) -> tuple[str, ...]:
        """Return the backends that may answer a begin, in its order of preference, each once."""
        names = request.backends or self.settings.task(request.task).backends or (DEFAULT_BACKEND,)
        return names if len(names) == 1 else tuple(dict.fromkeys(names))

    def route(self, request: Begin) -> Route:
        """Return how a begin's backends are ordered."""
        return request.route or self.settings.task(request.task).route or "order"

    def has_place(self, backend: Backend, line: tuple[int, int]) -> bool:
        """Tell whether one more may stand in a line of a backend's queue; the first of its numbers is the uid."""
        limit, waiting = backend.settings.max_queue, len(backend.queue)
        return waiting < limit or in_spare(backend.queue.of_group(line), waiting, limit, self.settings.spare_share)

    def decide(
        self, request: Begin, names: Sequence[str], line: tuple[int, int], now: float
    ) -> tuple[Decision, list[Effect]]:
        """Choose among ``names`` for a caller of ``line``; also return what is to be told of breakers whose time has come."""
        effects: list[Effect] = []
        choices = [(name, self._backends.of(name)) for name in names]
        for _, backend in choices:
            if backend.breaker.state != "closed":  # time alone does nothing to a closed one
                effects += map(EmitNote, backend.breaker.settle(now))

        route = self.route(request)
        if route != "order" and len(choices) > 1:
            rank = self._rank[route]
            choices.sort(key=lambda choice: rank(choice, now))  # stable: among equals the caller's order holds

        decision = Decision(route)
        waits: list[Choice] = []
        obstacles: dict[str, RejectionReason] = {}
        for choice in choices:
            name, backend = choice
            reason = self.obstacle(request.task, backend, now)
            if (
                reason == "saturated"
                and self.has_place(backend, line)
                # Two names may share the backend of all others: nobody stands in one queue twice.
                and all(waiting is not backend for _, waiting in waits)
            ):
                waits.append(choice)

            if reason is None:
                decision.chosen = choice
                if route == "weighted":
                    self._charge(choice, choices, request.task, now)

                break

            obstacles[name] = reason

        if obstacles:
            decision.obstacles = obstacles
            decision.queues = tuple(waits)
            if decision.chosen is None and not waits:
                decision.retry_after_seconds = self._retry_after_seconds(request.task, choices, obstacles, now)

        return decision, effects

    def refusal(self, task: str, backend: Backend, now: float) -> RejectionReason | None:
        """Return what forbids the call whoever else is calling: sovereignty or a budget."""
        if self.settings.sovereign and backend.settings.locality == "remote":
            return "sovereign"

        if self._budgets.by_name and backend.costs:
            expected = self._backends.expected_dollars(backend) or 0.0
            if self._budgets.refusing(task, backend.name, expected, now):
                return "budget"

        return None

    def obstacle(self, task: str, backend: Backend, now: float) -> RejectionReason | None:
        """Return what keeps a newcomer from a backend. Who waits already comes first, also where there is room just now."""
        return self.refusal(task, backend, now) or backend.obstacle(now) or ("saturated" if backend.queue else None)

    def take(self, backend: Backend, task: str, now: float) -> Permit:
        """Give the permit of a backend that admits."""
        permit = backend.take(now)
        if self._budgets.by_name:
            permit.reserved = self._budgets.covering(task, backend.name)
            permit.reserved_dollars = self._backends.expected_dollars(backend) or 0.0
            for budget in permit.reserved:
                budget.reserved_dollars += permit.reserved_dollars

        return permit

    def settle_budgets(self, permit: Permit) -> None:
        """Give back what a permit had reserved: the call has ended."""
        for budget in permit.reserved:
            budget.reserved_dollars -= permit.reserved_dollars

        permit.reserved = ()

    def _retry_after_seconds(
        self, task: str, choices: list[Choice], obstacles: dict[str, RejectionReason], now: float
    ) -> float | None:
        """Return when, as far as is known, the first of the backends may admit again."""
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
            expected = self._backends.expected_dollars(backend) or 0.0
            refusing = self._budgets.refusing(task, backend.name, expected, now)
            return None if refusing is None else refusing.resets_in_seconds(now)

        # A queue is as long as it is; one place in it is free after about one call.
        return backend.latency.value if reason == "saturated" and backend.latency.known else None

    def _dollars(self, choice: Choice, _: float) -> float:
        expected = self._backends.expected_dollars(choice[1])
        return float("inf") if expected is None else expected

    @staticmethod
    def _latency(choice: Choice, now: float) -> float:
        """Unmeasured ones first, or they would stay so; but one call at a time, for they may never answer."""
        latency = choice[1].latency
        if not latency.known and choice[1].permits:
            return float("inf")

        return latency.value * math.exp2(-latency.idle_seconds(now) / FORGET_SECONDS)

    @staticmethod
    def _load(choice: Choice, _: float) -> float:
        backend = choice[1]
        waiting = backend.permits + len(backend.queue)
        return waiting / backend.limit if backend.limit else waiting / max(1, waiting + 1)

    @staticmethod
    def _credit(choice: Choice, _: float) -> float:
        backend = choice[1]
        return -(backend.credit + backend.settings.weight)

    def _charge(self, chosen: Choice, choices: list[Choice], task: str, now: float) -> None:
        """Smooth weighted round robin, as nginx has it: all that could have been chosen earn, and who was pays for all.

        Without randomness, and without bursts: 3 to 1 is AABA and not AAAB. Those that cannot be called earn nothing,
        or they would get all calls at once when they come back.
        """
        total = 0.0
        for choice in choices:
            backend = choice[1]
            if choice is chosen or self.obstacle(task, backend, now) is None:
                backend.credit += backend.settings.weight
                total += backend.settings.weight

        chosen[1].credit -= total
