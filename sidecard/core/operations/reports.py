"""The `report` and `health` operations: savings and spending, and problems."""

from sidecard.core.accounts.billing import Billing
from sidecard.core.backends.registry import Backends
from sidecard.core.effects import Effect, Send
from sidecard.core.events import Peer
from sidecard.core.flights.limits import TableLimits
from sidecard.core.flights.store.status import StoreStatus
from sidecard.core.flights.table import Flights
from sidecard.core.operations.status import StatusOperations
from sidecard_client.protocol import wire


class ReportOperations:
    """Report on accounts and health."""

    def __init__(
        self,
        status: StatusOperations,
        flights: Flights,
        limits: TableLimits,
        store: StoreStatus,
        backends: Backends,
        billing: Billing,
    ) -> None:
        self._status = status
        self._flights = flights
        self._limits = limits
        self._store = store
        self._backends = backends
        self._billing = billing

    def report(self, peer: Peer, request: wire.GetReport, now: float) -> list[Effect]:
        """Report rates, savings and spending."""
        billing, run = self._billing, self._status.run
        effects = self._status.advance_breakers(now)
        report = wire.Report(
            request.id,
            now - run.started_at,
            billing.tasks.total(),
            billing.tasks.tasks(),
            billing.spending.backends(),
            billing.spending.models(),
            {name: budget.state(now) for name, budget in billing.budgets.by_name.items()},
            billing.ledger_seconds(now),
            self._backends.states(),
        )
        return [*effects, Send(peer.id, report)]

    def health(self, peer: Peer, request: wire.GetHealth, now: float) -> list[Effect]:
        """Report problems."""
        draining, run = self._flights.draining, self._status.run
        effects = self._status.advance_breakers(now)
        problems = ["The daemon is stopping: it grants no new leases."] if draining else []
        problems += [
            f"The table of {table} is full: callers make further calls without the daemon."
            for table in self._limits.full_tables()
        ]
        problems += [
            f"The breaker of backend {name!r} is {backend.breaker.state.replace('_', ' ')}. {backend.cause(now)}"
            for name, backend in self._backends.all().items()
            if backend.breaker.state in {"open", "half_open", "forced_open"}
        ]
        problems += [
            f"The budget {name!r} is spent: {budget.spent_dollars(now):.6g} of {budget.settings.dollars:g} dollars."
            for name, budget in self._billing.budgets.by_name.items()
            if budget.spent_dollars(now) >= budget.settings.dollars
        ]
        problems += self._store.problems()
        health = wire.Health(
            request.id,
            "draining" if draining else "ok",
            problems,
            run.version,
            run.boot_id,
            now - run.started_at,
            self._backends.states(),
            self._store.state,
        )
        return [*effects, Send(peer.id, health)]
