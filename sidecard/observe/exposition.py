"""Families of samples as scrapers read them, written by prometheus-client."""

from collections.abc import Iterable, Iterator

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.openmetrics.exposition import CONTENT_TYPE_LATEST as OPENMETRICS_TYPE
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics
from prometheus_client.registry import Collector
from prometheus_client.samples import Exemplar

from sidecard_client.protocol import wire

TEXT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

__all__ = ["OPENMETRICS_TYPE", "TEXT_TYPE", "openmetrics", "text"]


def text(families: Iterable[wire.Family]) -> bytes:
    """Return Prometheus' text format, version 0.0.4."""
    return generate_latest(_registry(families))


def openmetrics(families: Iterable[wire.Family]) -> bytes:
    """Return OpenMetrics' text format, exemplars included."""
    # prometheus-client gives this one no types, unlike the text format's.
    return bytes(generate_openmetrics(_registry(families)))  # type: ignore[no-untyped-call]


class _Told(Collector):
    """What prometheus-client collects: what it is told."""

    def __init__(self, families: Iterable[wire.Family]) -> None:
        self._families = families

    def collect(self) -> Iterator[Metric]:
        for family in self._families:
            metric = Metric(family.name, family.help, family.kind)
            for sample in family.samples:
                shown = sample.exemplar
                exemplar = None if shown is None else Exemplar(shown.labels, shown.value, shown.at_seconds)
                metric.add_sample(sample.name, sample.labels, sample.value, exemplar=exemplar)

            yield metric


def _registry(families: Iterable[wire.Family]) -> CollectorRegistry:
    # Not described: whoever registers would have to collect once more, for names that have been checked already.
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Told(tuple(families)))
    return registry
