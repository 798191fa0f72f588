"""Bars and curves made of characters."""

import pytest

from sidecard.cli.text.charts import ASCII, BLOCKS, bar, curve, symbols_for


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
def test_bar_shows_each_share(shares: list[float], drawn: str) -> None:
    """A small share is visible, and no bar exceeds its width."""
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
def test_curve_shows_the_newest_values(values: list[float], drawn: str) -> None:
    """Heights are relative to the highest shown value."""
    assert curve(values, 5) == drawn


def test_curve_without_room_is_empty() -> None:
    """A terminal can be too narrow for a curve."""
    assert curve([1.0], 0) == ""


@pytest.mark.parametrize(
    ("encoding", "symbols"),
    [("utf-8", BLOCKS), ("ascii", ASCII), ("latin-1", ASCII), (None, ASCII), ("nonsense", ASCII)],
)
def test_symbols_suit_the_encoding(encoding: str | None, symbols: object) -> None:
    """An encoding without block characters gets ASCII."""
    assert symbols_for(encoding) is symbols
