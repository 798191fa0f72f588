"""One backend: its breaker, limits, queue and measurements, shared by all workers of the host."""

from collections.abc import Callable, Hashable
from functools import partial
from operator import itemgetter
from typing import TYPE_CHECKING, Any, Final

from msgspec import Struct, structs

from sidecard.core.backends.breaker import NO_PAUSE, Breaker, BreakerPass, CallResult, Pause
from sidecard.core.backends.budgets import Budget
from sidecard.core.backends.limits import AdaptiveLimit, MinuteLimit
from sidecard.core.backends.prefix_policy import prefix_policy
from sidecard.core.backends.queue import FairQueue
from sidecard.core.backends.windows import MovingAverage, TrimmedMean
from sidecard.core.names import UNKNOWN_UID, Hold
from sidecard.core.notes import BreakerNote
from sidecard.core.records import NO_USAGE, cached_tokens
from sidecard.core.settings import BackendSettings
from sidecard_client.protocol.wire import DEFAULT_BACKEND, Begin, Fail, RejectionReason, Usage

if TYPE_CHECKING:
    from sidecard.core.backends.affinity import Affinity
    from sidecard.core.backends.prompt_caches.cache import Memory, PromptUse

TYPICAL_PROMPT_TOKENS = 1000.0
TYPICAL_COMPLETION_TOKENS = 250.0
"""Tokens of a call, for estimates before the first call has ended."""

_PER_MILLION = 1e-6

_WEIGHTS: dict[CallResult, int] = {"nothing": 0, "neutral": 1, "success": 2, "slow": 3, "failure": 4}
"""The leases of one call may end differently: the result with the greatest weight decides."""

MAX_SHARING: Final = 10_000
"""Leases of one permit."""

_SUMMED = ("prompt_tokens", "completion_tokens", "cost_dollars")


class Permit(Struct, eq=False):
    """A call's share of a backend's breaker and limit. Each lease returns it exactly once, by `Backend.release`.

    The leases of a batch share one; it is free when the last of them has ended. None joins once the first has ended: otherwise
    a batch whose leases overlap would keep the permit for ever.
    """

    backend: "Backend"
    breaker_pass: BreakerPass
    reserved: tuple[tuple[Budget, float], ...] = ()
    """Budgets to which its call counts, each with the dollars reserved of it."""
    leases: int = 1
    """Current leases."""
    granted: int = 1
    """Leases so far."""
    answered: int = 0
    """Leases whose call has an answer."""
    used: Usage = NO_USAGE
    """What they used together, of a batch."""
    seconds: float = 0.0
    """Duration of the latest of them."""
    result: CallResult = "nothing"
    """Of the leases that have ended, of a batch."""
    pause: Pause = NO_PAUSE
    """The longest pause that the backend requested, of a batch."""
    use: "PromptUse | None" = None
    """The use that its call makes of the backend's prompt cache, with prefix affinity."""
    affinity: "Affinity[Any] | None" = None
    """The affinity to which ``use`` is reported: settings may have replaced the backend's own."""

    @property
    def may_grow(self) -> bool:
        """Whether one more lease may use the permit."""
        return self.leases == self.granted < MAX_SHARING

    @property
    def reports_output(self) -> bool:
        """Whether other callers may be held for the first output of its call: it processes a prefix for the first time."""
        return self.use is not None and self.use.is_cold and self.granted == 1

    def share(self) -> None:
        """Let one more lease use the permit."""
        self.leases += 1
        self.granted += 1

    def count_answer(self, seconds: float, usage: Usage) -> int:
        """Count an answer; return how many calls to count: a batch's answers are one."""
        self.answered += 1
        self.seconds = seconds
        if self.granted > 1:
            self.used = _added(self.used, usage)

        return 1 if self.answered == 1 else 0

    def lease_ended(self, result: CallResult, pause: Pause) -> None:
        """Record the end of one of several leases."""
        self.leases -= 1
        self.result = max(self.result, result, key=_WEIGHTS.__getitem__)
        if pause.seconds > self.pause.seconds:
            self.pause = pause


