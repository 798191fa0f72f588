"""Budgets: periods, reservations, notes."""

import pytest

from sidecard.core import notes
from sidecard.core.backends.budgets import DOUBT_SECONDS, REJECTING_SECONDS, Budget, BudgetMemory, Budgets
from sidecard.core.settings import BudgetSettings
from sidecard.core.wall_clock import WallClock

DAY = 86400.0
START = 1_700_000_000.0
"""An instant of the wall clock: 22:13:20 UTC."""


def budget(dollars: float = 10.0, offset: float = START, *, hard: bool = True, period: float = DAY) -> Budget:
    """Return a budget whose monotonic clock began at ``offset``."""
    return Budget("daily", BudgetSettings(dollars, period_seconds=period, hard=hard), WallClock(offset))


def test_a_day_ends_at_midnight_utc() -> None:
    """At whatever time the daemon started."""
    midnight = (START // DAY + 1) * DAY - START
    daily = budget()
    assert daily.resets_in_seconds(0.0) == midnight
    daily.spend(9.0, midnight - 0.5)

    assert daily.spent_dollars(midnight - 0.5) == 9.0
    assert daily.spent_dollars(midnight) == 0.0
    assert daily.resets_in_seconds(midnight) == DAY


def test_periods_follow_one_another_without_a_gap() -> None:
    """Spending counts in its own period alone."""
    hourly = budget(1.0, 0.0, period=3600.0)
    for hour in (0, 1, 2, 50):
        assert hourly.spent_dollars(3600.0 * hour) == 0.0
        hourly.spend(0.75, 3600.0 * hour + 3599.0)
        assert hourly.spent_dollars(3600.0 * hour + 3599.5) == 0.75


@pytest.mark.parametrize(
    ("spent", "reserved", "expected", "admits"),
    [
        (0.0, 0.0, 0.0, True),
        (0.0, 0.0, 10.0, True),
        (0.0, 0.0, 10.5, True),
        (0.0, 0.5, 10.5, False),
        (0.1, 0.0, 10.5, False),
        (9.0, 0.0, 1.0, True),
        (9.0, 0.5, 1.0, False),
        (9.0, 1.0, 0.0, False),
        (10.0, 0.0, 0.0, False),
        (12.0, 0.0, 0.0, False),
    ],
)
def test_admits_while_spent_reserved_and_expected_dollars_fit(
    spent: float, reserved: float, expected: float, admits: bool
) -> None:
    """A used-up budget admits no call, whatever it costs."""
    daily = budget()
    daily.spend(spent, 0.0)
    daily.reserved_dollars = reserved

    assert daily.admits(expected, 0.0) is admits


def test_a_budget_of_0_dollars_admits_nothing() -> None:
    """Not even a call whose cost is unknown."""
    assert not budget(0.0).admits(0.0, 0.0)


@pytest.mark.parametrize(
    ("expected", "age_seconds", "admits"),
    [(9.5, DOUBT_SECONDS, True), (9.5, DOUBT_SECONDS - 1, False), (5.0, DOUBT_SECONDS, False)],
)
def test_an_old_expected_cost_is_tested_if_it_is_a_large_share(
    expected: float, age_seconds: float, admits: bool
) -> None:
    """One call at a time, and only while the budget is not spent."""
    daily = budget()
    daily.spend(6.0, 0.0)

    assert daily.admits(expected, 0.0, age_seconds) is admits
    daily.reserve(0.5)
    assert not daily.admits(expected, 0.0, age_seconds)


def test_reserve_is_bounded_by_the_budget_and_released_exactly() -> None:
    """An absurd expected cost leaves no rounding error that would look like a call in progress."""
    daily = budget()
    amounts = [daily.reserve(dollars) for dollars in (0.1, 0.2, 1e9)]
    assert amounts == [0.1, 0.2, 10.0]
    for dollars in amounts:
        daily.release(dollars)

    assert daily.reserved_dollars == 0.0


def test_a_budget_is_rejecting_after_a_rejection_and_while_it_is_spent() -> None:
    """The state ends with the period, or some minutes after the last rejection."""
    hourly = budget(offset=0.0, period=3600.0)
    hourly.spend(9.7, 0.0)
    assert not hourly.is_rejecting(10.0)

    hourly.count_rejected(10.0)
    assert (hourly.state(20.0).rejected, hourly.state(20.0).rejecting) == (1, True)
    assert not hourly.is_rejecting(10.0 + REJECTING_SECONDS)
    hourly.count_rejected(3590.0)
    assert hourly.is_rejecting(3599.0)
    assert not hourly.is_rejecting(3600.0)
    hourly.spend(10.0, 3600.0)
    assert hourly.is_rejecting(7000.0)


def test_a_soft_budget_is_never_rejecting() -> None:
    """It only logs."""
    soft = budget(hard=False)
    soft.spend(20.0, 0.0)
    assert not soft.is_rejecting(0.0)


def test_spend_notes_a_used_up_budget_once_per_period() -> None:
    """At the call that reaches the limit, and again in the next period."""
    daily = budget(hard=False)
    assert daily.spend(9.5, 0.0) is None
    assert daily.spend(1.0, 10.0) == notes.BudgetSpent(
        "daily", 10.0, 10.5, hard=False, resets_in_seconds=daily.resets_in_seconds(10.0)
    )
    assert daily.spend(5.0, 20.0) is None
    tomorrow = 20.0 + DAY
    assert daily.spend(2.0, tomorrow) is None
    assert daily.spend(8.0, tomorrow) is not None


def test_state_shows_the_current_period() -> None:
    """Reservations outlive a period."""
    daily = budget(period=100.0, offset=30.0)
    daily.spend(2.0, 0.0)
    daily.reserved_dollars = 0.5
    state = daily.state(10.0)
    assert (state.dollars, state.spent_dollars, state.reserved_dollars) == (10.0, 2.0, 0.5)
    assert (state.period_seconds, state.resets_in_seconds, state.hard) == (100.0, 60.0, True)

    assert (daily.state(70.0).spent_dollars, daily.state(70.0).reserved_dollars) == (0.0, 0.5)


def test_spending_survives_a_restart_within_its_period() -> None:
    """The next run's monotonic clock has another origin; periods follow the wall clock."""
    daily = budget()
    daily.spend(7.0, 50.0)
    memory = daily.memory()
    later = budget(offset=START + 100.0)
    later.restore(memory, 0.0)

    assert later.spent_dollars(0.0) == 7.0
    assert later.spent_dollars(DAY) == 0.0
    assert memory == BudgetMemory(int(START // DAY), 7.0)


BUDGETS = {
    "all": BudgetSettings(100.0),
    "rag": BudgetSettings(10.0, task="rag", hard=True),
    "cloud": BudgetSettings(5.0, backend="cloud", hard=True, period_seconds=3600.0),
    "rag on cloud": BudgetSettings(1.0, task="rag", backend="cloud", hard=True, period_seconds=60.0),
}


@pytest.mark.parametrize(
    ("task", "backend", "covering"),
    [
        ("rag", "cloud", ["all", "rag", "cloud", "rag on cloud"]),
        ("rag", "local", ["all", "rag"]),
        ("code", "cloud", ["all", "cloud"]),
        ("code", "local", ["all"]),
    ],
)
def test_covering_selects_by_task_and_backend(task: str, backend: str, covering: list[str]) -> None:
    """A call counts for each budget that names its task, its backend, both, or neither."""
    budgets = Budgets(BUDGETS, WallClock())

    for _ in range(2):
        assert [one.name for one in budgets.covering(task, backend)] == covering


def test_refusing_returns_the_budget_that_resets_last() -> None:
    """A caller that retried earlier would be refused again."""
    budgets = Budgets(BUDGETS, WallClock())
    assert budgets.rejecting("rag", "cloud", 0.5, 0.0) is None
    budgets.by_name["rag on cloud"].spend(1.0, 0.0)
    assert budgets.rejecting("rag", "cloud", 0.5, 0.0) is budgets.by_name["rag on cloud"]
    budgets.by_name["cloud"].spend(5.0, 0.0)

    assert budgets.rejecting("rag", "cloud", 0.5, 0.0) is budgets.by_name["cloud"]
    assert budgets.rejecting("rag", "local", 0.5, 0.0) is None


def test_a_soft_budget_refuses_nothing() -> None:
    """It only makes a note."""
    budgets = Budgets({"all": BudgetSettings(1.0)}, WallClock())
    budgets.by_name["all"].spend(50.0, 0.0)

    assert budgets.rejecting("rag", "cloud", 1.0, 0.0) is None


def test_the_table_of_covering_budgets_is_bounded() -> None:
    """Peers choose the names of tasks and backends."""
    budgets = Budgets(BUDGETS, WallClock())
    for number in range(10_000):
        budgets.covering(f"task{number}", "cloud")

    assert len(budgets._covering) <= 4096


def test_remote_spending_counts() -> None:
    """Within its period; and it is noted if it uses the budget up."""
    daily = budget(10.0)
    daily.spend(4.0, 0.0)
    period, dollars = daily.own_spending(0.0)
    assert dollars == 4.0
    assert daily.set_remote(period, 5.0, 0.0) is None
    assert daily.spent_dollars(0.0) == 9.0
    assert daily.set_remote(period - 1, 100.0, 0.0) is None
    assert daily.spent_dollars(0.0) == 4.0
    note = daily.set_remote(period, 6.0, 0.0)
    assert isinstance(note, notes.BudgetSpent)
    assert note.spent_dollars == 10.0
    assert daily.set_remote(period, 7.0, 0.0) is None


def test_spending_of_an_earlier_run_counts_once() -> None:
    """1. a run spends and shares that; 2. it ends; 3. the next restores its ledger, and receives the shared sum."""
    daily = budget(10.0)
    period, _ = daily.own_spending(0.0)
    daily.restore(BudgetMemory(period, 3.0), 0.0)
    assert daily.spent_dollars(0.0) == 3.0
    assert daily.own_spending(0.0) == (period, 0.0)
    daily.set_remote(period, 3.0, 0.0)
    assert daily.spent_dollars(0.0) == 3.0
    daily.set_remote(period, 5.0, 0.0)
    daily.spend(1.0, 0.0)
    assert daily.spent_dollars(0.0) == 6.0
    assert daily.own_spending(0.0) == (period, 1.0)
    assert daily.memory() == BudgetMemory(period, 4.0)


def set_clock(those: Budgets, days: float, now: float) -> None:
    """Set the wall clock to so many days after `START`."""
    those.set_wall_clock(START + days * DAY - now, now)


def test_spending_stays_with_its_day_while_the_clock_is_set_back_and_forth() -> None:
    """Each day is booked once, however often the clock says that it begins."""
    those = Budgets({"daily": BudgetSettings(10.0, period_seconds=DAY)}, WallClock(START))
    daily = those.by_name["daily"]
    daily.spend(8.0, 0.0)
    for now in (10.0, 20.0, 30.0):
        set_clock(those, 1.0, now)
        assert daily.spent_dollars(now) == (now - 10.0) / 10.0
        daily.spend(1.0, now)
        set_clock(those, 0.0, now)
        assert daily.spent_dollars(now) == 8.0


def test_a_clock_that_is_set_back_does_not_empty_a_budget() -> None:
    """Into a day that this run knows nothing of, or of which it has booked less; a day later the budget is empty."""
    those = Budgets({"daily": BudgetSettings(10.0, period_seconds=DAY)}, WallClock(START))
    daily = those.by_name["daily"]
    daily.spend(8.0, 0.0)
    set_clock(those, -7.0, 1.0)
    assert daily.spent_dollars(1.0) == 8.0
    daily.spend(1.0, 1.0)
    assert daily.spent_dollars(1.0) == 9.0
    assert daily.spent_dollars(1.0 + DAY) == 0.0


def test_a_day_is_remembered_while_the_clock_visits_others() -> None:
    """Also over a restart, which keeps the present day."""
    those = Budgets({"daily": BudgetSettings(10.0, period_seconds=DAY)}, WallClock(START))
    daily = those.by_name["daily"]
    daily.spend(8.0, 0.0)
    for days in (-3.0, 0.0, -1.0, 0.0, 2.0, 0.0):
        set_clock(those, days, 1.0)
        assert daily.spent_dollars(1.0) == (0.0 if days > 0 else 8.0)

    assert daily.memory() == BudgetMemory(int(START // DAY), 8.0)


def test_a_host_that_slept_for_a_day_has_a_new_budget() -> None:
    """Its clock counts the sleep."""
    daily = budget()
    daily.spend(8.0, 0.0)
    assert daily.spent_dollars(DAY) == 0.0


def test_spending_from_the_future_counts_now() -> None:
    """1. The clock is a day ahead. 2. A call is billed. 3. The daemon stops. 4. The clock is set right. 5. It starts."""
    daily = budget()
    period, _ = daily.own_spending(0.0)
    daily.restore(BudgetMemory(period + 1, 8.0), 0.0)
    assert daily.spent_dollars(0.0) == 8.0
    assert daily.spent_dollars(DAY) == 0.0
