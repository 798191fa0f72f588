"""Draw the times of hits as SVG. Pure."""

from collections.abc import Mapping, Sequence
from math import ceil, floor, log10
from xml.sax.saxutils import escape

from sidecard.cli.bench.load import PERCENTILES
from sidecard.cli.bench.rows import Row
from sidecard.cli.text.numbers import seconds

_LEFT, _TOP, _WIDTH, _HEIGHT, _GAP = 80, 60, 420, 300, 60
_LEGEND_WIDTH = 240
_COLORS = {"view": "#c0392b", "socket": "#e08e79", "redis-py": "#2980b9", "echo": "#7f8c8d", "cachetools": "#27ae60"}
_OTHER = "#8e44ad"

Curve = Mapping[str, float]
"""Seconds by quantile."""


def draw(rows: Sequence[Row]) -> str:
    """Return one panel for each row with curves: quantiles of hits on the horizontal axis, their times on the vertical one.

    Both axes are logarithmic; the horizontal one shows the share of slower hits.
    """
    panels = [(row.what.partition(", against")[0], row.curves) for row in rows if row.curves]
    times = [time for _, curves in panels for curve in curves.values() for time in curve.values()]
    lowest, highest = floor(log10(min(times, default=1e-6))), ceil(log10(max(times, default=1e-3)))
    width = _LEFT + len(panels) * (_WIDTH + _GAP) + _LEGEND_WIDTH
    height = _TOP + _HEIGHT + 60
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" font-family="sans-serif" font-size="12">',
        f'<rect width="{width}" height="{height}" fill="white"/>',
    ]
    for place, (title, curves) in enumerate(panels):
        parts += _panel(title, curves, _LEFT + place * (_WIDTH + _GAP), lowest, max(highest, lowest + 1))

    sides = list(dict.fromkeys(side for _, curves in panels for side in curves))
    return "\n".join([*parts, *_legend(sides, panels, width - _LEGEND_WIDTH), "</svg>\n"])


def _panel(title: str, curves: Mapping[str, Curve], left: int, lowest: int, highest: int) -> list[str]:
    def x(quantile: str) -> float:
        return left + _WIDTH * _rarity(quantile) / _rarity("p99.9")

    def y(time: float) -> float:
        return _TOP + _HEIGHT * (highest - log10(time)) / (highest - lowest)

    parts = [f'<text x="{left}" y="{_TOP - 14}" font-weight="bold">{escape(title)}</text>']
    for power in range(lowest, highest + 1):
        parts += [
            f'<path d="M{left} {y(10.0**power):.1f}h{_WIDTH}" stroke="#ccc"/>',
            f'<text x="{left - 6}" y="{y(10.0**power) + 4:.1f}" text-anchor="end" fill="#555">{seconds(10.0**power)}</text>',
        ]

    for quantile in ("p50", "p90", "p99", "p99.9"):
        parts += [
            f'<path d="M{x(quantile):.1f} {_TOP}v{_HEIGHT}" stroke="#eee"/>',
            f'<text x="{x(quantile):.1f}" y="{_TOP + _HEIGHT + 18}" text-anchor="middle" fill="#555">{quantile}</text>',
        ]

    for side, curve in curves.items():
        points = " ".join(f"{x(quantile):.1f},{y(time):.1f}" for quantile, time in curve.items())
        parts.append(
            f'<polyline points="{points}" fill="none" stroke="{_color(side)}" stroke-width="{3 if side == "view" else 1.5}"/>'
        )

    return parts


def _legend(sides: Sequence[str], panels: Sequence[tuple[str, Mapping[str, Curve]]], left: int) -> list[str]:
    parts = []
    for place, side in enumerate(sides):
        height = _TOP + 34 * place
        curve = next(curves[side] for _, curves in panels if side in curves)
        figures = ", ".join(f"{name} {seconds(curve[name])}" for name in ("p50", "p99", "p99.9"))
        parts += [
            f'<path d="M{left} {height}h28" stroke="{_color(side)}" stroke-width="3"/>',
            f'<text x="{left + 36}" y="{height + 4}">{escape(side)}</text>',
            f'<text x="{left + 36}" y="{height + 18}" fill="#555" font-size="10">{escape(figures)}</text>',
        ]

    return parts


def _rarity(quantile: str) -> float:
    """Return how rare the slower hits are, in powers of ten."""
    return -log10(1 - PERCENTILES[quantile])


def _color(side: str) -> str:
    return _COLORS.get(side, _OTHER)
