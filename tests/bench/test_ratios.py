"""The ratios of the design; ``pytest -m bench -n 0 -s tests/bench/test_ratios.py`` shows the tables."""

import pytest

from sidecard.cli.bench.parts import FULL_PARTS, PARTS, Part
from sidecard.cli.bench.rows import Effort, draw
from tests.bench.compression import compression

pytestmark = [pytest.mark.bench, pytest.mark.timeout(600)]


@pytest.mark.parametrize("part", [*PARTS, *FULL_PARTS, Part(compression, one_cpu=True)], ids=lambda part: part.name)
def test_ratios_are_met(part: Part) -> None:
    """Each ratio meets its target."""
    rows = part.measure(Effort(full=part in FULL_PARTS))
    print(f"\n{draw(rows)}")
    assert not [row.what for row in rows if row.verdict == "missed"], draw(rows)
    unmeasured = [row.missing for row in rows if row.verdict == "not measured"]
    if unmeasured:
        pytest.skip(f"not measured: {unmeasured[0]}")
