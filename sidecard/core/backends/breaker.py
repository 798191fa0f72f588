"""A circuit breaker: one backend's, shared by all workers of the host.

    state         event      next          what happens
    closed        tripped    open          too many of the window's calls failed or were slow
    closed        told_off   open          the backend, or another host's breaker, said when to come back
    open          cooled     half_open     its time has passed
    half_open     passed     closed        all probes have their outcome, and few enough were bad
    half_open     failed     open          all have, and too many were bad; or one has none for too long
    half_open     told_off   open
    any           open       forced_open   ┐
    any           close      closed        │ an operator's actions
    any           disable    disabled      │
    forced_open   auto       half_open     │ not closed: nobody knows how the backend is
    disabled      auto       closed        ┘

Each change of state begins a new *generation*. A pass carries the generation that gave it, and an outcome of an older one
changes nothing: 1. a call begins while closed; 2. the breaker opens and probes; 3. the call of 1 succeeds. Without
generations, 3 closes the breaker (published breakers do that, and the reverse).

A probe's pass that comes back without an outcome (its holder died, gave up, or the answer says nothing of the backend) is
free again at once, so probing cannot get stuck on it; one that never comes back is overdue after `probe_seconds`.

Windows and rates as resilience4j has them, minimum calls as every one that survived low traffic, probes decided by all of
their outcomes as resilience4j does, cool-down that grows with each opening and forgets after a quiet window as Envoy's
outlier ejection.
"""

from collections import deque
from collections.abc import Callable
from typing import Literal, NamedTuple

from msgspec import Struct

from sidecard.core import notes
from sidecard.core.notes import BreakerNote, OpenCause
from sidecard.core.settings import BreakerSettings
from sidecard_client.protocol.wire import BreakerAction, BreakerState

CallResult = Literal["success", "slow", "failure", "nothing"]
"""What a call's end says of its backend."""

JITTER = 0.1
"""Cool-downs are lengthened or shortened by up to this share, so that the daemons of many hosts do not probe together."""

MAX_RETRY_AFTER_SECONDS = 3600.0
"""Longest time that a backend's own ``retry_after`` is believed: it comes from any worker, and a slip must not last a week."""

PROBING_RETRY_SECONDS = 1.0
"""What a caller is told to wait while all probes are out: about a short call's time."""

_MAX_DOUBLINGS = 32

BreakerEvent = Literal["tripped", "told_off", "cooled", "passed", "failed"]

_NEXT: dict[tuple[BreakerState, BreakerEvent], BreakerState] = {
    ("closed", "tripped"): "open",
    ("closed", "told_off"): "open",
    ("open", "cooled"): "half_open",
    ("half_open", "passed"): "closed",
    ("half_open", "failed"): "open",
    ("half_open", "told_off"): "open",
}
_BY_OPERATOR: dict[BreakerAction, dict[BreakerState, BreakerState]] = {
    "open": dict.fromkeys(("closed", "open", "half_open", "disabled"), "forced_open"),
    "close": dict.fromkeys(("closed", "open", "half_open", "forced_open", "disabled"), "closed"),
    "disable": dict.fromkeys(("closed", "open", "half_open", "forced_open"), "disabled"),
    "auto": {"forced_open": "half_open", "disabled": "closed"},
}


class BreakerPass(NamedTuple):
    """A breaker's leave to make one call; comes back exactly once, by `Breaker.record`."""

    generation: int
    given_at: float


class BreakerMemory(Struct, frozen=True):
    """What a breaker remembers over a restart, where it was not closed. ``until`` is an instant of the wall clock."""

    state: BreakerState
    cause: OpenCause | None
    until: float
    doublings: int


class _Outcome(NamedTuple):
    at: float
    failed: bool
    slow: bool


