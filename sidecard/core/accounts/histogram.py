"""Histograms as in Prometheus: observations counted in buckets by upper bound."""

from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from operator import add

from sidecard.core.sums import MAX_BUCKET_COUNT, saturated
from sidecard_client.protocol.wire import Exemplar, Sample

HANDLE_BOUNDS = (0.000_005, 0.000_01, 0.000_025, 0.000_05, 0.000_1, 0.000_25, 0.001, 0.01, 0.1, 1.0)
"""Seconds, from the fastest hit to what would be a fault."""

CALL_BOUNDS = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 40.0, 80.0, 160.0)
"""Seconds. OpenTelemetry advises 0.01 to 82, doubling, for ``gen_ai.client.operation.duration``; thinned out here."""

DEFAULT_BOUNDS = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0)
"""For apps' histograms without bounds: those of Prometheus' own client libraries."""


class Buckets:
    """A histogram: counts by bucket. ``bounds`` rise, and values above the last one have a bucket of their own."""

    __slots__ = ("_exemplars", "bounds", "counts", "sum")

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.sum = 0.0
        self._exemplars: dict[int, Exemplar] = {}

    def observe(self, value: float) -> None:
        """Count one observation."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.sum += value

    def exemplify(self, exemplar: Exemplar) -> None:
        """Make an observation the exemplar of its bucket, in place of an older one."""
        self._exemplars[bisect_left(self.bounds, exemplar.value)] = exemplar

    def add(self, bounds: Sequence[float], counts: Sequence[int], total: float) -> None:
        """Add another histogram's observations.

        If its ``bounds`` differ, each bucket is added where its upper bound belongs, so no bucket gets values above its bound.
        """
        if tuple(bounds) == tuple(self.bounds):
            self.counts = list(map(add, self.counts, counts))
        else:
            for bound, count in zip((*bounds, float("inf")), counts, strict=True):
                self.counts[bisect_left(self.bounds, bound)] += count

        self.sum += total

    def samples(self, name: str, labels: Mapping[str, str]) -> Iterator[Sample]:
        """Yield the exposed samples: cumulative buckets, the count and the sum, saturated."""
        count = 0
        for index, bound in enumerate((*self.bounds, float("inf"))):
            count = min(count + self.counts[index], MAX_BUCKET_COUNT)
            le = "+Inf" if bound == float("inf") else repr(float(bound))
            yield Sample(f"{name}_bucket", count, {**labels, "le": le}, self._exemplars.get(index))

        yield Sample(f"{name}_count", count, dict(labels))
        yield Sample(f"{name}_sum", saturated(self.sum), dict(labels))
