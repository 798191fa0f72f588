"""The metric methods of both clients."""

import os
import threading
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING
from weakref import WeakSet

from sidecard_client.call.option_checks import time_limit
from sidecard_client.living import living
from sidecard_client.protocol.wire import DEFAULT_TASK, Aggregate

if TYPE_CHECKING:
    from sidecard_client.metrics.forwarding import PrometheusRegistry
    from sidecard_client.metrics.instruments import Counter, Gauge, Histogram, Timer
    from sidecard_client.metrics.registry import MetricRegistry
    from sidecard_client.metrics.sender import MetricsConnection, MetricsSender


class ClientMetrics:
    """Counters, gauges, histograms and timers, which the daemon combines over all workers of the host.

    No method waits for the daemon; `registry` describes the limits, and `sender` the transmission.
    """

    def _init_metrics(self, connect: "Callable[[], MetricsConnection]", timeout_seconds: float) -> None:
        self._metrics_connect = connect
        self._metrics_timeout_seconds = timeout_seconds
        self._metrics_sender: MetricsSender | None = None
        self._metrics_lock = threading.Lock()  # guards the making of _metrics_sender
        _clients.add(self)

    def counter(self, name: str, description: str = "") -> "Counter":
        """Return the counter ``name``, created if needed: a number that only grows, summed over all workers.

        It is exposed as ``name_total``. ``labels(kind="pdf")`` returns one of its series.
        Raises `ValueError` if the name is invalid or belongs to a metric of another kind.
        """
        return self._metric_registry().counter(name, description)

    def gauge(self, name: str, description: str = "", *, aggregate: Aggregate = "sum") -> "Gauge":
        """Return the gauge ``name``: a number that goes up and down, and disappears with its worker.

        ``aggregate`` combines the values of several workers: ``"sum"``, ``"max"``, ``"min"``, ``"last"`` (most recent), or
        ``"each"`` (one series per worker, with the pid as label ``worker``). Raises as `counter`.
        """
        return self._metric_registry().gauge(name, description, aggregate=aggregate)

    def histogram(self, name: str, description: str = "", *, buckets: Sequence[float] | None = None) -> "Histogram":
        """Return the histogram ``name``. ``buckets`` are ascending upper bounds, at most 64. Raises as `counter`."""
        return self._metric_registry().histogram(name, description, buckets=buckets)

    def timer(self, name: str, description: str = "", *, buckets: Sequence[float] | None = None) -> "Timer":
        """Return a context manager and decorator whose seconds go into the histogram ``name``."""
        return self.histogram(name, description, buckets=buckets).time()

    def forward(self, registry: "PrometheusRegistry | None" = None, *, gauges: Aggregate = "each") -> None:
        """Send the metrics of a prometheus_client registry (its default one if None) to the daemon from now on.

        ``gauges`` combines the gauges of several workers, as ``aggregate`` of `gauge`; see `forwarding`.
        """
        from sidecard_client.metrics.forwarding import ForwardedRegistry  # noqa: PLC0415 - for apps with a registry

        if registry is None:
            from prometheus_client import REGISTRY  # noqa: PLC0415 - installed in apps that leave the registry out

            registry = REGISTRY

        self._metric_registry().add_source(ForwardedRegistry(registry, gauges))

    def flush_metrics(self, timeout: float = 1.0) -> bool:
        """Send all measurements now; return whether the daemon acknowledged them. Blocks for ``timeout`` seconds at most.

        Calling it is optional: metrics are sent every second, and at the end of client and process.
        """
        timeout = time_limit("timeout", timeout, may_be_zero=True)
        return self._metrics_sender is None or self._metrics_sender.flush(timeout)

    def count_passed(self, reason: str, family: str = "", task: str = DEFAULT_TASK) -> None:
        """Count a request that was passed to the upstream unshared. For transports; ``reason`` is a `wire.PassedReason`."""
        self._metric_registry().passed.add(reason, family, task)

    def _metric_registry(self) -> "MetricRegistry":
        if self._metrics_sender is None:
            from sidecard_client.metrics.sender import MetricsSender  # noqa: PLC0415 - for apps with metrics

            with self._metrics_lock:
                if self._metrics_sender is None:
                    self._metrics_sender = MetricsSender(self._metrics_connect, self._metrics_timeout_seconds, self)

        return self._metrics_sender.registry

    def _close_metrics(self) -> None:
        if self._metrics_sender is not None:
            self._metrics_sender.close()


def _before_fork() -> None:
    for client in living(_clients):
        if client._metrics_sender is not None:  # noqa: SLF001 - this module's own class
            client._metrics_sender.before_fork()  # noqa: SLF001


def _start_in_child() -> None:
    for client in living(_clients):
        client._metrics_lock = threading.Lock()  # noqa: SLF001 - as above
        if client._metrics_sender is not None:  # noqa: SLF001
            client._metrics_sender.start_in_child()  # noqa: SLF001


_clients: WeakSet[ClientMetrics] = WeakSet()
os.register_at_fork(before=_before_fork, after_in_child=_start_in_child)
