"""Backends: what each may be asked now, and what is known of it. One per name, for all workers of the host."""

from collections import OrderedDict
from collections.abc import Callable
from itertools import islice
from operator import itemgetter
from typing import TYPE_CHECKING

from sidecard.core.backends.breaker import Breaker, BreakerMemory, BreakerPass, CallResult
from sidecard.core.backends.limits import AdaptiveLimit, MinuteLimit
from sidecard.core.backends.moving_average import MovingAverage
from sidecard.core.backends.queue import FairQueue
from sidecard.core.notes import BreakerNote
from sidecard.core.settings import BackendSettings, settings_of_unnamed
from sidecard_client.protocol.wire import (
    DEFAULT_BACKEND,
    LOCAL_BACKENDS,
    BackendState,
    BreakerState,
    Fail,
    RejectionReason,
    Usage,
)

if TYPE_CHECKING:
    from sidecard.core.backends.budgets import Budget
    from sidecard.core.flights.flights import Applicant

OTHER_BACKENDS = "(other)"
"""Whose breaker and numbers backends share that find no room in the table."""

TYPICAL_PROMPT_TOKENS = 1000.0
TYPICAL_COMPLETION_TOKENS = 250.0
"""What prices are compared by before the first call has told."""

FORGET_SECONDS = 300.0
"""Half-life of a backend's latency while nobody asks it, so that one that was slow once is tried again."""

_PER_MILLION = 1e-6

MAX_NAMED = 16
"""Backends of one begin, which are looked up one after the other: none of them may give way to the next."""


class Permit:
    """A lease's share of a backend's breaker and limit. Comes back exactly once, by `Backend.give_back`."""

    __slots__ = ("backend", "given", "reserved", "reserved_dollars")

    def __init__(self, backend: "Backend", given: BreakerPass) -> None:
        self.backend = backend
        self.given = given
        self.reserved: tuple[Budget, ...] = ()
        self.reserved_dollars = 0.0


