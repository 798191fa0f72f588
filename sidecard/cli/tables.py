"""How the commands write for people: numbers with their units, aligned tables.

The functions on numbers are pure; rich is imported where a table is drawn, and by nothing that a daemon runs.
"""

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table

PIPE_COLUMNS = 140
"""Width where standard output is no terminal and has none of its own."""

_KIBI = 1024
_MICRO = 1e-6
_MILLI = 1e-3
_MINUTE = 60
_HOUR = 3600
_DAY = 86400
_CENT = 0.01


def count(number: int) -> str:
    """Write a whole number, with its thousands apart."""
    return f"{number:,}"


def percent(share: float) -> str:
    """Write a share of 1 as a percentage."""
    return f"{share * 100:.1f} %"


def ratio(number: float) -> str:
    """Write how many times one thing is another."""
    return f"{number:.2f}x"


def dollars(amount: float) -> str:
    """Write an amount of money; calls cost fractions of cents, so small amounts get the digits that say something."""
    if amount == 0 or amount >= _CENT:
        return f"${amount:,.2f}"

    return f"${amount:.6f}"


def seconds(duration: float) -> str:
    """Write a time span in the unit that fits it."""
    if duration == 0:
        return "0 s"

    if duration < _MICRO:
        return f"{duration * 1e9:.0f} ns"

    if duration < _MILLI:
        return f"{duration * 1e6:.0f} us"

    if duration < 1:
        return f"{duration * 1e3:.3g} ms"

    if duration < _MINUTE:
        return f"{duration:.3g} s"

    whole = round(duration)
    if whole < _HOUR:
        return f"{whole // _MINUTE} min {whole % _MINUTE} s"

    if whole < _DAY:
        return f"{whole // _HOUR} h {whole % _HOUR // _MINUTE} min"

    return f"{whole // _DAY} d {whole % _DAY // _HOUR} h"


def size(byte_count: float) -> str:
    """Write a number of bytes in the unit that fits it."""
    if abs(byte_count) < _KIBI:
        return f"{byte_count:.0f} B"

    for unit in ("KiB", "MiB", "GiB"):
        byte_count /= _KIBI
        if abs(byte_count) < _KIBI:
            return f"{byte_count:.1f} {unit}"

    return f"{byte_count / _KIBI:.1f} TiB"


def plain(text: str) -> str:
    """Return ``text`` without what would steer a terminal: names come from whoever may connect."""
    return "".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in text)


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]], *, align: str = "") -> "Table":
    """Return a table. ``align`` has an ``l`` for each column of text and an ``r`` for each of numbers.

    Where it is left out, the first column is text and the others are numbers. Empty ``columns`` show no heads.
    """
    from rich.table import Table  # noqa: PLC0415 - see above
    from rich.text import Text  # noqa: PLC0415 - see above

    grid = Table(
        title=title or None,
        title_justify="left",
        title_style="bold",
        show_header=bool(columns),
        box=None,
        pad_edge=False,
        padding=(0, 2, 0, 0),
    )
    width = len(rows[0]) if rows else len(columns)
    for side, column in zip(align or "l" + "r" * (width - 1), columns or [""] * width, strict=True):
        grid.add_column(column, justify="left" if side == "l" else "right")

    for row in rows:
        # Text, and no str: brackets in a name would be read as markup.
        grid.add_row(*(Text(plain(cell)) for cell in row))

    return grid


def drawn(*parts: "RenderableType") -> str:
    """Return ``parts`` as they look on standard output, with an empty line between them."""
    from rich.console import Console  # noqa: PLC0415 - see above

    console = Console(highlight=False, markup=False, width=None if sys.stdout.isatty() else PIPE_COLUMNS)
    # Written by the commands themselves: a reader that went away is then their matter, not rich's.
    with console.capture() as capture:
        for position, part in enumerate(parts):
            if position:
                console.print()

            console.print(part)

    return "\n".join(line.rstrip() for line in capture.get().rstrip().split("\n"))
