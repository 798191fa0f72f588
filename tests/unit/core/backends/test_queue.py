import pytest

from sidecard.core.backends.queue import FairQueue


def drained(queue: FairQueue[str]) -> list[str]:
    """Serve all, in the order in which they are next. An item's first letter is its line."""
    served = []
    while queue:
        item = queue.first()
        queue.serve(item[0], item)
        served.append(item)

    return served


def filled(*items: str) -> FairQueue[str]:
    """Return a queue in which items have stood in, one after the other."""
    queue = FairQueue[str]()
    for item in items:
        queue.push(item[0], item)

    return queue


@pytest.mark.parametrize(
    ("items", "served"),
    [
        (["a1", "a2", "a3"], ["a1", "a2", "a3"]),
        (["a1", "b1", "a2", "b2"], ["a1", "b1", "a2", "b2"]),
        (["a1", "a2", "a3", "b1", "b2"], ["a1", "b1", "a2", "b2", "a3"]),
        (["a1", "a2", "b1", "c1", "c2"], ["a1", "b1", "c1", "a2", "c2"]),
        ([], []),
    ],
)
def test_lines_take_turns_and_each_is_first_come_first_served(items: list[str], served: list[str]) -> None:
    """One that asks for much delays another's first by one turn."""
    assert drained(filled(*items)) == served


def test_a_thousand_of_one_line_delay_another_by_one() -> None:
    """The bound is the number of lines, not of items."""
    queue = filled(*[f"a{number}" for number in range(1000)], "b")

    assert drained(queue)[1] == "b"


def test_one_that_leaves_costs_its_line_no_turn() -> None:
    """It got nothing: the line's next stands where it stood."""
    queue = filled("a1", "a2", "b1")
    queue.remove("a", "a1")

    assert drained(queue) == ["a2", "b1"]


def test_one_may_leave_from_anywhere() -> None:
    """The last, the middle and the only one of a line."""
    queue = filled("a1", "a2", "a3", "b1", "c1")
    for item in ("a2", "b1", "a3"):
        queue.remove(item[0], item)

    assert len(queue) == 2
    assert drained(queue) == ["a1", "c1"]


def test_a_line_that_was_served_and_comes_again_stands_behind() -> None:
    """An empty line has no turn to keep."""
    queue = filled("a1", "b1")
    queue.serve("a", "a1")
    queue.push("a", "a2")

    assert drained(queue) == ["b1", "a2"]


def test_it_counts_and_shows_all() -> None:
    """Whoever sends everybody away sees each once."""
    queue = filled("a1", "b1", "a2")

    assert len(queue) == 3
    assert sorted(queue) == ["a1", "a2", "b1"]
    queue.serve("a", "a1")
    assert sorted(queue) == ["a2", "b1"]


def test_an_empty_one_has_no_first() -> None:
    """Also after all have left."""
    queue = filled("a1")
    queue.remove("a", "a1")

    assert not queue
    with pytest.raises(StopIteration):
        queue.first()
