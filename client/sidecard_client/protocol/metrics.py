"""What the daemon replies to `metrics`: families of samples, as Prometheus knows them."""

from msgspec import Struct

from sidecard_client.protocol.replies import Reply
from sidecard_client.protocol.values import MetricKind


class Exemplar(Struct, frozen=True):
    """One traced observation of a histogram bucket."""

    labels: dict[str, str]
    value: float
    at_seconds: float
    """Unix time."""


class Sample(Struct, frozen=True, omit_defaults=True):
    """One number of a metric, by its exposed name (including ``_total``, ``_bucket``, ``_sum``, ``_count``)."""

    name: str
    value: float
    labels: dict[str, str] = {}
    exemplar: Exemplar | None = None


class Family(Struct, frozen=True):
    """One metric with all its samples. ``name`` lacks the ``_total`` of counters, as in OpenMetrics."""

    name: str
    kind: MetricKind
    help: str
    samples: list[Sample]


class Metrics(Reply, frozen=True, tag="metrics"):
    """All metrics, the daemon's and the apps'."""

    families: list[Family]
