"""The metrics of one client: every series, and what changed since the sender last took changes.

Updates never wait for the daemon: a series is a few numbers that grow until they are sent, so a daemon that is away for an
hour delays the numbers and costs nothing else. The number of series is bounded (`MAX_SERIES`); updates of further ones are
dropped, and the daemon receives their count. A killed worker loses at most the last `sender.FLUSH_SECONDS`.
"""

import contextlib
import math
import re
import threading
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol, TypeVar, cast

from msgspec import Struct

from sidecard_client.metrics.instruments import Counter, Gauge, Histogram, Instrument
from sidecard_client.metrics.passed import PassedCounts
from sidecard_client.protocol.wire import Aggregate, Measurement, MetricKind

S = TypeVar("S", bound=Instrument)
Labels = tuple[tuple[str, str], ...]
"""Sorted names and values."""

MAX_SERIES = 10_000
"""Limit of one client: about 5 MB. The daemon has a limit of its own per metric (``limits.max_series``)."""

DEFAULT_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0)
"""In seconds. Precedent: the client libraries of Prometheus."""

MAX_BUCKETS = 64
MAX_LABELS = 16
MAX_LABEL_CHARACTERS = 256
"""The daemon's limit too; longer values are truncated."""

_NAME = re.compile(r"[a-zA-Z_:][a-zA-Z0-9_:]{0,199}", re.ASCII)
_LABEL = re.compile(r"(?!__)[a-zA-Z_][a-zA-Z0-9_]{0,99}", re.ASCII)
_RESERVED_LABELS = frozenset({"le", "quantile", "worker", "overflow"})


class MeasurementSource(Protocol):
    """Further measurements, which the registry takes with its own."""

    def take_changes(self) -> Iterable[Measurement]:
        """Return what changed since the last call."""

    def before_fork(self) -> None:
        """Record the current values, which the parent sends. Runs in the parent, where no lock is held by another thread."""

    def reset(self) -> None:
        """Count from the values that `before_fork` recorded, in the child."""

    def resend(self) -> None:
        """Take every current value again, changed or not: the daemon has lost them."""


class Metric(Struct, eq=False):
    """One metric with all its series, by their labels."""

    registry: "MetricRegistry | _DroppingRegistry"
    kind: MetricKind
    name: str
    description: str
    aggregate: Aggregate = "sum"
    bounds: tuple[float, ...] = ()
    by_labels: dict[Labels, Any] = {}

    def series(self, labels: dict[str, object], kind: type[S]) -> S:
        """Return the series with ``labels``, created if there is room for it. Raises `ValueError` for invalid labels."""
        key = tuple(sorted((label, str(value)[:MAX_LABEL_CHARACTERS]) for label, value in labels.items()))
        found = self.by_labels.get(key)
        if found is not None:
            return cast("S", found)

        if len(labels) > MAX_LABELS:
            raise ValueError(f"A series has at most {MAX_LABELS} labels, not {len(labels)}.")

        for label in labels:
            if label in _RESERVED_LABELS:
                raise ValueError(f"{label!r} cannot be a label's name: the daemon sets it itself. Choose another.")

            if not _LABEL.fullmatch(label):
                raise ValueError(f"{label!r} cannot be a label's name: use letters, digits and underscores.")

        return self.registry.add_series(self, key, kind)

    def take_changes(self) -> Iterable[Measurement]:
        """Return what changed since the last call."""
        for labels, series in list(self.by_labels.items()):
            fields = series.take_changes()
            if fields is not None:
                yield Measurement(
                    name=self.name,
                    kind=self.kind,
                    labels=dict(labels),
                    help=self.description,
                    aggregate=self.aggregate,
                    **fields,
                )


