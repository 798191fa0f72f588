"""Streams under interleavings that hypothesis invents, shrunk where one breaks a law."""

import random

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.simulation.test_stream_schedules import WORLDS, Schedule
from tests.thoroughness import cases


@settings(max_examples=cases(50), deadline=None)
@given(st.sampled_from(sorted(WORLDS)), st.integers(1, 60), st.randoms(use_true_random=False))
def test_streams_in_any_order_of_events_deliver_only_whole_answers(
    world: str, steps: int, chance: random.Random
) -> None:
    """No reader receives a part as the whole, nothing partial is stored, and every wait ends."""
    schedule = Schedule(world, "")
    schedule.chance = chance
    schedule.run(steps)
