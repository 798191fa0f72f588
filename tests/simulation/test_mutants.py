"""The simulation finds bugs that were put in: otherwise it would say nothing by finding none."""

from collections.abc import Iterator

import pytest

from tests.simulation.host.patches import simulated
from tests.simulation.host.scripts import live_on
from tests.simulation.mutants import MUTANTS

_QUICK = ("namespaces are not told apart by uid", "client: an answer is told again on another connection")
"""One of the engine and one of a client, which are found in a second."""


@pytest.fixture(autouse=True)
def _stage() -> Iterator[None]:
    with simulated():
        yield


@pytest.mark.parametrize("name", _QUICK)
def test_a_bug_that_shows_soon_is_found(name: str) -> None:
    """Within as much as is said of it."""
    _find(name)


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("name", [name for name in MUTANTS if name not in _QUICK])
def test_a_bug_is_found(name: str) -> None:
    """Within as much as is said of it."""
    _find(name)


def _find(name: str) -> None:
    mutant = MUTANTS[name]
    with mutant.let_loose():
        happened, found = live_on(mutant.setting, 1, mutant.happenings)

    assert found is not None, f"not found in {happened} happenings"
    assert happened <= mutant.happenings
