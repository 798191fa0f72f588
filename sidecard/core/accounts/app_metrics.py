"""The apps' own metrics, summed over all workers. Counters and histograms outlive a worker, gauges do not.

A worker reports changes since its last report (`sidecard_client.protocol.wire.RecordMetrics`). So its counts remain when it
has exited, and no files of dead processes have to be summed. A gauge describes a living worker: it belongs to the worker's
connection and is dropped with it.
"""

from collections import Counter, OrderedDict
from collections.abc import Iterator

from sidecard.core.accounts.app_metric import AppMetric, Labels, exposed_names, has_valid_numbers, valid_labels
from sidecard.core.accounts.histogram import DEFAULT_BOUNDS, Buckets
from sidecard.core.events import Peer
from sidecard.core.settings import LiveSettings
from sidecard.core.shares import Share
from sidecard_client.protocol.wire import Family, Measurement, RecordMetrics

OVERFLOW: Labels = (("overflow", "true"),)
"""The label set that sums all those beyond the bound; named as OpenTelemetry's ``otel.metric.overflow``."""

MAX_METRICS = 512

MAX_SESSIONS = 8192
"""Senders whose last sequence number is kept: twice as many as may be connected by default."""

TOTAL_PER_METRIC = 20
"""Bound of the series of all metrics together, as a multiple of ``max_series``: 20,000 series are some 10 MB."""

UNDESCRIBED = "An app's metric without a description."


class AppMetrics:
    """All metrics of all apps; the setting ``max_series`` of the start bounds the label sets of each."""

    def __init__(self, settings: LiveSettings, dropped: Counter[str]) -> None:
        self._settings = settings
        self._max_series = settings.now.max_series
        self._max_total = self._max_series * TOTAL_PER_METRIC
        self._dropped = dropped
        self._metrics: dict[str, AppMetric] = {}
        self._taken: dict[str, str] = {}
        """Every exposed or reserved name, with the metric that it belongs to."""
        self._metrics_by_uid = Share()
        self._series_by_uid = Share()
        self._metrics_of_peer: dict[int, set[str]] = {}
        """Names of the metrics in which a peer has gauges."""
        self._sessions: OrderedDict[tuple[int, str], int] = OrderedDict()

    def record(self, peer: Peer, request: RecordMetrics) -> int:
        """Record measurements; return how many were dropped.

        A batch that is sent again because its acknowledgement was lost with the connection changes nothing.
        """
        if request.session and not self._is_new((peer.uid, request.session), request.sequence):
            return 0

        if request.dropped:
            self._dropped["client"] += request.dropped

        return sum(not self._record(peer, measurement) for measurement in request.metrics)

    def peer_lost(self, peer: Peer) -> None:
        """Drop the gauges of a worker that has disconnected."""
        for name in self._metrics_of_peer.pop(peer.id, ()):
            metric = self._metrics[name]
            del metric.workers[peer.id]
            for labels, values in list(metric.values.items()):
                if values.pop(peer.id, None) is not None:
                    self._series_by_uid.give_back(metric.uid)

                if not values:
                    del metric.values[labels]

    def families(self) -> Iterator[Family]:
        """Yield all metrics with samples, sorted by name."""
        for name, metric in sorted(self._metrics.items()):
            samples = list(metric.samples())
            if samples:
                yield Family(name, metric.kind, metric.help or UNDESCRIBED, samples)

    def overflows(self) -> Iterator[tuple[str, int]]:
        """Yield the metrics with too many label sets, and how many measurements were affected."""
        return ((name, metric.overflowed) for name, metric in sorted(self._metrics.items()) if metric.overflowed)

    def _is_new(self, session: tuple[int, str], sequence: int) -> bool:
        if sequence <= self._sessions.get(session, -1):
            return False

        self._sessions[session] = sequence
        self._sessions.move_to_end(session)
        if len(self._sessions) > MAX_SESSIONS:
            self._sessions.popitem(last=False)

        return True

    def _record(self, peer: Peer, measurement: Measurement) -> bool:
        labels = valid_labels(measurement.labels)
        name = measurement.name.removesuffix("_total") if measurement.kind == "counter" else measurement.name
        if labels is None or not has_valid_numbers(measurement):
            self._dropped["invalid"] += 1
            return False

        metric = self._metrics.get(name) or self._create(peer.uid, name, measurement)
        if metric is None or metric.kind != measurement.kind:
            self._dropped["invalid"] += 1
            return False

        series: dict[Labels, dict[int, float]] | dict[Labels, Buckets]
        series = metric.histograms if metric.kind == "histogram" else metric.values
        if labels not in series and (len(series) >= self._max_series or not self._has_room(metric)):
            metric.overflowed += 1
            if metric.kind == "gauge":
                # The sum of unrelated gauges has no meaning.
                self._dropped["series"] += 1
                return False

            labels = OVERFLOW

        if metric.kind == "histogram":
            self._observe(metric, labels, measurement)
        elif metric.kind == "counter":
            self._set(metric, labels, 0, metric.values.get(labels, {}).get(0, 0.0) + measurement.value)
        elif peer.id not in metric.values.get(labels, ()) and not self._has_room(metric):
            metric.overflowed += 1
            self._dropped["series"] += 1
            return False
        else:
            metric.workers[peer.id] = peer.pid
            self._metrics_of_peer.setdefault(peer.id, set()).add(name)
            self._set(metric, labels, peer.id, measurement.value)

        return True

    def _has_room(self, metric: AppMetric) -> bool:
        return self._series_by_uid.has_room(metric.uid, self._max_total, self._settings.now.spare_share)

    def _create(self, uid: int, name: str, measurement: Measurement) -> AppMetric | None:
        """Create a metric; None if there is no room or its name is invalid or taken."""
        if not self._metrics_by_uid.has_room(uid, MAX_METRICS, self._settings.now.spare_share):
            return None

        names = exposed_names(name, measurement.kind)
        if names is None or any(taken in self._taken for taken in names):
            return None

        self._taken |= dict.fromkeys(names, name)
        self._metrics_by_uid.take(uid)
        metric = self._metrics[name] = AppMetric(name, measurement, uid)
        return metric

    def _observe(self, metric: AppMetric, labels: Labels, measurement: Measurement) -> None:
        histogram = metric.histograms.get(labels)
        if histogram is None:
            histogram = metric.histograms[labels] = Buckets(metric.bounds)
            self._series_by_uid.take(metric.uid)

        if measurement.counts:
            histogram.add(measurement.bounds or DEFAULT_BOUNDS, measurement.counts, measurement.value)
        else:
            histogram.observe(measurement.value)

    def _set(self, metric: AppMetric, labels: Labels, peer_id: int, value: float) -> None:
        values = metric.values.setdefault(labels, {})
        if peer_id in values:
            del values[peer_id]  # so that the order is that of the latest value
        else:
            self._series_by_uid.take(metric.uid)

        values[peer_id] = value
