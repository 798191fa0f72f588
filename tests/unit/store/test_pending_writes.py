"""What is still to be written, as a conversation; the races by their interleaving."""

from sidecard.core.effects import StorePurge, StoreRemove, StoreWrite
from sidecard.core.records import Record
from sidecard.store.base import UNANSWERED
from sidecard.store.pending_writes import OVERHEAD_BYTES, PendingWrites

SCOPE = "1:d"


def write(key: str, value: bytes = b"v", *tags: str, replace: bool = False, claim: str = "") -> StoreWrite:
    """Return the wish to keep an entry."""
    return StoreWrite(SCOPE, key, Record(value, 1.0, 300.0, 60.0, "cloud", tags=tags), claim, replace)


def record(*tags: str, task: str = "") -> Record:
    """Return an entry."""
    return Record(b"v", 1.0, 300.0, 60.0, "cloud", tags=tags, task=task)


def remove(key: str, ticket: int = UNANSWERED) -> StoreRemove:
    """Return the wish to remove an entry."""
    return StoreRemove(ticket, SCOPE, key)


def test_the_latest_wish_of_a_key_is_the_one() -> None:
    """The older one is handed back: somebody may wait for its answer."""
    pending = PendingWrites(10_000)
    first, second = remove("k", 7), write("k")
    assert pending.add(first) is None
    assert pending.find(SCOPE, "k") == first
    assert pending.add(second) is first
    assert len(pending) == 1
    found = pending.find(SCOPE, "k")
    assert isinstance(found, StoreWrite)
    assert found.record == second.record
    assert pending.find(SCOPE, "other") is None
    assert pending.find("2:d", "k") is None


def test_wishes_are_taken_in_order_and_found_until_they_are_done() -> None:
    """Oldest first; one that is wished anew goes to the end."""
    pending = PendingWrites(10_000)
    for key in "abc":
        pending.add(write(key))

    pending.add(write("a", b"new"))
    assert [wish.key for wish in pending.take(2) if isinstance(wish, StoreWrite)] == ["b", "c"]
    assert pending.find(SCOPE, "b") is not None
    assert len(pending) == 3
    pending.done()
    assert pending.find(SCOPE, "b") is None
    assert [wish.key for wish in pending.take(9) if isinstance(wish, StoreWrite)] == ["a"]
    pending.done()
    assert (len(pending), pending.bytes) == (0, 0)


def test_what_could_not_be_written_waits_again_before_what_is_newer() -> None:
    """But not where its key has a newer wish by now."""
    pending = PendingWrites(10_000)
    pending.add(write("a", b"old"))
    pending.add(write("b"))
    pending.take(2)
    pending.add(write("c"))
    pending.add(write("a", b"new"))
    pending.give_back()
    wishes = [wish for wish in pending.take(9) if isinstance(wish, StoreWrite)]
    assert [(wish.key, wish.record.value) for wish in wishes] == [("b", b"v"), ("c", b"v"), ("a", b"new")]
    pending.done()
    assert pending.bytes == 0


def test_only_what_is_named_comes_back() -> None:
    """The rest of what was taken is done."""
    pending = PendingWrites(10_000)
    for key in "abc":
        pending.add(write(key))

    taken = pending.take(3)
    pending.give_back([taken[1]])
    assert pending.take(9) == [taken[1]]


def test_a_purge_takes_what_waits_and_leaves_a_removal() -> None:
    """An older entry of the key, with other tags, must not come back in its place."""
    pending = PendingWrites(10_000)
    pending.add(write("tagged", b"v", "t"))
    pending.add(write("other", b"v", "u"))
    pending.add(StorePurge(3, None, "t"))
    assert pending.find(SCOPE, "tagged") == remove("tagged")
    assert isinstance(pending.find(SCOPE, "other"), StoreWrite)
    pending.add(write("tagged", b"new", "t"))
    assert isinstance(pending.find(SCOPE, "tagged"), StoreWrite)
    kinds = [type(wish).__name__ for wish in pending.take(9)]
    assert kinds == ["StoreWrite", "StorePurge", "StoreWrite"]


def test_a_purge_is_pending_until_it_is_done() -> None:
    """While it waits, while it is taken, and again when it comes back."""
    pending = PendingWrites(10_000)
    assert not pending.purged(SCOPE, record("t"))
    pending.add(StorePurge(3, "d", "t"))
    for step in (lambda: None, lambda: pending.take(1), pending.give_back, lambda: pending.take(1)):
        step()
        assert pending.purged(SCOPE, record("s", "t"))
        assert pending.purging(SCOPE)
        assert not pending.purged(SCOPE, record("s"))
        assert not pending.purged("1:other", record("t"))
        assert not pending.purging("1:other")

    pending.done()
    assert not pending.purged(SCOPE, record("t"))
    assert not pending.purging(SCOPE)


def test_a_purge_by_task_takes_what_is_of_it() -> None:
    """Of what waits and of what the store has; with a tag as well, only what is of both."""
    pending = PendingWrites(10_000)
    pending.add(StoreWrite(SCOPE, "rag", record("t", task="rag")))
    pending.add(StoreWrite(SCOPE, "other", record("t", task="general")))
    pending.add(StorePurge(3, None, None, "rag"))
    assert pending.find(SCOPE, "rag") == remove("rag")
    assert isinstance(pending.find(SCOPE, "other"), StoreWrite)
    assert pending.purged(SCOPE, record(task="rag"))
    assert not pending.purged(SCOPE, record("rag"))
    pending.take(9)
    pending.done()
    pending.add(StorePurge(4, None, "t", "rag"))
    assert pending.purged(SCOPE, record("t", task="rag"))
    assert not pending.purged(SCOPE, record(task="rag"))
    assert not pending.purged(SCOPE, record("t", task="general"))


