"""A host in one process: real daemon, real clients, no kernel, and a script that decides everything.

``SIDECARD_SIMULATION_SEED`` sets which lives. For hours of it: ``python -m tests.simulation``.
"""

import hashlib
import os
import subprocess
import sys
from collections.abc import Iterator

import pytest

from tests.simulation.host.patches import simulated
from tests.simulation.host.scripts import Writer, as_test, live_on, relive, replay, shorten
from tests.simulation.host.world import World
from tests.simulation.host.worlds import SETTINGS
from tests.simulation.mutants import MUTANTS, planted
from tests.simulation.schedules import SEED

_FEW = 1_500
_MANY = 60_000
"""Happenings. With ten kinds of worlds and two parts of each, 1,200,000."""

_TRIALS = 300


@pytest.fixture(autouse=True)
def _stage() -> Iterator[None]:
    with simulated():
        yield


@pytest.mark.parametrize("name", SETTINGS)
def test_simulation_for_a_few_lives_finds_nothing(name: str) -> None:
    """No law is broken in a few lives of each world, and nothing is left at their end."""
    _live(name, SEED, _FEW)


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("part", range(2))
@pytest.mark.parametrize("name", SETTINGS)
def test_simulation_for_a_million_happenings_finds_nothing(name: str, part: int) -> None:
    """No law is broken in many other lives of each world."""
    _live(name, 1_000 * SEED + part + 1, _MANY)


def test_script_run_twice_has_the_same_outcome() -> None:
    """A script has the same outcome in another process with other string hashes: no set's order matters."""
    here = digest("plain", 400)
    command = [sys.executable, "-c", f"from {__spec__.name} import digest; print(digest('plain', 400))"]
    there = subprocess.run(
        command, check=True, capture_output=True, text=True, env={**os.environ, "PYTHONHASHSEED": "4711"}
    )

    assert digest("plain", 400) == here
    assert there.stdout.strip() == here


def test_finding_is_printed_as_a_short_test_that_fails_until_the_bug_is_fixed() -> None:
    """The printed test of a planted bug fails with the bug and passes without it."""
    mutant = MUTANTS["a late follower of a stream misses a chunk"]
    with planted(mutant.replacements):
        _, found = live_on(mutant.setting, 1, mutant.happenings)
        assert found is not None
        short = shorten(found, _TRIALS)
        names: dict[str, object] = {}
        exec(as_test(short), names)  # noqa: S102 - the text that a developer would paste
        test = names["test_finding_is_fixed"]
        assert callable(test)
        with pytest.raises(AssertionError):
            test()

    test()
    assert len(short.script) <= 12 < len(found.script)


def test_part_of_a_script_runs_as_well() -> None:
    """A step whose subject is missing does nothing."""
    writer = Writer(SETTINGS["scarce"], "any")
    script = [writer.step() for _ in range(300)]
    for start in range(0, 300, 60):
        replay("scarce", script[start::2])


def digest(name: str, steps: int) -> str:
    """Live one life, and return what has come of it in a few letters."""
    with simulated():
        writer = Writer(SETTINGS[name], "digest")
        world = relive(name, [writer.step() for _ in range(steps)])

    return hashlib.sha256(repr(_traces(world)).encode()).hexdigest()


def _traces(world: World) -> object:
    runs = [(run.place, run.started_at, run.end, run.backend, run.call.process) for run in world.answers.runs]
    return world.happenings, world.now, sorted(world.answers.ends.items()), runs


def _live(name: str, seed: int, happenings: int) -> None:
    _, found = live_on(name, seed, happenings)
    if found is not None:
        found.fault.add_note(f"seed {seed} of {name!r}; reproduced by\n\n{as_test(shorten(found, _TRIALS))}")
        raise found.fault
