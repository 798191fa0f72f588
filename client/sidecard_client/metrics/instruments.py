"""An app's own metrics: counted here without asking anybody, added up in the daemon over all workers of the host.

Nothing here waits for the daemon: a series is a few numbers that grow until `metrics_sender` has brought them there, so a
daemon that is away for an hour costs nothing but the wait for the numbers. What is bounded is the number of series
(`MAX_SERIES`); updates beyond are dropped, counted, and the count is sent too.

What a killed worker had not yet sent is lost: at most the last `metrics_sender.FLUSH_SECONDS`.
"""

import contextlib
import functools
import math
import re
import threading
from bisect import bisect_left
from collections.abc import Callable, Iterable, Sequence
from time import perf_counter
from types import TracebackType
from typing import Any, ParamSpec, Protocol, Self, TypeVar, cast

from sidecard_client.protocol.wire import Aggregate, Measurement, MetricKind

P = ParamSpec("P")
T = TypeVar("T")

MAX_SERIES = 10_000
"""Of one client: some 5 MB. The daemon has a bound of its own for each metric (``limits.max_series``)."""

DEFAULT_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0)
"""In seconds; those of Prometheus' own client libraries."""

MAX_BUCKETS = 64
MAX_LABELS = 16
MAX_LABEL_CHARACTERS = 256
"""As the daemon's; longer values are cut."""

INFINITY = math.inf

_NAME = re.compile(r"[a-zA-Z_:][a-zA-Z0-9_:]{0,199}", re.ASCII)
_LABEL = re.compile(r"(?!__)[a-zA-Z_][a-zA-Z0-9_]{0,99}", re.ASCII)
_RESERVED_LABELS = frozenset({"le", "quantile", "worker", "overflow"})

_Labels = tuple[tuple[str, str], ...]


class Source(Protocol):
    """What is asked for measurements each time that some are sent."""

    def take(self) -> Iterable[Measurement]:
        """Return what has happened since it was asked last."""

    def before_fork(self) -> None:
        """Take note of what is: the parent will tell it. Called in the parent, where no other thread's locks are in the way."""

    def forget(self) -> None:
        """Count anew from what `before_fork` noted, in the child."""

    def retell(self) -> None:
        """Tell again what is, not only what has changed: the daemon knows nothing of it any more."""


class Counter:
    """A number that only grows: calls, tokens, dollars."""

    __slots__ = ("_delta", "_lock", "_metric", "_registry")

    def __init__(self, metric: "_Metric") -> None:
        self._metric = metric
        self._registry = metric.registry
        self._lock = threading.Lock()
        self._delta = 0.0

    def labels(self, **labels: object) -> "Counter":
        """Return the series of these labels, which are texts of at most 256 characters."""
        return self._metric.series(labels, Counter)

    def inc(self, amount: float = 1.0) -> None:
        """Add ``amount``. Raises `ValueError` where it is less than 0, or not finite."""
        if not 0 <= amount < INFINITY:
            raise ValueError(f"A counter grows by a finite number of 0 or more, not by {amount}.")

        with self._lock:
            self._delta += amount

        if not self._registry.stirred:
            self._registry.stir()

    def _take(self) -> dict[str, Any] | None:
        with self._lock:
            delta, self._delta = self._delta, 0.0

        return {"value": delta} if delta else None

    def _forget(self) -> None:
        self._lock = threading.Lock()
        self._delta = 0.0

    def _retell(self) -> None:
        """What was told of a counter stays told."""


