"""The timers against a dict of deadlines."""

import random

import pytest

from sidecard.core.timers import Timers


@pytest.mark.parametrize("seed", range(8))
def test_timers_return_the_deadlines_of_a_dict(seed: int) -> None:
    """However often deadlines are replaced and cleared, none is lost, none fires twice and none fires early."""
    chance = random.Random(seed)
    timers: Timers[str] = Timers()
    deadlines: dict[str, float] = {}
    now = 0.0
    for _ in range(4000):
        item = f"item-{chance.randrange(20)}"
        move = chance.choice(["set", "set", "set", "clear", "pass"])
        if move == "set":
            deadlines[item] = now + chance.choice([1.0, 50.0, 1000.0, 5000.0])
            timers.set(item, deadlines[item])
        elif move == "clear":
            deadlines.pop(item, None)
            timers.clear(item)
        else:
            now += chance.choice([0.0, 0.5, 2.0])
            while (due := timers.pop_due(now)) is not None:
                assert deadlines.pop(due) <= now

        earliest = min(deadlines.values(), default=None)
        assert timers.next_deadline() == earliest
        assert len(timers) == len(deadlines)
        assert len(timers._heap) <= 2 * len(deadlines) + 100
        if move == "pass":
            assert earliest is None or earliest > now
