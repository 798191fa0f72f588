"""A breaker as one would explain it: every outcome is remembered, and what follows is counted afresh each time.

It hears from the engine only that its state changed (a note), and says whether that was right and whether it was due.
"""

from dataclasses import dataclass, field

from sidecard.core import notes
from sidecard.core.backends.breaker import JITTER, MAX_RETRY_AFTER_SECONDS, CallResult
from sidecard.core.settings import BreakerSettings
from sidecard_client.protocol.wire import BreakerAction, BreakerState


@dataclass(eq=False)
class ReferenceBreaker:
    """One backend's."""

    settings: BreakerSettings
    state: BreakerState = "closed"
    generation: int = 0
    opened: int = 0
    outcomes: list[tuple[float, CallResult]] = field(default_factory=list)
    """All since it was last closed."""
    until: float = 0.0
    probes_out: dict[str, float] = field(default_factory=dict)
    """By lease: when it was let through."""
    probes_done: list[CallResult] = field(default_factory=list)
    due: str | None = None
    """The change that the engine has to tell within this event."""
    allowed: set[str] = field(default_factory=set)
    """Changes that it may tell within this event."""

    def __post_init__(self) -> None:
        if not self.settings.enabled:
            self.state = "disabled"

    def start(self, now: float) -> None:
        """An event begins."""
        self.due = None
        self.allowed = set()
        if self.overdue(now):
            self.allowed.add("probes")

    def overdue(self, now: float) -> bool:
        """Tell whether a probe is out for too long."""
        patience = max(self.settings.probe_seconds, self.settings.slow_seconds)
        return self.state == "half_open" and any(at + patience <= now for at in self.probes_out.values())

    def admits(self) -> bool:
        """Tell whether a call may be made."""
        if self.state == "half_open":
            return len(self.probes_out) + len(self.probes_done) < self.settings.probes

        return self.state in {"closed", "disabled"}

    def take(self, lease: str, now: float) -> None:
        """A lease was granted."""
        assert self.admits(), f"a lease on a backend whose breaker is {self.state}"
        assert not self.overdue(now), "a lease while a probe is overdue"
        if self.state == "half_open":
            self.probes_out[lease] = now

    def end(self, lease: str, generation: int, verdict: CallResult, now: float, told_off: float = 0.0) -> None:
        """A lease has ended."""
        probing = self.probes_out.pop(lease, None) is not None
        assert probing == (self.state == "half_open" and generation == self.generation)
        if generation != self.generation:
            return

        if "probes" in self.allowed:
            self.due = "probes"
        elif told_off and self.state in {"closed", "half_open"}:
            self.due = "retry_after"
            self.until = now + min(told_off, MAX_RETRY_AFTER_SECONDS)
        elif told_off or verdict == "nothing":
            pass
        elif self.state == "half_open":
            self.probes_done.append(verdict)
            if len(self.probes_done) == self.settings.probes:
                self.due = "probes" if self._is_bad(self.probes_done) else "closed"
        else:
            self.outcomes.append((now, verdict))
            if self.state == "closed":
                self.due = self._conclusion()

    def reconfigure(self, settings: BreakerSettings) -> None:
        """Other settings hold; what counted until now is all there is to count."""
        if settings == self.settings:
            return

        counted = self.window()
        self.outcomes = self.outcomes[len(self.outcomes) - len(counted) :]
        switched = settings.enabled != self.settings.enabled
        self.settings = settings
        self.probes_done = []
        if switched and self.state != "forced_open":
            self.act("auto" if settings.enabled else "disable")

    def act(self, action: BreakerAction) -> None:
        """An operator does something."""
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

    def hear(self, note: notes.BreakerNote, now: float) -> None:
        """The engine tells of a change: the one that is due, or one that time has brought before it."""
        self.generation += 1
        assert note.generation == self.generation, "a generation was left out, or used twice"
        match note:
            case notes.BreakerOpened(_, cause, seconds):
                self._check(cause, cause in self.allowed)
                self._opens(cause, seconds, now)
            case notes.BreakerProbing():
                assert note.probes == self.settings.probes
                self._check("probing", self.state == "open" and now >= self.until)
                self.state = "half_open"
            case notes.BreakerClosed():
                self._check("closed", in_time=False)
                self.state = "closed"
                self.outcomes = []
            case _:
                self._check("disabled", in_time=False)
                self.state = "disabled"

        self.allowed = set()
        self.probes_out, self.probes_done = {}, []

    def _check(self, change: str, in_time: bool) -> None:
        assert self.due == change or in_time, f"{change} was told while {self.due} is due"
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
        """Return the verdicts that counted when the last one came."""
        latest = self.outcomes[-self.settings.window_calls :]
        return [verdict for at, verdict in latest if at > latest[-1][0] - self.settings.window_seconds]

    def _conclusion(self) -> str | None:
        latest = self.window()
        if len(latest) < self.settings.min_calls:
            return None

        if latest.count("failure") >= self.settings.failure_rate * len(latest):
            return "failures"

        return "slow" if latest.count("slow") >= self.settings.slow_rate * len(latest) else None

    def _is_bad(self, verdicts: list[CallResult]) -> bool:
        return verdicts.count("failure") >= self.settings.failure_rate * len(verdicts) or verdicts.count(
            "slow"
        ) >= self.settings.slow_rate * len(verdicts)
