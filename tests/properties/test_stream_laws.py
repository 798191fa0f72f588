"""Streams under any interleaving that hypothesis can think of, shrunk where one breaks the law."""

import random

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.simulation.test_stream_schedules import WORLDS, Schedule


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(sorted(WORLDS)), st.integers(1, 60), st.randoms(use_true_random=False))
def test_no_reader_ever_takes_a_part_for_the_whole(world: str, steps: int, chance: random.Random) -> None:
    """Nor is anything partial stored, nor does anybody wait for ever; the judge is the simulation's."""
    schedule = Schedule(world, "")
    schedule.chance = chance
    schedule.run(steps)