class Backend:
    """One backend."""

    def __init__(self, name: str, settings: BackendSettings, *, configured: bool, jitter: Callable[[], float]) -> None:
        self.name = name
        self.settings = settings
        self.configured = configured
        self.breaker = Breaker(name, settings.breaker, jitter)
        self.permits = 0
        self.queue: FairQueue[Applicant] = FairQueue(itemgetter(0))
        self._closed_generation = 0
        self.told_full = False
        """That the queue is full has been told, and it had no room since."""
        self.latency = MovingAverage()
        self.dollars = MovingAverage()
        self.credit = 0.0
        """Under the route ``weighted``: what it has earned and not been called for."""
        self._tokens = MovingAverage()
        self._requests = MinuteLimit(settings.requests_per_minute)
        self._minute_tokens = MinuteLimit(settings.tokens_per_minute)
        self._adaptive = AdaptiveLimit(settings.max_concurrent) if settings.adaptive else None

    def reconfigure(self, settings: BackendSettings, now: float, *, configured: bool) -> list[BreakerNote]:
        """Go by other settings: calls in progress, queue, breaker and everything learnt stay."""
        if (settings.adaptive, settings.max_concurrent) != (self.settings.adaptive, self.settings.max_concurrent):
            self._adaptive = AdaptiveLimit(settings.max_concurrent) if settings.adaptive else None

        self.settings = settings
        self.configured = configured
        self._requests.per_minute = settings.requests_per_minute
        self._minute_tokens.per_minute = settings.tokens_per_minute
        return self.breaker.reconfigure(settings.breaker, now)

    @property
    def costs(self) -> bool:
        """Whether a call may cost: all do but those of a place that was declared local and has no price."""
        settings = self.settings
        declared_local = settings.locality == "local" and (self.configured or self.name != DEFAULT_BACKEND)
        return not declared_local or self.priced or self.dollars.value > 0

    @property
    def priced(self) -> bool:
        """It has a price of its own."""
        return self.settings.input_dollars_per_million_tokens is not None

    @property
    def limit(self) -> int:
        """Most permits at a time; 0 is no limit."""
        return self.settings.max_concurrent if self._adaptive is None else self._adaptive.limit

    @property
    def in_use(self) -> bool:
        """Something would be lost by forgetting it."""
        return bool(self.configured or self.permits or self.queue or self.breaker.state != "closed")

    @property
    def closed_again(self) -> bool:
        """Whether the breaker has closed since this was asked last."""
        if self.breaker.generation == self._closed_generation or self.breaker.state != "closed":
            return False

        self._closed_generation = self.breaker.generation
        return True

    def obstacle(self, now: float) -> RejectionReason | None:
        """Return what keeps the next in the queue from being let through; to be asked after `Breaker.settle`."""
        if not self.breaker.admits():
            return "breaker_open"

        limit = self.limit
        if limit and self.permits >= limit:
            return "saturated"

        if self.settings.requests_per_minute and not self._requests.has_room(1.0, now):
            return "saturated"

        if self.settings.tokens_per_minute and not self._has_tokens(now):
            return "saturated"

        return None

    def _has_tokens(self, now: float) -> bool:
        if self._minute_tokens.has_room(self._expected_tokens(), now):
            return True

        # A call that takes more than the minute's share must not wait for ever.
        return not self.permits and self._minute_tokens.untouched(now)

    def take(self, now: float) -> Permit:
        """Give a permit, which `obstacle` has not refused."""
        self.permits += 1
        self._requests.spend(1.0, now)
        return Permit(self, self.breaker.admit(now))

    def give_back(
        self, permit: Permit, verdict: CallResult, now: float, pause_seconds: float = 0.0
    ) -> list[BreakerNote]:
        """Take a permit back, with what the call says of the backend, or for how long it wants no further ones."""
        self.permits -= 1
        told = self.breaker.settle(now)
        if pause_seconds:
            return told + self.breaker.tell_off(permit.given, pause_seconds, now)

        return told + self.breaker.record(permit.given, verdict, now)

    def verdict(self, seconds: float, usage: Usage) -> CallResult:
        """Judge an answer that took ``seconds``."""
        slow, slow_first = self.settings.breaker.slow_seconds, self.settings.breaker.slow_first_chunk_seconds
        if slow and seconds > slow:
            return "slow"

        return "slow" if slow_first and (usage.first_chunk_seconds or 0.0) > slow_first else "success"

    def verdict_of_failure(self, failure: Fail) -> CallResult:
        """Judge a call that failed. One that would fail for everybody says that the backend is there."""
        if failure.kind == "fatal":
            return "success"

        if failure.kind != "transient":
            return "nothing"

        return self.settings.timeouts if failure.timeout else "failure"

    def learn(self, seconds: float, usage: Usage, now: float) -> None:
        """Take an answer's numbers in, while its permit is still out."""
        self.latency.add(seconds, now)
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
        """Return when time alone may let the next in the queue through, or turn it away; None where it cannot."""
        if not self.queue:
            return None

        if self.obstacle(now) is None:
            return now  # the tick that lets it through is late, and somebody stood in behind it meanwhile

        limit = self.limit
        overdue_at = self.breaker.overdue_at()
        if limit and self.permits >= limit:
            return overdue_at if overdue_at < float("inf") else None

        room_at = max(self._requests.room_at(1.0, now), self._minute_tokens.room_at(self._expected_tokens(), now))
        return min(room_at if room_at > now else float("inf"), overdue_at)

    def price_dollars(self, prompt_tokens: float, completion_tokens: float) -> float:
        """Return what a call of so many tokens costs at its own price, which it has."""
        settings = self.settings
        return _PER_MILLION * (
            prompt_tokens * (settings.input_dollars_per_million_tokens or 0.0)
            + completion_tokens * (settings.output_dollars_per_million_tokens or 0.0)
        )

    def state(self, now: float) -> BackendState:
        """Describe it."""
        breaker = self.breaker
        return BackendState(
            state=breaker.state,
            locality=self.settings.locality,
            generation=breaker.generation,
            cause=self.cause(now),
            retry_after_seconds=breaker.retry_after_seconds(now),
            calls=breaker.calls,
            failures=breaker.failures,
            slow=breaker.slow,
            opened=breaker.opened,
            permits=self.permits,
            limit=self.limit or None,
            queued=len(self.queue),
            max_queue=self.settings.max_queue,
            latency_seconds=self.latency.value if self.latency.known else None,
            dollars_per_call=self.dollars.value if self.dollars.known else None,
        )

    def cause(self, now: float) -> str:
        """Say why the breaker is not closed."""
        match self.breaker.state:
            case "closed":
                return ""
            case "forced_open":
                return "An operator keeps it open: `sidecard breakers auto` ends that."
            case "disabled":
                return "It is kept from tripping: `sidecard breakers auto` ends that."
            case "half_open":
                return "Probes decide whether it closes."

        why = {
            "failures": "Too many calls failed",
            "slow": "Too many calls were slow",
            "retry_after": "The backend asked for a pause",
            "probes": "Its probes failed",
            "elsewhere": "Its breaker opened on another host",
        }[self.breaker.cause or "failures"]
        return f"{why}: the next probe may go out in {self.breaker.retry_after_seconds(now) or 0.0:.3g} s."

    def _expected_tokens(self) -> float:
        # Tokens are known when a call ends; those in progress are expected to take what calls take.
        tokens = self._tokens.value if self._tokens.known else TYPICAL_PROMPT_TOKENS + TYPICAL_COMPLETION_TOKENS
        return tokens * (self.permits + 1)