class Gauge:
    """A number that moves: queue lengths, sizes. It vanishes with its worker."""

    __slots__ = ("_function", "_lock", "_metric", "_registry", "_told", "_value")

    def __init__(self, metric: "_Metric") -> None:
        self._metric = metric
        self._registry = metric.registry
        self._lock = threading.Lock()
        self._function: Callable[[], float] | None = None
        self._value: float | None = None
        self._told: float | None = None

    def labels(self, **labels: object) -> "Gauge":
        """Return the series of these labels, which are texts of at most 256 characters."""
        return self._metric.series(labels, Gauge)

    def set(self, value: float) -> None:
        """Say what it is now."""
        with self._lock:
            self._value = float(value)

        self._registry.stir()

    def inc(self, amount: float = 1.0) -> None:
        """Raise it."""
        with self._lock:
            self._value = (self._value or 0.0) + amount

        self._registry.stir()

    def dec(self, amount: float = 1.0) -> None:
        """Lower it."""
        self.inc(-amount)

    def set_function(self, function: Callable[[], float]) -> None:
        """Let ``function`` say what it is, each time that metrics are sent, in the thread that sends them."""
        self._function = function
        self._registry.polls = True
        self._registry.stir()

    def _take(self) -> dict[str, Any] | None:
        value = self._value if self._function is None else _asked(self._function)
        if value is None or value == self._told:
            return None

        self._told = value
        return {"value": value}

    def _forget(self) -> None:
        self._lock = threading.Lock()
        self._value = self._told = None

    def _retell(self) -> None:
        self._told = None


class Histogram:
    """Observations counted by size: how long, how large."""

    __slots__ = ("_bounds", "_counts", "_lock", "_metric", "_registry", "_sum")

    def __init__(self, metric: "_Metric") -> None:
        self._metric = metric
        self._registry = metric.registry
        self._bounds = metric.bounds
        self._lock = threading.Lock()
        self._counts = [0] * (len(self._bounds) + 1)
        self._sum = 0.0

    def labels(self, **labels: object) -> "Histogram":
        """Return the series of these labels, which are texts of at most 256 characters."""
        return self._metric.series(labels, Histogram)

    def observe(self, value: float) -> None:
        """Count an observation. One that is not finite is passed by."""
        if not math.isfinite(value):
            return

        index = bisect_left(self._bounds, value)
        with self._lock:
            self._counts[index] += 1
            self._sum += value

        if not self._registry.stirred:
            self._registry.stir()

    def time(self) -> "Timer":
        """Return what measures a block, or decorates a function, and observes the seconds that it takes."""
        return Timer(self)

    def _take(self) -> dict[str, Any] | None:
        with self._lock:
            counts, self._counts = self._counts, [0] * (len(self._bounds) + 1)
            total, self._sum = self._sum, 0.0

        if not any(counts):
            return None

        return {"value": total, "bounds": self._bounds, "counts": tuple(counts)}

    def _forget(self) -> None:
        self._lock = threading.Lock()
        self._counts = [0] * (len(self._bounds) + 1)
        self._sum = 0.0

    def _retell(self) -> None:
        """What was told of a histogram stays told."""


class Timer:
    """Measures seconds of a ``with`` block, or of each call of the function that it decorates."""

    __slots__ = ("_began_at", "_histogram")

    def __init__(self, histogram: Histogram) -> None:
        self._histogram = histogram
        self._began_at = 0.0

    def __enter__(self) -> Self:
        self._began_at = perf_counter()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._histogram.observe(perf_counter() - self._began_at)

    def __call__(self, function: Callable[P, T]) -> Callable[P, T]:
        """Decorate ``function``; of a coroutine function, each awaited call is measured."""
        from inspect import iscoroutinefunction  # noqa: PLC0415 - a heavy module, for decorators alone

        if iscoroutinefunction(function):

            @functools.wraps(function)
            async def awaited(*args: P.args, **kwargs: P.kwargs) -> object:
                with Timer(self._histogram):
                    return await function(*args, **kwargs)

            return awaited  # type: ignore[return-value]  # it returns what the function does, awaitable as that is

        @functools.wraps(function)
        def called(*args: P.args, **kwargs: P.kwargs) -> T:
            with Timer(self._histogram):
                return function(*args, **kwargs)

        return called


_S = TypeVar("_S", Counter, Gauge, Histogram)


