"""Bounds of histograms."""

from itertools import pairwise

import pytest

from sidecard.core.accounts import histogram


@pytest.mark.parametrize("bounds", [histogram.CALL_BOUNDS, histogram.DEFAULT_BOUNDS])
def test_bounds_rise_by_at_most_three_times(bounds: tuple[float, ...]) -> None:
    """An estimate from a bucket is at most as wrong as the bucket is wide."""
    assert all(1.0 < above / below < 3.0 for below, above in pairwise(bounds))
