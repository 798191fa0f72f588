"""The apps' own metrics, of all workers in one: counters and histograms that outlive a worker, gauges that do not.

A worker tells what has happened since it told last (`sidecard_client.protocol.wire.RecordMetrics`), so what it said stays true when it
is gone, and nothing has to be summed over files of dead processes.
Gauges are what a living worker says of itself: they belong to its connection and vanish with it.
"""

import math
import re
from collections import Counter, OrderedDict
from collections.abc import Iterable, Iterator
from itertools import pairwise

from sidecard.core.accounts.histogram import DEFAULT_BOUNDS, Histogram
from sidecard.core.events import Peer
from sidecard.core.shares import Share
from sidecard_client.protocol.wire import Aggregate, Family, Measurement, MetricKind, RecordMetrics, Sample

Labels = tuple[tuple[str, str], ...]

OVERFLOW: Labels = (("overflow", "true"),)
"""Where all label sets beyond the bound are added up; named as OpenTelemetry's ``otel.metric.overflow``."""

WORKER = "worker"
"""The label that tells workers apart under the aggregate ``each``."""

MAX_METRICS = 512
MAX_LABELS = 16
MAX_LABEL_CHARACTERS = 256
MAX_HELP_CHARACTERS = 1024
MAX_BOUNDS = 64
MAX_SESSIONS = 8192
"""Senders whose last sequence is remembered: twice as many as may be connected by default."""

TOTAL_PER_METRIC = 20
"""How many times ``max_series`` all metrics together may have: 20,000 series are some 10 MB."""

UNDESCRIBED = "Of an app, which has not said what it means."

RESERVED_PREFIX = "sidecard_"

_NAME = re.compile(r"[a-zA-Z_:][a-zA-Z0-9_:]{0,199}", re.ASCII)
_LABEL = re.compile(r"(?!__)[a-zA-Z_][a-zA-Z0-9_]{0,99}", re.ASCII)
_RESERVED_LABELS = {"le", "quantile", WORKER, "overflow"}
_SUFFIXES: dict[MetricKind, tuple[str, ...]] = {
    "counter": ("", "_total", "_created"),
    "gauge": ("",),
    "histogram": ("", "_bucket", "_count", "_sum", "_created"),
}
"""What a metric of each kind is exposed as, and what the exposition formats keep for it."""


class _Metric:
    """One metric: its series by label set; a gauge's by worker and label set."""

    __slots__ = ("aggregate", "bounds", "gauges", "help", "histograms", "kind", "name", "overflowed", "uid", "workers")

    def __init__(self, name: str, first: Measurement, uid: int) -> None:
        self.name = name
        self.uid = uid
        """Who told of it first, and so has its series."""
        self.kind = first.kind
        self.help = first.help[:MAX_HELP_CHARACTERS]
        self.aggregate: Aggregate = first.aggregate
        self.bounds = first.bounds or DEFAULT_BOUNDS
        self.gauges: dict[Labels, dict[int, float]] = {}
        """Of a counter there is one "worker", 0, whom all of them add to."""
        self.histograms: dict[Labels, Histogram] = {}
        self.workers: dict[int, int] = {}
        """Pids by peer, of those that have a gauge."""
        self.overflowed = 0


