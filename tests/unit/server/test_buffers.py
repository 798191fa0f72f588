"""Who is closed when all connections together hold too much."""

from sidecard.server.buffers import BufferBudget


def test_of_equal_holders_the_one_that_is_stuck_longest_is_closed() -> None:
    """A peer that has just been sent its reply may still read it."""
    buffers = BufferBudget[str](1_000_000)
    for name in ("stuck", "also stuck"):
        assert buffers.update(name, 1, 400_000) == []

    assert buffers.update("reads", 1, 400_000) == ["stuck"]
    assert buffers.update("another", 1, 400_000) == ["also stuck"]


def test_the_largest_holder_of_the_largest_uid_is_closed_first() -> None:
    """Other uids keep what they hold."""
    buffers = BufferBudget[str](1_000_000)
    buffers.update("large", 1, 300_000)
    buffers.update("small", 1, 200_000)
    buffers.update("other", 2, 400_000)
    assert buffers.update("late", 1, 150_000) == ["large"]
    assert buffers.memory.of(1) == 350_000
