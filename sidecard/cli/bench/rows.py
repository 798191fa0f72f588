"""What the bench finds: one row for each ratio of the design, with its target."""

from collections.abc import Mapping, Sequence
from statistics import median

from msgspec import Struct

from sidecard.cli.tables import count, drawn, ratio, seconds, size, table

INSTALL = "pip install 'sidecard[bench]'"


class Row(Struct, frozen=True):
    """One measured quantity and what it must be.

    ``measured`` is None where ``missing`` says what it would need.
    ``figures`` are the absolute numbers behind it; their names end in their unit.
    """

    what: str
    target: float
    measured: float | None = None
    at_least: bool = False
    """The target is a lower bound (of a rate) and not an upper one (of a time or a size)."""
    unit: str = "x"
    figures: Mapping[str, float] = {}
    missing: str = ""
    fault: str = ""
    """What went otherwise than it must, whatever the time; the row is missed then."""

    @property
    def verdict(self) -> str:
        """``met``, ``missed`` or ``not measured``."""
        if self.measured is None:
            return "not measured"

        if self.fault or (self.measured < self.target if self.at_least else self.measured > self.target):
            return "missed"

        return "met"


class Effort(Struct, frozen=True):
    """How much is done: each number is of one round, and a row is a median over rounds."""

    rounds: int = 7
    calls: int = 1000
    rate_seconds: float = 1.0
    entries: int = 100_000
    starts: int = 7
    full: bool = False
    """Also what takes minutes: 1,000,000 entries, and churn."""


QUICK = Effort(rounds=3, calls=300, rate_seconds=0.3, entries=20_000, starts=3)


def ratio_of(first: Sequence[float], second: Sequence[float]) -> float:
    """Return the median, over rounds, of how many times the second's the first's figure was.

    Of ratios and not a ratio of medians: what else the machine did in a round befell both.
    """
    return median(one / other for one, other in zip(first, second, strict=True))


def draw(rows: Sequence[Row]) -> str:
    """Return the rows as a table."""
    cells = [
        (row.what, _quantity(row, row.measured), _target(row), row.verdict, row.missing or row.fault or _figures(row))
        for row in rows
    ]
    return drawn(table("", ("what", "measured", "target", "", "figures"), cells, align="lrrll"))


def _target(row: Row) -> str:
    return f"{'>=' if row.at_least else '<='} {_quantity(row, row.target)}"


def _quantity(row: Row, number: float | None) -> str:
    if number is None:
        return "-"

    return ratio(number) if row.unit == "x" else size(number) if row.unit == "bytes" else f"{number:,.0f} {row.unit}"


def _figures(row: Row) -> str:
    return ", ".join(f"{_words(name)} {_figure(name, number)}" for name, number in row.figures.items())


def _words(name: str) -> str:
    return name.rpartition("_")[0].replace("_per", "").replace("_", " ")


def _figure(name: str, number: float) -> str:
    unit = name.rpartition("_")[2]
    if name.endswith("_per_second"):
        return f"{count(round(number))}/s"

    return seconds(number) if unit == "seconds" else size(number) if unit == "bytes" else count(round(number))
