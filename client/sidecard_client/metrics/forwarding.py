"""Forward a worker's prometheus_client registry to the daemon, as if the app had used the client's own metrics.

It replaces prometheus_client's multiprocess mode: no directory, no files of dead processes, and custom collectors work too.
Nothing is imported from prometheus_client: any object with its ``collect`` will do.

A summary becomes a histogram of one bucket: its count and sum can be added up, its quantiles cannot.
"""

import math
from collections.abc import Iterable, Iterator
from typing import Any, Protocol

from msgspec import Struct

from sidecard_client.metrics.registry import MAX_BUCKETS, Labels
from sidecard_client.protocol.wire import MAX_MEASURED, Aggregate, Measurement

_Series = tuple[str, Labels]
"""Kind and name, and labels."""
_Values = tuple[float, ...]
"""A counter's or gauge's value; a histogram's counts and its sum."""


class PrometheusRegistry(Protocol):
    """The part of prometheus_client's ``CollectorRegistry`` that is used."""

    def collect(self) -> Iterable[Any]:
        """Return metrics with ``name``, ``documentation``, ``type`` and ``samples``."""


class _Buckets(Struct):
    """The samples of one histogram or summary under one set of labels."""

    by_bound: dict[float, float] = {}
    count: float = 0.0
    sum: float = 0.0


class ForwardedRegistry:
    """Measure the changes of ``registry``; implements `registry.MeasurementSource`."""

    def __init__(self, registry: PrometheusRegistry, gauges: Aggregate) -> None:
        self._registry = registry
        self._gauges = gauges
        self._taken: dict[_Series, _Values] = {}
        self._at_fork: dict[_Series, _Values] = {}

    def take_changes(self) -> Iterable[Measurement]:
        """Return what changed since the last call."""
        taken, changed = {}, []
        for series, values, measurement in self._measure(self._taken):
            taken[series] = values
            unchanged = None if _is_gauge(series) else (0.0,) * len(values)
            if values != self._taken.get(series, unchanged):
                changed.append(measurement)

        # Only now: a collector that raises must not make everything count again.
        self._taken = taken
        return changed

    def before_fork(self) -> None:
        """Record the current values, which the parent sends."""
        self._at_fork = {series: values for series, values, _ in self._measure({})}

    def reset(self) -> None:
        """Count from the recorded values, in the child."""
        self._taken = self._at_fork

    def resend(self) -> None:
        """Take every gauge again."""
        self._taken = {series: values for series, values in self._taken.items() if not _is_gauge(series)}

    def _measure(self, before: dict[_Series, _Values]) -> Iterator[tuple[_Series, _Values, Measurement]]:
        """Yield each series with its values and its change since ``before``."""
        for metric in self._registry.collect():
            match metric.type:
                case "counter":
                    yield from _counters(metric, before)
                case "histogram" | "summary":
                    yield from _histograms(metric, before)
                case "gauge" | "unknown" | "untyped":
                    yield from _gauges(metric, self._gauges)
                case "info" | "stateset":
                    yield from _gauges(metric, "max")


def _is_gauge(series: _Series) -> bool:
    return series[0].startswith("gauge ")


def _counters(metric: Any, before: dict[_Series, _Values]) -> Iterator[tuple[_Series, _Values, Measurement]]:
    for sample in metric.samples:
        if sample.name.endswith("_created"):
            continue

        series = (f"counter {metric.name}", _key(sample.labels))
        (old,) = before.get(series, (0.0,))
        # A smaller value means that the counter was cleared and started from zero.
        delta = sample.value - old if sample.value >= old else sample.value
        yield (
            series,
            (sample.value,),
            Measurement(
                name=metric.name,
                kind="counter",
                value=_measured(delta),
                labels=dict(sample.labels),
                help=metric.documentation,
            ),
        )


def _gauges(metric: Any, aggregate: Aggregate) -> Iterator[tuple[_Series, _Values, Measurement]]:
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


def _histograms(metric: Any, before: dict[_Series, _Values]) -> Iterator[tuple[_Series, _Values, Measurement]]:
    for labels, buckets in _buckets(metric):
        bounds = tuple(sorted(bound for bound in buckets.by_bound if bound != math.inf)) or (0.0,)
        if len(bounds) > MAX_BUCKETS:
            continue

        cumulative = [buckets.by_bound.get(bound, 0.0) for bound in bounds]
        counts = [upper - lower for lower, upper in zip([0.0, *cumulative], [*cumulative, buckets.count], strict=True)]
        series = (f"histogram {metric.name}", labels)
        values = (*counts, buckets.sum)
        zero = (0.0,) * len(values)
        old = before.get(series, zero)
        if len(old) != len(values) or any(o > n for o, n in zip(old[:-1], counts, strict=True)):
            old = zero

        yield (
            series,
            values,
            Measurement(
                name=metric.name,
                kind="histogram",
                value=_measured(buckets.sum - old[-1]),
                labels=dict(labels),
                help=metric.documentation,
                bounds=bounds,
                counts=tuple(round(n - o) for n, o in zip(counts, old[:-1], strict=True)),
            ),
        )


def _measured(change: float) -> float:
    """Return a change, or the limit that it exceeds; an app's own sum may be infinite."""
    return max(-MAX_MEASURED, min(change, MAX_MEASURED))


def _buckets(metric: Any) -> Iterable[tuple[Labels, _Buckets]]:
    found: dict[Labels, _Buckets] = {}
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


def _key(labels: dict[str, str]) -> Labels:
    return tuple(sorted(labels.items()))
