"""An engine with scarce backends under the backend checker."""

from collections.abc import Callable, Iterator
from itertools import cycle

import msgspec

from sidecard.core.effects import Effect
from sidecard.core.events import Event, Peer, SettingsRead
from sidecard.core.settings import EngineSettings
from sidecard_client.protocol import wire
from tests.laws.backend_checker import BackendChecker
from tests.laws.engine_trial import EngineTrial

_VALUE = msgspec.Raw(wire.pack("answer"))
_RECOVERY_ROUNDS = 60
_SHORT_QUEUE = 10
_RECOVERY_WAIT_SECONDS = 70.0
_ENDS = ("hits", "shared", "leases_first", "failed", "rejected", "timeouts", "left")
_REASONS = ("busy", "draining", "breaker_open", "saturated", "sovereign", "budget", "not_cached")


def _jitter() -> Callable[[], float]:
    steps: Iterator[float] = cycle([0.5, 0.0, 0.99, 0.25])
    return lambda: next(steps)


class BackendTrial(EngineTrial):
    """One engine whose backends fail, fill up and recover."""

    checker: BackendChecker

    def __init__(self, settings: EngineSettings) -> None:
        self._queued: dict[str, int] = {}
        self._was_sovereign = settings.sovereign
        super().__init__(settings, BackendChecker(settings), _jitter())

    def operate(self, backend: str, action: wire.BreakerAction) -> None:
        """Set a breaker as an operator."""
        self.ask(self.observer, wire.SetBreaker(backend, action, id=self.next_id()))

    def reload(self, settings: EngineSettings) -> None:
        """Give the engine other settings."""
        self.settings = settings
        self._was_sovereign |= settings.sovereign
        self.happen(SettingsRead(settings))

    def complete(self, peer: Peer, lease: str, usage: wire.Usage | None = None) -> None:
        """Send an answer, in time or not. It is not stored: a trial of backends has no hits."""
        self.ask(peer, wire.Complete(lease, _VALUE, usage, id=self.next_id(), store=False))

    def check(self, event: Event, effects: list[Effect]) -> None:
        """Check that no caller waits for a backend that is free, and that none was refused one."""
        del event, effects
        checker, deadline = self.checker, self.engine.next_deadline()
        late = deadline is not None and deadline <= self.now
        passed_over = {name for name, _ in checker.passed_over}
        backends = self.engine._backends.all()
        for name, backend in backends.items():
            window, breaker = checker.breaker(name).window(), backend.breaker
            counted = (len(window), window.count("failure"), window.count("slow"))
            assert (breaker.calls, breaker.failures, breaker.slow) == counted, "an outcome was counted that must not be"
            waiting = len(backend.queue)
            assert waiting <= backend.settings.max_queue
            settings = backend.settings
            excused = late and (settings.requests_per_minute or settings.prefix_affinity != "off")
            if waiting and not excused and checker.is_free(name, self.now):
                for applicant in backend.queue:
                    asked = checker.asked[applicant.peer.id, applicant.reply_id]
                    held = checker.may_be_held(asked, [name], self.now, starts=True)
                    assert held, f"{asked} waits for {name}, which is free"

            assert waiting or self._queued.get(name) or name not in passed_over, (
                f"{name} was free: {checker.passed_over}"
            )

        self._queued = {name: len(backend.queue) for name, backend in backends.items()}
        for applicant in self.engine._flights.applicants():
            asked = checker.asked[applicant.peer.id, applicant.reply_id]
            held = checker.may_be_held(asked, [name for name, _ in applicant.queues], self.now)
            free = [] if held else [name for name in asked.names if self._takes(name)]
            assert applicant.not_before or late or not free, f"a caller waits though {free} could be called"

    def _takes(self, name: str) -> bool:
        """Return whether a caller that waits for other backends must have been let through to this one."""
        checker = self.checker
        # A caller that found a queue full, or a backend forbidden, is not invited again.
        invited = checker.backend(name).max_queue > _SHORT_QUEUE and not self._was_sovereign
        return invited and checker.breaker(name).state == "closed" and checker.is_free(name, self.now)

    def look(self) -> None:
        """Compare stats, breakers and report with what the checker has seen."""
        checker = self.checker
        stats = self.observe(wire.GetStats(id=self.next_id()), wire.Stats)
        assert {name: getattr(stats, name) for name in _ENDS} == {name: checker.counts[name] for name in _ENDS}
        waiters = sum(asked.failed is None for asked in checker.asked.values())
        assert stats.begins == checker.counts["begins"] == sum(checker.counts[name] for name in _ENDS) + waiters
        assert (stats.waiters, stats.leases, stats.permits) == (waiters, len(checker.held), len(checker.held))
        assert stats.breakers_opened == sum(breaker.opened for breaker in checker.breakers.values())
        for reason in _REASONS:
            assert getattr(stats, f"rejected_{reason}") == checker.counts[f"rejected_{reason}"]

        assert stats.waiters <= self.settings.max_waiters
        assert stats.flights <= self.settings.max_flights
        states = self.observe(wire.GetBreakers(id=self.next_id()), wire.Breakers).backends
        for name, state in states.items():
            breaker = checker.breaker(name)
            assert (state.state, state.generation) == (breaker.state, breaker.generation)
            assert (state.permits, state.opened) == (checker.live(name), breaker.opened)

        report = self.observe(wire.GetReport(id=self.next_id()), wire.Report)
        billed = {name: spending.dollars for name, spending in report.backends.items() if spending.calls}
        assert billed == checker.billed_dollars
        assert report.total.upstream_calls == checker.counts["billed"]

    def end(self) -> None:
        """Check that every backend recovers; then end as any trial."""
        self.look()
        if not self.checker.draining:
            caller = self.join(1000, 99)
            for name in list(self.checker.breakers):
                self._recover(name, caller)

            self.lose(caller)

        super().end()

    def check_end(self) -> None:
        """Look once more."""
        self.look()

    def _recover(self, name: str, caller: Peer) -> None:
        """Let callers succeed: a backend that no operator holds open must close before long."""
        breaker, settings = self.checker.breaker(name), self.checker.backend(name)
        unreachable = self.settings.sovereign and settings.locality == "remote"
        if breaker.state in {"forced_open", "disabled"} or self.settings.budgets or unreachable:
            return

        served = 0
        for _ in range(_RECOVERY_ROUNDS):
            begin = wire.Begin(None, id=self.next_id(), backends=(name,), wait_seconds=_RECOVERY_WAIT_SECONDS)
            said = self.ask(caller, begin)[-1]
            served += self._succeed(caller)
            if isinstance(said, wire.Pending):
                end = self.now + _RECOVERY_WAIT_SECONDS
                while (deadline := self.engine.next_deadline()) is not None and deadline <= end:
                    self.now = max(self.now, deadline)
                    self.tick()
                    served += self._succeed(caller)

            if isinstance(said, wire.Rejected):
                self.passes(max(10.0, said.retry_after_seconds or 0.0))

            if breaker.state == "closed" and served:
                return

        raise AssertionError(
            f"{name} is still {breaker.state} after {_RECOVERY_ROUNDS} callers, {served} of them served"
        )

    def _succeed(self, caller: Peer) -> int:
        leases = [lease for lease, held in self.checker.held.items() if held.peer == caller]
        for lease in leases:
            self.complete(caller, lease)

        return len(leases)
