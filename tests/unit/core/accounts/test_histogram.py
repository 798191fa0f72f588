"""Bounds of histograms."""

from itertools import pairwise

import pytest

from sidecard.core.accounts import histogram


@pytest.mark.parametrize("bounds", [histogram.CALL_BOUNDS, histogram.DEFAULT_BOUNDS])
def test_bounds_rise_by_at_most_two_and_a_half_times(bounds: tuple[float, ...]) -> None:
    """An estimate from a bucket is at most as wrong as the bucket is wide."""
    assert all(1.0 < above / below <= 2.5 for below, above in pairwise(bounds))


def test_a_histogram_has_one_bucket_more_than_bounds() -> None:
    """The last one counts what is above all bounds."""
    counted = histogram.Buckets((1.0, 2.0))
    for value in (1.0, 1.5, 9.0):
        counted.observe(value)

    assert (counted.counts, counted.sum) == ([1, 1, 1], 11.5)
