"""The ring of steps behind the dashboard's curves."""

from sidecard.observe.history import History, Totals

FIRST = Totals(at_seconds=0.0, hits=10, shared=0, upstream=5, unanswered=0, saved_seconds=1.0, saved_dollars=0.5)


def at(number: int, hits: float) -> Totals:
    """Return the sums at a step."""
    return Totals(number * 10.0, hits, 0.0, 5.0, 0.0, 1.0, 0.5)


def test_a_step_is_what_was_added() -> None:
    """The first sums are what the others are counted from."""
    history = History()
    history.add(FIRST)
    assert history.after(0, "run").hits == []
    history.add(at(1, 13))
    history.add(at(2, 13))
    curves = history.after(0, "run")
    assert (curves.hits, curves.at_seconds, curves.last) == ([3.0, 0.0], [10.0, 20.0], 2)
    assert curves.upstream == curves.saved_dollars == [0.0, 0.0]


def test_a_sum_that_was_begun_anew_is_not_negative() -> None:
    """A ledger that somebody has reset."""
    history = History()
    history.add(at(0, 10))
    history.add(at(1, 4))
    assert history.after(0, "run").hits == [4.0]


def test_only_what_is_new_is_told() -> None:
    """Whoever asks for a step that there is not yet gets all, as after a restart."""
    history = History()
    for number in range(6):
        history.add(at(number, number))

    assert history.after(3, "run").at_seconds == [40.0, 50.0]
    assert history.after(5, "run").at_seconds == []
    assert len(history.after(99, "run").hits) == 5


def test_the_ring_is_bounded() -> None:
    """The oldest go."""
    history = History(max_steps=3)
    for number in range(10):
        history.add(at(number, number))

    assert history.after(0, "run").at_seconds == [70.0, 80.0, 90.0]
    assert history.after(2, "run").at_seconds == [70.0, 80.0, 90.0]