class Breaker:
    """One backend's breaker. ``jitter`` is uniform in [0, 1)."""

    def __init__(self, name: str, settings: BreakerSettings, jitter: Callable[[], float]) -> None:
        self.state: BreakerState = "closed" if settings.enabled else "disabled"
        self.generation = 0
        self.opened = 0
        """How often it has opened."""
        self.cause: OpenCause | None = None
        self.failures = 0
        self.slow = 0
        self._name = name
        self._settings = settings
        self._jitter = jitter
        self._window: deque[_Outcome] = deque()
        self._until = 0.0
        """While open: when to probe."""
        self._doublings = -1
        self._closed_at = float("-inf")
        self._probes_out: list[float] = []
        """While half-open: when each probe that has no outcome was let through."""
        self._probes_done: list[CallResult] = []

    @property
    def calls(self) -> int:
        """Outcomes in the window."""
        return len(self._window)

    def settle(self, now: float) -> list[BreakerNote]:
        """Do what time alone does; to be called before anything else is asked."""
        if self.state == "closed":
            return []

        if self.state == "open" and now >= self._until:
            return [self._happen("cooled", now)]

        if self.state == "half_open" and now >= self.overdue_at():
            return [self._open("failed", "probes", now)]

        return []

    def overdue_at(self) -> float:
        """Return when the oldest probe counts as failed; infinity where none is out."""
        if self.state != "half_open" or not self._probes_out:
            return float("inf")

        return self._probes_out[0] + max(self._settings.probe_seconds, self._settings.slow_seconds)

    def admits(self) -> bool:
        """Tell whether a call may be made now."""
        if self.state == "half_open":
            return len(self._probes_out) + len(self._probes_done) < self._settings.probes

        return self.state in {"closed", "disabled"}

    def admit(self, now: float) -> BreakerPass:
        """Let a call through, which `admits` has allowed."""
        if self.state == "half_open":
            self._probes_out.append(now)

        return BreakerPass(self.generation, now)

    def retry_after_seconds(self, now: float) -> float | None:
        """Return when the next call may get through, where that is known; None where an operator decides, or now."""
        if self.state == "open":
            return max(0.0, self._until - now)

        return PROBING_RETRY_SECONDS if self.state == "half_open" and not self.admits() else None

    def record(self, given: BreakerPass, verdict: CallResult, now: float) -> list[BreakerNote]:
        """Take a pass back, with what its call says of the backend."""
        if given.generation != self.generation:
            return []

        if self.state == "half_open":
            return self._record_probe(given, verdict, now)

        if verdict == "nothing":
            return []

        self._count(_Outcome(now, verdict == "failure", verdict == "slow"))
        return self._judge_window(now)

    def tell_off(self, given: BreakerPass, seconds: float, now: float) -> list[BreakerNote]:
        """Take a pass back whose backend said to come again in ``seconds``: nobody calls it before. No failure.

        A breaker that may not trip stays as it is.
        """
        if given.generation != self.generation or self.state not in {"closed", "half_open"}:
            return []

        self._until = now + min(seconds, MAX_RETRY_AFTER_SECONDS)
        return [self._happen("told_off", now, "retry_after", self._until - now)]

    def open_elsewhere(self, seconds: float, now: float) -> list[BreakerNote]:
        """Do as the breaker of another host has done. One that is open probes when it had meant to, or when the other does."""
        until = now + min(seconds, MAX_RETRY_AFTER_SECONDS)
        if self.state == "open":
            self._until = max(self._until, until)
        elif self.state in {"closed", "half_open"}:
            self._until = until
            return [self._happen("told_off", now, "elsewhere", until - now)]

        return []

    def set(self, action: BreakerAction, now: float) -> list[BreakerNote]:
        """Do what an operator says. What makes no difference is no change."""
        state = _BY_OPERATOR[action].get(self.state)
        if state is None:
            return []

        if action == "close":
            self._doublings = -1

        return [self._enter(state, now, "operator", None)]

    def reconfigure(self, settings: BreakerSettings, now: float) -> list[BreakerNote]:
        """Go by other settings; what was counted stays, and so does what an operator holds open."""
        if settings == self._settings:
            return []

        switched = settings.enabled != self._settings.enabled
        self._settings = settings
        # Fewer probes than have ended already would leave nobody to conclude.
        self._probes_done.clear()
        self._trim()
        if not switched or self.state == "forced_open":
            return []

        return self.set("auto" if settings.enabled else "disable", now)

    def memory(self, wall_offset_seconds: float) -> BreakerMemory | None:
        """Return what is to be remembered over a restart; None where it is as it was in the beginning."""
        if self.state == ("closed" if self._settings.enabled else "disabled"):
            return None

        return BreakerMemory(self.state, self.cause, self._until + wall_offset_seconds, self._doublings)

    def restore(self, memory: BreakerMemory, now: float, wall_offset_seconds: float) -> None:
        """Go on from where an earlier run was: a restart closes no open circuit, and ends no operator's hold.

        Half-open it begins anew, since the probes of then are gone.
        """
        self.state = memory.state
        self.cause = memory.cause
        self.generation = 1
        # The wall clock may have been set meanwhile.
        longest_seconds = max(MAX_RETRY_AFTER_SECONDS, (1 + JITTER) * self._settings.max_open_seconds)
        self._until = min(memory.until - wall_offset_seconds, now + longest_seconds)
        self._doublings = memory.doublings

    def _record_probe(self, given: BreakerPass, verdict: CallResult, now: float) -> list[BreakerNote]:
        self._probes_out.remove(given.given_at)
        if verdict == "nothing":
            return []

        self._probes_done.append(verdict)
        count, settings = len(self._probes_done), self._settings
        if count < settings.probes:
            return []

        if (
            self._probes_done.count("failure") >= settings.failure_rate * count
            or self._probes_done.count("slow") >= settings.slow_rate * count
        ):
            return [self._open("failed", "probes", now)]

        return [self._happen("passed", now)]

    def _judge_window(self, now: float) -> list[BreakerNote]:
        calls, settings = len(self._window), self._settings
        if self.state != "closed" or calls < settings.min_calls:
            return []

        if self.failures >= settings.failure_rate * calls:
            return [self._open("tripped", "failures", now)]

        if self.slow >= settings.slow_rate * calls:
            return [self._open("tripped", "slow", now)]

        return []

    def _count(self, outcome: _Outcome) -> None:
        window = self._window
        window.append(outcome)
        self.failures += outcome.failed
        self.slow += outcome.slow
        self._trim()

    def _trim(self) -> None:
        """Let go of what is out of the window that ends with the latest outcome."""
        window, settings = self._window, self._settings
        while window and (
            len(window) > settings.window_calls or window[0].at <= window[-1].at - settings.window_seconds
        ):
            oldest = window.popleft()
            self.failures -= oldest.failed
            self.slow -= oldest.slow

    def _forget(self) -> None:
        self._window.clear()
        self.failures = self.slow = 0

    def _open(self, happening: BreakerEvent, cause: OpenCause, now: float) -> BreakerNote:
        settings = self._settings
        calm = self.state == "closed" and now - self._closed_at >= settings.window_seconds
        self._doublings = 0 if calm else min(self._doublings + 1, _MAX_DOUBLINGS)
        seconds = min(settings.max_open_seconds, settings.open_seconds * 2**self._doublings)
        seconds *= 1 + JITTER * (2 * self._jitter() - 1)
        self._until = now + seconds
        return self._happen(happening, now, cause, seconds)

    def _happen(
        self, happening: BreakerEvent, now: float, cause: OpenCause | None = None, seconds: float | None = None
    ) -> BreakerNote:
        return self._enter(_NEXT[self.state, happening], now, cause, seconds)

    def _enter(self, state: BreakerState, now: float, cause: OpenCause | None, seconds: float | None) -> BreakerNote:
        self.state = state
        self.generation += 1
        self.cause = cause if state in {"open", "forced_open"} else None
        self._probes_out.clear()
        self._probes_done.clear()
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
                # What was counted has had its effect. Until now it tells those who look why there are no calls.
                self._forget()
                self._closed_at = now
                return notes.BreakerClosed(self._name, self.generation)