class MetricRegistry:
    """All metrics of one client. Thread-safe and fork-safe: a child starts from zero, and its parent continues.

    ``wake`` is called at the first change after each `take_changes`.
    """

    def __init__(self, wake: Callable[[], object]) -> None:
        self._wake = wake
        self._metrics: dict[str, Metric] = {}
        self._sources: list[MeasurementSource] = []
        self._lock = threading.Lock()
        self._series_count = 0
        self._dropped = 0
        self._dropping = _DroppingRegistry(self)
        self.passed = PassedCounts(self.mark_changed)
        self.changed = False
        """Something changed since `take_changes`."""
        self.polls = False
        """There are gauges with functions, or sources, which change without notice."""

    def counter(self, name: str, description: str = "") -> Counter:
        """Return the counter ``name``. Raises `ValueError` if the name is invalid or belongs to another kind."""
        return self._first_series(Metric(self, "counter", _checked(name), description), Counter)

    def gauge(self, name: str, description: str = "", *, aggregate: Aggregate = "sum") -> Gauge:
        """Return the gauge ``name``; ``aggregate`` combines the values of several workers."""
        return self._first_series(Metric(self, "gauge", _checked(name), description, aggregate=aggregate), Gauge)

    def histogram(self, name: str, description: str = "", *, buckets: Sequence[float] | None = None) -> Histogram:
        """Return the histogram ``name``; ``buckets`` are ascending upper bounds."""
        bounds = tuple(float(bound) for bound in (DEFAULT_BUCKETS if buckets is None else buckets) if bound != math.inf)
        ascending = list(bounds) == sorted(set(bounds)) and all(map(math.isfinite, bounds))
        if not ascending or not 0 < len(bounds) <= MAX_BUCKETS:
            raise ValueError(f"buckets= must be 1 to {MAX_BUCKETS} finite numbers, each above the one before.")

        return self._first_series(Metric(self, "histogram", _checked(name), description, bounds=bounds), Histogram)

    def add_source(self, source: MeasurementSource) -> None:
        """Take the measurements of ``source`` too."""
        with self._lock:
            self._sources.append(source)

        self.polls = True
        self.mark_changed()

    def _first_series(self, metric: Metric, kind: type[S]) -> S:
        with self._lock:
            known = self._metrics.setdefault(metric.name, metric)

        if known.kind != metric.kind:
            raise ValueError(f"{metric.name} is a {known.kind} already: choose another name for the {metric.kind}.")

        return known.series({}, kind)

    def add_series(self, metric: Metric, key: Labels, kind: type[S]) -> S:
        """Return the series ``key`` of a metric; above `MAX_SERIES`, one whose updates are dropped and counted."""
        with self._lock:
            if key not in metric.by_labels:
                if self._series_count >= MAX_SERIES:
                    return kind(Metric(self._dropping, metric.kind, metric.name, "", bounds=metric.bounds))

                metric.by_labels[key] = kind(metric)
                self._series_count += 1

            return cast("S", metric.by_labels[key])

    def mark_changed(self) -> None:
        """Wake the sender, unless it knows that there is something to send."""
        if not self.changed:
            self.changed = True
            self._wake()

    def drop(self, count: int) -> None:
        """Count dropped updates."""
        with self._lock:
            self._dropped += count

        self.mark_changed()

    def take_changes(self) -> tuple[list[Measurement], int]:
        """Return what changed since the last call, and the number of dropped updates. For one thread."""
        # First, so that a change from here on wakes the sender again, at worst for nothing.
        self.changed = False
        with self._lock:
            metrics, sources = list(self._metrics.values()), list(self._sources)
            dropped, self._dropped = self._dropped, 0

        taken = [measurement for metric in metrics for measurement in metric.take_changes()]
        for source in sources:
            try:
                taken += source.take_changes()
            except Exception:  # noqa: BLE001 - the app's own collectors, in our thread: the others continue
                dropped += 1

        return taken, dropped

    def resend(self) -> None:
        """Let `take_changes` return every gauge again: the daemon was restarted and does not know this worker."""
        parts: list[Instrument | MeasurementSource] = [*self._series(), *self._sources]
        for part in parts:
            part.resend()

        self.changed = True

    def before_fork(self) -> None:
        """Prepare the sources for `reset`, in the parent."""
        for source in self._sources:
            # The app's own collectors may fail: the child then sends what its parent sent too.
            with contextlib.suppress(Exception):
                source.before_fork()

    def reset(self) -> None:
        """Start from zero, in the child of a fork: the parent sends everything that was counted before."""
        self._lock = threading.Lock()
        self._dropped = 0
        self.passed.reset()
        self.changed = False
        parts: list[Instrument | MeasurementSource] = [*self._series(), *self._sources]
        for part in parts:
            part.reset()

    @property
    def has_gauges(self) -> bool:
        """There are values that a restarted daemon must receive again."""
        return self.polls or any(metric.kind == "gauge" for metric in list(self._metrics.values()))

    def _series(self) -> list[Instrument]:
        return [series for metric in list(self._metrics.values()) for series in list(metric.by_labels.values())]


class _DroppingRegistry:
    """The registry of series above the limit: each of their updates counts as dropped."""

    changed = False

    def __init__(self, registry: MetricRegistry) -> None:
        self._registry = registry
        self.polls = False

    def mark_changed(self) -> None:
        """Drop an update."""
        self._registry.drop(1)

    def add_series(self, metric: Metric, _key: Labels, kind: type[S]) -> S:
        """Return another such series."""
        return kind(metric)


def _checked(name: str) -> str:
    if not _NAME.fullmatch(name) or name.startswith("sidecard_"):
        raise ValueError(
            f"{name!r} cannot be a metric's name: use letters, digits, underscores and colons, "
            "and do not begin it with sidecard_."
        )

    return name
