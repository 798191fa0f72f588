"""Billing: pricing answers and booking them to task, backend and budgets."""

from collections.abc import Callable

from msgspec import structs

from sidecard.core.accounts.backend_ledger import BackendLedgers
from sidecard.core.accounts.call_records import LeasedCall
from sidecard.core.accounts.daemon_metrics import DaemonMetrics
from sidecard.core.accounts.ledger import LedgerSnapshot, TaskLedgers
from sidecard.core.backends.backend import Backend
from sidecard.core.backends.budgets import Budget, Budgets
from sidecard.core.backends.registry import Backends
from sidecard.core.effects import Effect, EmitNote, ShareSpending
from sidecard.core.events import RemoteSpending
from sidecard.core.records import NO_USAGE, cached_tokens
from sidecard.core.wall_clock import WallClock
from sidecard_client.protocol.wire import MAX_DOLLARS, Usage, in_own_words

Price = Callable[..., float | None]
"""Model, prompt tokens and completion tokens to dollars; None if the model's price is unknown.

If some of the prompt tokens were read from the backend's own cache, or written to it, two more arguments say how many.
"""


def no_price(_model: str, _prompt_tokens: int, _completion_tokens: int, *_cached: int) -> float | None:
    """Return that no model's price is known."""
    return None


class Billing:
    """Book answers, and keep the ledgers over a restart."""

    def __init__(
        self,
        tasks: TaskLedgers,
        spending: BackendLedgers,
        budgets: Budgets,
        metrics: DaemonMetrics,
        price: Price,
        wall: WallClock,
        now: float,
        *,
        shares_budgets: bool = False,
    ) -> None:
        self.tasks = tasks
        self.spending = spending
        self.budgets = budgets
        self._metrics = metrics
        self._price = price
        self._shares_budgets = shares_budgets
        self._wall = wall
        self._started_at = now
        self._earlier_seconds = 0.0
        """Age of the ledger when this run started."""

    def priced(self, backend: Backend, usage: Usage | None) -> Usage:
        """Return a usage with its cost: as the caller reported, else by the backend's price, else by the model's.

        The price table has models whose names local models share, so it does not apply to a backend that is declared local.
        """
        if usage is None:
            return NO_USAGE

        usage = in_own_words(usage)
        if usage.cost_dollars is not None or not (usage.prompt_tokens or usage.completion_tokens):
            return usage

        dollars = self._dollars(backend, usage, cached_tokens(usage))
        # Not more than callers may report: clients could not decode the entry's usage.
        return usage if dollars is None else structs.replace(usage, cost_dollars=min(dollars, MAX_DOLLARS))

    def _dollars(self, backend: Backend, usage: Usage, read: int) -> float | None:
        """Return the cost of a call that ``read`` so many of its prompt tokens from the backend's cache; None without a price."""
        prompt_tokens, completion_tokens = usage.prompt_tokens or 0, usage.completion_tokens or 0
        written = min(usage.cache_write_prompt_tokens or 0, prompt_tokens - read)
        cached = (read, written) if read or written else ()
        if backend.priced:
            return backend.price_dollars(prompt_tokens, completion_tokens, *cached)

        if usage.model is None or not backend.costs:
            return None

        return self._price(usage.model, prompt_tokens, completion_tokens, *cached)

    def _saved_by_prefix(self, backend: Backend, usage: Usage, read: int) -> float:
        """Return how much more a call would have cost if none of its prompt had been read from the backend's cache."""
        dollars, without = self._dollars(backend, usage, read), self._dollars(backend, usage, 0)
        return 0.0 if dollars is None or without is None else min(max(0.0, without - dollars), MAX_DOLLARS)

    def bill(self, lease: LeasedCall, seconds: float, usage: Usage, now: float, calls: int) -> list[Effect]:
        """Book a backend's answer, in time or late; return the budgets' notes and what to share with other hosts.

        ``calls`` is 0 for all but the first answer of a batch, each of which is booked with its share of the time.
        """
        dollars = usage.cost_dollars or 0.0
        backend, uid = lease.permit.backend.name, lease.peer.uid
        share = seconds / lease.permit.granted
        ledger, saved = self.tasks.of(lease.request.task, uid, now), 0.0
        ledger.count_call(share, dollars, calls)
        if usage.cached_prompt_tokens:
            read = cached_tokens(usage)
            saved = self._saved_by_prefix(lease.permit.backend, usage, read)
            ledger.count_prefix(read, saved)

        self.spending.count_call(lease.backend, share, usage, uid, now, calls, saved)
        if usage.prompt_tokens is not None:
            lease.permit.backend.count_prompt(usage)
            self._metrics.count_prompt(backend, usage, uid, now)

        if calls:
            self._metrics.observe_call(backend, seconds, lease.request.trace, uid, now)

        if not dollars:
            return []

        self._metrics.count_dollars(backend, usage.model, dollars, uid, now)
        covering = self.budgets.covering(lease.request.task, backend)
        notes = [budget.spend(dollars, now) for budget in covering]
        effects: list[Effect] = [EmitNote(note) for note in notes if note is not None]
        return effects + [self._share(budget, now) for budget in covering] if self._shares_budgets else effects

    def remote_spending(self, event: RemoteSpending, now: float) -> list[Effect]:
        """Update a budget with what other hosts have spent."""
        budget = self.budgets.by_name.get(event.budget)
        note = None if budget is None else budget.set_remote(event.period, event.dollars, now)
        return [] if note is None else [EmitNote(note)]

    def _share(self, budget: Budget, now: float) -> ShareSpending:
        period, dollars = budget.own_spending(now)
        return ShareSpending(budget.name, period, budget.settings.period_seconds, dollars)

    def ledger_seconds(self, now: float) -> float:
        """Return the age of the ledger."""
        return now - self._started_at + self._earlier_seconds

    def set_wall_clock(self, offset_seconds: float, now: float) -> None:
        """Apply a wall clock that was set: the periods of budgets follow it."""
        self.budgets.set_wall_clock(offset_seconds, now)

    def snapshot(self, backends: Backends) -> LedgerSnapshot:
        """Return what to keep over a restart."""
        return LedgerSnapshot(
            began_at=self._wall.at(self._started_at) - self._earlier_seconds,
            tasks=self.tasks.sums(),
            backends=self.spending.by_backend.spending(),
            models=self.spending.by_model.spending(),
            budgets={name: budget.memory() for name, budget in self.budgets.by_name.items()},
            breakers=backends.memory(self._wall.offset_seconds),
            names={
                "tasks": self.tasks.table.memory(self._wall.offset_seconds),
                "backends": self.spending.by_backend.names.memory(self._wall.offset_seconds),
                "models": self.spending.by_model.names.memory(self._wall.offset_seconds),
            },
        )

    def restore(self, snapshot: LedgerSnapshot, backends: Backends) -> None:
        """Continue from what an earlier run kept."""
        self._earlier_seconds = max(0.0, self._wall.at(self._started_at) - snapshot.began_at)
        names, offset, now = snapshot.names, self._wall.offset_seconds, self._started_at
        self.tasks.add(snapshot.tasks, names.get("tasks", {}), offset, now)
        self.spending.by_backend.add(snapshot.backends, names.get("backends", {}), offset, now)
        self.spending.by_model.add(snapshot.models, names.get("models", {}), offset, now)
        for name, memory in snapshot.budgets.items():
            if name in self.budgets.by_name:
                self.budgets.by_name[name].restore(memory, self._started_at)

        backends.restore(snapshot.breakers, self._started_at, self._wall.offset_seconds)
