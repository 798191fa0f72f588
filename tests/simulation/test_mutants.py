"""Simulation and schedules find planted bugs: otherwise it would say nothing that they find none."""

from collections.abc import Callable, Collection, Iterator, Sequence

import pytest

from tests.laws.worlds import BACKEND_WORLDS, MODEL_WORLDS
from tests.simulation import test_backend_schedules as backends
from tests.simulation import test_engine_schedules as engine
from tests.simulation import test_store_schedules as stores
from tests.simulation import test_stream_schedules as streams
from tests.simulation.host.patches import simulated
from tests.simulation.host.scripts import live_on
from tests.simulation.mutants import MUTANTS, planted
from tests.simulation.schedule_mutants import SCHEDULE_MUTANTS
from tests.simulation.schedules import Life, live
from tests.simulation.view_mutants import VIEW_MUTANTS

_QUICK = ("two uids share one private namespace", "client: an answer is sent again on another connection")
"""One of the engine and one of a client, which are found in a second."""

SCHEDULES: dict[str, tuple[Callable[[str, str], Life], Collection[str], Sequence[int]]] = {
    "engine": (engine.Schedule, MODEL_WORLDS, (250, 900)),
    "backends": (backends.Schedule, BACKEND_WORLDS, (250, 400)),
    "streams": (streams.Schedule, streams.WORLDS, (200, 700)),
    "stores": (stores.Schedule, stores.WORLDS, (400,)),
}
"""Schedule, worlds, and lengths of lives."""


@pytest.fixture
def _simulated() -> Iterator[None]:
    with simulated():
        yield


@pytest.mark.usefixtures("_simulated")
@pytest.mark.parametrize("name", _QUICK)
def test_simulation_with_a_quick_mutant_finds_it(name: str) -> None:
    """The simulation finds the bug within the happenings of the mutant."""
    _find(name)


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.usefixtures("_simulated")
@pytest.mark.parametrize("name", [name for name in MUTANTS if name not in _QUICK])
def test_simulation_with_a_mutant_finds_it(name: str) -> None:
    """The simulation finds the bug within the happenings of the mutant."""
    _find(name)


_ALL = SCHEDULE_MUTANTS | VIEW_MUTANTS
_FIRST = {mutant.schedule: name for name, mutant in reversed(_ALL.items())}
"""One mutant of each schedule for the default run, which proves little more by the others: they test tests."""


@pytest.mark.parametrize(
    "name",
    [name if name in _FIRST.values() else pytest.param(name, marks=pytest.mark.slow) for name in _ALL],
)
def test_schedules_with_a_mutant_find_it(name: str) -> None:
    """The schedules of the mutant's world find the bug within its steps."""
    mutant = _ALL[name]
    schedule, _, lengths = SCHEDULES[mutant.schedule]
    with planted(mutant.replacements), pytest.raises(Exception, match="with SIDECARD_SIMULATION_SEED"):
        live(schedule, mutant.world, mutant.steps, lengths)


def _find(name: str) -> None:
    mutant = MUTANTS[name]
    with planted(mutant.replacements):
        happened, found = live_on(mutant.setting, 1, mutant.happenings)

    assert found is not None, f"not found in {happened} happenings"
    assert happened <= mutant.happenings
