"""What the state machines of hypothesis share: peers that leave, time that passes, and a drain."""

from collections.abc import Callable
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule

from sidecard.core.events import DrainExpired, DrainRequested, Peer
from tests.laws.engine_trial import EngineTrial
from tests.thoroughness import cases

PICKS = st.integers(0, 40)
"""An index into whatever there is to choose from, taken modulo its length."""

with_peers: Callable[[Any], Any] = precondition(lambda machine: machine.trial.peers)


def long_runs(examples: int, steps: int) -> settings:
    """Return the settings of a machine whose ``examples`` (see `cases`) are whole lives."""
    return settings(
        max_examples=cases(examples),
        stateful_step_count=steps,
        deadline=None,
        database=None,
        suppress_health_check=[HealthCheck.too_slow],
    )


class TrialMachine(RuleBasedStateMachine):
    """Peers of a few processes on one engine on trial."""

    trial: EngineTrial

    def peer(self, pick: int) -> Peer:
        """Choose a connected peer."""
        return self.trial.peers[pick % len(self.trial.peers)]

    @with_peers
    @rule(pick=PICKS)
    def lose(self, pick: int) -> None:
        """End a connection."""
        self.trial.lose(self.peer(pick))

    @rule(seconds=st.sampled_from([0.125, 0.5, 1.0, 3.0, 15.0, 61.0, 500.0]), ticks=st.booleans())
    def wait(self, seconds: float, ticks: bool) -> None:
        """Let time pass; the tick comes or is late."""
        self.trial.now += seconds
        if ticks:
            self.trial.tick()

    @rule()
    def wait_for_the_deadline(self) -> None:
        """Let time pass to the instant that the engine named."""
        self.trial.now = max(self.trial.now, self.trial.engine.next_deadline() or 0.0)
        self.trial.tick()

    @precondition(lambda machine: not machine.trial.checker.draining)
    @rule(sure=st.integers(0, 14))
    def drain(self, sure: int) -> None:
        """Drain, in a few of the cases in which hypothesis chooses to."""
        if sure == 14:
            self.trial.happen(DrainRequested())

    @precondition(lambda machine: machine.trial.checker.draining)
    @rule()
    def give_up_draining(self) -> None:
        """End the drain."""
        self.trial.happen(DrainExpired())

    def teardown(self) -> None:
        """End the trial, unless a check has failed already."""
        if not self.trial.broken:
            self.trial.end()
