"""One metric of the apps: validation of measurements, series by label set, and samples."""

import math
import re
import sys
from collections.abc import Collection, Iterator
from functools import lru_cache
from itertools import pairwise

from sidecard.core.accounts.app_metric_room import (
    Cost,
    Labels,
    cost_of_metric,
    cost_of_series,
    cost_of_worker,
)
from sidecard.core.accounts.histogram import DEFAULT_BOUNDS, Buckets
from sidecard.core.sums import MAX_BUCKET_COUNT, saturated
from sidecard_client.protocol.wire import MAX_MEASURED, Aggregate, Family, Measurement, MetricKind, Sample

OVERFLOW: Labels = (("overflow", "true"),)
"""The label set that sums all those beyond the bounds; named as OpenTelemetry's ``otel.metric.overflow``."""

WORKER = "worker"
"""The label that identifies workers under the aggregate ``each``."""

MAX_LABELS = 16
MAX_LABEL_CHARACTERS = 256
MAX_HELP_CHARACTERS = 1024
MAX_BOUNDS = 64

_SHOWN_CHARACTERS = 200

RESERVED_PREFIX = "sidecard_"

_NAME = re.compile(r"[a-zA-Z_:][a-zA-Z0-9_:]{0,199}", re.ASCII)
_LABEL = re.compile(r"(?!__)[a-zA-Z_][a-zA-Z0-9_]{0,99}", re.ASCII)
_RESERVED_LABELS = {"le", "quantile", WORKER, "overflow"}
PIECE_LABELS = 512
"""Samples of a family are made in pieces with about this many names and labels: 256 without labels take 1 ms to write."""

UNDESCRIBED = "An app's metric without a description."

_SUFFIXES: dict[MetricKind, tuple[str, ...]] = {
    "counter": ("", "_total", "_created"),
    "gauge": ("",),
    "histogram": ("", "_bucket", "_count", "_sum", "_created"),
}
"""The names under which a metric of each kind is exposed, or which the exposition formats reserve for it."""


class AppMetric:
    """One metric: its series by label set, and those of a gauge also by worker."""

    __slots__ = (
        "aggregate",
        "bounds",
        "changed",
        "costs",
        "help",
        "histograms",
        "kind",
        "name",
        "overflowed",
        "owners",
        "recorded_at",
        "uid",
        "values",
        "workers",
    )

    def __init__(self, name: str, first: Measurement, uid: int) -> None:
        self.name = name
        self.uid = uid
        """The uid that first recorded it."""
        self.kind = first.kind
        self.help = first.help[:MAX_HELP_CHARACTERS]
        self.aggregate: Aggregate = first.aggregate
        self.bounds = first.bounds or DEFAULT_BOUNDS
        self.values: dict[Labels, dict[int, float]] = {}
        """Values by label set and peer id, the latest last. Counters have one value for all peers, under 0."""
        self.histograms: dict[Labels, Buckets] = {}
        self.workers: dict[int, int] = {}
        """Pids by peer, of peers that have a gauge."""
        self.owners: dict[Labels, int] = {}
        """The uids that are charged for series, where it is not ``uid``."""
        self.costs: dict[int, Cost] = {}
        """All charges, by uid."""
        self.overflowed = 0
        self.changed = 0
        """The number of its latest change, unique among all changes of all metrics."""
        self.recorded_at = 0.0

    @property
    def has_samples(self) -> bool:
        """Whether it is exposed."""
        return bool(self.values or self.histograms)

    def base_cost(self) -> Cost:
        """Return the cost of the metric without series; counters and histograms reserve room for `OVERFLOW`."""
        cost = cost_of_metric(self.name, self.help, self.bounds if self.kind == "histogram" else ())
        return cost if self.kind == "gauge" else cost.plus(self.series_cost(OVERFLOW)._replace(series=0))

    def series_cost(self, labels: Labels) -> Cost:
        """Return the cost of a series; of a gauge, each worker's value counts as a series."""
        cost = cost_of_series(self.name, labels, len(self.bounds) + 1 if self.kind == "histogram" else 0)
        return cost._replace(series=0) if self.kind == "gauge" else cost

    def worker_cost(self, labels: Labels) -> Cost:
        """Return the cost of one worker's value of a gauge."""
        return cost_of_worker(self.name, labels if self.aggregate == "each" else None)

    def pieces(self) -> Iterator[Family]:
        """Yield the metric with its samples, sorted by labels, in pieces. It may change meanwhile.

        Each series is exposed as it is when its turn comes; one that ends before is left out, one that begins later may be.
        """
        samples: list[Sample] = []
        size = 0
        for labels in sorted(self.histograms if self.kind == "histogram" else self.values):
            before = len(samples)
            samples += self._samples(labels)
            size += (len(samples) - before) * (len(labels) + 2)
            if size >= PIECE_LABELS:
                yield self._family(samples)
                samples, size = [], 0

        if samples:
            yield self._family(samples)

    def _family(self, samples: list[Sample]) -> Family:
        return Family(self.name, self.kind, self.help or UNDESCRIBED, samples)

    def _samples(self, labels: Labels) -> Iterator[Sample]:
        match self.kind:
            case "counter":
                yield Sample(f"{self.name}_total", saturated(self.values[labels][0]), dict(labels))
            case "gauge":
                yield from self._gauges(labels, self.values.get(labels, {}))
            case "histogram":
                yield from self.histograms[labels].samples(self.name, dict(labels))

    def _gauges(self, labels: Labels, values: dict[int, float]) -> Iterator[Sample]:
        if not values:
            return

        match self.aggregate:
            case "sum":
                yield Sample(self.name, _sum(values.values()), dict(labels))
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


