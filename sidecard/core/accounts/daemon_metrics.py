"""The daemon's own measurements by label, beyond `Counters` and the ledger."""

from collections import Counter, defaultdict
from typing import TYPE_CHECKING

from sidecard.core.accounts.histogram import CALL_BOUNDS, HANDLE_BOUNDS, Buckets
from sidecard.core.accounts.ledger import MAX_MODELS, OTHER, bounded
from sidecard.core.wall_clock import WallClock
from sidecard_client.protocol.wire import Exemplar

if TYPE_CHECKING:
    from collections.abc import Callable

_TRACE_ID = slice(3, 35)
"""The trace id within a W3C ``traceparent``."""


class DaemonMetrics:
    """Counters, gauges and histograms, exposed by `sidecard.core.operations.metrics`.

    The daemon around the engine updates ``requests``, ``handled``, ``dropped`` and ``limited`` and registers ``gauges``,
    ``problems_of`` and ``dropped_by``; the engine updates the rest. Peers choose the names of backends and models, so their number is bounded: further ones are
    counted as `OTHER`.
    """

    def __init__(self, max_backends: int, wall: WallClock) -> None:
        self.requests: Counter[tuple[type, type]] = Counter()
        """By class of request and class of reply, except begins that hit, which `Counters.hits` counts."""
        self.handled: defaultdict[type, Buckets] = defaultdict(lambda: Buckets(HANDLE_BOUNDS))
        """Seconds by class of request; of begins, a sample."""
        self.leases: Counter[tuple[str, str]] = Counter()
        """Ended leases by backend and outcome."""
        self.upstream: defaultdict[str, Buckets] = defaultdict(lambda: Buckets(CALL_BOUNDS))
        """Seconds of answered calls by backend."""
        self.spent: defaultdict[tuple[str, str], float] = defaultdict(float)
        """Dollars by backend and model."""
        self.dropped: Counter[str] = Counter()
        """Dropped items by kind."""
        self.limited: Counter[str] = Counter()
        """Rejections and closed connections by the limit that caused them."""
        self.gauges: dict[str, Callable[[], float]] = {}
        """Gauges of the daemon's parts around the engine, by name."""
        self.problems_of: dict[str, Callable[[], str]] = {}
        """By part of the daemon around the engine, a callable that returns its problem as a sentence, or an empty text."""
        self.dropped_by: dict[str, Callable[[], int]] = {}
        """Like ``dropped``, for parts that keep their own counts."""
        self._max_backends = max_backends
        self._backends: set[str] = set()
        self._wall = wall

    def count_lease(self, backend: str, outcome: str) -> None:
        """Count an ended lease."""
        self.leases[self._label(backend), outcome] += 1

    def observe_call(self, backend: str, seconds: float, trace: str, now: float) -> None:
        """Record how long a call took; ``trace`` is the caller's ``traceparent`` or empty."""
        histogram = self.upstream[self._label(backend)]
        histogram.observe(seconds)
        if trace:
            histogram.exemplify(Exemplar({"trace_id": trace[_TRACE_ID]}, seconds, self._wall.at(now)))

    def count_dollars(self, backend: str, model: str | None, dollars: float) -> None:
        """Add what a call cost."""
        labels = (self._label(backend), model or "")
        if labels not in self.spent and len(self.spent) >= MAX_MODELS:
            labels = (labels[0], OTHER)

        self.spent[labels] += dollars

    def _label(self, backend: str) -> str:
        if backend in self._backends:
            return backend

        label = bounded(backend, self._backends, self._max_backends)
        self._backends.add(label)
        return label
