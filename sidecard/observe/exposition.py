"""Write metric families in the formats that scrapers read, with prometheus-client."""

from collections.abc import Callable, Iterable, Iterator
from typing import Final, NamedTuple

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.openmetrics.exposition import CONTENT_TYPE_LATEST
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics
from prometheus_client.registry import Collector
from prometheus_client.samples import Exemplar

from sidecard_client.protocol import wire

_HEADING_LINES: Final = 2
"""``# HELP`` and ``# TYPE`` before the samples of a family."""


class TextFormat(NamedTuple):
    """A text format. ``end`` follows all families."""

    content_type: str
    generate: Callable[[CollectorRegistry], bytes]
    end: bytes

    def text(self, families: Iterable[wire.Family]) -> bytes:
        """Return the text of all families."""
        return self.generate(_registry(families))

    def piece(self, family: wire.Family, *, first: bool) -> bytes:
        """Return the text of some samples of a family; of the ``first`` ones, with the family's heading."""
        text = self.text((family,)).removesuffix(self.end)
        return text if first else text.split(b"\n", _HEADING_LINES)[_HEADING_LINES]


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


def _generate_openmetrics(registry: CollectorRegistry) -> bytes:
    # prometheus-client does not annotate this function, unlike the other one.
    return bytes(generate_openmetrics(registry))  # type: ignore[no-untyped-call]


TEXT: Final = TextFormat("text/plain; version=0.0.4; charset=utf-8", generate_latest, b"")
"""Prometheus' text format, version 0.0.4."""

OPENMETRICS: Final = TextFormat(CONTENT_TYPE_LATEST, _generate_openmetrics, b"# EOF\n")
"""OpenMetrics' text format, with exemplars."""
