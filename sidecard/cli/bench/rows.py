"""Results of the bench: one row per ratio, with its target."""

from collections.abc import Mapping, Sequence
from statistics import median

from msgspec import Struct

from sidecard.cli.text.numbers import count, ratio, seconds, size
from sidecard.cli.text.tables import render, table

INSTALL = "pip install 'sidecard[bench]'"


class Row(Struct, frozen=True):
    """One measured quantity and its target.

    ``measured`` is None if ``missing`` says what the measurement requires.
    ``figures`` are the absolute numbers behind it; their names end in their unit.
    """

    what: str
    target: float
    measured: float | None = None
    at_least: bool = False
    """Whether the target is a lower bound (of a rate) instead of an upper one (of a time or a size)."""
    unit: str = "x"
    figures: Mapping[str, float] = {}
    missing: str = ""
    fault: str = ""
    """An incorrect result; the row is then missed, whatever the time."""
    remark: str = ""
    """How it was measured on this machine, if that differs between machines."""
    curves: Mapping[str, Mapping[str, float]] = {}
    """Seconds by quantile (`load.PERCENTILES`), of each side: what `--picture` draws."""

    @property
    def verdict(self) -> str:
        """``met``, ``missed`` or ``not measured``."""
        if self.measured is None:
            return "not measured"

        if self.fault or (self.measured < self.target if self.at_least else self.measured > self.target):
            return "missed"

        return "met"


class Effort(Struct, frozen=True):
    """Amount of work per round; a row is the median over all rounds."""

    rounds: int = 7
    calls: int = 1000
    rate_seconds: float = 1.0
    starts: int = 7


QUICK = Effort(rounds=3, calls=300, rate_seconds=0.3, starts=3)


def compare(
    what: str, target: float, first: Sequence[float], second: Sequence[float], names: tuple[str, str], fault: str = ""
) -> Row:
    """Return the row for the ratio of two series of seconds, one value per round; ``names`` label the figures."""
    figures = {f"{name}_seconds": median(times) for name, times in zip(names, (first, second), strict=True)}
    return Row(what, target, ratio_of(first, second), figures=figures, fault=fault)


def ratio_of(first: Sequence[float], second: Sequence[float]) -> float:
    """Return the median, over rounds, of the ratio of the first figure to the second.

    This is not the ratio of medians, because other load on the machine in one round affects both figures.
    """
    return median(one / other for one, other in zip(first, second, strict=True))


def draw(rows: Sequence[Row]) -> str:
    """Return the rows as a table."""
    cells = [
        (row.what, _quantity(row, row.measured), _target(row), row.verdict, row.missing or row.fault or _figures(row))
        for row in rows
    ]
    return render(table("", ("what", "measured", "target", "", "figures"), cells, align="lrrll"))


def _target(row: Row) -> str:
    return f"{'>=' if row.at_least else '<='} {_quantity(row, row.target)}"


def _quantity(row: Row, number: float | None) -> str:
    if number is None:
        return "-"

    return ratio(number) if row.unit == "x" else size(number) if row.unit == "bytes" else f"{number:,.3g} {row.unit}"


def _figures(row: Row) -> str:
    figures = [f"{_words(name)} {_figure(name, number)}" for name, number in row.figures.items()]
    return ", ".join([*figures, row.remark] if row.remark else figures)


def _words(name: str) -> str:
    return name.rpartition("_")[0].replace("_per", "").replace("_", " ")


def _figure(name: str, number: float) -> str:
    unit = name.rpartition("_")[2]
    if name.endswith("_per_second"):
        return f"{count(round(number))}/s"

    return seconds(number) if unit == "seconds" else size(number) if unit == "bytes" else count(round(number))
