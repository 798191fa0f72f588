"""Budgets: what calls may cost within a period."""

from msgspec import Struct

from sidecard.core import notes
from sidecard.core.settings import BudgetSettings
from sidecard.core.sums import saturated
from sidecard.core.wall_clock import WallClock
from sidecard_client.protocol.wire import BudgetState

_KEPT_PERIODS = 8

_MAX_CACHED_PAIRS = 4096

DOUBT_SECONDS = 600.0
"""Age from which an expected cost above `DOUBTED_SHARE` of a budget is doubted: rejections bring no news about it, so one call
at a time may test it."""

DOUBTED_SHARE = 0.5
"""Share of a budget. A smaller expected cost rejects at most the last half of a period's calls, never a whole period."""

_ROUNDING_DOLLARS = 1e-9
"""Reservations below this are the rounding errors of others."""

REJECTING_SECONDS = 300.0
"""How long after a rejection a budget counts as rejecting calls."""


class BudgetMemory(Struct, frozen=True):
    """What a budget keeps over a restart: the spending of one period."""

    period: int
    spent_dollars: float

    def within(self, period: int) -> float:
        """Return the spending within a period."""
        return self.spent_dollars if self.period == period else 0.0


class Budget:
    """One budget. Its periods are aligned to the wall clock, ``wall``.

    Spending belongs to its period. If the clock is set back into an earlier period, the spending moves with it, so that no
    step of the clock empties a budget before its period has passed.
    """

    def __init__(self, name: str, settings: BudgetSettings, wall: WallClock) -> None:
        self.name = name
        self.settings = settings
        self.reserved_dollars = 0.0
        self.rejected = 0
        """Calls of this run that it has rejected."""
        self._rejected_at = float("-inf")
        self._wall = wall
        self._spent: dict[int, float] = {}
        """Spending by period, the last used at the end. Some are kept: the clock may be set back into an earlier one."""
        self._restored = BudgetMemory(0, 0.0)
        """The part of ``_memory`` that earlier runs have spent."""
        self._remote = BudgetMemory(0, 0.0)
        """The known spending of other hosts and earlier runs, if budgets are shared."""
        self._noted_period: int | None = None

    def reconfigure(self, settings: BudgetSettings) -> None:
        """Apply other settings with the same period. If the budget is spent under them, that is noted again."""
        if settings != self.settings:
            self.settings = settings
            self._noted_period = None

    def covers(self, task: str, backend: str) -> bool:
        """Return whether calls of ``task`` on ``backend`` count."""
        return self.settings.task in {None, task} and self.settings.backend in {None, backend}

    def spent_dollars(self, now: float) -> float:
        """Return the cost of the current period's calls, on all hosts that share the budget."""
        period = self.period(now)
        restored = self._restored.within(period)
        # The remote sum may include what this host's earlier runs have spent: it counts once.
        return saturated(self._booked(period) + max(0.0, self._remote.within(period) - restored))

    def admits(self, expected_dollars: float, now: float, age_seconds: float = 0.0) -> bool:
        """Return whether a call with this expected cost may be made; ``age_seconds`` is the age of the expectation.

        Calls in progress count with their expected cost; otherwise many that begin at the same time would each find room.
        No expected cost rejects every call of a period: the first one is admitted, and so is one at a time whose expected cost
        is doubted (`DOUBT_SECONDS`).
        """
        limit = self.settings.dollars
        spent = self.spent_dollars(now)
        committed = spent + self.reserved_dollars
        if committed >= limit:
            return False

        if committed + expected_dollars <= limit:
            return True

        doubted = age_seconds >= DOUBT_SECONDS and expected_dollars > DOUBTED_SHARE * limit
        return not self.reserved_dollars and (not spent or doubted)

    def reserve(self, expected_dollars: float) -> float:
        """Reserve the expected cost of an admitted call, at most the whole budget; return what to release at its end."""
        reserved = min(expected_dollars, self.settings.dollars)
        self.reserved_dollars += reserved
        return reserved

    def release(self, reserved_dollars: float) -> None:
        """Return what a call had reserved."""
        self.reserved_dollars -= reserved_dollars
        if abs(self.reserved_dollars) < _ROUNDING_DOLLARS:
            self.reserved_dollars = 0.0

    def count_rejected(self, now: float) -> None:
        """Count a rejected call."""
        self.rejected += 1
        self._rejected_at = now

    def is_rejecting(self, now: float) -> bool:
        """Return whether it rejects calls: it is hard, and spent, or has rejected one a short while ago in this period."""
        if not self.settings.hard:
            return False

        recently = now - self._rejected_at < REJECTING_SECONDS and self.period(self._rejected_at) == self.period(now)
        return recently or self.spent_dollars(now) >= self.settings.dollars

    def spend(self, dollars: float, now: float) -> notes.BudgetSpent | None:
        """Add a call's cost; return a note, once per period, when the budget is used up."""
        period = self.period(now)
        self._book(period, self._booked(period) + dollars)
        return self._note(period, now)

    def set_remote(self, period: int, dollars: float, now: float) -> notes.BudgetSpent | None:
        """Replace the known spending of others; return a note as `spend` does."""
        self._remote = BudgetMemory(period, dollars)
        return self._note(self.period(now), now)

    def own_spending(self, now: float) -> tuple[int, float]:
        """Return the current period, and what this run has spent in it."""
        period = self.period(now)
        return period, self._booked(period) - self._restored.within(period)

    def wall_clock_set(self, before: int, now: float) -> None:
        """Keep the spending of the period ``before`` if the wall clock was set back into an earlier one."""
        period = self.period(now)
        spent = self._booked(period)
        if period < before:
            spent = max(spent, self._booked(before))

        self._book(period, spent)

    def _note(self, period: int, now: float) -> notes.BudgetSpent | None:
        spent = self.spent_dollars(now)
        if spent < self.settings.dollars or self._noted_period == period:
            return None

        self._noted_period = period
        settings = self.settings
        return notes.BudgetSpent(self.name, settings.dollars, spent, settings.hard, self.resets_in_seconds(now))

    def resets_in_seconds(self, now: float) -> float:
        """Return the rest of the current period."""
        period_seconds = self.settings.period_seconds
        return period_seconds - self._wall.at(now) % period_seconds

    def state(self, now: float) -> BudgetState:
        """Return its state for `report`."""
        settings = self.settings
        return BudgetState(
            dollars=settings.dollars,
            spent_dollars=self.spent_dollars(now),
            reserved_dollars=self.reserved_dollars,
            period_seconds=settings.period_seconds,
            resets_in_seconds=self.resets_in_seconds(now),
            hard=settings.hard,
            rejected=self.rejected,
            rejecting=self.is_rejecting(now),
        )

    def memory(self) -> BudgetMemory:
        """Return what to keep over a restart."""
        return BudgetMemory(*next(reversed(self._spent.items()), (0, 0.0)))

    def restore(self, memory: BudgetMemory, now: float) -> None:
        """Continue from what an earlier run kept; the spending of a past period has no effect."""
        period = self.period(now)
        if memory.period > period:
            # The wall clock was ahead, or is behind: see the class.
            memory = BudgetMemory(period, memory.spent_dollars)

        self._restored = memory
        self._book(memory.period, memory.spent_dollars)

    def period(self, now: float) -> int:
        """Return the number of the current period."""
        return int(self._wall.at(now) // self.settings.period_seconds)

    def _booked(self, period: int) -> float:
        return self._spent.get(period, 0.0)

    def _book(self, period: int, dollars: float) -> None:
        self._spent.pop(period, None)
        self._spent[period] = saturated(dollars)
        if len(self._spent) > _KEPT_PERIODS:
            del self._spent[next(iter(self._spent))]


class Budgets:
    """All budgets."""

    def __init__(self, settings: dict[str, BudgetSettings], wall: WallClock) -> None:
        self.by_name = {name: Budget(name, given, wall) for name, given in settings.items()}
        self._wall = wall
        self._covering: dict[tuple[str, str], tuple[Budget, ...]] = {}

    def reconfigure(self, settings: dict[str, BudgetSettings]) -> None:
        """Apply other settings. A budget keeps its spending if its name stays; with another period the spending starts at 0."""
        self._covering.clear()
        older = self.by_name
        self.by_name = {}
        for name, given in settings.items():
            budget = older.get(name)
            if budget is None or budget.settings.period_seconds != given.period_seconds:
                budget = Budget(name, given, self._wall)

            budget.reconfigure(given)
            self.by_name[name] = budget

    def set_wall_clock(self, offset_seconds: float, now: float) -> None:
        """Apply a wall clock that was set."""
        before = [(budget, budget.period(now)) for budget in self.by_name.values()]
        self._wall.offset_seconds = offset_seconds
        for budget, period in before:
            budget.wall_clock_set(period, now)

    def covering(self, task: str, backend: str) -> tuple[Budget, ...]:
        """Return the budgets to which calls of ``task`` on ``backend`` count."""
        if not self.by_name:
            return ()

        found = self._covering.get((task, backend))
        if found is None:
            # Peers choose the names of tasks and backends, so the table is bounded.
            if len(self._covering) >= _MAX_CACHED_PAIRS:
                self._covering.clear()

            found = tuple(budget for budget in self.by_name.values() if budget.covers(task, backend))
            self._covering[task, backend] = found

        return found

    def rejecting(
        self, task: str, backend: str, expected_dollars: float, now: float, age_seconds: float = 0.0
    ) -> Budget | None:
        """Of the hard budgets without room for the call, return the one that resets last; None if all have room."""
        rejecting = [
            budget
            for budget in self.covering(task, backend)
            if budget.settings.hard and not budget.admits(expected_dollars, now, age_seconds)
        ]
        return max(rejecting, key=lambda budget: budget.resets_in_seconds(now), default=None)