class _Metric:
    """One metric with all its series, by their labels."""

    def __init__(
        self,
        registry: "Metrics",
        kind: MetricKind,
        name: str,
        description: str,
        *,
        aggregate: Aggregate = "sum",
        bounds: tuple[float, ...] = (),
    ) -> None:
        self.registry = registry
        self.kind = kind
        self.name = name
        self.description = description
        self.aggregate = aggregate
        self.bounds = bounds
        self.by_labels: dict[_Labels, Any] = {}
        """All of them of the one kind."""
        self._lost: Any = None

    def series(self, labels: dict[str, object], kind: type[_S]) -> _S:
        """Return the series of ``labels``, begun where there is room for it. Raises `ValueError` for labels that cannot be."""
        key = tuple(sorted((label, str(value)[:MAX_LABEL_CHARACTERS]) for label, value in labels.items()))
        found = self.by_labels.get(key)
        if found is not None:
            return cast("_S", found)

        if len(labels) > MAX_LABELS:
            raise ValueError(f"A series has at most {MAX_LABELS} labels, not {len(labels)}.")

        for label in labels:
            if label in _RESERVED_LABELS:
                raise ValueError(f"{label!r} cannot be a label's name: the daemon sets it by itself. Choose another.")

            if not _LABEL.fullmatch(label):
                raise ValueError(f"{label!r} cannot be a label's name: use letters, digits and underscores.")

        with self.registry.lock:
            if key not in self.by_labels:
                if self.registry.series_count >= MAX_SERIES:
                    self._lost = self._lost or _LOST[kind](self)
                    return cast("_S", self._lost)

                self.by_labels[key] = kind(self)
                self.registry.series_count += 1

            return cast("_S", self.by_labels[key])

    def measured(self) -> Iterable[Measurement]:
        """Return what has happened since this was asked last."""
        for labels, series in list(self.by_labels.items()):
            news = series._take()  # noqa: SLF001 - the two halves of one thing
            if news is not None:
                yield Measurement(
                    name=self.name,
                    kind=self.kind,
                    labels=dict(labels),
                    help=self.description,
                    aggregate=self.aggregate,
                    **news,
                )


