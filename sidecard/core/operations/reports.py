"""The `report` and `health` operations: savings and spending, and problems."""

from msgspec import Struct

from sidecard.core.accounts.billing import Billing
from sidecard.core.accounts.daemon_metrics import DaemonMetrics
from sidecard.core.backends.registry import Backends
from sidecard.core.backends.states import cause_of
from sidecard.core.effects import Effect, SendReply
from sidecard.core.events import Peer
from sidecard.core.flights.leases import HungCalls
from sidecard.core.flights.limits import TableLimits
from sidecard.core.flights.store.status import StoreStatus
from sidecard.core.flights.table import Flights
from sidecard.core.operations.status import StatusOperations
from sidecard_client.protocol import wire


class ReportOperations(Struct, frozen=True, eq=False):
    """Report on accounts and health."""

    status: StatusOperations
    flights: Flights
    limits: TableLimits
    store: StoreStatus
    backends: Backends
    billing: Billing
    hung_calls: HungCalls
    metrics: DaemonMetrics

    def report(self, peer: Peer, request: wire.GetReport, now: float) -> list[Effect]:
        """Report rates, savings and spending."""
        billing, run = self.billing, self.status.run
        effects = self.status.advance_breakers(now)
        report = wire.Report(
            request.id,
            now - run.started_at,
            billing.tasks.total(),
            billing.tasks.by_task(),
            billing.spending.by_backend.spending(),
            billing.spending.by_model.spending(),
            {name: budget.state(now) for name, budget in billing.budgets.by_name.items()},
            billing.ledger_seconds(now),
            self.backends.states(),
            self._problems(now),
            self.metrics.passed_by_family(),
        )
        return [*effects, SendReply(peer.id, report)]

    def health(self, peer: Peer, request: wire.GetHealth, now: float) -> list[Effect]:
        """Report problems."""
        run = self.status.run
        effects = self.status.advance_breakers(now)
        health = wire.Health(
            request.id,
            "draining" if self.flights.draining else "ok",
            self._problems(now),
            run.version,
            run.boot_id,
            now - run.started_at,
            self.backends.states(),
            self.store.state,
            self.hung_calls.report(now),
        )
        return [*effects, SendReply(peer.id, health)]

    def _problems(self, now: float) -> list[str]:
        problems = ["The daemon is stopping: it grants no new leases."] if self.flights.draining else []
        problems += [
            f"The {'memory for requests' if table == 'memory' else f'table of {table}'} is full: callers make further calls "
            "without the daemon."
            for table in self.limits.full_tables()
        ]
        problems += [
            f"The breaker of backend {name!r} is {backend.breaker.state.replace('_', ' ')}. {cause_of(backend, now)}"
            for name, backend in self.backends.all().items()
            if backend.breaker.state in {"open", "half_open", "forced_open"}
        ]
        problems += [
            f"The budget {name!r} is spent: {budget.spent_dollars(now):.6g} of {budget.settings.dollars:g} dollars."
            if budget.spent_dollars(now) >= budget.settings.dollars
            else f"The budget {name!r} rejects calls: {budget.spent_dollars(now):.6g} of {budget.settings.dollars:g} dollars"
            " are spent, and the expected cost of a call does not fit."
            for name, budget in self.billing.budgets.by_name.items()
            if budget.spent_dollars(now) >= budget.settings.dollars or budget.is_rejecting(now)
        ]
        problems += self.store.problems()
        problems += self.hung_calls.problems(now)
        return problems + [problem for problem_of in self.metrics.problems_of.values() if (problem := problem_of())]
