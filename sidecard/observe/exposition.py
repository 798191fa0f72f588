"""Write metric families in the formats that scrapers read, with prometheus-client."""

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
    """Return OpenMetrics' text format, with exemplars."""
    # prometheus-client does not annotate this function, unlike the other one.
    return bytes(generate_openmetrics(_registry(families)))  # type: ignore[no-untyped-call]


class _Families(Collector):
    """Passes families to prometheus-client."""

    def __init__(self, families: Iterable[wire.Family]) -> None:
        self._families = families

    def collect(self) -> Iterator[Metric]:
        for family in self._families:
            metric = Metric(family.name, family.help, family.kind)
            for sample in family.samples:
                given = sample.exemplar
                exemplar = None if given is None else Exemplar(given.labels, given.value, given.at_seconds)
                metric.add_sample(sample.name, sample.labels, sample.value, exemplar=exemplar)

            yield metric


def _registry(families: Iterable[wire.Family]) -> CollectorRegistry:
    # Without descriptions, which would collect everything twice to check names that are valid already.
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Families(tuple(families)))
    return registry
