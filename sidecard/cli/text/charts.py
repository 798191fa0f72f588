"""Draw bars and curves that fit into one line of text. Pure."""

from collections.abc import Sequence

from msgspec import Struct


class Symbols(Struct, frozen=True):
    """The characters of a chart."""

    heights: str
    """Curve heights above zero, lowest first."""
    segments: str
    """Segments of a bar, in order; the last one fills the rest."""


BLOCKS = Symbols("▁▂▃▄▅▆▇█", "█▓░")
ASCII = Symbols(".:-=+*%@", "#+-")


def symbols_for(encoding: str | None) -> Symbols:
    """Return block symbols if ``encoding`` can express them, otherwise ASCII."""
    try:
        (BLOCKS.heights + BLOCKS.segments).encode(encoding or "ascii")
    except (UnicodeEncodeError, LookupError):
        return ASCII

    return BLOCKS


def bar(shares: Sequence[float], width: int, symbols: Symbols = BLOCKS) -> str:
    """Return a bar of ``width`` characters with one segment per share of 1.

    A share above zero gets at least one character while there is room, so that one call in a million is visible.
    """
    drawn = ""
    for share, symbol in zip(shares, symbols.segments, strict=False):
        drawn += symbol * max(round(share * width), 1 if share > 0 else 0)

    return drawn[:width].ljust(width, symbols.segments[-1])


def curve(values: Sequence[float], width: int, symbols: Symbols = BLOCKS) -> str:
    """Return the newest ``width`` values as heights relative to the largest one; zero is a space."""
    shown = values[-width:] if width > 0 else ()
    highest = max(shown, default=0.0)
    levels = len(symbols.heights)
    return "".join(
        " " if value <= 0 else symbols.heights[min(levels - 1, int(value / highest * levels))] for value in shown
    ).rjust(width)
