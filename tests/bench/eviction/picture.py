"""Draw the results of the eviction bench as SVG. Pure."""

from collections.abc import Sequence
from xml.sax.saxutils import escape

from tests.bench.eviction.comparison import BOUND, Measure, Share
from tests.bench.eviction.policies import OURS

_PANEL_WIDTH, _PANEL_HEIGHT = 340, 260
_LEFT, _TOP, _GAP_X, _GAP_Y = 60, 50, 60, 80
_LEGEND_WIDTH = 200
_TICKS = 4

_COLORS = (
    "#7f8c8d",
    "#2980b9",
    "#16a085",
    "#8e44ad",
    "#c0a000",
    "#2c3e50",
    "#d35400",
    "#27ae60",
    "#7d5a3c",
    "#5dade2",
)
"""Colors of the other policies, in order; ours is red and thick, the bound black and dashed."""

_HEADS: dict[Measure, str] = {"hits": "hits, equal answers", "dollars": "dollars saved"}


def draw(shares: Sequence[Share]) -> str:
    """Return an SVG with one panel per workload and measure; x is the budget, y the share."""
    workloads = list(dict.fromkeys(one.workload for one in shares))
    measures = list(dict.fromkeys(one.measure for one in shares))
    policies = list(dict.fromkeys(one.policy for one in shares))
    width = _LEFT + len(workloads) * (_PANEL_WIDTH + _GAP_X) + _LEGEND_WIDTH
    height = _TOP + len(measures) * (_PANEL_HEIGHT + _GAP_Y)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" font-family="sans-serif" font-size="12">',
        f'<rect width="{width}" height="{height}" fill="white"/>',
    ]
    for row, measure in enumerate(measures):
        for column, workload in enumerate(workloads):
            shown = [one for one in shares if (one.workload, one.measure) == (workload, measure)]
            x, y = _LEFT + column * (_PANEL_WIDTH + _GAP_X), _TOP + row * (_PANEL_HEIGHT + _GAP_Y)
            parts += _panel(f"{workload}: {_HEADS[measure]}", shown, policies, x, y)

    return "\n".join([*parts, *_legend(policies, width - _LEGEND_WIDTH, _TOP), "</svg>\n"])


def _panel(title: str, shown: Sequence[Share], policies: Sequence[str], x: int, y: int) -> list[str]:
    budgets = sorted({one.budget_share for one in shown})
    top = max((one.share for one in shown), default=0.0) or 1.0
    # Budgets are few and far apart, so they are spaced evenly.
    across = {budget: x + _PANEL_WIDTH * (place + 0.5) / len(budgets) for place, budget in enumerate(budgets)}
    parts = [f'<text x="{x}" y="{y - 12}" font-weight="bold">{escape(title)}</text>']
    for tick in range(_TICKS + 1):
        height = y + _PANEL_HEIGHT * (1 - tick / _TICKS)
        parts.append(f'<path d="M{x} {height:.1f}h{_PANEL_WIDTH}" stroke="#ddd"/>')
        text = f"{100 * top * tick / _TICKS:.3g} %"
        parts.append(f'<text x="{x - 6}" y="{height + 4:.1f}" text-anchor="end" fill="#555">{text}</text>')

    parts += [
        f'<text x="{at:.1f}" y="{y + _PANEL_HEIGHT + 18}" text-anchor="middle" fill="#555">{100 * budget:g} %</text>'
        for budget, at in across.items()
    ]
    # Ours is drawn last, on top of the others.
    for policy in sorted(policies, key=lambda policy: policy == OURS):
        points = " ".join(
            f"{across[one.budget_share]:.1f},{y + _PANEL_HEIGHT * (1 - one.share / top):.1f}"
            for one in shown
            if one.policy == policy
        )
        if points:
            parts.append(f'<polyline points="{points}" fill="none" {_stroke(policy, policies)}/>')

    return parts


def _legend(policies: Sequence[str], x: int, y: int) -> list[str]:
    parts = []
    for place, policy in enumerate(policies):
        height = y + 20 * place
        parts.append(f'<path d="M{x} {height}h28" fill="none" {_stroke(policy, policies)}/>')
        parts.append(f'<text x="{x + 36}" y="{height + 4}">{escape(policy)}</text>')

    return [
        *parts,
        f'<text x="{x}" y="{y + 20 * len(policies) + 10}" fill="#555">x axis: cache bytes / footprint</text>',
    ]


def _stroke(policy: str, policies: Sequence[str]) -> str:
    if policy == OURS:
        return 'stroke="#c0392b" stroke-width="3.5"'

    if policy == BOUND:
        return 'stroke="black" stroke-dasharray="5 4"'

    others = [other for other in policies if other not in {OURS, BOUND}]
    return f'stroke="{_COLORS[others.index(policy) % len(_COLORS)]}" stroke-width="1.5"'