def _added(one: Usage, other: Usage) -> Usage:
    sums = {name: _sum(getattr(one, name), getattr(other, name)) for name in _SUMMED}
    return structs.replace(other, **sums)


def _sum(one: float | None, other: float | None) -> float | None:
    return other if one is None else one if other is None else one + other


class BackendParts(Struct, frozen=True):
    """What all backends have in common."""

    jitter: Callable[[], float]
    memory: "Memory"
    """The memory accounts that are charged for the prefixes that backends keep."""
    on_hold_ended: Callable[[str, float], None]
    """Receives the name of a backend and the seconds for which it held a caller."""


class Backend:
    """One backend."""

    def __init__(self, name: str, settings: BackendSettings, parts: BackendParts, *, configured: bool) -> None:
        self.name = name
        self.settings = settings
        self.configured = configured
        self.uid = UNKNOWN_UID
        self.used_at = 0.0
        self.seen = 0.0
        self.breaker = Breaker(name, settings.breaker, parts.jitter)
        self.permits = 0
        self.queue: FairQueue[Any] = FairQueue(itemgetter(0))
        """Applicants (`sidecard.core.flights`). This package reads only what `sidecard.core.backends.queue.Queued` has."""
        self.queue_full_noted = False
        """Whether the full queue has been noted since it last had room."""
        self.latency = MovingAverage()
        self.dollars = TrimmedMean()
        self.credit = 0.0
        """Under the route ``weighted``: weight earned and not spent on calls."""
        self._seen_generation = 0
        self._tokens = TrimmedMean()  # peers report them: one claim must not decide
        self._requests = MinuteLimit(settings.requests_per_minute)
        self._minute_tokens = MinuteLimit(settings.tokens_per_minute)
        self._adaptive = AdaptiveLimit(settings.max_concurrent) if settings.adaptive else None
        self._parts = parts
        self.affinity: Affinity[Any] | None = self._new_affinity()
        """None without ``prefix_affinity``."""
        self.cached_share: float | None = None
        """Share of prompt tokens that it read from its cache, in answers that report it; None without such an answer."""
        self._cached_tokens, self._counted_tokens = 0, 0

    def reconfigure(self, settings: BackendSettings, now: float, *, configured: bool) -> list[BreakerNote]:
        """Apply other settings; calls in progress, queue, breaker and measurements stay."""
        if (settings.adaptive, settings.max_concurrent) != (self.settings.adaptive, self.settings.max_concurrent):
            self._adaptive = AdaptiveLimit(settings.max_concurrent) if settings.adaptive else None

        self.settings = settings
        self.configured = configured
        self._reconfigure_affinity(now)
        self._requests.per_minute = settings.requests_per_minute
        self._minute_tokens.per_minute = settings.tokens_per_minute
        return self.breaker.reconfigure(settings.breaker, now)

    @property
    def costs(self) -> bool:
        """Whether calls may cost dollars: all but those of a backend that is declared local and has no price."""
        settings = self.settings
        declared_local = settings.locality == "local" and (self.configured or self.name != DEFAULT_BACKEND)
        return not declared_local or self.priced or self.dollars.value > 0

    @property
    def priced(self) -> bool:
        """Whether it has a configured price."""
        return self.settings.input_dollars_per_million_tokens is not None

    def _new_affinity(self) -> "Affinity[Any] | None":
        policy = prefix_policy(self.settings)
        if policy is None:
            return None

        from sidecard.core.backends.affinity import Affinity  # noqa: PLC0415 - takes a fiftieth of the daemon's start

        affinity: Affinity[Any] = Affinity(policy, self._parts.memory, partial(self._parts.on_hold_ended, self.name))
        affinity.join(*self.queue)
        return affinity

    def _reconfigure_affinity(self, now: float) -> None:
        policy, affinity = prefix_policy(self.settings), self.affinity
        if policy is not None and affinity is not None and affinity.policy.affinity == policy.affinity:
            affinity.reconfigure(policy, now)
            return

        if affinity is not None:
            affinity.close(now)

        self.affinity = self._new_affinity()

    @property
    def limit(self) -> int:
        """Maximum number of permits; 0 means no limit."""
        limit = self.settings.max_concurrent if self._adaptive is None else self._adaptive.limit
        return limit if self.affinity is None else self.affinity.policy.limited(limit)

    @property
    def activity(self) -> float:
        """See `Named`: every call sets ``used_at``."""
        return 0.0

    @property
    def hold(self) -> Hold:
        """How much it needs its name: calls and an operator's action outweigh a breaker that peers have opened."""
        state = self.breaker.state
        if self.configured or self.permits or self.queue or state in {"forced_open", "disabled"}:
            return 2

        return 0 if state == "closed" else 1

    def take_reclosed(self) -> bool:
        """Return whether the breaker has closed since the last call of this method."""
        if self.breaker.generation == self._seen_generation or self.breaker.state != "closed":
            return False

        self._seen_generation = self.breaker.generation
        return True

    def obstacle(self, now: float) -> RejectionReason | None:
        """Return why the next caller in the queue cannot get a permit. Call `Breaker.advance` first."""
        if self.breaker.state != "closed" and not self.breaker.admits():
            return "breaker_open"

        limit, settings = self.limit, self.settings
        if limit and self.permits >= limit:
            return "saturated"

        if settings.requests_per_minute and not self._requests.has_room(1.0, now):
            return "saturated"

        if settings.tokens_per_minute and not self._has_tokens(now):
            return "saturated"

        return None

    def _has_tokens(self, now: float) -> bool:
        if self._minute_tokens.has_room(self._expected_tokens(), now):
            return True

        # A call that takes more than a minute's tokens must not wait forever.
        return not self.permits and self._minute_tokens.untouched(now)

    def next_caller(self, now: float) -> Any | None:
        """Return the caller in the queue to serve next, if there is room; None if all are held."""
        if self.affinity is None:
            return self.queue.first()

        limited = self.settings.requests_per_minute or self.settings.tokens_per_minute
        has_room = not limited and not 0 < self.limit < self.permits + len(self.queue)
        return self.affinity.choose(self.queue, now, 1) if has_room else self.affinity.choose(self.queue, now)

    def has_ready(self, now: float) -> bool:
        """Return whether the queue has a caller that can be served as soon as there is room."""
        return bool(self.queue) and (self.affinity is None or self.affinity.choose(self.queue, now, 1) is not None)

    def enqueue(self, flow: tuple[int, int], caller: Any, place: Hashable) -> None:
        """Append a caller to the queue."""
        self.queue.push(flow, caller, place)
        if self.affinity is not None:
            self.affinity.join(caller)

    def dequeue(self, flow: tuple[int, int], caller: Any, now: float, *, served: bool = False) -> None:
        """Remove a caller from the queue."""
        if self.affinity is not None:
            if served:
                self.affinity.serve(self.queue, caller, now)

            self.affinity.leave(caller, now)

        if served:
            self.queue.serve(flow, caller)
        else:
            self.queue.remove(flow, caller)

    def use_prompt(self, permit: Permit, scope: str, request: Begin, uid: int, now: float) -> None:
        """Record which prompt the call of a new permit sends."""
        if self.affinity is not None:
            permit.affinity = self.affinity
            permit.use = self.affinity.begin(scope, request, uid, now)

    def acquire(self, now: float) -> Permit:
        """Issue a permit; `obstacle` must be None."""
        self.permits += 1
        if self.settings.requests_per_minute:
            self._requests.spend(1.0, now)

        return Permit(self, self.breaker.admit(now))

    def release(self, permit: Permit, result: CallResult, now: float, pause: Pause = NO_PAUSE) -> list[BreakerNote]:
        """Return a lease's permit, with its call's result or with the pause that the backend requested."""
        if permit.granted > 1:
            permit.lease_ended(result, pause)
            if permit.leases:
                return []

            result, pause = permit.result, permit.pause

        self.permits -= 1
        if permit.use is not None and permit.affinity is not None:
            permit.affinity.ended(permit.use, now, processed=permit.answered > 0)

        breaker = self.breaker
        notes = [] if breaker.state == "closed" else breaker.advance(now)
        if pause.seconds:
            return notes + breaker.honor_retry_after(permit.breaker_pass, pause, now)

        return notes + breaker.record(permit.breaker_pass, result, now)

    def result_of_answer(self, seconds: float, usage: Usage) -> CallResult:
        """Score an answer that took ``seconds``."""
        slow, slow_first = self.settings.breaker.slow_seconds, self.settings.breaker.slow_first_chunk_seconds
        late = slow_first and (usage.first_chunk_seconds or 0.0) > slow_first
        return "slow" if late or (slow and seconds > slow) else "success"

    def result_of_failure(self, failure: Fail) -> CallResult:
        """Score a failed call. A fatal failure, which every caller would get, shows that the backend is up."""
        if failure.kind == "fatal":
            return "success"

        if failure.kind == "ignored":
            return "neutral"

        if failure.kind == "cancelled":
            return "nothing"

        if not failure.timeout:
            return "failure"

        timeouts = self.settings.timeouts
        return "neutral" if timeouts == "nothing" else timeouts

    def count_prompt(self, usage: Usage) -> None:
        """Count the prompt tokens of an answer that reports how many of them were cached."""
        if usage.prompt_tokens and usage.cached_prompt_tokens is not None:
            self._counted_tokens += usage.prompt_tokens
            self._cached_tokens += cached_tokens(usage)
            self.cached_share = self._cached_tokens / self._counted_tokens

    def learn_usage(self, seconds: float, usage: Usage, now: float) -> None:
        """Add an answer's cost and tokens to the measurements."""
        if usage.cost_dollars is not None:
            self.dollars.add(usage.cost_dollars, now)

        tokens = (usage.prompt_tokens or 0) + (usage.completion_tokens or 0)
        if tokens:
            self._tokens.add(tokens, now)
            self._minute_tokens.spend(tokens, now)

        if self._adaptive is not None:
            sample = usage.first_chunk_seconds
            if sample is None and usage.completion_tokens:
                sample = seconds / usage.completion_tokens

            if sample is not None:
                self._adaptive.sample(sample, self.permits)

    def wakes_at(self, now: float) -> float | None:
        """Return when time alone may admit or reject the next caller in the queue; None if it cannot."""
        if not self.queue:
            return None

        room_at, limit = float("inf"), self.limit
        if self.obstacle(now) is None:
            if self.has_ready(now):
                return now  # the tick that admits it is late, and another caller has queued behind it meanwhile
        elif not limit or self.permits < limit:
            room_at = max(self._requests.room_at(1.0, now), self._minute_tokens.room_at(self._expected_tokens(), now))

        hold_ends_at = float("inf") if self.affinity is None else self.affinity.next_end_of_hold()
        return min(room_at if room_at > now else float("inf"), self.breaker.overdue_at(), hold_ends_at)

    def price_dollars(
        self, prompt_tokens: float, completion_tokens: float, cached_tokens: float = 0, cache_write_tokens: float = 0
    ) -> float:
        """Return the cost of a call by the configured prices; ``prompt_tokens`` include those read from a cache or written to it."""
        settings = self.settings
        prompt = settings.input_dollars_per_million_tokens or 0.0
        dollars = prompt_tokens * prompt + completion_tokens * (settings.output_dollars_per_million_tokens or 0.0)
        for tokens, price in (
            (cached_tokens, settings.cached_input_dollars_per_million_tokens),
            (cache_write_tokens, settings.cache_write_dollars_per_million_tokens),
        ):
            if price is not None:
                dollars += tokens * (price - prompt)

        return _PER_MILLION * dollars

    def _expected_tokens(self) -> float:
        # Tokens are known when a call ends, so calls in progress count with the mean.
        tokens = self._tokens.value if self._tokens.known else TYPICAL_PROMPT_TOKENS + TYPICAL_COMPLETION_TOKENS
        return tokens * (self.permits + 1)
