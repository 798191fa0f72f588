"""Numbers with their units, and tables that no name can spoil."""

import pytest

from sidecard.cli import tables


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
def test_seconds_have_the_unit_that_fits(duration: float, text: str) -> None:
    """Nanoseconds to days."""
    assert tables.seconds(duration) == text


@pytest.mark.parametrize(
    ("byte_count", "text"),
    [(0, "0 B"), (1023, "1023 B"), (1024, "1.0 KiB"), (256 * 1024**2, "256.0 MiB"), (2 * 1024**4, "2.0 TiB")],
)
def test_size_has_the_unit_that_fits(byte_count: float, text: str) -> None:
    """Bytes to tebibytes."""
    assert tables.size(byte_count) == text


@pytest.mark.parametrize(("amount", "text"), [(0, "$0.00"), (0.000021, "$0.000021"), (1234.5, "$1,234.50")])
def test_dollars_show_fractions_of_cents(amount: float, text: str) -> None:
    """One call's cost is not rounded to nothing."""
    assert tables.dollars(amount) == text


def test_share_is_a_percentage_and_count_has_its_thousands_apart() -> None:
    """The two that need no choice of unit."""
    assert (tables.percent(0.375), tables.count(1234567)) == ("37.5 %", "1,234,567")


def test_plain_takes_out_what_steers_a_terminal() -> None:
    """A task's name comes from whoever may connect."""
    assert tables.plain("a\x1b[2Jb\nc") == "a\N{REPLACEMENT CHARACTER}[2Jb\N{REPLACEMENT CHARACTER}c"


def test_table_aligns_numbers_right_and_reads_no_markup() -> None:
    """Brackets in a name are its own."""
    text = tables.drawn(tables.table("", ("task", "calls"), [("[bold]rag", "7"), ("x", "1,000")]))
    assert text.split("\n") == ["task       calls", "[bold]rag      7", "x          1,000"]