def test_what_is_purged_while_it_is_being_written_is_not_found() -> None:
    """1. an entry is taken, to be written; 2. it is purged; 3. it is asked for: that it is about to be written is the past."""
    pending = PendingWrites(10_000)
    pending.add(write("k", b"v", "t"))
    pending.add(write("other", b"v", "u"))
    pending.take(2)
    pending.add(StorePurge(3, None, "t"))
    assert pending.find(SCOPE, "k") == remove("k")
    assert isinstance(pending.find(SCOPE, "other"), StoreWrite)


def test_what_was_purged_while_it_could_not_be_written_does_not_come_back() -> None:
    """1. an entry is taken; 2. it is purged; 3. it could not be written; 4. it is asked for, long before the purge is done."""
    pending = PendingWrites(10_000)
    pending.add(write("k", b"v", "t"))
    pending.take(1)
    pending.add(StorePurge(3, None, "t"))
    pending.give_back()
    assert pending.find(SCOPE, "k") == remove("k")
    assert [type(wish).__name__ for wish in pending.take(9)] == ["StoreRemove", "StorePurge"]
    pending.done()
    assert pending.bytes == 0


def test_a_purge_that_was_taken_does_not_reach_what_came_after_it() -> None:
    """Whether or not it comes back."""
    pending = PendingWrites(10_000)
    pending.add(StorePurge(3, None, "t"))
    pending.take(1)
    pending.add(write("k", b"v", "t"))
    assert isinstance(pending.find(SCOPE, "k"), StoreWrite)
    pending.give_back()
    assert isinstance(pending.find(SCOPE, "k"), StoreWrite)


def test_a_purge_that_comes_back_does_not_reach_what_came_after_it() -> None:
    """Where both were taken: the order of the wishes says which was first."""
    pending = PendingWrites(10_000)
    pending.add(StorePurge(3, None, "t"))
    pending.add(write("k", b"v", "t"))
    pending.take(2)
    pending.give_back()
    assert isinstance(pending.find(SCOPE, "k"), StoreWrite)


def test_a_removal_that_a_write_overtakes_is_not_forgotten() -> None:
    """1. a key is to be removed; 2. an entry of it is to be written, that would let another stay; 3. the old one stays."""
    pending = PendingWrites(10_000)
    pending.add(remove("k"))
    pending.add(write("k"))
    found = pending.find(SCOPE, "k")
    assert isinstance(found, StoreWrite)
    assert found.replace


def test_a_removal_that_could_not_be_written_is_not_forgotten() -> None:
    """1. a removal is taken; 2. an entry of the key is to be written; 3. the removal could not be done; 4. the old one stays."""
    pending = PendingWrites(10_000)
    pending.add(remove("k"))
    pending.take(1)
    pending.add(write("k"))
    pending.give_back()
    (wish,) = pending.take(9)
    assert isinstance(wish, StoreWrite)
    assert wish.replace


def test_a_write_that_replaces_nothing_goes_on_to_replace_nothing() -> None:
    """Another host's entry may stay; and who has a claim is asked for that."""
    pending = PendingWrites(10_000)
    for key, older, newer in (
        ("a", None, write("a")),
        ("b", write("b"), write("b")),
        ("c", remove("c"), write("c", claim="x")),
    ):
        if older is not None:
            pending.add(older)

        pending.add(newer)
        assert pending.find(SCOPE, key) == newer


def test_too_much_gives_the_oldest_entries_up_and_says_how_many() -> None:
    """Never more than may wait; the newest are there."""
    pending = PendingWrites(20_000)
    for number in range(100):
        pending.add(write(str(number), b"x" * 1000))
        assert pending.bytes <= 20_000

    assert pending.dropped == 100 - len(pending)
    assert pending.find(SCOPE, "99") is not None
    assert pending.find(SCOPE, "0") is None
    assert not pending.lost_track


def test_of_a_write_that_is_given_up_the_removal_stays() -> None:
    """What it was to replace must not come to life again: also where it has taken a removal's place."""
    pending = PendingWrites(20_000)
    pending.add(write("replacing", b"x" * 1000, replace=True))
    pending.add(write("claimed", b"x" * 1000, claim="c"))
    pending.add(remove("removed"))
    pending.add(write("removed", b"x" * 1000))
    pending.add(write("plain", b"x" * 1000))
    for number in range(30):
        pending.add(write(str(number), b"x" * 1000))

    assert [pending.find(SCOPE, key) for key in ("replacing", "claimed", "removed", "plain")] == [
        remove("replacing"),
        remove("claimed"),
        remove("removed"),
        None,
    ]
    assert not pending.lost_track


def test_too_many_removals_are_told() -> None:
    """Of what the store has, nothing can be trusted then: a purge that is forgotten is no longer pending."""
    pending = PendingWrites(20 * OVERHEAD_BYTES)
    pending.add(StorePurge(UNANSWERED, None, None))
    for number in range(100):
        pending.add(remove(str(number)))
        assert pending.bytes <= 20 * OVERHEAD_BYTES

    assert pending.lost_track
    assert pending.dropped == 0
    assert not pending.purged(SCOPE, record())


def test_what_waits_at_the_limit_is_not_looked_through_for_each_wish() -> None:
    """A disk may be away for hours, and each answer that is stored meanwhile would cost milliseconds."""
    pending = PendingWrites(200_000)
    shrinkings = 0
    for number in range(3000):
        before = pending.dropped
        pending.add(write(str(number), b"x" * 100))
        shrinkings += pending.dropped > before

    assert 0 < shrinkings < 3000 / 10