class Backends:
    """All backends: the configured ones, and those that were asked for, bounded in number."""

    def __init__(self, settings: dict[str, BackendSettings], max_backends: int, jitter: Callable[[], float]) -> None:
        self._max = max(max_backends, len(settings) + 2 * MAX_NAMED)
        self._jitter = jitter
        self._backends: OrderedDict[str, Backend] = OrderedDict(
            (name, Backend(name, given, configured=True, jitter=jitter)) for name, given in settings.items()
        )
        self._other: Backend | None = None
        self._opened_by_forgotten = 0
        self._changes_of_forgotten = 0
        self.prompt_tokens = MovingAverage()
        self.completion_tokens = MovingAverage()

    def reconfigure(self, settings: dict[str, BackendSettings], now: float) -> list[BreakerNote]:
        """Go by other settings. A backend that is not named any more is one of those that nobody has configured."""
        told: list[BreakerNote] = []
        self._max = max(self._max, len(settings) + 2 * MAX_NAMED)
        for name, given in settings.items():
            backend = self._backends.get(name)
            if backend is None:
                self._backends[name] = Backend(name, given, configured=True, jitter=self._jitter)
            elif (backend.settings, backend.configured) != (given, True):
                told += backend.reconfigure(given, now, configured=True)

        for name, backend in self._backends.items():
            if backend.configured and name not in settings:
                told += backend.reconfigure(settings_of_unnamed(name), now, configured=False)

        return told

    def of(self, name: str) -> Backend:
        """Return the backend of that name; where the table is full and all of it in use, the one of all others."""
        backend = self._backends.get(name)
        if backend is None:
            return self._open(name)

        self._backends.move_to_end(name)
        return backend

    def all(self) -> dict[str, Backend]:
        """Return every backend by name, sorted."""
        backends = dict(sorted(self._backends.items()))
        if self._other is not None:
            backends[OTHER_BACKENDS] = self._other

        return backends

    @property
    def opened(self) -> int:
        """How often breakers have opened."""
        return self._opened_by_forgotten + sum(backend.breaker.opened for backend in self.all().values())

    def settle(self, now: float) -> list[BreakerNote]:
        """Let every breaker do what time alone does, so that what is shown is so."""
        return [note for backend in self.all().values() for note in backend.breaker.settle(now)]

    @property
    def changes(self) -> int:
        """How often breakers have changed their state."""
        return self._changes_of_forgotten + sum(backend.breaker.generation for backend in self._backends.values())

    def memory(self, wall_offset_seconds: float) -> dict[str, BreakerMemory]:
        """Return what the breakers remember over a restart."""
        memories = {name: backend.breaker.memory(wall_offset_seconds) for name, backend in self._backends.items()}
        return {name: memory for name, memory in memories.items() if memory is not None}

    def restore(self, memories: dict[str, BreakerMemory], now: float, wall_offset_seconds: float) -> None:
        """Go on from what the breakers of an earlier run remembered."""
        for name, memory in memories.items():
            backend = self.of(name)
            if backend.name == name:
                backend.breaker.restore(memory, now, wall_offset_seconds)

    def states(self) -> dict[str, BreakerState]:
        """Return the state of each breaker; to be asked after `settle`."""
        return {name: backend.breaker.state for name, backend in self.all().items()}

    def learn(self, backend: Backend, seconds: float, usage: Usage, now: float) -> None:
        """Take an answer's numbers in."""
        backend.learn(seconds, usage, now)
        if usage.prompt_tokens is not None:
            self.prompt_tokens.add(usage.prompt_tokens, now)

        if usage.completion_tokens is not None:
            self.completion_tokens.add(usage.completion_tokens, now)

    def expected_dollars(self, backend: Backend) -> float | None:
        """Return what its next call will cost; None where nobody can know.

        Backends with a price are compared by what calls of *all* backends take: the easy ones that a cheap backend gets
        would make it look cheaper still.
        """
        if backend.priced:
            prompts = self.prompt_tokens.value if self.prompt_tokens.known else TYPICAL_PROMPT_TOKENS
            completions = self.completion_tokens.value if self.completion_tokens.known else TYPICAL_COMPLETION_TOKENS
            return backend.price_dollars(prompts, completions)

        if backend.dollars.known:
            return backend.dollars.value

        return None if backend.costs else 0.0

    def _open(self, name: str) -> Backend:
        if len(self._backends) >= self._max and name not in LOCAL_BACKENDS:
            older = islice(self._backends.items(), len(self._backends) - MAX_NAMED)
            idle = next((old for old, backend in older if not backend.in_use), None)
            if idle is None:
                if self._other is None:
                    self._other = Backend(
                        OTHER_BACKENDS, settings_of_unnamed(OTHER_BACKENDS), configured=False, jitter=self._jitter
                    )

                return self._other

            forgotten = self._backends.pop(idle).breaker
            self._opened_by_forgotten += forgotten.opened
            self._changes_of_forgotten += forgotten.generation

        backend = Backend(name, settings_of_unnamed(name), configured=False, jitter=self._jitter)
        self._backends[name] = backend
        return backend
