"""A circuit breaker: one per backend, shared by all workers of the host.

    state         event           next          cause
    closed        tripped         open          too many of the window's calls failed or were slow
    closed        paused          open          the backend, or another host's breaker, requested a pause
    open          cooled_down     half_open     its open time has passed
    half_open     probes_passed   closed        all probes have ended, and few enough failed or were slow
    half_open     probes_neutral  closed        as many probes have ended in answers that cannot be classified, or
                                                `MAX_ABANDONED_PROBES` have been given up by their callers
    half_open     unprobed        closed        no call has come for `UNPROBED_SECONDS`
    half_open     probes_failed   open          all have ended, and too many failed or were slow; or one is overdue
    half_open     paused          open
    any           open            forced_open   ┐
    any           close           closed        │ an operator's actions
    any           disable         disabled      │
    forced_open   auto            half_open     │ not closed: the backend's condition is unknown
    disabled      auto            closed        ┘

Each change of state begins a new *generation*. A pass carries the generation that issued it, and the result of an older one
changes nothing: 1. a call begins while closed; 2. the breaker opens and probes; 3. the call of 1 succeeds. Without
generations, 3 closes the breaker. Published breakers have this fault, and its reverse: a late failure opens a closed breaker.

A probe's pass that is returned without a result (its holder died or gave up, or the answer says nothing about the backend)
is free again immediately, so probing cannot get stuck on it; one that is never returned is overdue after `probe_seconds`.
Half-open never lasts: after as many neutral probes as there should be results, after many that their callers gave up, or
without any call, the breaker closes, and the window judges again. So a backend that no one calls any more is in its initial
state, and may be forgotten.

Windows and rates as in resilience4j; a minimum of calls as in every breaker that survived low traffic; probes judged by all
of their results as in resilience4j; an open time that doubles with each opening and is reset once the breaker has stayed
closed for one window, as in Envoy's outlier ejection.
"""

from collections import deque
from collections.abc import Callable
from typing import Literal, NamedTuple

from msgspec import Struct

from sidecard.core import notes
from sidecard.core.notes import BreakerNote, OpenCause
from sidecard.core.settings import BreakerSettings
from sidecard_client.protocol.wire import BreakerAction, BreakerState

CallResult = Literal["success", "slow", "failure", "neutral", "nothing"]
"""How a call is scored. Neither of the last two counts: ``neutral`` has ended without showing whether the backend is well,
``nothing`` has not ended there, for its caller gave up or died."""

JITTER = 0.1
"""Open times are lengthened or shortened by up to this share, so that the daemons of many hosts do not probe together."""

MAX_RETRY_AFTER_SECONDS = 3600.0
"""Maximum ``retry_after`` that is honored: any worker reports it, and a mistake must not last a week."""

MAX_ABANDONED_PROBES = 10
"""A half-open breaker closes after so many probes without a result. One dead or impatient caller proves nothing; if all of them
leave, as readers of a stream may that need only its beginning, the other callers must not be rejected for ever."""

UNPROBED_SECONDS = 3600.0
"""A half-open breaker to which no call has come for so long since its open time passed is closed: what it knew is outdated."""

PROBING_RETRY_SECONDS = 1.0
"""The ``retry_after_seconds`` of callers that are rejected while all probes are out: about the time of a short call."""

_MAX_DOUBLINGS = 32
_REFUSALS = range(400, 600)

BreakerEvent = Literal[
    "tripped", "paused", "cooled_down", "probes_passed", "probes_neutral", "probes_failed", "unprobed"
]

_NEXT: dict[tuple[BreakerState, BreakerEvent], BreakerState] = {
    ("closed", "tripped"): "open",
    ("closed", "paused"): "open",
    ("open", "cooled_down"): "half_open",
    ("half_open", "probes_passed"): "closed",
    ("half_open", "probes_neutral"): "closed",
    ("half_open", "unprobed"): "closed",
    ("half_open", "probes_failed"): "open",
    ("half_open", "paused"): "open",
}
_BY_OPERATOR: dict[BreakerAction, dict[BreakerState, BreakerState]] = {
    "open": dict.fromkeys(("closed", "open", "half_open", "disabled"), "forced_open"),
    "close": dict.fromkeys(("closed", "open", "half_open", "forced_open", "disabled"), "closed"),
    "disable": dict.fromkeys(("closed", "open", "half_open", "forced_open"), "disabled"),
    "auto": {"forced_open": "half_open", "disabled": "closed"},
}


class Pause(NamedTuple):
    """A pause that a backend requested, and the HTTP status with which it did, if that is known."""

    seconds: float
    status: int | None = None


NO_PAUSE = Pause(0.0)


def is_refusal(status: int) -> bool:
    """Return whether an HTTP status refuses a request: callers present it as the backend's, so any other one would deceive."""
    return status in _REFUSALS


class BreakerPass(Struct, frozen=True, gc=False):
    """A breaker's permission for one call; returned exactly once, by `Breaker.record`."""

    generation: int
    issued_at: float


