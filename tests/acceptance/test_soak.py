"""Five minutes of everything that may happen to a daemon: nothing is wrong, nothing grows, nothing is left.

``SOAK_SECONDS`` makes it longer, ``SOAK_SEED`` repeats it, ``SOAK_PICTURE`` names the SVG, ``SOAK_ATTACKERS=1`` adds attackers;
`python -m tests.soak` does the same by hand, for hours.
"""

import os
from pathlib import Path

import pytest

from tests.soak import slope, soak
from tests.soak_picture import picture

SECONDS = float(os.environ.get("SOAK_SECONDS", "300"))


@pytest.mark.slow
@pytest.mark.timeout(SECONDS + 240)
def test_soak_under_faults_answers_rightly_and_leaves_nothing(tmp_path: Path) -> None:
    """Workers and daemon are killed, Redis fails, settings are reloaded; answers are right, memory does not grow; the seed is printed."""
    seed = int(os.environ.get("SOAK_SEED") or int.from_bytes(os.urandom(4), "big"))
    drawn = Path(os.environ.get("SOAK_PICTURE") or tmp_path / "soak.svg")
    result = soak(SECONDS, seed, drawn, attacked=bool(int(os.environ.get("SOAK_ATTACKERS") or "0")))

    print({"asked": result.asked, "made": result.made, "needed": result.needed} | result.ends, drawn)
    assert result.complaints == []
    assert result.needed <= result.made < result.asked / 2
    ways = {end.partition(" ")[2] for end in result.ends}
    assert {"cache", "shared", "stale", "upstream", "fallback", "CallRejected breaker_open"} <= ways
    assert drawn.read_text().startswith("<svg")


def test_slope_finds_a_leak_through_noise() -> None:
    """The slope finds growth though a third of the samples may be anything."""
    flat = [(float(second), 100.0 + second * 7919 % 13) for second in range(200)]
    leaking = [(second, value + 0.1 * second) for second, value in flat]
    for points in (flat, leaking):
        points[::5] = [(second, value + 1000.0) for second, value in points[::5]]

    assert abs(slope(flat)) < 0.02
    assert slope(leaking) == pytest.approx(0.1, abs=0.02)


def test_picture_of_no_samples_is_drawn() -> None:
    """A soak that fails immediately has a picture too."""
    assert picture("none", {"empty": []}, [(0.0, "daemon killed")], 0.0).endswith("</svg>\n")
