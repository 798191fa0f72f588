"""The write-behind queue: batches, failures, replacement, bounds."""

import pytest

from sidecard.persistence.write_behind import WriteBehindQueue


@pytest.fixture
def queue() -> WriteBehindQueue[str]:
    """A queue of texts, of at most 4 texts and 10 letters."""
    return WriteBehindQueue(len, max_bytes=10, max_items=4)


def test_take_starts_a_batch_within_both_bounds(queue: WriteBehindQueue[str]) -> None:
    """A batch ends before the item that exceeds its bytes, and has at least one item."""
    for text in ("aaa", "bb", "c"):
        queue.append(text)

    assert queue.take(9, max_bytes=5) == ["aaa", "bb"]
    assert queue.taken == ["aaa", "bb"]
    queue.done()
    assert (len(queue), queue.bytes) == (1, 1)
    assert queue.take(9, max_bytes=0) == ["c"]
    queue.done()
    assert (len(queue), queue.bytes) == (0, 0)
    assert queue.take(9) == []


def test_give_back_puts_the_batch_first_again(queue: WriteBehindQueue[str]) -> None:
    """What could not be written keeps its place before what arrived meanwhile."""
    queue.append("a")
    queue.append("b")
    queue.take(1)
    queue.append("c")
    queue.give_back()
    assert queue.take(9) == ["a", "b", "c"]
    assert queue.bytes == 3


def test_put_replaces_the_waiting_item_of_its_name(queue: WriteBehindQueue[str]) -> None:
    """The newest item of a name is written last; a batch that fails does not bring an older one back."""
    assert queue.put("x", "old") is None
    queue.put("y", "b")
    assert queue.put("x", "newer") == "old"
    assert queue.take(1) == ["b"]
    queue.put("y", "bb")
    queue.give_back()
    assert [text for _, text in queue.waiting] == ["newer", "bb"]
    assert queue.bytes == 7


def test_has_room_counts_the_batch_too(queue: WriteBehindQueue[str]) -> None:
    """Items that are being written still use memory."""
    for text in ("aaaa", "b", "c"):
        queue.append(text)

    queue.take(1)
    assert queue.has_room(4)
    assert not queue.has_room(5)
    queue.append("d")
    assert not queue.has_room(0)


def test_drop_oldest_spares_the_batch(queue: WriteBehindQueue[str]) -> None:
    """An item that is being written may arrive."""
    for text in "abc":
        queue.append(text)

    queue.take(1)
    assert queue.drop_oldest() == "b"
    assert queue.drop_oldest() == "c"
    assert queue.drop_oldest() is None
    assert queue.bytes == 1


def test_discard_removes_an_item_wherever_it_is(queue: WriteBehindQueue[str]) -> None:
    """An item may be waiting, in the batch, or gone."""
    first, second = queue.append("a"), queue.append("bb")
    queue.take(1)
    queue.discard(first)
    queue.discard(second)
    queue.discard(second)
    assert (len(queue), queue.bytes, queue.taken) == (0, 0, [])
