"""Bars and curves of characters."""

import pytest

from sidecard.cli.charts import ASCII, BLOCKS, bar, curve, marks_of


@pytest.mark.parametrize(
    ("shares", "drawn"),
    [
        ([0.0], "----------"),
        ([1.0], "##########"),
        ([0.5], "#####-----"),
        ([0.3, 0.2], "###++-----"),
        ([0.0, 0.5], "+++++-----"),
        ([0.000_001, 0.999_999], "#+++++++++"),
        ([0.96, 0.04], "##########"),
        ([2.0], "##########"),
        ([], "----------"),
    ],
)
def test_each_share_has_its_part(shares: list[float], drawn: str) -> None:
    """What is little is seen all the same, and no bar is longer than it may be."""
    assert bar(shares, 10, ASCII) == drawn


@pytest.mark.parametrize(
    ("values", "drawn"),
    [
        ([], "     "),
        ([0.0, 0.0], "     "),
        ([5.0], "    █"),
        ([1.0, 2.0, 4.0, 8.0], " ▂▃▅█"),
        ([9.0, 1.0, 1.0, 1.0, 1.0, 1.0], "█████"),
        ([0.0, 0.01, 1000.0], "   ▁█"),
    ],
)
def test_the_newest_values_are_heights(values: list[float], drawn: str) -> None:
    """Of the highest that is shown."""
    assert curve(values, 5) == drawn


def test_a_curve_without_room_is_nothing() -> None:
    """A terminal may be that narrow."""
    assert curve([1.0], 0) == ""


@pytest.mark.parametrize(
    ("encoding", "marks"), [("utf-8", BLOCKS), ("ascii", ASCII), ("latin-1", ASCII), (None, ASCII), ("nonsense", ASCII)]
)
def test_marks_are_those_that_the_stream_can_write(encoding: str | None, marks: object) -> None:
    """An old terminal gets signs that it has."""
    assert marks_of(encoding) is marks