class AppMetrics:
    """All metrics of all apps; ``max_series`` bounds the label sets of each."""

    def __init__(self, max_series: int, dropped: Counter[str], spare_share: float = 0.0) -> None:
        self._max_series = max_series
        self._max_total = max_series * TOTAL_PER_METRIC
        self.spare_share = spare_share
        """May be changed at any time; see `sidecard.core.shares`."""
        self._dropped = dropped
        self._metrics: dict[str, _Metric] = {}
        self._taken: dict[str, str] = {}
        """Every name that is exposed or kept, with the metric that it belongs to."""
        self._named = Share()
        self._series = Share()
        self._peers: dict[int, set[str]] = {}
        """Names of the metrics in which a peer has gauges."""
        self._sessions: OrderedDict[tuple[int, str], int] = OrderedDict()

    def record(self, peer: Peer, request: RecordMetrics) -> int:
        """Take measurements; return how many could not be kept.

        A batch that is sent once more, because its acknowledgement was lost with the connection, changes nothing.
        """
        if request.session and not self._is_news((peer.uid, request.session), request.sequence):
            return 0

        if request.dropped:
            self._dropped["client"] += request.dropped

        return sum(not self._take(peer, measurement) for measurement in request.metrics)

    def lose(self, peer: Peer) -> None:
        """Forget the gauges of a worker that is gone."""
        for name in self._peers.pop(peer.id, ()):
            metric = self._metrics[name]
            del metric.workers[peer.id]
            for labels, values in list(metric.gauges.items()):
                if values.pop(peer.id, None) is not None:
                    self._series.give_back(metric.uid)

                if not values:
                    del metric.gauges[labels]

    def families(self) -> Iterator[Family]:
        """Return all metrics as they are exposed, by name."""
        for name, metric in sorted(self._metrics.items()):
            samples = list(_samples(metric))
            if samples:
                yield Family(name, metric.kind, metric.help or UNDESCRIBED, samples)

    def overflows(self) -> Iterator[tuple[str, int]]:
        """Return the metrics whose label sets were too many, with how many measurements that concerned."""
        return ((name, metric.overflowed) for name, metric in sorted(self._metrics.items()) if metric.overflowed)

    def _is_news(self, session: tuple[int, str], sequence: int) -> bool:
        if sequence <= self._sessions.get(session, -1):
            return False

        self._sessions[session] = sequence
        self._sessions.move_to_end(session)
        if len(self._sessions) > MAX_SESSIONS:
            self._sessions.popitem(last=False)

        return True

    def _take(self, peer: Peer, measurement: Measurement) -> bool:
        labels = _labels(measurement.labels)
        name = measurement.name.removesuffix("_total") if measurement.kind == "counter" else measurement.name
        if labels is None or not _sound(measurement):
            self._dropped["invalid"] += 1
            return False

        metric = self._metrics.get(name) or self._open(peer.uid, name, measurement)
        if metric is None or metric.kind != measurement.kind:
            self._dropped["invalid"] += 1
            return False

        series: dict[Labels, dict[int, float]] | dict[Labels, Histogram]
        series = metric.histograms if metric.kind == "histogram" else metric.gauges
        if labels not in series and (len(series) >= self._max_series or not self._has_room(metric)):
            metric.overflowed += 1
            if metric.kind == "gauge":
                # Those that are added up would tell of nothing.
                self._dropped["series"] += 1
                return False

            labels = OVERFLOW

        if metric.kind == "histogram":
            self._observe(metric, labels, measurement)
        elif metric.kind == "counter":
            self._add(metric, labels, 0, measurement.value, adds=True)
        elif peer.id not in metric.gauges.get(labels, ()) and not self._has_room(metric):
            metric.overflowed += 1
            self._dropped["series"] += 1
            return False
        else:
            metric.workers[peer.id] = peer.pid
            self._peers.setdefault(peer.id, set()).add(name)
            self._add(metric, labels, peer.id, measurement.value, adds=False)

        return True

    def _has_room(self, metric: _Metric) -> bool:
        return self._series.has_room(metric.uid, self._max_total, self.spare_share)

    def _open(self, uid: int, name: str, measurement: Measurement) -> _Metric | None:
        """Begin a metric; None where its name cannot be had."""
        names = [name + suffix for suffix in _SUFFIXES[measurement.kind]]
        if (
            not self._named.has_room(uid, MAX_METRICS, self.spare_share)
            or not _NAME.fullmatch(name)
            or name.startswith(RESERVED_PREFIX)
            or any(taken in self._taken for taken in names)
        ):
            return None

        self._taken |= dict.fromkeys(names, name)
        self._named.take(uid)
        metric = self._metrics[name] = _Metric(name, measurement, uid)
        return metric

    def _observe(self, metric: _Metric, labels: Labels, measurement: Measurement) -> None:
        histogram = metric.histograms.get(labels)
        if histogram is None:
            histogram = metric.histograms[labels] = Histogram(metric.bounds)
            self._series.take(metric.uid)

        if measurement.counts:
            histogram.add(measurement.bounds or DEFAULT_BOUNDS, measurement.counts, measurement.value)
        else:
            histogram.observe(measurement.value)

    def _add(self, metric: _Metric, labels: Labels, worker: int, value: float, *, adds: bool) -> None:
        values = metric.gauges.setdefault(labels, {})
        if worker not in values:
            self._series.take(metric.uid)
            values[worker] = value
        elif adds:
            values[worker] += value
        else:
            # Anew, so that the order is that of the last word.
            del values[worker]
            values[worker] = value


def _labels(labels: dict[str, str]) -> Labels | None:
    """Return labels as a key; None where they cannot be exposed."""
    if len(labels) > MAX_LABELS:
        return None

    for label, value in labels.items():
        if len(value) > MAX_LABEL_CHARACTERS or label in _RESERVED_LABELS or not _LABEL.fullmatch(label):
            return None

    # A label without a value is none.
    return tuple(sorted((label, value) for label, value in labels.items() if value))


def _sound(measurement: Measurement) -> bool:
    """Tell whether the numbers can be what they are said to be."""
    value = measurement.value
    match measurement.kind:
        case "counter":
            return math.isfinite(value) and value >= 0
        case "gauge":
            return True
        case "histogram":
            return math.isfinite(value) and _sound_buckets(measurement.bounds, measurement.counts)


def _sound_buckets(bounds: tuple[float, ...], counts: tuple[int, ...]) -> bool:
    if len(bounds) > MAX_BOUNDS or not all(map(math.isfinite, bounds)):
        return False

    if any(lower >= upper for lower, upper in pairwise(bounds)):
        return False

    expected = len(bounds or DEFAULT_BOUNDS) + 1
    return not counts or (len(counts) == expected and all(0 <= count <= 2**53 for count in counts))


def _samples(metric: _Metric) -> Iterable[Sample]:
    match metric.kind:
        case "counter":
            return (
                Sample(f"{metric.name}_total", values[0], dict(labels))
                for labels, values in sorted(metric.gauges.items())
            )
        case "gauge":
            return _gauges(metric)
        case "histogram":
            return (
                sample
                for labels, histogram in sorted(metric.histograms.items(), key=lambda item: item[0])
                for sample in histogram.samples(metric.name, dict(labels))
            )


def _gauges(metric: _Metric) -> Iterator[Sample]:
    for labels, values in sorted(metric.gauges.items()):
        match metric.aggregate:
            case "sum":
                # Not `fsum`, which raises where workers say both infinities.
                yield Sample(metric.name, sum(values.values()), dict(labels))
            case "max":
                yield Sample(metric.name, max(values.values()), dict(labels))
            case "min":
                yield Sample(metric.name, min(values.values()), dict(labels))
            case "last":
                yield Sample(metric.name, next(reversed(values.values())), dict(labels))
            case "each":
                yield from _of_each(metric, labels, values)


def _of_each(metric: _Metric, labels: Labels, values: dict[int, float]) -> Iterator[Sample]:
    told: dict[int, float] = {}
    for peer, value in values.items():
        # One process may have more than one connection: what it said last counts.
        told[metric.workers[peer]] = value

    for pid, value in sorted(told.items()):
        yield Sample(metric.name, value, {**dict(labels), WORKER: str(pid)})
