"""One metric of the apps: validation of measurements, series by label set, and samples."""

import math
import re
from collections.abc import Iterable, Iterator
from itertools import pairwise

from sidecard.core.accounts.histogram import DEFAULT_BOUNDS, Buckets
from sidecard_client.protocol.wire import Aggregate, Measurement, MetricKind, Sample

Labels = tuple[tuple[str, str], ...]

WORKER = "worker"
"""The label that identifies workers under the aggregate ``each``."""

MAX_LABELS = 16
MAX_LABEL_CHARACTERS = 256
MAX_HELP_CHARACTERS = 1024
MAX_BOUNDS = 64

RESERVED_PREFIX = "sidecard_"

_NAME = re.compile(r"[a-zA-Z_:][a-zA-Z0-9_:]{0,199}", re.ASCII)
_LABEL = re.compile(r"(?!__)[a-zA-Z_][a-zA-Z0-9_]{0,99}", re.ASCII)
_RESERVED_LABELS = {"le", "quantile", WORKER, "overflow"}
_SUFFIXES: dict[MetricKind, tuple[str, ...]] = {
    "counter": ("", "_total", "_created"),
    "gauge": ("",),
    "histogram": ("", "_bucket", "_count", "_sum", "_created"),
}
"""The names under which a metric of each kind is exposed, or which the exposition formats reserve for it."""


class AppMetric:
    """One metric: its series by label set, and those of a gauge also by worker."""

    __slots__ = ("aggregate", "bounds", "help", "histograms", "kind", "name", "overflowed", "uid", "values", "workers")

    def __init__(self, name: str, first: Measurement, uid: int) -> None:
        self.name = name
        self.uid = uid
        """The uid that first recorded it, to which its series are charged."""
        self.kind = first.kind
        self.help = first.help[:MAX_HELP_CHARACTERS]
        self.aggregate: Aggregate = first.aggregate
        self.bounds = first.bounds or DEFAULT_BOUNDS
        self.values: dict[Labels, dict[int, float]] = {}
        """Values by label set and peer id, the latest last. Counters have one value for all peers, under 0."""
        self.histograms: dict[Labels, Buckets] = {}
        self.workers: dict[int, int] = {}
        """Pids by peer, of peers that have a gauge."""
        self.overflowed = 0

    def samples(self) -> Iterable[Sample]:
        """Return the exposed samples, sorted by labels."""
        match self.kind:
            case "counter":
                name = f"{self.name}_total"
                return (Sample(name, values[0], dict(labels)) for labels, values in sorted(self.values.items()))
            case "gauge":
                return self._gauges()
            case "histogram":
                return (
                    sample
                    for labels, histogram in sorted(self.histograms.items(), key=lambda item: item[0])
                    for sample in histogram.samples(self.name, dict(labels))
                )

    def _gauges(self) -> Iterator[Sample]:
        for labels, values in sorted(self.values.items()):
            match self.aggregate:
                case "sum":
                    # Not `fsum`, which raises if workers report both infinities.
                    yield Sample(self.name, sum(values.values()), dict(labels))
                case "max":
                    yield Sample(self.name, max(values.values()), dict(labels))
                case "min":
                    yield Sample(self.name, min(values.values()), dict(labels))
                case "last":
                    yield Sample(self.name, next(reversed(values.values())), dict(labels))
                case "each":
                    # A process may have several connections: its latest value counts.
                    by_pid = {self.workers[peer]: value for peer, value in values.items()}
                    for pid, value in sorted(by_pid.items()):
                        yield Sample(self.name, value, {**dict(labels), WORKER: str(pid)})


def exposed_names(name: str, kind: MetricKind) -> list[str] | None:
    """Return the names that a new metric takes up; None if its name is invalid or reserved."""
    if not _NAME.fullmatch(name) or name.startswith(RESERVED_PREFIX):
        return None

    return [name + suffix for suffix in _SUFFIXES[kind]]


def valid_labels(labels: dict[str, str]) -> Labels | None:
    """Return labels as a key, without empty values, which mean no label; None if they cannot be exposed."""
    if len(labels) > MAX_LABELS:
        return None

    for label, value in labels.items():
        if len(value) > MAX_LABEL_CHARACTERS or label in _RESERVED_LABELS or not _LABEL.fullmatch(label):
            return None

    return tuple(sorted((label, value) for label, value in labels.items() if value))


def has_valid_numbers(measurement: Measurement) -> bool:
    """Return whether the numbers are possible for the measurement's kind."""
    value = measurement.value
    match measurement.kind:
        case "counter":
            return math.isfinite(value) and value >= 0
        case "gauge":
            return True
        case "histogram":
            return math.isfinite(value) and _has_valid_buckets(measurement.bounds, measurement.counts)


def _has_valid_buckets(bounds: tuple[float, ...], counts: tuple[int, ...]) -> bool:
    if len(bounds) > MAX_BOUNDS or not all(map(math.isfinite, bounds)):
        return False

    if any(lower >= upper for lower, upper in pairwise(bounds)):
        return False

    expected = len(bounds or DEFAULT_BOUNDS) + 1
    return not counts or (len(counts) == expected and all(0 <= count <= 2**53 for count in counts))
