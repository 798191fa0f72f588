"""Show the demo's progress on standard error: a bar on a terminal, otherwise a few lines."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

from msgspec import Struct

from sidecard.cli.output import note

LINES: Final = 4
"""Number of progress lines if standard error is not a terminal."""


class Progress(Struct):
    """Number of questions answered so far, by source."""

    asked: int = 0
    made: int = 0
    shared: int = 0
    cached: int = 0

    def count(self, source: str) -> None:
        """Count one more answer."""
        self.asked += 1
        self.made += source == "upstream"
        self.shared += source == "shared"
        self.cached += source == "cache"


Show = Callable[[Progress], None]


@contextmanager
def showing(total: int, *, quiet: bool) -> Iterator[Show]:
    """Yield a function that shows a `Progress` of ``total`` questions; ``quiet`` omits the lines, but not the bar."""
    if not sys.stderr.isatty():
        yield _nothing if quiet else _lines(total)
        return

    from rich.console import Console  # noqa: PLC0415 - only for the bar
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn  # noqa: PLC0415 - as above
    from rich.progress import Progress as Bar  # noqa: PLC0415 - as above

    counts = TextColumn("made {task.fields[made]}, shared {task.fields[shared]}, cached {task.fields[cached]}")
    with Bar(TextColumn("Asking"), BarColumn(20), MofNCompleteColumn(), counts, console=Console(stderr=True)) as bar:
        task = bar.add_task("", total=total, made=0, shared=0, cached=0)

        def show(now: Progress) -> None:
            bar.update(task, completed=now.asked, made=now.made, shared=now.shared, cached=now.cached)

        yield show


def say(line: str, *, quiet: bool) -> None:
    """Write a line to standard error, unless ``quiet``."""
    if not quiet:
        note(line)


def _nothing(_: Progress) -> None:
    pass


def _lines(total: int) -> Show:
    def show(now: Progress) -> None:
        # Only if this question completes another quarter.
        if now.asked * LINES // total > (now.asked - 1) * LINES // total:
            say(
                f"Asked {now.asked} of {total}: {now.made} made, {now.shared} shared, {now.cached} cached.", quiet=False
            )

    return show
