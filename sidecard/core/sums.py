"""Bounds of sums. Messages are bounded, the sums of many messages are not: beyond these bounds they stay at the bound.

Counts fit the integers of SQLite, msgpack and Rust's and Java's JSON readers; the counts of buckets, whose sums are exposed as
floating-point numbers, are exact as such; other sums are finite and precise to an eighth.
"""

from math import isfinite
from typing import TypeVar

MAX_COUNT = 2**63 - 1
MAX_BUCKET_COUNT = 2**53
MAX_SUM = 1e15

Number = TypeVar("Number", int, float)


def saturated(value: Number) -> Number:
    """Return a sum, or the bound that it exceeds. The sum of two saturated sums saturates as the sum of their parts does."""
    if isinstance(value, int):
        return min(value, MAX_COUNT)

    return max(-MAX_SUM, min(value, MAX_SUM))


def repaired(value: object, kind: type[Number]) -> Number:
    """Return a sum that was read from a file: what is negative or no number is 0, what is above the bound is the bound."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not value > 0:
        return kind(0)

    if isinstance(value, float) and not isfinite(value):
        return kind(saturated(MAX_COUNT if kind is int else MAX_SUM))

    return kind(saturated(int(value) if kind is int else min(value, MAX_SUM)))
