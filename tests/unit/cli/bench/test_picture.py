"""The picture of the times of hits."""

from xml.etree import ElementTree as ET

import pytest

from sidecard.cli.bench.load import PERCENTILES, quantiles_of
from sidecard.cli.bench.picture import draw
from sidecard.cli.bench.rows import Row

SVG = "{http://www.w3.org/2000/svg}"


def parsed(svg: str) -> ET.Element:
    """Return the picture's root."""
    return ET.fromstring(svg)  # noqa: S314 - our own picture


def curve(median: float, tail: float) -> dict[str, float]:
    """Return the quantiles of a side whose slowest hits take ``tail``."""
    return dict.fromkeys(PERCENTILES, median) | {"p99.9": tail}


def test_quantiles_are_exceeded_by_their_share() -> None:
    """Of a thousand times, one is slower than the last quantile."""
    times = [float(number) for number in reversed(range(1, 1001))]
    quantiles = quantiles_of(times)
    assert (quantiles["p50"], quantiles["p99"], quantiles["p99.9"]) == (501.0, 991.0, 1000.0)
    assert set(quantiles_of([2.0]).values()) == {2.0}


def test_a_panel_for_each_row_with_curves() -> None:
    """Rows without curves are left out; each side has one color, and its figures in the legend."""
    rows = [
        Row("a & b, against c", 1.0, curves={"view": curve(3e-6, 2e-5), "redis-py": curve(3e-5, 2e-4)}),
        Row("nothing", 1.0),
        Row("apart, against c", 1.0, curves={"view": curve(4e-6, 1e-3)}),
    ]
    root = parsed(draw(rows))
    lines = root.findall(f"{SVG}polyline")
    assert len(lines) == 3
    assert lines[0].get("stroke") == lines[2].get("stroke") != lines[1].get("stroke")
    texts = ["".join(text.itertext()) for text in root.findall(f"{SVG}text")]
    assert {"a & b", "apart", "view", "redis-py"} <= set(texts)
    assert "p50 3 us, p99 3 us, p99.9 20 us" in texts


@pytest.mark.parametrize("slower", [1.5, 10.0])
def test_slower_and_rarer_is_up_and_right(slower: float) -> None:
    """Each point is within the panel."""
    root = parsed(draw([Row("a", 1.0, curves={"view": curve(3e-6, slower * 3e-6)})]))
    (line,) = root.findall(f"{SVG}polyline")
    points = [tuple(map(float, point.split(","))) for point in line.get("points", "").split()]
    assert [x for x, _ in points] == sorted(x for x, _ in points)
    assert points[-1][1] < points[0][1]
    assert all(0 < x < 1000 and 0 < y < 400 for x, y in points)


def test_a_picture_of_nothing() -> None:
    """If no part with curves was measured."""
    assert parsed(draw([])).findall(f"{SVG}polyline") == []
