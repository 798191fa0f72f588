"""Budgets: what calls may cost within a period."""

from msgspec import Struct

from sidecard.core import notes
from sidecard.core.settings import BudgetSettings
from sidecard_client.protocol.wire import BudgetState


class BudgetMemory(Struct, frozen=True):
    """What a budget remembers over a restart: what was spent in which period."""

    period: int
    spent_dollars: float

    def within(self, period: int) -> float:
        """Return what was spent in that period."""
        return self.spent_dollars if self.period == period else 0.0


class Budget:
    """One budget. ``wall_offset_seconds`` turns the monotonic clock into the wall's, to which periods are aligned."""

    def __init__(self, name: str, settings: BudgetSettings, wall_offset_seconds: float) -> None:
        self.name = name
        self.settings = settings
        self.reserved_dollars = 0.0
        self._offset_seconds = wall_offset_seconds
        self._memory = BudgetMemory(0, 0.0)
        self._restored = BudgetMemory(0, 0.0)
        """Of ``_memory``, what earlier runs have spent."""
        self._elsewhere = BudgetMemory(0, 0.0)
        """What other hosts and earlier runs have spent, as far as is known: where budgets are shared."""
        self._told_period: int | None = None

    def reconfigure(self, settings: BudgetSettings) -> None:
        """Go by other settings, of the same period. That it is used up is told anew where it then is."""
        if settings != self.settings:
            self.settings = settings
            self._told_period = None

    def covers(self, task: str, backend: str) -> bool:
        """Tell whether calls of ``task`` on ``backend`` count."""
        return self.settings.task in {None, task} and self.settings.backend in {None, backend}

    def spent_dollars(self, now: float) -> float:
        """Return what the current period's calls have cost, on all hosts that share the budget."""
        period = self._period(now)
        restored = self._restored.within(period)
        # What this host's earlier runs have spent, others may know of as well: it counts once.
        return self._memory.within(period) + max(0.0, self._elsewhere.within(period) - restored)

    def admits(self, expected_dollars: float, now: float) -> bool:
        """Tell whether a call that will cost about so much may be made.

        Calls in progress count with what they are expected to cost: many that begin at once must not each find room.
        """
        spent = self.spent_dollars(now) + self.reserved_dollars
        return spent < self.settings.dollars and spent + expected_dollars <= self.settings.dollars

    def spend(self, dollars: float, now: float) -> notes.BudgetSpent | None:
        """Count what a call has cost; tell, once in a period, that the budget is used up."""
        period = self._period(now)
        self._memory = BudgetMemory(period, self._memory.within(period) + dollars)
        return self._judge(period, now)

    def spent_elsewhere(self, period: int, dollars: float, now: float) -> notes.BudgetSpent | None:
        """Take note of what others have spent; tell as `spend` does."""
        self._elsewhere = BudgetMemory(period, dollars)
        return self._judge(self._period(now), now)

    def share(self, now: float) -> tuple[int, float]:
        """Return the current period, and what this run has spent in it."""
        period = self._period(now)
        return period, self._memory.within(period) - self._restored.within(period)

    def _judge(self, period: int, now: float) -> notes.BudgetSpent | None:
        spent = self.spent_dollars(now)
        if spent < self.settings.dollars or self._told_period == period:
            return None

        self._told_period = period
        settings = self.settings
        return notes.BudgetSpent(self.name, settings.dollars, spent, settings.hard, self.resets_in_seconds(now))

    def resets_in_seconds(self, now: float) -> float:
        """Return how long the current period still lasts."""
        period_seconds = self.settings.period_seconds
        return period_seconds - (now + self._offset_seconds) % period_seconds

    def state(self, now: float) -> BudgetState:
        """Describe it."""
        settings = self.settings
        return BudgetState(
            dollars=settings.dollars,
            spent_dollars=self.spent_dollars(now),
            reserved_dollars=self.reserved_dollars,
            period_seconds=settings.period_seconds,
            resets_in_seconds=self.resets_in_seconds(now),
            hard=settings.hard,
        )

    def memory(self) -> BudgetMemory:
        """Return what is to be remembered over a restart."""
        return self._memory

    def restore(self, memory: BudgetMemory) -> None:
        """Take over what an earlier run remembered; of a period that is over, nothing is left."""
        self._memory = self._restored = memory

    def _period(self, now: float) -> int:
        return int((now + self._offset_seconds) // self.settings.period_seconds)


_MAX_REMEMBERED = 4096


class Budgets:
    """All budgets."""

    def __init__(self, settings: dict[str, BudgetSettings], wall_offset_seconds: float) -> None:
        self.by_name = {name: Budget(name, given, wall_offset_seconds) for name, given in settings.items()}
        self._offset_seconds = wall_offset_seconds
        self._covering: dict[tuple[str, str], tuple[Budget, ...]] = {}

    def reconfigure(self, settings: dict[str, BudgetSettings]) -> None:
        """Go by other budgets. What was spent stays where name and period do: in another period it means nothing."""
        self._covering.clear()
        older = self.by_name
        self.by_name = {}
        for name, given in settings.items():
            budget = older.get(name)
            if budget is None or budget.settings.period_seconds != given.period_seconds:
                budget = Budget(name, given, self._offset_seconds)

            budget.reconfigure(given)
            self.by_name[name] = budget

    def covering(self, task: str, backend: str) -> tuple[Budget, ...]:
        """Return the budgets that calls of ``task`` on ``backend`` count for."""
        if not self.by_name:
            return ()

        found = self._covering.get((task, backend))
        if found is None:
            # Tasks and backends are peers' words.
            if len(self._covering) >= _MAX_REMEMBERED:
                self._covering.clear()

            found = tuple(budget for budget in self.by_name.values() if budget.covers(task, backend))
            self._covering[task, backend] = found

        return found

    def refusing(self, task: str, backend: str, expected_dollars: float, now: float) -> Budget | None:
        """Return the hard budget that has no room for a call, the one that resets last; None where all have."""
        refusing = [
            budget
            for budget in self.covering(task, backend)
            if budget.settings.hard and not budget.admits(expected_dollars, now)
        ]
        return max(refusing, key=lambda budget: budget.resets_in_seconds(now), default=None)
