"""The ring buffer behind the dashboard's charts."""

from sidecard.observe.history import NAMES, History, Totals


def at(number: int, hits: float) -> Totals:
    """Return the totals at a step."""
    return {"at_seconds": number * 10.0, "hits": hits, "upstream": 5.0}


def test_a_step_is_the_growth_of_totals() -> None:
    """The first totals only set the starting point."""
    history = History()
    history.add(at(0, 10))
    assert history.after(0, "run")["hits"] == []
    history.add(at(1, 13))
    history.add(at(2, 13))
    assert history.after(0, "run") == {
        "boot_id": "run",
        "step_seconds": 10.0,
        "last": 2,
        "at_seconds": [10.0, 20.0],
        "hits": [3.0, 0.0],
        "upstream": [0.0, 0.0],
    }


def test_before_the_first_step_all_columns_are_empty() -> None:
    """The dashboard reads each of them."""
    assert [History().after(0, "run")[name] for name in NAMES] == [[]] * len(NAMES)


def test_a_total_that_was_reset_yields_no_negative_step() -> None:
    """As when a ledger is reset."""
    history = History()
    history.add(at(0, 10))
    history.add(at(1, 4))
    assert history.after(0, "run")["hits"] == [4.0]


def test_only_later_steps_are_returned() -> None:
    """A number that never existed, as after a restart, returns all steps."""
    history = History()
    for number in range(6):
        history.add(at(number, number))

    assert history.after(3, "run")["at_seconds"] == [40.0, 50.0]
    assert history.after(5, "run")["at_seconds"] == []
    assert len(history.after(99, "run")["hits"]) == 5


def test_the_ring_is_bounded() -> None:
    """The oldest steps are dropped."""
    history = History(max_steps=3)
    for number in range(10):
        history.add(at(number, number))

    assert history.after(0, "run")["at_seconds"] == [70.0, 80.0, 90.0]
    assert history.after(2, "run")["at_seconds"] == [70.0, 80.0, 90.0]
