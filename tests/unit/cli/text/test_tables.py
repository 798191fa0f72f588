"""Numbers with units, and tables of untrusted names."""

import pytest

from sidecard.cli.text import numbers, tables


@pytest.mark.parametrize(
    ("duration", "text"),
    [
        (0, "0 s"),
        (0.000_000_29, "290 ns"),
        (0.000027, "27 us"),
        (0.0042, "4.2 ms"),
        (0.25, "250 ms"),
        (2.5, "2.5 s"),
        (61, "1 min 1 s"),
        (3600, "1 h 0 min"),
        (90000, "1 d 1 h"),
    ],
)
def test_seconds_of_any_magnitude_have_a_fitting_unit(duration: float, text: str) -> None:
    """Durations from nanoseconds to days get the unit that fits."""
    assert numbers.seconds(duration) == text


@pytest.mark.parametrize(
    ("byte_count", "text"),
    [(0, "0 B"), (1023, "1023 B"), (1024, "1.0 KiB"), (256 * 1024**2, "256.0 MiB"), (2 * 1024**4, "2.0 TiB")],
)
def test_size_of_any_magnitude_has_a_fitting_unit(byte_count: float, text: str) -> None:
    """Sizes from bytes to tebibytes get the unit that fits."""
    assert numbers.size(byte_count) == text


@pytest.mark.parametrize(("amount", "text"), [(0, "$0.00"), (0.000021, "$0.000021"), (1234.5, "$1,234.50")])
def test_dollars_show_fractions_of_cents(amount: float, text: str) -> None:
    """The cost of one call is not rounded to zero."""
    assert numbers.dollars(amount) == text


def test_percent_and_count_are_formatted() -> None:
    """A share is a percentage, and a count has thousands separators."""
    assert (numbers.percent(0.375), numbers.count(1234567)) == ("37.5 %", "1,234,567")


def test_table_aligns_numbers_right_and_ignores_markup() -> None:
    """Brackets in a name are not markup."""
    text = tables.render(tables.table("", ("task", "calls"), [("[bold]rag", "7"), ("x", "1,000")]))
    assert text.split("\n") == ["task       calls", "[bold]rag      7", "x          1,000"]
