"""A breaker in its simplest form: it keeps every outcome and counts afresh each time.

From the engine it learns only that the state changed (a note). It checks that the change is right, and that none is missing.
"""

from dataclasses import dataclass, field

from sidecard.core import notes
from sidecard.core.backends.breaker import (
    JITTER,
    MAX_ABANDONED_PROBES,
    MAX_RETRY_AFTER_SECONDS,
    UNPROBED_SECONDS,
    CallResult,
)
from sidecard.core.settings import BreakerSettings
from sidecard_client.protocol.wire import BreakerAction, BreakerState


@dataclass(eq=False)
class ReferenceBreaker:
    """The breaker of one backend."""

    settings: BreakerSettings
    state: BreakerState = "closed"
    generation: int = 0
    opened: int = 0
    outcomes: list[tuple[float, CallResult]] = field(default_factory=list)
    """All since it last closed."""
    until: float = 0.0
    probes_out: dict[str, float] = field(default_factory=dict)
    """By lease, the time of its grant."""
    probes_done: list[CallResult] = field(default_factory=list)
    neutral: int = 0
    """While half-open: probes that ended without deciding."""
    abandoned: int = 0
    """While half-open: probes whose callers died or gave up."""
    since: float = 0.0
    """While half-open: since when."""
    due: str | None = None
    """The change that the engine must make within this event."""
    allowed: set[str] = field(default_factory=set)
    """Changes that it may make within this event."""

    def __post_init__(self) -> None:
        if not self.settings.enabled:
            self.state = "disabled"

    def start(self, now: float) -> None:
        """Start an event."""
        self.due = None
        self.allowed = set()
        if self.overdue(now):
            self.allowed.add("probes")

        if self.unprobed(now):
            self.allowed.add("closed")

    def unprobed(self, now: float) -> bool:
        """Return whether no call has come for so long that what the breaker knew is outdated."""
        return (
            self.state in {"open", "half_open"}
            and not self.probes_out
            and self._half_open_at() + UNPROBED_SECONDS <= now
        )

    def _half_open_at(self) -> float:
        return self.until if self.state == "open" else self.since

    def overdue(self, now: float) -> bool:
        """Return whether a probe has had no outcome for too long."""
        patience = max(self.settings.probe_seconds, self.settings.slow_seconds)
        return self.state == "half_open" and any(at + patience <= now for at in self.probes_out.values())

    def admits(self) -> bool:
        """Return whether a call may be made."""
        if self.state == "half_open":
            return len(self.probes_out) + len(self.probes_done) < self.settings.probes

        return self.state in {"closed", "disabled"}

    def take(self, lease: str, now: float) -> None:
        """Count a granted lease."""
        assert self.admits(), f"a lease on a backend whose breaker is {self.state}"
        assert not self.overdue(now), "a lease while a probe is overdue"
        if self.state == "half_open":
            self.probes_out[lease] = now

    def end(self, lease: str, generation: int, result: CallResult, now: float, pause_seconds: float = 0.0) -> None:
        """Count the end of a lease. ``pause_seconds`` is the backend's own Retry-After."""
        probing = self.probes_out.pop(lease, None) is not None
        assert probing == (self.state == "half_open" and generation == self.generation)
        if generation != self.generation:
            return

        if "probes" in self.allowed:
            self.due = "probes"
        elif pause_seconds and self.state in {"closed", "half_open"}:
            self.due = "retry_after"
            self.until = now + min(pause_seconds, MAX_RETRY_AFTER_SECONDS)
        elif pause_seconds:
            pass
        elif result in {"neutral", "nothing"}:
            self.neutral += probing and result == "neutral"
            self.abandoned += probing and result == "nothing"
            if self.neutral >= self.settings.probes or self.abandoned == MAX_ABANDONED_PROBES:
                self.due = "closed"
        elif self.state == "half_open":
            self.probes_done.append(result)
            if len(self.probes_done) == self.settings.probes:
                self.due = "probes" if self._is_bad(self.probes_done) else "closed"
        else:
            self.outcomes.append((now, result))
            if self.state == "closed":
                self.due = self._conclusion()

    def reconfigure(self, settings: BreakerSettings) -> None:
        """Take other settings. What counted until now stays."""
        if settings == self.settings:
            return

        counted = self.window()
        self.outcomes = self.outcomes[len(self.outcomes) - len(counted) :]
        switched = settings.enabled != self.settings.enabled
        self.settings = settings
        self.probes_done = []
        self.neutral = self.abandoned = 0
        if switched and self.state != "forced_open":
            self.act("auto" if settings.enabled else "disable")

    def act(self, action: BreakerAction) -> None:
        """Apply an operator's action."""
        match action, self.state:
            case "open", state if state != "forced_open":
                self.due = "operator"
            case "close", _:
                self.due = "closed"
            case "disable", state if state != "disabled":
                self.due = "disabled"
            case "auto", "forced_open":
                self.due = "probing"
            case "auto", "disabled":
                self.due = "closed"
            case _:
                self.due = None

    def change(self, note: notes.BreakerNote, now: float) -> None:
        """Check a change of the engine's breaker: the one that is due, or one that time alone made before it."""
        self.generation += 1
        assert note.generation == self.generation, "a generation is missing, or was used twice"
        match note:
            case notes.BreakerOpened(_, cause, seconds):
                self._check(cause, cause in self.allowed)
                self._opens(cause, seconds, now)
            case notes.BreakerProbing():
                assert note.probes == self.settings.probes
                cooled = self.state == "open" and now >= self.until
                self._check("probing", cooled)
                self.since = self.until if cooled else now
                self.state = "half_open"
            case notes.BreakerClosed():
                self._check("closed", "closed" in self.allowed)
                self.state = "closed"
                self.outcomes = []
            case _:
                self._check("disabled", in_time=False)
                self.state = "disabled"

        self.allowed = {"closed"} if self.unprobed(now) else set()
        self.probes_out, self.probes_done, self.neutral, self.abandoned = {}, [], 0, 0

    def _check(self, change: str, in_time: bool) -> None:
        assert self.due == change or in_time, f"the breaker changed ({change}) while {self.due} is due"
        if self.due == change:
            self.due = None

    def _opens(self, cause: notes.OpenCause, seconds: float | None, now: float) -> None:
        settings = self.settings
        self.opened += 1
        self.state = "forced_open" if cause == "operator" else "open"
        if cause == "operator":
            assert seconds is None
            return

        assert seconds is not None
        if cause != "retry_after":
            assert settings.open_seconds * (1 - JITTER) <= seconds <= settings.max_open_seconds * (1 + JITTER)
            self.until = now + seconds

        assert self.until == now + seconds or abs(self.until - now - seconds) < 1e-6

    def window(self) -> list[CallResult]:
        """Return the results that counted when the last one came."""
        latest = self.outcomes[-self.settings.window_calls :]
        return [result for at, result in latest if at > latest[-1][0] - self.settings.window_seconds]

    def _conclusion(self) -> str | None:
        latest = self.window()
        if len(latest) < self.settings.min_calls:
            return None

        if latest.count("failure") >= self.settings.failure_rate * len(latest):
            return "failures"

        return "slow" if latest.count("slow") >= self.settings.slow_rate * len(latest) else None

    def _is_bad(self, results: list[CallResult]) -> bool:
        return results.count("failure") >= self.settings.failure_rate * len(results) or results.count(
            "slow"
        ) >= self.settings.slow_rate * len(results)
