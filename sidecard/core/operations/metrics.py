"""Metrics operations: `record` and `metrics`, and `log`, which sets the log level."""

from sidecard.core.accounts.app_metrics import AppMetrics
from sidecard.core.effects import Effect, Send, SetLogLevel
from sidecard.core.events import Peer
from sidecard.core.operations.families import MetricFamilies
from sidecard.core.operations.status import StatusOperations
from sidecard.core.replies import for_operators
from sidecard_client.protocol import wire


class MetricsOperations:
    """Record the apps' metrics, and report all metrics."""

    def __init__(self, apps: AppMetrics, families: MetricFamilies, status: StatusOperations) -> None:
        self.apps = apps
        self._families = families
        self._status = status

    def record(self, peer: Peer, request: wire.RecordMetrics, now: float) -> list[Effect]:  # noqa: ARG002 - as its siblings
        """Record measurements of an app."""
        dropped = self.apps.record(peer, request)
        return [Send(peer.id, wire.Recorded(request.id, dropped))] if request.acknowledge else []

    def metrics(self, peer: Peer, request: wire.GetMetrics, now: float) -> list[Effect]:
        """Report the daemon's and the apps' metrics."""
        effects = self._status.advance_breakers(now)
        families = [*self._families.families(now), *self.apps.families()]
        return [*effects, Send(peer.id, wire.Metrics(request.id, families))]

    def set_log(self, peer: Peer, request: wire.SetLog, now: float) -> list[Effect]:  # noqa: ARG002 - as its siblings
        """Set the log level, for operators."""
        if not peer.operator:
            return [for_operators(peer, request, "log")]

        return [Send(peer.id, wire.Ok(request.id)), SetLogLevel(request.level)]
