import pytest

from sidecard.core.backends.queue import FairQueue


def drained(queue: FairQueue[str]) -> list[str]:
    """Serve all items; return them in order. An item's first letter is its flow."""
    served = []
    while queue:
        item = queue.first()
        queue.serve(item[0], item)
        served.append(item)

    return served


def filled(*items: str) -> FairQueue[str]:
    """Return a queue with items pushed one after the other."""
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
def test_flows_take_turns_and_each_is_first_in_first_out(items: list[str], served: list[str]) -> None:
    """A flow with many items delays another's first item by one turn."""
    assert drained(filled(*items)) == served


def test_a_thousand_items_of_one_flow_delay_another_by_one_turn() -> None:
    """The delay is bounded by the number of flows, not of items."""
    queue = filled(*[f"a{number}" for number in range(1000)], "b")

    assert drained(queue)[1] == "b"


def test_remove_keeps_the_turn_of_the_flow() -> None:
    """The removed item was not served."""
    queue = filled("a1", "a2", "b1")
    queue.remove("a", "a1")

    assert drained(queue) == ["a2", "b1"]


def test_remove_from_any_position() -> None:
    """The last, the middle and the only item of a flow."""
    queue = filled("a1", "a2", "a3", "b1", "c1")
    for item in ("a2", "b1", "a3"):
        queue.remove(item[0], item)

    assert len(queue) == 2
    assert drained(queue) == ["a1", "c1"]


def test_a_served_flow_that_returns_is_last() -> None:
    """An empty flow keeps no turn."""
    queue = filled("a1", "b1")
    queue.serve("a", "a1")
    queue.push("a", "a2")

    assert drained(queue) == ["b1", "a2"]


def test_len_and_iteration_cover_every_item_once() -> None:
    """In any order."""
    queue = filled("a1", "b1", "a2")

    assert len(queue) == 3
    assert sorted(queue) == ["a1", "a2", "b1"]
    queue.serve("a", "a1")
    assert sorted(queue) == ["a2", "b1"]


def test_first_of_an_empty_queue_raises() -> None:
    """Also after all items were removed."""
    queue = filled("a1")
    queue.remove("a", "a1")

    assert not queue
    with pytest.raises(StopIteration):
        queue.first()
