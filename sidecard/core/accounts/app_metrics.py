"""The apps' own metrics, summed over all workers. Counters and histograms outlive a worker, gauges do not.

A worker reports changes since its last report (`sidecard_client.protocol.wire.RecordMetrics`). So its counts remain when it
has exited, and no files of dead processes have to be summed. A gauge describes a living worker: it belongs to the worker's
connection and is dropped with it.
"""

from collections import Counter, OrderedDict
from collections.abc import Iterable, Iterator
from itertools import chain
from typing import Final, NamedTuple

from msgspec import structs

from sidecard.core.accounts.app_metric import (
    OVERFLOW,
    AppMetric,
    exposed_names,
    has_valid_numbers,
    number_problem,
    valid_labels,
)
from sidecard.core.accounts.app_metric_room import NO_COST, Cost, Labels, MetricRoom
from sidecard.core.accounts.histogram import DEFAULT_BOUNDS, Buckets
from sidecard.core.accounts.memory import MemoryPool
from sidecard.core.events import Peer
from sidecard.core.settings import LiveSettings
from sidecard.core.shares import Share
from sidecard_client.protocol.wire import Family, Measurement, RecordMetrics

MAX_METRICS: Final = 512

MAX_SESSIONS: Final = 8192
"""Senders whose last sequence number is kept: twice as many as may be connected by default."""

FORGET_SECONDS: Final = 3600.0
"""A counter or histogram that no app has recorded for so long leaves when there is no room for another."""

_LOOK_AGAIN_SECONDS: Final = 60.0
"""After no metric could be forgotten, time until the next search."""


PART_WORK: Final = 3000
"""A batch is recorded in parts of about this much work, 1 to 2 ms: 150 measurements of 16 labels, or 400 of three."""

_WORK_EACH: Final = 4
"""Work of a measurement besides its labels, in units of a label."""

_BUCKETS_PER_LABEL: Final = 4
"""So many buckets of a histogram are as much work as a label."""


class _Progress:
    """How much of a batch has been recorded."""

    __slots__ = ("dropped", "problem", "recorded", "request")

    def __init__(self, request: RecordMetrics) -> None:
        self.request = request
        self.recorded = 0
        self.dropped = 0
        self.problem = ""


class FamilySource(NamedTuple):
    """One family, to be made in pieces; the pieces of one family are consecutive and equal but for their samples."""

    name: str
    changed: int
    """Equal to that of an earlier source of this name: its samples are equal too. 0: unknown."""
    pieces: Iterator[Family]


class RecordedPart(NamedTuple):
    """A part of a batch of measurements that has been recorded."""

    new: bool
    """It is the first part of a batch that was not sent before."""
    dropped: int | None = None
    """After the last part: how many measurements of the batch were dropped."""


def merged(sources: Iterable[FamilySource]) -> Iterator[Family]:
    """Yield whole families."""
    for source in sources:
        first, *others = source.pieces
        yield structs.replace(first, samples=[*first.samples, *chain.from_iterable(piece.samples for piece in others)])


