"""What calls cost: priced, billed to task, backend and budgets, and kept over a restart."""

from collections.abc import Callable

from msgspec import structs

from sidecard.core.accounts.daemon_metrics import DaemonMetrics
from sidecard.core.accounts.ledger import BackendLedgers, LedgerSnapshot, TaskLedgers
from sidecard.core.backends.backend import Backend
from sidecard.core.backends.budgets import Budget, Budgets
from sidecard.core.backends.registry import Backends
from sidecard.core.effects import Effect, EmitNote, ShareSpending
from sidecard.core.events import RemoteSpending
from sidecard.core.flights.flights import HeldLease
from sidecard.core.records import NO_USAGE
from sidecard_client.protocol.wire import Usage

Price = Callable[[str, int, int], float | None]
"""Model, prompt tokens and completion tokens to dollars; None where nobody knows the model's price."""


def no_price(_model: str, _prompt_tokens: int, _completion_tokens: int) -> float | None:
    """Know no model's price."""
    return None


class Billing:
    """All books."""

    def __init__(
        self,
        tasks: TaskLedgers,
        spending: BackendLedgers,
        budgets: Budgets,
        meters: DaemonMetrics,
        price: Price,
        wall_offset_seconds: float,
        now: float,
        *,
        shares_budgets: bool = False,
    ) -> None:
        self.tasks = tasks
        self.spending = spending
        self.budgets = budgets
        self._meters = meters
        self._price = price
        self._shares = shares_budgets
        self._offset_seconds = wall_offset_seconds
        self._started_at = now
        self._began_at = now + wall_offset_seconds

    def priced(self, backend: Backend, usage: Usage | None) -> Usage:
        """Return a usage with its cost: what the caller said, else the backend's price, else the model's in the table.

        The table's models have names that local ones have too, so it is not asked about a backend that is declared local.
        """
        if usage is None:
            return NO_USAGE

        prompt_tokens, completion_tokens = usage.prompt_tokens or 0, usage.completion_tokens or 0
        if usage.cost_dollars is not None or not (prompt_tokens or completion_tokens):
            return usage

        dollars = None
        if backend.priced:
            dollars = backend.price_dollars(prompt_tokens, completion_tokens)
        elif usage.model is not None and backend.costs:
            dollars = self._price(usage.model, prompt_tokens, completion_tokens)

        return usage if dollars is None else structs.replace(usage, cost_dollars=dollars)

    def bill(self, lease: HeldLease, seconds: float, usage: Usage, now: float) -> list[Effect]:
        """Book an answer of a backend, in time or late; return what is to be told of budgets."""
        dollars = usage.cost_dollars or 0.0
        self.tasks.of(lease.request.task).bill(seconds, dollars)
        self.spending.bill(lease.backend, seconds, usage)
        self._meters.answered(lease.permit.backend.name, seconds, lease.request.trace, now)
        if not dollars:
            return []

        self._meters.billed(lease.permit.backend.name, usage.model, dollars)
        covering = self.budgets.covering(lease.request.task, lease.permit.backend.name)
        told = [budget.spend(dollars, now) for budget in covering]
        effects: list[Effect] = [EmitNote(note) for note in told if note is not None]
        return effects + [self._share(budget, now) for budget in covering] if self._shares else effects

    def spent_elsewhere(self, event: RemoteSpending, now: float) -> list[Effect]:
        """Take note of what other hosts have spent of a budget."""
        budget = self.budgets.by_name.get(event.budget)
        note = None if budget is None else budget.set_remote(event.period, event.dollars, now)
        return [] if note is None else [EmitNote(note)]

    def _share(self, budget: Budget, now: float) -> ShareSpending:
        period, dollars = budget.own_spending(now)
        return ShareSpending(budget.name, period, budget.settings.period_seconds, dollars)

    def ledger_seconds(self, now: float) -> float:
        """Return how long the ledger has been kept."""
        return max(0.0, now + self._offset_seconds - self._began_at)

    def snapshot(self, backends: Backends) -> LedgerSnapshot:
        """Return all that is to be remembered over a restart."""
        return LedgerSnapshot(
            began_at=self._began_at,
            tasks=self.tasks.sums(),
            backends=self.spending.backends(),
            models=self.spending.models(),
            budgets={name: budget.memory() for name, budget in self.budgets.by_name.items()},
            breakers=backends.memory(self._offset_seconds),
        )

    def restore(self, snapshot: LedgerSnapshot, backends: Backends) -> None:
        """Go on from what an earlier run remembered."""
        self._began_at = min(self._began_at, snapshot.began_at)
        self.tasks.add(snapshot.tasks)
        self.spending.add(snapshot.backends, snapshot.models)
        for name, memory in snapshot.budgets.items():
            if name in self.budgets.by_name:
                self.budgets.by_name[name].restore(memory)

        backends.restore(snapshot.breakers, self._started_at, self._offset_seconds)
