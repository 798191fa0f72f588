"""Batches: bounded in items and bytes, complete and in order."""

from hypothesis import given
from hypothesis import strategies as st

from sidecard.persistence.batches import batches


def test_a_batch_ends_before_either_bound_is_exceeded() -> None:
    """An item that is larger than a batch has one of its own."""
    assert list(batches(["aa", "b", "cccc", "d", "e", "f"], len, max_bytes=3, max_items=2)) == [
        ["aa", "b"],
        ["cccc"],
        ["d", "e"],
        ["f"],
    ]
    assert list(batches([], len, max_bytes=3)) == []


def test_an_item_of_infinite_size_is_alone() -> None:
    """So a caller keeps an item out of other batches."""
    sizes = {"purge": float("inf")}
    changes = ["a", "purge", "b", "c"]
    assert list(batches(changes, lambda change: sizes.get(change, 1), max_bytes=10)) == [["a"], ["purge"], ["b", "c"]]


@given(st.lists(st.integers(0, 9)), st.integers(0, 20), st.integers(1, 5))
def test_no_item_is_lost_or_moved(sizes: list[int], max_bytes: int, max_items: int) -> None:
    """Whatever the bounds."""
    cut = list(batches(sizes, lambda size: size, max_bytes, max_items))
    assert [size for batch in cut for size in batch] == sizes
    assert all(len(batch) <= max_items and (sum(batch) <= max_bytes or len(batch) == 1) for batch in cut)
