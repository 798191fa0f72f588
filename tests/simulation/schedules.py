"""Random schedules: lives of one engine, one after another, until as many steps are done as were asked for."""

import os
import random
from collections.abc import Callable, Sequence
from itertools import count
from typing import Any, Generic, Protocol, TypeVar

from sidecard.core.events import DrainExpired, DrainRequested, Peer
from tests.laws.engine_trial import EngineTrial
from tests.thoroughness import cases

SEED = int(os.environ.get("SIDECARD_SIMULATION_SEED", "1"))
"""Selects the lives."""

_SHOWN_STEPS = 40

T = TypeVar("T", bound=EngineTrial)
Move = Callable[[], object]


def steps(default: int) -> int:
    """Return how many steps the schedules of a module take in all: ``SIDECARD_SIMULATION_STEPS``, else by `cases`."""
    return int(os.environ.get("SIDECARD_SIMULATION_STEPS") or cases(default))


class Life(Protocol):
    """A random life of one daemon; its trial has the script of all that happened."""

    trial: Any

    def run(self, steps: int) -> None:
        """Make a number of steps, then end."""


def live(schedule: Callable[[str, str], Life], world: str, steps: int, lengths: Sequence[int]) -> None:
    """Live in ``world``, lives of ``lengths`` in turn. A failure has a note with its seed and the last events."""
    for life in count():
        one = schedule(world, f"{SEED} {world} {life}")
        length = lengths[life % len(lengths)]
        try:
            one.run(length)
        except Exception as fault:
            last = "\n".join(f"  {now}: {event}" for now, event in one.trial.script[-_SHOWN_STEPS:])
            fault.add_note(f"life {life} of world {world!r} with SIDECARD_SIMULATION_SEED={SEED} ended with\n{last}")
            raise

        steps -= length
        if steps <= 0:
            break


class EngineSchedule(Generic[T]):
    """A random life of one engine on trial: peers join, ask, vanish, and time passes. ``moves`` have weights."""

    DRAINS_IN_LIVES_OF: Sequence[int]
    """Lengths of lives whose last tenth is a drain."""

    FAR_SECONDS: Sequence[float]
    MAX_PEERS: int
    UIDS: Sequence[int] = (1000,)
    PIDS: Sequence[int]

    def __init__(self, trial: T, chance: random.Random) -> None:
        self.trial = trial
        self.chance = chance
        self.moves: dict[Move, int] = {self.join: 5, self.lose: 3}

    def run(self, steps: int) -> None:
        """Make a number of steps, the last tenth perhaps while the daemon drains; then end."""
        drains_at = steps - steps // 10 if steps in self.DRAINS_IN_LIVES_OF else steps
        for step in range(steps):
            if step == drains_at:
                self.trial.happen(DrainRequested())
                self.moves[self.give_up_draining] = 2

            (move,) = self.chance.choices(list(self.moves), list(self.moves.values()))
            if self.trial.peers:
                move()
            else:
                self.join()

        self.trial.end()

    def peer(self) -> Peer:
        """Choose a peer."""
        return self.chance.choice(self.trial.peers)

    def join(self) -> None:
        """Accept a connection, if there are not too many."""
        if len(self.trial.peers) < self.MAX_PEERS:
            self.trial.join(self.chance.choice(self.UIDS), self.chance.choice(self.PIDS))

    def lose(self) -> None:
        """End a connection."""
        self.trial.lose(self.peer())

    def wait(self) -> None:
        """Let time pass: a little, to the next deadline, or far; the tick comes on time, late, early, or not yet."""
        trial, chance = self.trial, self.chance
        if chance.random() < 0.5:
            trial.work_to_end()

        deadline = trial.engine.next_deadline()
        how = chance.choices(["little", "to the deadline", "far"], [9, 3, 1])[0]
        if how == "little" or deadline is None:
            trial.now += chance.choice([0.0, 0.125, 0.5, 1.0, 3.25])
        elif how == "to the deadline":
            trial.work_to_end()  # a removal's deadline is not a multiple of 1/8
            trial.now = max(trial.now, trial.engine.next_deadline() or 0.0)
        else:
            trial.now += chance.choice(self.FAR_SECONDS)

        if chance.random() < 0.7:
            trial.tick()

    def give_up_draining(self) -> None:
        """End the drain."""
        self.trial.happen(DrainExpired())
