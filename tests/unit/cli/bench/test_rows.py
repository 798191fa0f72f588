"""What is met, what is missed, and what was not measured."""

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
    """A time must not be above its target, a rate not below, and a fault outweighs both."""
    assert row.verdict == verdict


def test_ratio_is_the_median_of_each_rounds_own() -> None:
    """A round in which the machine was busy slows both sides and says nothing about their ratio."""
    assert ratio_of([1, 100, 3], [2, 200, 3]) == 0.5


def test_drawn_row_says_what_is_missing_in_place_of_figures() -> None:
    """How to install it, and no number."""
    _, line = draw([Row("hit", 0.5, missing="pip install it")]).split("\n")
    assert line.split("  ")[0] == "hit"
    assert " -  <= 0.50x  not measured  pip install it" in line


def test_drawn_figures_have_their_units() -> None:
    """The last word of a figure's name is its unit."""
    text = draw([Row("hit", 0.5, 0.4, figures={"hit_seconds": 0.00002, "sidecard_per_second": 50000.0})])
    assert "0.40x  <= 0.50x  met  hit 20 us, sidecard 50,000/s" in text


def test_echo_carries_as_many_bytes_as_a_hit() -> None:
    """The floor would be no floor if it carried less than the value or an empty request."""
    assert reply_bytes() > len(VALUE)
    assert request_bytes() > SHA256_CHARACTERS
