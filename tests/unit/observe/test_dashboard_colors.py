"""Contrast of the dashboard's colors, computed for each pair that meets on the page, in both schemes."""

import re
from importlib import resources
from itertools import product

import pytest

STYLE = (resources.files("sidecard.observe") / "dashboard" / "style.css").read_text(encoding="utf-8")
LIGHT, DARK = (dict(re.findall(r"--([a-z]+): (#[0-9a-f]{6});", part)) for part in STYLE.split("@media", 2)[:2])

LEAST_OF_TEXT = 4.5
"""WCAG 2.2, 1.4.3 (AA)."""
LEAST_OF_SHAPES = 3.0
"""WCAG 2.2, 1.4.11 (AA): for what is needed to understand the page."""

GROUNDS = ("ground", "surface")
TEXTS = ("ink", "muted", "link", "good", "warn", "bad")
SHAPES = ("hits", "shared", "upstream", "unanswered", "focus")


def luminance(color: str) -> float:
    """Return the relative luminance of ``#rrggbb``, as WCAG defines it."""
    channels = (int(color[at : at + 2], 16) / 255 for at in (1, 3, 5))
    red, green, blue = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one: str, other: str) -> float:
    """Return the contrast of two colors, from 1 to 21."""
    dark, light = sorted((luminance(one), luminance(other)))
    return (light + 0.05) / (dark + 0.05)


def test_contrast_is_computed_as_wcag_does() -> None:
    """Black on white has 21; this gray is known as the lightest with 4.5 on white."""
    assert contrast("#000000", "#ffffff") == pytest.approx(21.0)
    assert contrast("#767676", "#ffffff") == pytest.approx(4.54, abs=0.005)


def test_both_schemes_name_the_same_colors() -> None:
    """A missing color would be the light scheme's in the dark one."""
    assert set(LIGHT) == set(DARK) >= {*GROUNDS, *TEXTS, *SHAPES}


@pytest.mark.parametrize("scheme", [LIGHT, DARK], ids=["light", "dark"])
def test_text_has_enough_contrast_on_every_ground(scheme: dict[str, str]) -> None:
    """All text colors on all grounds; on notices and code, those used there."""
    pairs = [*product(TEXTS, GROUNDS), *product(("ink", "link"), ("notice", "track"))]
    assert [pair for pair in pairs if contrast(scheme[pair[0]], scheme[pair[1]]) < LEAST_OF_TEXT] == []


@pytest.mark.parametrize("scheme", [LIGHT, DARK], ids=["light", "dark"])
def test_shapes_have_enough_contrast_on_every_ground(scheme: dict[str, str]) -> None:
    """Bars, marks and the focus ring."""
    pairs = [*product(SHAPES, GROUNDS), *product(("good", "warn", "bad"), GROUNDS), ("hits", "track")]
    assert [pair for pair in pairs if contrast(scheme[pair[0]], scheme[pair[1]]) < LEAST_OF_SHAPES] == []
