"""Small charts of characters: bars and curves that fit into a line. Pure."""

from collections.abc import Sequence

from msgspec import Struct


class Marks(Struct, frozen=True):
    """What charts are drawn with."""

    rising: str
    """From the lowest that is not nothing to the highest."""
    parts: str
    """Of a bar that has several; the last one is what is left."""


BLOCKS = Marks("▁▂▃▄▅▆▇█", "█▓░")
ASCII = Marks(".:-=+*%@", "#+-")


def marks_of(encoding: str | None) -> Marks:
    """Return what a stream of that encoding can write."""
    try:
        (BLOCKS.rising + BLOCKS.parts).encode(encoding or "ascii")
    except (UnicodeEncodeError, LookupError):
        return ASCII

    return BLOCKS


def bar(shares: Sequence[float], width: int, marks: Marks = BLOCKS) -> str:
    """Return ``width`` characters of which each share has its part, in the mark of its place; the rest is the last mark.

    What is more than nothing has one at least, as long as there is room: a single call among a million is to be seen.
    """
    drawn = ""
    for share, mark in zip(shares, marks.parts, strict=False):
        cells = max(round(share * width), 1 if share > 0 else 0)
        drawn += mark * cells

    return drawn[:width].ljust(width, marks.parts[-1])


def curve(values: Sequence[float], width: int, marks: Marks = BLOCKS) -> str:
    """Return the newest ``width`` values as heights, the highest of them being the highest mark; nothing is a space."""
    shown = values[-width:] if width > 0 else ()
    highest = max(shown, default=0.0)
    last = len(marks.rising) - 1
    return "".join(
        " " if value <= 0 else marks.rising[min(last, int(value / highest * len(marks.rising)))] for value in shown
    ).rjust(width)