class Metrics:
    """The metrics of one client. Thread-safe and fork-safe: a child counts from zero, its parent goes on.

    ``wake`` is called when there is something to send where there was nothing before.
    """

    def __init__(self, wake: Callable[[], object]) -> None:
        self._wake = wake
        self._metrics: dict[str, _Metric] = {}
        self._sources: list[Source] = []
        self.lock = threading.Lock()
        self.series_count = 0
        self.stirred = False
        """Something has happened since `take`."""
        self.polls = False
        """There are gauges or sources that must be asked."""
        self._dropped = 0

    def counter(self, name: str, description: str = "") -> Counter:
        """Return the counter of that name. Raises `ValueError` for a name that cannot be, or that another kind has."""
        return self._series(_Metric(self, "counter", _named(name), description), Counter)

    def gauge(self, name: str, description: str = "", *, aggregate: Aggregate = "sum") -> Gauge:
        """Return the gauge of that name; ``aggregate`` says how the values of several workers become one."""
        return self._series(_Metric(self, "gauge", _named(name), description, aggregate=aggregate), Gauge)

    def histogram(self, name: str, description: str = "", *, buckets: Sequence[float] = DEFAULT_BUCKETS) -> Histogram:
        """Return the histogram of that name; ``buckets`` are upper bounds, rising."""
        bounds = tuple(float(bound) for bound in buckets if bound != math.inf)
        if (
            not 0 < len(bounds) <= MAX_BUCKETS
            or list(bounds) != sorted(set(bounds))
            or not all(map(math.isfinite, bounds))
        ):
            raise ValueError(f"buckets= must be 1 to {MAX_BUCKETS} finite numbers, each above the one before.")

        metric = _Metric(self, "histogram", _named(name), description, bounds=bounds)
        return self._series(metric, Histogram)

    def add_source(self, source: Source) -> None:
        """Ask ``source`` too, from now on."""
        with self.lock:
            self._sources.append(source)

        self.polls = True
        self.stir()

    def _series(self, metric: _Metric, kind: type[_S]) -> _S:
        with self.lock:
            known = self._metrics.setdefault(metric.name, metric)

        if known.kind != metric.kind:
            raise ValueError(f"{metric.name} is a {known.kind} already: choose another name for the {metric.kind}.")

        return known.series({}, kind)

    def stir(self) -> None:
        """Let the sender know that there is something to send."""
        if not self.stirred:
            self.stirred = True
            self._wake()

    def drop(self, count: int) -> None:
        """Count updates that could not be kept."""
        with self.lock:
            self._dropped += count

        self.stir()

    def take(self) -> tuple[list[Measurement], int]:
        """Return what has happened since this was asked last, and how many updates were dropped. For one thread."""
        # First: whatever happens from here on stirs anew, at worst for nothing.
        self.stirred = False
        with self.lock:
            metrics, sources = list(self._metrics.values()), list(self._sources)
            dropped, self._dropped = self._dropped, 0

        taken = [measurement for metric in metrics for measurement in metric.measured()]
        for source in sources:
            try:
                taken += source.take()
            except Exception:  # noqa: BLE001 - the app's own collectors, in our thread: the others go on
                dropped += 1

        return taken, dropped

    def retell(self) -> None:
        """Let `take` return every gauge once more: a daemon that knows nothing of this worker is there."""
        for series in self._all():
            series._retell()  # noqa: SLF001 - the two halves of one thing

        for source in self._sources:
            source.retell()

        self.stirred = True

    def before_fork(self) -> None:
        """Let the sources take note, in the parent of a fork."""
        for source in self._sources:
            with contextlib.suppress(
                Exception
            ):  # the app's own collectors: the child then tells what its parent told too
                source.before_fork()

    def forget(self) -> None:
        """Begin at zero, in the child of a fork: what was counted before is the parent's to tell."""
        self.lock = threading.Lock()
        self._dropped = 0
        self.stirred = False
        for series in self._all():
            series._forget()  # noqa: SLF001 - the two halves of one thing

        for source in self._sources:
            source.forget()

    @property
    def has_gauges(self) -> bool:
        """There is something that must be told again to a daemon that was restarted."""
        return self.polls or any(metric.kind == "gauge" for metric in list(self._metrics.values()))

    def _all(self) -> list[Any]:
        return [series for metric in list(self._metrics.values()) for series in list(metric.by_labels.values())]


class _LostCounter(Counter):
    """Takes the updates of series for which there is no room, and counts them."""

    def inc(self, amount: float = 1.0) -> None:  # noqa: ARG002 - as what it stands for
        self._registry.drop(1)


class _LostGauge(Gauge):
    def set(self, value: float) -> None:  # noqa: ARG002 - as what it stands for
        self._registry.drop(1)

    def inc(self, amount: float = 1.0) -> None:  # noqa: ARG002 - as what it stands for
        self._registry.drop(1)

    def set_function(self, function: Callable[[], float]) -> None:  # noqa: ARG002 - as what it stands for
        self._registry.drop(1)


class _LostHistogram(Histogram):
    def observe(self, value: float) -> None:  # noqa: ARG002 - as what it stands for
        self._registry.drop(1)


_LOST: dict[type, type] = {Counter: _LostCounter, Gauge: _LostGauge, Histogram: _LostHistogram}


def _named(name: str) -> str:
    if not _NAME.fullmatch(name) or name.startswith("sidecard_"):
        raise ValueError(
            f"{name!r} cannot be a metric's name: use letters, digits, underscores and colons, "
            "and another beginning than sidecard_."
        )

    return name


def _asked(function: Callable[[], float]) -> float | None:
    try:
        return float(function())
    except Exception:  # noqa: BLE001 - the app's function, in our thread: without a value there is nothing to tell
        return None
