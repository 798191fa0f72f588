"""What the daemon measures of itself, besides counters and ledger: raised where it happens, told by `sidecard.core.operations.metrics`."""

from collections import Counter, defaultdict
from typing import TYPE_CHECKING

from sidecard.core.accounts.histogram import CALL_BOUNDS, HANDLE_BOUNDS, Histogram
from sidecard.core.accounts.ledger import MAX_MODELS, OTHER
from sidecard_client.protocol.wire import Exemplar

if TYPE_CHECKING:
    from collections.abc import Callable

_TRACE_ID = slice(3, 35)
"""Of a W3C ``traceparent``."""


class DaemonMetrics:
    """Counters, gauges and histograms by label.

    The shell raises ``requests``, ``handled``, ``dropped`` and ``limited`` itself, and says what else can be asked; the rest is the engine's.
    Peers choose the names of backends and models, so their number is bounded; those beyond are `OTHER`.
    """

    def __init__(self, max_backends: int, wall_offset_seconds: float = 0.0) -> None:
        self.requests: Counter[tuple[type, type]] = Counter()
        """By classes of request and reply; but for begins that hit, whom `Counters.hits` counts already."""
        self.handled: defaultdict[type, Histogram] = defaultdict(lambda: Histogram(HANDLE_BOUNDS))
        """Seconds by class of request; not of every begin."""
        self.leases: Counter[tuple[str, str]] = Counter()
        """By backend and outcome."""
        self.upstream: defaultdict[str, Histogram] = defaultdict(lambda: Histogram(CALL_BOUNDS))
        """Seconds by backend."""
        self.spent: defaultdict[tuple[str, str], float] = defaultdict(float)
        """Dollars by backend and model."""
        self.dropped: Counter[str] = Counter()
        """Whatever was thrown away, by what it was."""
        self.limited: Counter[str] = Counter()
        """How often a limit has refused something, or had a peer closed, by the limit's name."""
        self.gauges: dict[str, Callable[[], float]] = {}
        """Of the shell's parts, by name."""
        self.dropped_by: dict[str, Callable[[], int]] = {}
        """As ``dropped``, for what counts itself."""
        self._max_backends = max_backends
        self._backends: set[str] = set()
        self._offset_seconds = wall_offset_seconds

    def ended(self, backend: str, outcome: str) -> None:
        """Take note of a lease's end."""
        self.leases[self._name(backend), outcome] += 1

    def answered(self, backend: str, seconds: float, trace: str, now: float) -> None:
        """Take note of how long a backend took; ``trace`` is the caller's span, if it has one."""
        histogram = self.upstream[self._name(backend)]
        histogram.observe(seconds)
        if trace:
            histogram.exemplify(Exemplar({"trace_id": trace[_TRACE_ID]}, seconds, now + self._offset_seconds))

    def billed(self, backend: str, model: str | None, dollars: float) -> None:
        """Take note of what a call cost."""
        place = (self._name(backend), model or "")
        if place not in self.spent and len(self.spent) >= MAX_MODELS:
            place = (place[0], OTHER)

        self.spent[place] += dollars

    def _name(self, backend: str) -> str:
        if backend not in self._backends:
            if len(self._backends) >= self._max_backends:
                return OTHER

            self._backends.add(backend)

        return backend
