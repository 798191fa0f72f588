from sidecard.core.timers import Timers


def test_pop_due_returns_items_by_deadline() -> None:
    """The earliest item comes first, and none before its deadline."""
    timers = Timers[str]()
    timers.set("late", 3.0)
    timers.set("early", 1.0)

    assert timers.pop_due(0.5) is None
    assert timers.pop_due(5.0) == "early"
    assert timers.pop_due(5.0) == "late"
    assert timers.pop_due(5.0) is None


def test_set_replaces_the_deadline() -> None:
    """A renewed lease is not due at its first deadline."""
    timers = Timers[str]()
    timers.set("lease", 1.0)
    timers.set("lease", 9.0)

    assert timers.next_deadline() == 9.0
    assert timers.pop_due(8.0) is None
    assert timers.pop_due(9.0) == "lease"


def test_the_lower_bound_is_exact_once_the_next_deadline_was_asked_for() -> None:
    """A cleared deadline leaves the bound too low, which costs a question; it is never too high."""
    timers = Timers[str]()
    timers.set("lease", 5.0)
    timers.set("waiter", 1.0)
    timers.clear("waiter")
    assert timers.no_earlier_than == 1.0
    assert timers.next_deadline() == timers.no_earlier_than == 5.0
    timers.clear("lease")
    assert timers.next_deadline() is None
    timers.set("lease", 9.0)
    assert timers.no_earlier_than == 9.0


def test_clear_removes_item_and_ignores_unknown_ones() -> None:
    """A cleared item is never due; clearing an unknown one has no effect."""
    timers = Timers[str]()
    timers.set("waiter", 1.0)
    timers.clear("waiter")
    timers.clear("stranger")

    assert timers.next_deadline() is None
    assert len(timers) == 0


def test_hundred_thousand_cleared_deadlines_leave_nothing_behind() -> None:
    """Dead heap entries never outnumber live ones by much, although their deadlines are far away."""
    timers = Timers[int]()
    timers.set(-1, 1e6)
    for item in range(100_000):
        timers.set(item, 1e5)
        timers.clear(item)

    assert len(timers._heap) < 100
    assert timers.next_deadline() == 1e6


def test_replaced_deadlines_take_no_memory() -> None:
    """A lease that is renewed for a day has one deadline, not thousands; others keep theirs."""
    timers = Timers[str]()
    timers.set("other", 2.0)
    for number in range(100_000):
        timers.set("lease", 10.0 + number)

    assert len(timers._heap) < 1000
    assert timers.pop_due(1e9) == "other"
    assert timers.pop_due(1e9) == "lease"
    assert timers.pop_due(1e9) is None
