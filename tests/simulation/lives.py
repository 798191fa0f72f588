"""Lives of one daemon after the other, until as many steps are done as were asked for."""

import os
from collections.abc import Callable, Sequence
from itertools import count
from typing import Any, Protocol

SEED = int(os.environ.get("SIDECARD_SIMULATION_SEED", "1"))

_TOLD_STEPS = 40


class Life(Protocol):
    """A random life of one daemon; its trial has the script of all that happened."""

    trial: Any

    def run(self, steps: int) -> None:
        """Live for a number of steps, then end."""


def live(schedule: Callable[[str, str], Life], world: str, steps: int, lengths: Sequence[int]) -> None:
    """Live in ``world``, lives of ``lengths`` in turn; a life that ends badly tells how to live it again, and its last events."""
    for life in count():
        one = schedule(world, f"{SEED} {world} {life}")
        length = lengths[life % len(lengths)]
        try:
            one.run(length)
        except Exception as fault:
            last = "\n".join(f"  {now}: {event}" for now, event in one.trial.script[-_TOLD_STEPS:])
            fault.add_note(f"life {life} of world {world!r} with SIDECARD_SIMULATION_SEED={SEED} ended with\n{last}")
            raise

        steps -= length
        if steps <= 0:
            break
