"""The ring buffer behind the dashboard's charts."""

from sidecard.observe.history import History, Totals

FIRST = Totals(at_seconds=0.0, hits=10, shared=0, upstream=5, unanswered=0, saved_seconds=1.0, saved_dollars=0.5)


def at(number: int, hits: float) -> Totals:
    """Return the totals at a step."""
    return Totals(number * 10.0, hits, 0.0, 5.0, 0.0, 1.0, 0.5)


def test_a_step_is_the_growth_of_totals() -> None:
    """The first totals only set the starting point."""
    history = History()
    history.add(FIRST)
    assert history.after(0, "run").hits == []
    history.add(at(1, 13))
    history.add(at(2, 13))
    curves = history.after(0, "run")
    assert (curves.hits, curves.at_seconds, curves.last) == ([3.0, 0.0], [10.0, 20.0], 2)
    assert curves.upstream == curves.saved_dollars == [0.0, 0.0]


def test_a_total_that_was_reset_yields_no_negative_step() -> None:
    """As when a ledger is reset."""
    history = History()
    history.add(at(0, 10))
    history.add(at(1, 4))
    assert history.after(0, "run").hits == [4.0]


def test_only_later_steps_are_returned() -> None:
    """A number that never existed, as after a restart, returns all steps."""
    history = History()
    for number in range(6):
        history.add(at(number, number))

    assert history.after(3, "run").at_seconds == [40.0, 50.0]
    assert history.after(5, "run").at_seconds == []
    assert len(history.after(99, "run").hits) == 5


def test_the_ring_is_bounded() -> None:
    """The oldest steps are dropped."""
    history = History(max_steps=3)
    for number in range(10):
        history.add(at(number, number))

    assert history.after(0, "run").at_seconds == [70.0, 80.0, 90.0]
    assert history.after(2, "run").at_seconds == [70.0, 80.0, 90.0]