def _sum(values: Collection[float]) -> float:
    """Return the sum of gauges, which may be any numbers; a sum of finite ones is finite."""
    total = sum(values)  # not `fsum`, which raises if workers report both infinities
    if math.isinf(total) and all(map(math.isfinite, values)):
        return math.copysign(sys.float_info.max, total)

    return total


def exposed_names(name: str, kind: MetricKind) -> list[str] | None:
    """Return the names that a new metric takes up; None if its name is invalid or reserved."""
    if not _NAME.fullmatch(name) or name.startswith(RESERVED_PREFIX):
        return None

    return [name + suffix for suffix in _SUFFIXES[kind]]


def valid_labels(labels: dict[str, str]) -> Labels | None:
    """Return labels as a key, without empty values, which mean no label; None if they cannot be exposed."""
    if not labels:
        return ()

    if len(labels) > MAX_LABELS or max(map(len, labels.values())) > MAX_LABEL_CHARACTERS:
        return None

    if not all(map(_is_label, labels)):
        return None

    items = sorted(labels.items())
    return tuple(items) if all(labels.values()) else tuple(item for item in items if item[1])


@lru_cache(maxsize=1024)
def _is_label(name: str) -> bool:
    """Return whether a label may have this name. Cached: apps have few, and use them in each measurement."""
    return name not in _RESERVED_LABELS and _LABEL.fullmatch(name) is not None


def has_valid_numbers(measurement: Measurement) -> bool:
    """Return whether the numbers are possible for the measurement's kind."""
    value = measurement.value
    match measurement.kind:
        case "counter":
            return 0 <= value <= MAX_MEASURED
        case "gauge":
            return True
        case "histogram":
            return -MAX_MEASURED <= value <= MAX_MEASURED and _has_valid_buckets(measurement.bounds, measurement.counts)


def _has_valid_buckets(bounds: tuple[float, ...], counts: tuple[int, ...]) -> bool:
    if not _are_bounds(bounds):
        return False

    expected = len(bounds or DEFAULT_BOUNDS) + 1
    return not counts or (len(counts) == expected and min(counts) >= 0 and max(counts) <= MAX_BUCKET_COUNT)


@lru_cache(maxsize=256)
def _are_bounds(bounds: tuple[float, ...]) -> bool:
    """Return whether a histogram may have these upper bounds. Cached: a batch repeats them for each label set."""
    if len(bounds) > MAX_BOUNDS or not all(map(math.isfinite, bounds)):
        return False

    return all(lower < upper for lower, upper in pairwise(bounds))


def number_problem(measurement: Measurement) -> str:
    """Return what `has_valid_numbers` finds wrong: the metric, the field, its value and its range."""
    kind, value, bounds, counts = measurement.kind, measurement.value, measurement.bounds, measurement.counts
    what = f"{kind} {measurement.name[:_SHOWN_CHARACTERS]!r}"
    least = 0 if kind == "counter" else -MAX_MEASURED
    if not least <= value <= MAX_MEASURED:
        return f"{what}: value {value} is not within {least:g} to {MAX_MEASURED:g}"

    if not _are_bounds(bounds):
        return f"{what}: bounds is not a rising sequence of at most {MAX_BOUNDS} finite numbers"

    expected = len(bounds or DEFAULT_BOUNDS) + 1
    if len(counts) != expected:
        return f"{what}: counts has {len(counts)} numbers, and has to have one more than bounds: {expected}"

    wrong = next(count for count in counts if not 0 <= count <= MAX_BUCKET_COUNT)
    return f"{what}: count {wrong} is not within 0 to 2**53"
