"""Verdicts and figures of the bench's rows."""

import pytest

from sidecard.cli.bench.load import VALUE, reply_bytes, request_bytes
from sidecard.cli.bench.rows import Row, draw, ratio_of

SHA256_CHARACTERS = 64
"""Of the key, which every request carries."""


@pytest.mark.parametrize(
    ("row", "verdict"),
    [
        (Row("time", 2.0, 2.0), "met"),
        (Row("time", 2.0, 2.1), "missed"),
        (Row("rate", 2.0, 2.0, at_least=True), "met"),
        (Row("rate", 2.0, 1.9, at_least=True), "missed"),
        (Row("time", 2.0, 1.0, fault="two upstream calls"), "missed"),
        (Row("time", 2.0, missing="no Redis"), "not measured"),
    ],
)
def test_verdict_follows_the_direction_of_the_target(row: Row, verdict: str) -> None:
    """A time above its target, a rate below it, and any fault are missed."""
    assert row.verdict == verdict


def test_ratio_is_the_median_over_rounds() -> None:
    """A round on a busy machine slows both sides and does not change their ratio."""
    assert ratio_of([1, 100, 3], [2, 200, 3]) == 0.5


def test_draw_without_measurement_says_what_is_missing() -> None:
    """An unmeasured row shows the missing software instead of figures."""
    _, line = draw([Row("hit", 0.5, missing="pip install it")]).split("\n")
    assert line.split("  ")[0] == "hit"
    assert " -  <= 0.50x  not measured  pip install it" in line


def test_draw_shows_figures_with_units() -> None:
    """The last word of a figure's name selects its unit."""
    text = draw([Row("hit", 0.5, 0.4, figures={"hit_seconds": 0.00002, "sidecard_per_second": 50000.0})])
    assert "0.40x  <= 0.50x  met  hit 20 us, sidecard 50,000/s" in text


def test_echo_transfers_as_many_bytes_as_a_hit() -> None:
    """The echo is a valid lower bound only if it transfers a whole request and value."""
    assert reply_bytes() > len(VALUE)
    assert request_bytes() > SHA256_CHARACTERS
