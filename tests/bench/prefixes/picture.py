"""Draw the results of the bench as SVG: one panel a workload, two bars a way. Pure."""

from collections.abc import Sequence
from xml.sax.saxutils import escape

from tests.bench.prefixes.report import Best
from tests.bench.prefixes.ways import AFFINITY

_LEFT, _TOP, _BAR, _ROW, _GAP = 210, 40, 260, 26, 46
_OURS, _OTHERS, _TOKENS = "#c0392b", "#7f8c8d", "#85c1e9"


def draw(best: Sequence[Best]) -> str:
    """Return the picture; bars are scaled to the longest of their panel."""
    workloads = list(dict.fromkeys(one.workload for one in best))
    width, y = _LEFT + 2 * (_BAR + 110), _TOP
    parts = []
    for workload in workloads:
        shown = [one for one in best if one.workload == workload]
        parts.append(f'<text x="10" y="{y - 10}" font-weight="bold">{escape(workload)}</text>')
        for x, head in ((_LEFT, "seconds"), (_LEFT + _BAR + 110, "prompt tokens processed")):
            parts.append(f'<text x="{x}" y="{y - 10}" fill="#555">{head}</text>')

        longest = max(one.seconds for one in shown) or 1.0
        most = max(one.processed_tokens for one in shown) or 1
        for one in shown:
            color = _OURS if one.way == AFFINITY.name else _OTHERS
            parts.append(f'<text x="{_LEFT - 8}" y="{y + 15}" text-anchor="end">{escape(one.way)}</text>')
            parts += _bar(_LEFT, y, one.seconds / longest, f"{one.seconds:.1f}", color)
            parts += _bar(_LEFT + _BAR + 110, y, one.processed_tokens / most, f"{one.processed_tokens:,}", _TOKENS)
            y += _ROW

        y += _GAP

    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{y}" font-family="sans-serif" font-size="12">'
        f'<rect width="{width}" height="{y}" fill="white"/>'
    )
    return "\n".join([head, *parts, "</svg>\n"])


def _bar(x: int, y: int, share: float, text: str, color: str) -> list[str]:
    length = _BAR * share
    return [
        f'<rect x="{x}" y="{y + 3}" width="{length:.1f}" height="{_ROW - 8}" fill="{color}"/>',
        f'<text x="{x + length + 6:.1f}" y="{y + 15}">{text}</text>',
    ]
