"""A worker's existing prometheus_client registry, told to the daemon as if its metrics had been made here.

Replaces prometheus_client's multiprocess mode: no directory, no files of dead processes, and metrics of custom collectors too.
Nothing of prometheus_client is imported: a registry is whatever has its ``collect``.

=================  =================================================================================================
kind               becomes
=================  =================================================================================================
counter            a counter
histogram          a histogram
summary            a histogram without sizes: its count and sum, which can be added up, and none of its quantiles
gauge, unknown     a gauge by worker (``gauges="each"``), or of all workers together
info, stateset     a gauge of all workers together, the largest
=================  =================================================================================================
"""

import math
from collections.abc import Iterable, Iterator
from typing import Any, Protocol

from sidecard_client.metrics.instruments import MAX_BUCKETS
from sidecard_client.protocol.wire import Aggregate, Measurement

_Labels = tuple[tuple[str, str], ...]
_Place = tuple[str, _Labels]


class Registry(Protocol):
    """What prometheus_client's ``CollectorRegistry`` is, as far as it matters here."""

    def collect(self) -> Iterable[Any]:
        """Return metrics with ``name``, ``documentation``, ``type`` and ``samples``."""


class _Buckets:
    """The samples of one histogram or summary under one set of labels."""

    __slots__ = ("by_bound", "count", "sum")

    def __init__(self) -> None:
        self.by_bound: dict[float, float] = {}
        self.count = 0.0
        self.sum = 0.0


class Forwarded:
    """Tells what changes in ``registry``; see `sidecard_client.metrics.instruments.Source`."""

    def __init__(self, registry: Registry, gauges: Aggregate) -> None:
        self._registry = registry
        self._gauges = gauges
        self._last: dict[_Place, tuple[float, ...]] = {}
        """What was told of each series: a counter's or gauge's value, a histogram's counts and sum."""
        self._noted: dict[_Place, tuple[float, ...]] = {}

    def take(self) -> Iterable[Measurement]:
        """Return what has changed since this was asked last."""
        told = self._last
        self._last = {}
        return [
            measurement
            for metric in self._registry.collect()
            for place, values, measurement in self._measured(metric, told)
            if self._is_news(place, values, told)
        ]

    def before_fork(self) -> None:
        """Take note of what is: the parent will tell it."""
        self._noted = {
            place: values for metric in self._registry.collect() for place, values, _ in self._measured(metric, {})
        }

    def forget(self) -> None:
        """Count anew from what was noted; gauges are told as they are."""
        self._last = self._noted

    def retell(self) -> None:
        """Tell every gauge again."""
        self._last = {place: values for place, values in self._last.items() if not place[0].startswith("gauge ")}

    def _is_news(self, place: _Place, values: tuple[float, ...], told: dict[_Place, tuple[float, ...]]) -> bool:
        self._last[place] = values
        if place[0].startswith("gauge "):
            return told.get(place) != values

        return values != told.get(place, (0.0,) * len(values))

    def _measured(
        self, metric: Any, told: dict[_Place, tuple[float, ...]]
    ) -> Iterator[tuple[_Place, tuple[float, ...], Measurement]]:
        match metric.type:
            case "counter":
                yield from self._counters(metric, told)
            case "histogram" | "summary":
                yield from self._histograms(metric, told)
            case "gauge" | "unknown" | "untyped":
                yield from self._gauges_of(metric, self._gauges)
            case "info" | "stateset":
                yield from self._gauges_of(metric, "max")

    def _counters(
        self, metric: Any, told: dict[_Place, tuple[float, ...]]
    ) -> Iterator[tuple[_Place, tuple[float, ...], Measurement]]:
        for sample in metric.samples:
            if sample.name.endswith("_created"):
                continue

            place = (f"counter {metric.name}", _key(sample.labels))
            (before,) = told.get(place, (0.0,))
            # One that has become smaller was cleared and has counted anew.
            grown = sample.value - before if sample.value >= before else sample.value
            yield (
                place,
                (sample.value,),
                Measurement(
                    name=metric.name, kind="counter", value=grown, labels=dict(sample.labels), help=metric.documentation
                ),
            )

    def _gauges_of(self, metric: Any, aggregate: Aggregate) -> Iterator[tuple[_Place, tuple[float, ...], Measurement]]:
        for sample in metric.samples:
            yield (
                (f"gauge {sample.name}", _key(sample.labels)),
                (sample.value,),
                Measurement(
                    name=sample.name,
                    kind="gauge",
                    value=sample.value,
                    labels=dict(sample.labels),
                    help=metric.documentation,
                    aggregate=aggregate,
                ),
            )

    @staticmethod
    def _histograms(
        metric: Any, told: dict[_Place, tuple[float, ...]]
    ) -> Iterator[tuple[_Place, tuple[float, ...], Measurement]]:
        for labels, buckets in _buckets(metric):
            bounds = tuple(sorted(bound for bound in buckets.by_bound if bound != math.inf)) or (0.0,)
            if len(bounds) > MAX_BUCKETS:
                continue

            below = [buckets.by_bound.get(bound, 0.0) for bound in bounds]
            counts = [upper - lower for lower, upper in zip([0.0, *below], [*below, buckets.count], strict=True)]
            place = (f"histogram {metric.name}", labels)
            now = (*counts, buckets.sum)
            before = told.get(place, (0.0,) * len(now))
            if len(before) != len(now) or any(old > new for old, new in zip(before[:-1], counts, strict=True)):
                before = (0.0,) * len(now)

            yield (
                place,
                now,
                Measurement(
                    name=metric.name,
                    kind="histogram",
                    value=buckets.sum - before[-1],
                    labels=dict(labels),
                    help=metric.documentation,
                    bounds=bounds,
                    counts=tuple(round(new - old) for new, old in zip(counts, before[:-1], strict=True)),
                ),
            )


def _buckets(metric: Any) -> Iterable[tuple[_Labels, _Buckets]]:
    found: dict[_Labels, _Buckets] = {}
    for sample in metric.samples:
        labels = {label: value for label, value in sample.labels.items() if label not in {"le", "quantile"}}
        buckets = found.setdefault(_key(labels), _Buckets())
        if sample.name.endswith("_bucket"):
            buckets.by_bound[float(sample.labels["le"])] = sample.value
        elif sample.name.endswith("_count"):
            buckets.count = sample.value
        elif sample.name.endswith("_sum"):
            buckets.sum = sample.value

    return found.items()


def _key(labels: dict[str, str]) -> _Labels:
    return tuple(sorted(labels.items()))
