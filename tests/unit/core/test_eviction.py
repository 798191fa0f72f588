import pytest

from sidecard.core.entries import MAX_ASKED, Entry, Terms
from sidecard.core.eviction import S3Fifo

TERMS = Terms("1000:default", 300.0, 60.0, "default")


def entry(name: str, asked: int = 0) -> Entry:
    """Return an entry that was asked for so often."""
    made = Entry(name, b"", 0.0, 1.0, TERMS)
    for _ in range(asked):
        made.touch()

    return made


def admitted(policy: S3Fifo, *entries: Entry) -> None:
    """Take entries in, in order."""
    for one in entries:
        policy.admit(one)


def test_victim_of_nothing_is_an_error() -> None:
    """Nobody can leave an empty cache."""
    with pytest.raises(LookupError):
        S3Fifo().victim()


def test_newcomers_leave_in_the_order_they_came() -> None:
    """Nobody asked for them: first in, first out."""
    policy = S3Fifo()
    admitted(policy, entry("a"), entry("b"))

    assert [policy.victim().key, policy.victim().key] == ["a", "b"]


def test_a_newcomer_that_was_asked_for_twice_moves_to_the_main_queue() -> None:
    """Once may be chance; the next newcomer leaves in its place."""
    policy = S3Fifo()
    admitted(policy, entry("twice", asked=2), entry("once", asked=1), entry("never"))

    assert [policy.victim().key, policy.victim().key] == ["once", "never"]


def test_the_main_queue_gives_each_a_turn_per_hit() -> None:
    """Asked for less often, gone sooner; each pass lowers the count, so that it ends."""
    policy = S3Fifo()
    first, second = entry("first", asked=2), entry("second", asked=2)
    admitted(policy, first, second)
    admitted(policy, entry("x"))
    assert policy.victim().key == "x"
    for _ in range(5):
        first.touch()

    assert first.asked == MAX_ASKED
    assert [policy.victim().key, policy.victim().key] == ["second", "first"]


def test_a_ghost_that_comes_back_enters_the_main_queue() -> None:
    """It was wanted soon after it left: no second probation."""
    policy = S3Fifo()
    admitted(policy, entry("a"))
    policy.victim()
    back = entry("a")
    admitted(policy, back, entry("b"))

    assert back.in_main
    assert policy.victim().key == "b"


def test_ghosts_are_bounded() -> None:
    """As many as the main queue has entries, and a few."""
    policy = S3Fifo()
    for number in range(1000):
        admitted(policy, entry(str(number)))
        policy.victim()

    assert len(policy._ghosts) <= 64
    assert len(policy._ghost_order) <= 64


def test_what_left_by_itself_is_never_a_victim() -> None:
    """Neither from the middle of the small queue nor of the main one."""
    policy = S3Fifo()
    gone, stays, gone_from_main = entry("gone"), entry("stays"), entry("main", asked=2)
    admitted(policy, entry("x"), gone, stays, gone_from_main)
    policy.forget(gone)
    assert [policy.victim().key, policy.victim().key] == ["x", "stays"]
    policy.forget(gone_from_main)
    with pytest.raises(LookupError):
        policy.victim()


def test_tombstones_in_the_middle_are_tidied_in_bulk() -> None:
    """A long-lived head does not keep the dead behind it for ever."""
    policy = S3Fifo()
    admitted(policy, entry("head"))
    for number in range(10_000):
        one = entry(str(number))
        admitted(policy, one)
        policy.forget(one)

    assert len(policy._small.entries) < 1100
    assert policy.victim().key == "head"
