"""The part of both clients that an app measures itself with."""

import os
import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING
from weakref import WeakSet

from sidecard_client.protocol.socket_path import find_socket
from sidecard_client.protocol.wire import Aggregate

if TYPE_CHECKING:
    from sidecard_client.metrics.forwarding import Registry
    from sidecard_client.metrics.instruments import Counter, Gauge, Histogram, Metrics, Timer
    from sidecard_client.metrics.sender import MetricsSender


class Instruments:
    """Counters, gauges, histograms and timers that are added up over all workers of the host, in the daemon.

    No method waits for the daemon; see `metrics` for what is bounded and `metrics_sender` for how it gets there.
    """

    def _measure_for(self, path: str | None, timeout_seconds: float) -> None:
        self._metrics_path = path
        self._metrics_timeout_seconds = timeout_seconds
        self._sender: MetricsSender | None = None
        self._making = threading.Lock()
        _measuring.add(self)

    def counter(self, name: str, description: str = "") -> "Counter":
        """Return the counter ``name``, made where there is none: a number that only grows, over all workers.

        It is exposed as ``name_total``. ``labels(kind="pdf")`` returns one of its series.
        Raises `ValueError` for a name that cannot be a metric's, or that is one of another kind.
        """
        return self._metrics().counter(name, description)

    def gauge(self, name: str, description: str = "", *, aggregate: Aggregate = "sum") -> "Gauge":
        """Return the gauge ``name``: a number that moves, and vanishes with its worker.

        What several workers say is added up, or as ``aggregate`` has it: ``"max"``, ``"min"``, ``"last"`` (who spoke last),
        or ``"each"`` (one series per worker, under the label ``worker``, its pid). Raises as `counter`.
        """
        return self._metrics().gauge(name, description, aggregate=aggregate)

    def histogram(self, name: str, description: str = "", *, buckets: Sequence[float] | None = None) -> "Histogram":
        """Return the histogram ``name``: observations by size. ``buckets`` are upper bounds, at most 64. Raises as `counter`."""
        metrics = self._metrics()
        return (
            metrics.histogram(name, description)
            if buckets is None
            else metrics.histogram(name, description, buckets=buckets)
        )

    def timer(self, name: str, description: str = "", *, buckets: Sequence[float] | None = None) -> "Timer":
        """Return what measures a ``with`` block, or decorates a function: its seconds go into the histogram ``name``."""
        return self.histogram(name, description, buckets=buckets).time()

    def forward(self, registry: "Registry | None" = None, *, gauges: Aggregate = "each") -> None:
        """Tell the daemon what a prometheus_client registry has, its default one where none is given, from now on.

        ``gauges`` says how those of several workers become one; see `forwarding`.
        """
        from sidecard_client.metrics.forwarding import Forwarded  # noqa: PLC0415 - for those who have a registry

        if registry is None:
            from prometheus_client import REGISTRY  # noqa: PLC0415 - who has no registry of its own has this one

            registry = REGISTRY

        self._metrics().add_source(Forwarded(registry, gauges))

    def flush_metrics(self, timeout: float = 1.0) -> bool:
        """Send what was measured until now, and tell whether the daemon has all of it. Blocks for ``timeout`` seconds at most.

        Nobody needs it: metrics are sent each second, and at the end of client and process.
        """
        return self._sender is None or self._sender.flush(timeout)

    def _metrics(self) -> "Metrics":
        if self._sender is None:
            from sidecard_client.metrics.sender import MetricsSender  # noqa: PLC0415 - for apps that measure

            with self._making:
                if self._sender is None:
                    path = self._metrics_path
                    self._sender = MetricsSender(lambda: path or find_socket(), self._metrics_timeout_seconds)

        return self._sender.metrics

    def _end_measuring(self) -> None:
        if self._sender is not None:
            self._sender.close()

    def _before_fork(self) -> None:
        if self._sender is not None:
            self._sender.before_fork()

    def _measure_in_child(self) -> None:
        self._making = threading.Lock()
        if self._sender is not None:
            self._sender.leave_to_parent()


def _before_fork() -> None:
    for client in list(_measuring):
        client._before_fork()  # noqa: SLF001 - this module's own class


def _in_child() -> None:
    for client in list(_measuring):
        client._measure_in_child()  # noqa: SLF001 - this module's own class


_measuring: WeakSet[Instruments] = WeakSet()
os.register_at_fork(before=_before_fork, after_in_child=_in_child)
