"""Render aligned tables. rich is imported on first use: most commands, and the daemon, do not need it."""

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from sidecard.cli.output import Verbatim
from sidecard.printable import printable

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table

PIPE_COLUMNS = 140
"""Width of the output if standard output is not a terminal."""


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]], *, align: str = "") -> "Table":
    """Return a table. ``align`` has one letter per column: ``l`` for text, ``r`` for numbers.

    By default the first column is text and all others are numbers. Empty ``columns`` omit the header.
    """
    from rich.table import Table  # noqa: PLC0415 - see the module docstring
    from rich.text import Text  # noqa: PLC0415 - see the module docstring

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
        # Text instead of str: rich would parse brackets in a name as markup.
        grid.add_row(*(Text(printable(cell)) for cell in row))

    return grid


def render(*parts: "RenderableType") -> Verbatim:
    """Return ``parts`` as text for standard output, separated by empty lines, with rich's own escapes on a terminal."""
    from rich.console import Console  # noqa: PLC0415 - see the module docstring

    console = Console(highlight=False, markup=False, width=None if sys.stdout.isatty() else PIPE_COLUMNS)
    # Captured and written by the command, so that `main` handles a closed pipe, not rich.
    with console.capture() as capture:
        for position, part in enumerate(parts):
            if position:
                console.print()

            console.print(printable(part, keep="\n") if isinstance(part, str) else part)

    return Verbatim("\n".join(line.rstrip() for line in capture.get().rstrip().split("\n")))