class BreakerMemory(Struct, frozen=True, omit_defaults=True):
    """What a breaker keeps over a restart unless it is in its initial state. ``until`` is an instant of the wall clock."""

    state: BreakerState
    cause: OpenCause | None
    until: float
    doublings: int
    status: int | None = None


class Breaker:
    """One backend's breaker. ``jitter`` is uniform in [0, 1)."""

    def __init__(self, name: str, settings: BreakerSettings, jitter: Callable[[], float]) -> None:
        self.state: BreakerState = "closed" if settings.enabled else "disabled"
        self.generation = 0
        self.opened = 0
        """How often it has opened."""
        self.cause: OpenCause | None = None
        self.status: int | None = None
        """While open by a backend's request, and while it is probed afterwards: the request's HTTP status, if known."""
        self.failures = 0
        self.slow = 0
        self._name = name
        self._settings = settings
        self._jitter = jitter
        self._window: deque[tuple[float, CallResult]] = deque()
        """Instants and results of the latest calls."""
        self._until = 0.0
        """While open: when to probe. While half-open: since when."""
        self._doublings = -1
        self._closed_at = float("-inf")
        self._probes_out: list[float] = []
        """While half-open: when each probe without a result was admitted."""
        self._probe_results: list[CallResult] = []
        self._neutral_probes = 0
        self._abandoned_probes = 0

    @property
    def calls(self) -> int:
        """Calls in the window."""
        return len(self._window)

    def advance(self, now: float) -> list[BreakerNote]:
        """Make the changes that depend on time alone. Call this before any other method."""
        if self.state == "closed":
            return []

        notes: list[BreakerNote] = []
        if self.state == "open" and now >= self._until:
            notes.append(self._apply("cooled_down", now))

        if self.state == "half_open":
            if now >= self.overdue_at():
                notes.append(self._open("probes_failed", "probes", now))
            elif not self._probes_out and now >= self._until + UNPROBED_SECONDS:
                notes.append(self._apply("unprobed", now))

        return notes

    def overdue_at(self) -> float:
        """Return when the oldest probe counts as failed; infinity if none is out."""
        if self.state != "half_open" or not self._probes_out:
            return float("inf")

        return self._probes_out[0] + max(self._settings.probe_seconds, self._settings.slow_seconds)

    def admits(self) -> bool:
        """Return whether a call may be made now."""
        if self.state == "half_open":
            return len(self._probes_out) + len(self._probe_results) < self._settings.probes

        return self.state in {"closed", "disabled"}

    def admit(self, now: float) -> BreakerPass:
        """Issue a pass, which `admits` has allowed."""
        if self.state == "half_open":
            self._probes_out.append(now)

        return BreakerPass(self.generation, now)

    def retry_after_seconds(self, now: float) -> float | None:
        """Return when the next call may be admitted; None if it may be now, or if an operator decides."""
        if self.state == "open":
            return max(0.0, self._until - now)

        return PROBING_RETRY_SECONDS if self.state == "half_open" and not self.admits() else None

    def record(self, breaker_pass: BreakerPass, result: CallResult, now: float) -> list[BreakerNote]:
        """Return a pass, with the result of its call."""
        if breaker_pass.generation != self.generation:
            return []

        if self.state == "half_open":
            return self._record_probe(breaker_pass, result, now)

        if result in {"neutral", "nothing"}:
            return []

        self._window.append((now, result))
        if result != "success":
            self._count(result, 1)

        self._trim()
        return self._judge_window(now) if self.failures or self.slow else []

    def honor_retry_after(self, breaker_pass: BreakerPass, pause: Pause, now: float) -> list[BreakerNote]:
        """Return a pass whose backend requested a pause: no calls until it is over. This is not a failure.

        A disabled breaker stays as it is.
        """
        if breaker_pass.generation != self.generation or self.state not in {"closed", "half_open"}:
            return []

        note = self._pause(pause.seconds, "retry_after", now)
        self.status = pause.status
        return [note]

    def open_as_remote(self, seconds: float, now: float) -> list[BreakerNote]:
        """Open as another host's breaker has, for ``seconds``.

        A breaker that is already open stays open until the later of the two times.
        """
        if self.state == "open":
            self._until = max(self._until, now + min(seconds, MAX_RETRY_AFTER_SECONDS))
            return []

        return [self._pause(seconds, "elsewhere", now)] if self.state in {"closed", "half_open"} else []

    def set(self, action: BreakerAction, now: float) -> list[BreakerNote]:
        """Apply an operator's action, unless the breaker is in that state already."""
        state = _BY_OPERATOR[action].get(self.state)
        if state is None:
            return []

        if action == "close":
            self._doublings = -1
        elif state == "half_open":
            self._until = now

        return [self._enter(state, now, "operator", None)]

    def reconfigure(self, settings: BreakerSettings, now: float) -> list[BreakerNote]:
        """Apply other settings. Counts stay, and an operator's ``open`` stays in effect."""
        if settings == self._settings:
            return []

        switched = settings.enabled != self._settings.enabled
        self._settings = settings
        # With fewer probes than have ended already, no further result would conclude the probing.
        self._forget_probe_results()
        self._trim()
        if not switched or self.state == "forced_open":
            return []

        return self.set("auto" if settings.enabled else "disable", now)

    def memory(self, wall_offset_seconds: float) -> BreakerMemory | None:
        """Return what to keep over a restart; None in the initial state."""
        if self.state == ("closed" if self._settings.enabled else "disabled"):
            return None

        return BreakerMemory(self.state, self.cause, self._until + wall_offset_seconds, self._doublings, self.status)

    def restore(self, memory: BreakerMemory, now: float, wall_offset_seconds: float) -> None:
        """Continue from an earlier run's state: a restart closes no open breaker and ends no operator's hold.

        A half-open one starts probing again, since the earlier probes ended with that run.
        """
        self.state = memory.state
        self.cause = memory.cause
        self.status = memory.status
        self.generation = 1
        # The wall clock may have been set meanwhile.
        longest_seconds = max(MAX_RETRY_AFTER_SECONDS, (1 + JITTER) * self._settings.max_open_seconds)
        self._until = min(memory.until - wall_offset_seconds, now + longest_seconds)
        self._doublings = memory.doublings

    def _record_probe(self, breaker_pass: BreakerPass, result: CallResult, now: float) -> list[BreakerNote]:
        self._probes_out.remove(breaker_pass.issued_at)
        if result in {"neutral", "nothing"}:
            self._neutral_probes += result == "neutral"
            self._abandoned_probes += result == "nothing"
            enough = self._neutral_probes >= self._settings.probes or self._abandoned_probes >= MAX_ABANDONED_PROBES
            return [self._apply("probes_neutral", now)] if enough else []

        self._probe_results.append(result)
        count, settings = len(self._probe_results), self._settings
        if count < settings.probes:
            return []

        if (
            self._probe_results.count("failure") >= settings.failure_rate * count
            or self._probe_results.count("slow") >= settings.slow_rate * count
        ):
            return [self._open("probes_failed", "probes", now)]

        return [self._apply("probes_passed", now)]

    def _forget_probe_results(self) -> None:
        self._probe_results.clear()
        self._neutral_probes = self._abandoned_probes = 0

    def _judge_window(self, now: float) -> list[BreakerNote]:
        calls, settings = len(self._window), self._settings
        if self.state != "closed" or calls < settings.min_calls:
            return []

        if self.failures >= settings.failure_rate * calls:
            return [self._open("tripped", "failures", now)]

        if self.slow >= settings.slow_rate * calls:
            return [self._open("tripped", "slow", now)]

        return []

    def _count(self, result: CallResult, by: int) -> None:
        if result == "failure":
            self.failures += by
        elif result == "slow":
            self.slow += by

    def _trim(self) -> None:
        """Drop what is outside the window, which ends with the latest outcome."""
        window, settings = self._window, self._settings
        while window and (
            len(window) > settings.window_calls or window[0][0] <= window[-1][0] - settings.window_seconds
        ):
            _, oldest = window.popleft()
            if oldest != "success":
                self._count(oldest, -1)

    def _open(self, event: BreakerEvent, cause: OpenCause, now: float) -> BreakerNote:
        settings = self._settings
        calm = self.state == "closed" and now - self._closed_at >= settings.window_seconds
        self._doublings = 0 if calm else min(self._doublings + 1, _MAX_DOUBLINGS)
        seconds = min(settings.max_open_seconds, settings.open_seconds * 2**self._doublings)
        seconds *= 1 + JITTER * (2 * self._jitter() - 1)
        self._until = now + seconds
        return self._apply(event, now, cause, seconds)

    def _pause(self, seconds: float, cause: OpenCause, now: float) -> BreakerNote:
        self._until = now + min(seconds, MAX_RETRY_AFTER_SECONDS)
        return self._apply("paused", now, cause, self._until - now)

    def _apply(
        self, event: BreakerEvent, now: float, cause: OpenCause | None = None, seconds: float | None = None
    ) -> BreakerNote:
        return self._enter(_NEXT[self.state, event], now, cause, seconds)

    def _enter(self, state: BreakerState, now: float, cause: OpenCause | None, seconds: float | None) -> BreakerNote:
        self.state = state
        self.generation += 1
        self.cause = cause if state in {"open", "forced_open"} else None
        self.status = self.status if state == "half_open" else None
        self._probes_out.clear()
        self._forget_probe_results()
        match state:
            case "open" | "forced_open":
                self.opened += 1
                return notes.BreakerOpened(
                    self._name, cause or "operator", seconds, self.calls, self.failures, self.slow, self.generation
                )
            case "half_open":
                return notes.BreakerProbing(self._name, self._settings.probes, self.generation)
            case "disabled":
                return notes.BreakerDisabled(self._name, self.generation)
            case _:
                # The counts have had their effect. Until now they explained to operators why there are no calls.
                self._window.clear()
                self.failures = self.slow = 0
                self._closed_at = now
                return notes.BreakerClosed(self._name, self.generation)