class AppMetrics:
    """All metrics of all apps, within bounds (`sidecard.core.accounts.app_metric_room`).

    Besides, ``max_series`` of the start bounds the label sets of each, and `MAX_METRICS` their names. ``dropped`` counts
    measurements that were dropped, by reason: ``invalid``; ``series``, too many label sets; ``metric_bytes``, too many bytes;
    ``metrics``, too many names; ``client``, by the sender.
    """

    def __init__(self, settings: LiveSettings, dropped: Counter[str], memory: MemoryPool) -> None:
        self._settings = settings
        self._max_series = settings.now.max_series
        self._dropped = dropped
        self.problem = ""
        """What is wrong with the latest number of a batch that is out of range."""
        self._room = MetricRoom(settings, memory)
        self._metrics: dict[str, AppMetric] = {}
        self._taken: dict[str, str] = {}
        """Every exposed or reserved name, with the metric that it belongs to."""
        self._metrics_by_uid = Share()
        self._metrics_of_peer: dict[int, set[str]] = {}
        """Names of the metrics in which a peer has gauges."""
        self._sessions: OrderedDict[tuple[int, str], tuple[int, int]] = OrderedDict()
        """The last sequence number of each sender, and how many measurements of that batch have been recorded."""
        self._progress: dict[int, _Progress] = {}
        """The batch of each peer that is recorded in parts, and how far that is."""
        self._changes = 0
        self._search_at = float("-inf")
        """When it is worthwhile to search for metrics to forget."""

    @property
    def exposed_bytes(self) -> int:
        """At most so many bytes would all samples be, encoded."""
        return self._room.exposed.total

    def record_part(self, peer: Peer, request: RecordMetrics, now: float) -> RecordedPart:
        """Record the next measurements of a batch, for about 1 ms.

        A batch that is sent again because its acknowledgement was lost with the connection changes nothing. If only some of it
        was recorded by then, the rest is.
        """
        progress = self._progress.get(peer.id)
        if progress is None or progress.request is not request:
            progress = self._progress[peer.id] = _Progress(request)

        session, new = (peer.uid, request.session), not progress.recorded
        if request.session:
            sequence, recorded = self._sessions.get(session, (-1, 0))
            new = request.sequence > sequence
            if request.sequence == sequence:
                progress.recorded = recorded
            elif not new:
                progress.recorded = len(request.metrics)

        if new and request.dropped:
            self._dropped["client"] += request.dropped

        self._record_some(peer, progress, now)
        if request.session and request.sequence >= self._sessions.get(session, (-1, 0))[0]:
            self._remember(session, (request.sequence, progress.recorded))

        if progress.recorded < len(request.metrics):
            return RecordedPart(new)

        del self._progress[peer.id]
        return RecordedPart(new, progress.dropped)

    def _record_some(self, peer: Peer, progress: "_Progress", now: float) -> None:
        self.problem = progress.problem
        work = 0
        while work < PART_WORK and progress.recorded < len(progress.request.metrics):
            measurement = progress.request.metrics[progress.recorded]
            progress.recorded += 1
            work += _WORK_EACH + len(measurement.labels) + len(measurement.counts) // _BUCKETS_PER_LABEL
            if reason := self._record(peer, measurement, now):
                self._dropped[reason] += 1
                progress.dropped += 1

        progress.problem = self.problem

    def peer_lost(self, peer: Peer) -> None:
        """Drop the gauges of a worker that has disconnected."""
        self._progress.pop(peer.id, None)
        for name in self._metrics_of_peer.pop(peer.id, ()):
            metric = self._metrics[name]
            del metric.workers[peer.id]
            for labels, values in list(metric.values.items()):
                if values.pop(peer.id, None) is not None:
                    self._release(metric, peer.uid, metric.worker_cost(labels))

                if not values:
                    del metric.values[labels]
                    self._release(metric, metric.owners.pop(labels, metric.uid), metric.series_cost(labels))

            self._note_change(metric)

    def sources(self) -> Iterator[FamilySource]:
        """Yield all metrics with samples, sorted by name. They may change meanwhile: see `AppMetric.pieces`."""
        for name in sorted(self._metrics):
            metric = self._metrics.get(name)
            if metric is not None and metric.has_samples:
                yield FamilySource(name, metric.changed, metric.pieces())

    def overflows(self) -> Iterator[tuple[str, int]]:
        """Yield the metrics with too many label sets, and how many measurements were affected."""
        return ((name, metric.overflowed) for name, metric in sorted(self._metrics.items()) if metric.overflowed)

    def _remember(self, session: tuple[int, str], state: tuple[int, int]) -> None:
        self._sessions[session] = state
        self._sessions.move_to_end(session)
        if len(self._sessions) > MAX_SESSIONS:
            self._sessions.popitem(last=False)

    def _record(self, peer: Peer, measurement: Measurement, now: float) -> str:
        """Record one measurement; return why it was dropped, or nothing."""
        labels = valid_labels(measurement.labels)
        kind = measurement.kind
        name = measurement.name.removesuffix("_total") if kind == "counter" else measurement.name
        if labels is None:
            return "invalid"

        if not has_valid_numbers(measurement):
            self.problem = number_problem(measurement)
            return "invalid"

        metric = self._metrics.get(name) or self._create(peer.uid, name, measurement, now)
        if isinstance(metric, str):
            return metric

        if metric.kind != kind:
            return "invalid"

        metric.recorded_at = now
        if kind == "gauge":
            if reason := self._set_gauge(metric, labels, peer, measurement.value, now):
                metric.overflowed += 1
                return reason
        else:
            series = metric.histograms if kind == "histogram" else metric.values
            if labels not in series and self._add_series(metric, labels, peer.uid, now):
                metric.overflowed += 1
                labels = OVERFLOW

            if kind == "histogram":
                self._observe(metric, labels, measurement)
            else:
                metric.values.setdefault(labels, {0: 0.0})[0] += measurement.value

        self._note_change(metric)
        return ""

    def _create(self, uid: int, name: str, measurement: Measurement, now: float) -> AppMetric | str:
        """Create a metric, or return why not."""
        names = exposed_names(name, measurement.kind)
        if names is None or any(taken in self._taken for taken in names):
            return "invalid"

        while not self._metrics_by_uid.has_room(uid, MAX_METRICS, self._settings.now.spare_share):
            if not self._forget_oldest(now):
                return "metrics"

        metric = AppMetric(name, measurement, uid)
        cost = metric.base_cost()
        if reason := self._lacks(uid, cost, now):
            return reason

        self._charge(metric, uid, cost)
        self._taken |= dict.fromkeys(names, name)
        self._metrics_by_uid.take(uid)
        self._metrics[name] = metric
        return metric

    def _add_series(self, metric: AppMetric, labels: Labels, uid: int, now: float) -> str:
        """Charge a uid for a new series of a counter or histogram, or return why there is no room."""
        if len(metric.histograms if metric.kind == "histogram" else metric.values) >= self._max_series:
            return "series"

        cost = metric.series_cost(labels)
        reason = self._lacks(uid, cost, now)
        if not reason:
            self._charge(metric, uid, cost)

        return reason

    def _observe(self, metric: AppMetric, labels: Labels, measurement: Measurement) -> None:
        histogram = metric.histograms.get(labels)
        if histogram is None:
            histogram = metric.histograms[labels] = Buckets(metric.bounds)

        if measurement.counts:
            histogram.add(measurement.bounds or DEFAULT_BOUNDS, measurement.counts, measurement.value)
        else:
            histogram.observe(measurement.value)

    def _set_gauge(self, metric: AppMetric, labels: Labels, peer: Peer, value: float, now: float) -> str:
        """Set a worker's value, or return why there is no room. It is dropped then: sums of unrelated gauges have no meaning."""
        values = metric.values.get(labels)
        if values is not None and peer.id in values:
            del values[peer.id]  # so that the order is that of the latest value
        else:
            if values is None and len(metric.values) >= self._max_series:
                return "series"

            cost = metric.worker_cost(labels)
            if values is None:
                cost = cost.plus(metric.series_cost(labels))

            if reason := self._lacks(peer.uid, cost, now):
                return reason

            self._charge(metric, peer.uid, cost)
            if values is None:
                values = metric.values[labels] = {}
                if peer.uid != metric.uid:
                    metric.owners[labels] = peer.uid

        values[peer.id] = value
        metric.workers[peer.id] = peer.pid
        self._metrics_of_peer.setdefault(peer.id, set()).add(metric.name)
        return ""

    def _note_change(self, metric: AppMetric) -> None:
        self._changes += 1
        metric.changed = self._changes

    # -- room ----------------------------------------------------------------------------------------------------------

    def _lacks(self, uid: int, cost: Cost, now: float) -> str:
        """Return what a uid has no room for, even after metrics that no app uses were forgotten; or nothing."""
        while (reason := self._room.lacks(uid, cost)) and self._forget_oldest(now):
            pass

        return reason

    def _charge(self, metric: AppMetric, uid: int, cost: Cost) -> None:
        self._room.charge(uid, cost)
        metric.costs[uid] = metric.costs.get(uid, NO_COST).plus(cost)

    def _release(self, metric: AppMetric, uid: int, cost: Cost) -> None:
        self._room.release(uid, cost)
        metric.costs[uid] = metric.costs[uid].minus(cost)
        if metric.costs[uid] == NO_COST:
            del metric.costs[uid]

    def _forget_oldest(self, now: float) -> bool:
        """Forget the metric that no app has recorded for longest, if for `FORGET_SECONDS`; return whether there was one.

        A gauge of a living worker stays. A forgotten counter that is recorded again restarts at 0, as after a restart.
        """
        if now < self._search_at:
            return False

        unused = (metric for metric in self._metrics.values() if metric.kind != "gauge" or not metric.values)
        oldest = min(unused, key=lambda metric: metric.recorded_at, default=None)
        if oldest is None or now - oldest.recorded_at < FORGET_SECONDS:
            self._search_at = now + _LOOK_AGAIN_SECONDS
            return False

        del self._metrics[oldest.name]
        for name in [name for name, owner in self._taken.items() if owner == oldest.name]:
            del self._taken[name]

        self._metrics_by_uid.give_back(oldest.uid)
        for uid, cost in oldest.costs.items():
            self._room.release(uid, cost)

        return True
