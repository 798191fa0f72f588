"""The nearest vectors as naively as possible: a dict, and every cosine from its definition."""

import math
from array import array
from collections.abc import Iterable


def cosine(one: Iterable[float], other: Iterable[float]) -> float:
    """Return the cosine of the angle between two vectors."""
    one, other = list(one), list(other)
    dot = math.fsum(a * b for a, b in zip(one, other, strict=True))
    return dot / (math.hypot(*one) * math.hypot(*other))


def numbers_of(vector: bytes) -> list[float]:
    """Return the numbers of a vector."""
    return array("f", vector).tolist()


class ReferenceIndex:
    """An `Index` that is right because there is nothing to it. It refuses labels that are in use, or are not."""

    def __init__(self, dimensions: int) -> None:
        self.dimensions = dimensions
        self.vectors: dict[int, bytes] = {}

    def add(self, label: int, vector: bytes) -> None:
        """Take a vector in."""
        assert label not in self.vectors
        assert len(vector) == 4 * self.dimensions
        self.vectors[label] = vector

    def get(self, label: int) -> bytes:
        """Return a vector."""
        return self.vectors[label]

    def remove(self, label: int) -> None:
        """Let a vector go."""
        del self.vectors[label]

    def nearest(self, vector: bytes, count: int) -> list[tuple[int, float]]:
        """Return labels with their cosines, the nearest first."""
        asked = numbers_of(vector)
        found = [(label, cosine(asked, numbers_of(kept))) for label, kept in self.vectors.items()]
        return sorted(found, key=lambda one: one[1], reverse=True)[:count]
