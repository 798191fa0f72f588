from sidecard.core.timers import Timers


def test_pop_due_gives_items_in_order_of_their_deadlines() -> None:
    """The earliest comes first, and nothing comes before its time."""
    timers = Timers[str]()
    timers.set("late", 3.0)
    timers.set("early", 1.0)

    assert timers.pop_due(0.5) is None
    assert timers.pop_due(5.0) == "early"
    assert timers.pop_due(5.0) == "late"
    assert timers.pop_due(5.0) is None


def test_set_again_replaces_the_deadline() -> None:
    """A renewed lease is not due at its first deadline."""
    timers = Timers[str]()
    timers.set("lease", 1.0)
    timers.set("lease", 9.0)

    assert timers.next_deadline() == 9.0
    assert timers.pop_due(8.0) is None
    assert timers.pop_due(9.0) == "lease"


def test_clear_forgets_an_item_and_ignores_strangers() -> None:
    """What was cleared is never due."""
    timers = Timers[str]()
    timers.set("waiter", 1.0)
    timers.clear("waiter")
    timers.clear("stranger")

    assert timers.next_deadline() is None
    assert len(timers) == 0


def test_a_hundred_thousand_cancelled_waits_leave_nothing_behind() -> None:
    """Dead entries never outnumber the living by much, though their time is far away."""
    timers = Timers[int]()
    timers.set(-1, 1e6)
    for item in range(100_000):
        timers.set(item, 1e5)
        timers.clear(item)

    assert len(timers._heap) < 100
    assert timers.next_deadline() == 1e6
