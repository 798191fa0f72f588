"""Counters, gauges, histograms and timers of an app. Each collects its own changes until the sender takes them."""

import functools
import threading
from bisect import bisect_left
from collections.abc import Callable
from time import perf_counter
from types import TracebackType
from typing import TYPE_CHECKING, Any, ParamSpec, Self, TypeVar

from sidecard_client.protocol.values import MAX_MEASURED

if TYPE_CHECKING:
    from sidecard_client.metrics.registry import Metric

P = ParamSpec("P")
T = TypeVar("T")


class Instrument:
    """One series of a metric. Its registry's `mark_changed` wakes the sender."""

    __slots__ = ("_lock", "_metric", "_registry")

    def __init__(self, metric: "Metric") -> None:
        self._metric = metric
        self._registry = metric.registry
        self._lock = threading.Lock()

    def labels(self, **labels: object) -> Self:
        """Return the series with these labels. Values become strings of at most 256 characters."""
        return self._metric.series(labels, type(self))

    def take_changes(self) -> dict[str, Any] | None:
        """Return the fields of a `Measurement` for what changed since the last call; None if nothing did."""
        raise NotImplementedError

    def reset(self) -> None:
        """Start from zero, in the child of a fork: no other thread exists, and the lock may be held."""
        self._lock = threading.Lock()

    def resend(self) -> None:
        """Take the current value again. Counters and histograms need nothing: the daemon adds up their increments."""


class Counter(Instrument):
    """A number that only grows: calls, tokens, dollars."""

    __slots__ = ("_delta",)

    def __init__(self, metric: "Metric") -> None:
        super().__init__(metric)
        self._delta = 0.0

    def inc(self, amount: float = 1.0) -> None:
        """Add ``amount``. Raises `ValueError` if it is not within 0 to 1e15."""
        if not 0 <= amount <= MAX_MEASURED:
            raise ValueError(f"A counter grows by a number within 0 to {MAX_MEASURED:g}, not by {amount}.")

        with self._lock:
            self._delta += amount

        if not self._registry.changed:
            self._registry.mark_changed()

    def take_changes(self) -> dict[str, Any] | None:
        """Return the increment."""
        with self._lock:
            delta, self._delta = self._delta, 0.0

        return {"value": min(delta, MAX_MEASURED)} if delta else None

    def reset(self) -> None:
        """Start from zero."""
        super().reset()
        self._delta = 0.0


class Gauge(Instrument):
    """A number that goes up and down: queue lengths, sizes. It disappears with its worker."""

    __slots__ = ("_function", "_sent", "_value")

    def __init__(self, metric: "Metric") -> None:
        super().__init__(metric)
        self._function: Callable[[], float] | None = None
        self._value: float | None = None
        self._sent: float | None = None

    def set(self, value: float) -> None:
        """Set the current value."""
        with self._lock:
            self._value = float(value)

        self._registry.mark_changed()

    def inc(self, amount: float = 1.0) -> None:
        """Add ``amount``."""
        with self._lock:
            self._value = (self._value or 0.0) + amount

        self._registry.mark_changed()

    def dec(self, amount: float = 1.0) -> None:
        """Subtract ``amount``."""
        self.inc(-amount)

    def set_function(self, function: Callable[[], float]) -> None:
        """Read the value from ``function`` each time that metrics are sent, in the sending thread."""
        self._function = function
        self._registry.polls = True
        self._registry.mark_changed()

    def take_changes(self) -> dict[str, Any] | None:
        """Return the value if it is not the last one sent."""
        value = self._value if self._function is None else _value_of(self._function)
        if value is None or value == self._sent:
            return None

        self._sent = value
        return {"value": value}

    def reset(self) -> None:
        """Start from zero."""
        super().reset()
        self._value = self._sent = None

    def resend(self) -> None:
        """Take the value again."""
        self._sent = None


class Histogram(Instrument):
    """Observations counted by size: durations, lengths."""

    __slots__ = ("_bounds", "_counts", "_sum")

    def __init__(self, metric: "Metric") -> None:
        super().__init__(metric)
        self._bounds = metric.bounds
        self._counts = [0] * (len(self._bounds) + 1)
        self._sum = 0.0

    def observe(self, value: float) -> None:
        """Count an observation. Values that are not within -1e15 to 1e15 are ignored."""
        if not -MAX_MEASURED <= value <= MAX_MEASURED:
            return

        index = bisect_left(self._bounds, value)
        with self._lock:
            self._counts[index] += 1
            self._sum += value

        if not self._registry.changed:
            self._registry.mark_changed()

    def time(self) -> "Timer":
        """Return a context manager and decorator that observes seconds."""
        return Timer(self)

    def take_changes(self) -> dict[str, Any] | None:
        """Return the new observations: their counts by bucket, and their sum."""
        with self._lock:
            counts, self._counts = self._counts, [0] * (len(self._bounds) + 1)
            total, self._sum = self._sum, 0.0

        total = max(-MAX_MEASURED, min(total, MAX_MEASURED))
        return {"value": total, "bounds": self._bounds, "counts": tuple(counts)} if any(counts) else None

    def reset(self) -> None:
        """Start from zero."""
        super().reset()
        self._counts = [0] * (len(self._bounds) + 1)
        self._sum = 0.0


class Timer:
    """Observe the seconds of a ``with`` block, or of each call of the decorated function."""

    __slots__ = ("_histogram", "_started_at")

    def __init__(self, histogram: Histogram) -> None:
        self._histogram = histogram
        self._started_at = 0.0

    def __enter__(self) -> Self:
        self._started_at = perf_counter()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._histogram.observe(perf_counter() - self._started_at)

    def __call__(self, function: Callable[P, T]) -> Callable[P, T]:
        """Decorate ``function``. Of a coroutine function, each awaited call is measured."""
        from inspect import iscoroutinefunction  # noqa: PLC0415 - slow to import, and used by decorators only

        if iscoroutinefunction(function):

            @functools.wraps(function)
            async def timed_coroutine(*args: P.args, **kwargs: P.kwargs) -> object:
                with Timer(self._histogram):
                    return await function(*args, **kwargs)

            return timed_coroutine  # type: ignore[return-value]  # its awaitable has the result of the function's

        @functools.wraps(function)
        def timed(*args: P.args, **kwargs: P.kwargs) -> T:
            with Timer(self._histogram):
                return function(*args, **kwargs)

        return timed


def _value_of(function: Callable[[], float]) -> float | None:
    try:
        return float(function())
    except Exception:  # noqa: BLE001 - the app's function, in our thread: it has no value now
        return None
