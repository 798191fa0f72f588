"""A picture of a soak: one curve below the other over the same time, and what was done to the daemon as lines across them."""

from collections.abc import Mapping, Sequence
from xml.sax.saxutils import escape

WIDTH, MARGIN, ROW, GAP, TITLE = 1000, 90, 90, 34, 60
COLOURS = {"daemon": "#c0392b", "redis": "#8e44ad", "worker": "#7f8c8d", "reload": "#2980b9", "attack:": "#e67e22"}
"""Of what was done, by its first word."""

Curve = Sequence[tuple[float, float]]
"""Pairs of seconds and value."""


def picture(title: str, curves: Mapping[str, Curve], done: Sequence[tuple[float, str]], seconds: float) -> str:
    """Return an SVG."""
    height = TITLE + len(curves) * (ROW + GAP) + 20
    inner = WIDTH - MARGIN - 20

    def x(at: float) -> float:
        return MARGIN + inner * at / max(seconds, 1.0)

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}" font-family="sans-serif" font-size="11">',
        f'<rect width="{WIDTH}" height="{height}" fill="white"/>',
        f'<text x="{MARGIN}" y="22" font-size="15" font-weight="bold">{escape(title)}</text>',
    ]
    for place, (word, colour) in enumerate(COLOURS.items()):
        left = MARGIN + 110 * place
        parts += [
            f'<line x1="{left}" x2="{left + 14}" y1="38" y2="38" stroke="{colour}" stroke-width="2"/>',
            f'<text x="{left + 18}" y="42">{word}</text>',
        ]

    for row, (name, curve) in enumerate(curves.items()):
        top = TITLE + row * (ROW + GAP)
        most = max((value for _, value in curve), default=0.0) or 1.0
        parts += [
            f'<text x="{MARGIN}" y="{top - 5}" font-weight="bold">{escape(name)}</text>',
            f'<rect x="{MARGIN}" y="{top}" width="{inner}" height="{ROW}" fill="#f7f7f7" stroke="#cccccc"/>',
            f'<text x="{MARGIN - 6}" y="{top + 10}" text-anchor="end">{most:,.4g}</text>',
            f'<text x="{MARGIN - 6}" y="{top + ROW}" text-anchor="end">0</text>',
        ]
        parts += [
            f'<line x1="{x(at):.1f}" x2="{x(at):.1f}" y1="{top}" y2="{top + ROW}" stroke="{COLOURS[what.split()[0]]}"'
            f' stroke-width="0.7" opacity="0.6"><title>{escape(what)}</title></line>'
            for at, what in done
        ]
        points = " ".join(f"{x(at):.1f},{top + ROW - ROW * value / most:.1f}" for at, value in curve)
        parts.append(f'<polyline points="{points}" fill="none" stroke="#1b6b3a" stroke-width="1.4"/>')

    bottom = height - 8
    parts += [
        f'<text x="{x(seconds * tenth / 10):.1f}" y="{bottom}" text-anchor="middle">{_clock(seconds * tenth / 10)}</text>'
        for tenth in range(0, 11, 2)
    ]
    return "\n".join([*parts, "</svg>\n"])


def _clock(seconds: float) -> str:
    return (
        f"{seconds:.0f} s"
        if seconds < 600
        else f"{seconds / 60:.0f} min"
        if seconds < 7200
        else f"{seconds / 3600:.1f} h"
    )
