"""Pending changes; races are numbered interleavings."""

import pytest

from sidecard.core.effects import NO_TICKET, StorePurge, StoreRemove, StoreWrite
from sidecard.core.records import Record
from sidecard.store.pending_writes import OVERHEAD_BYTES, PendingWrites
from sidecard_client.protocol.wire import Usage

SCOPE = "1:d"


def write(key: str, value: bytes = b"v", *tags: str, replace: bool = False, claim: str = "") -> StoreWrite:
    """Return a write of an entry."""
    return StoreWrite(SCOPE, key, Record(value, 1.0, 300.0, 60.0, "cloud", tags=tags), claim, replace)


def record(*tags: str, task: str = "") -> Record:
    """Return an entry."""
    return Record(b"v", 1.0, 300.0, 60.0, "cloud", tags=tags, task=task)


def remove(key: str, ticket: int = NO_TICKET) -> StoreRemove:
    """Return a removal."""
    return StoreRemove(ticket, SCOPE, key)


def test_the_latest_change_of_a_key_counts() -> None:
    """The replaced change is returned: a caller may wait for its answer."""
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


def test_changes_are_taken_in_order_and_found_until_done() -> None:
    """The oldest first; a changed one moves to the end."""
    pending = PendingWrites(10_000)
    for key in "abc":
        pending.add(write(key))

    pending.add(write("a", b"new"))
    assert [change.key for change in pending.take(2) if isinstance(change, StoreWrite)] == ["b", "c"]
    assert pending.find(SCOPE, "b") is not None
    assert len(pending) == 3
    pending.done()
    assert pending.find(SCOPE, "b") is None
    assert [change.key for change in pending.take(9) if isinstance(change, StoreWrite)] == ["a"]
    pending.done()
    assert (len(pending), pending.bytes) == (0, 0)


def test_a_failed_batch_waits_before_newer_changes() -> None:
    """Unless its key has a newer change by now."""
    pending = PendingWrites(10_000)
    pending.add(write("a", b"old"))
    pending.add(write("b"))
    pending.take(2)
    pending.add(write("c"))
    pending.add(write("a", b"new"))
    pending.give_back()
    changes = [change for change in pending.take(9) if isinstance(change, StoreWrite)]
    assert [(change.key, change.record.value) for change in changes] == [("b", b"v"), ("c", b"v"), ("a", b"new")]
    pending.done()
    assert pending.bytes == 0


def test_only_named_changes_are_given_back() -> None:
    """The rest of the batch is done."""
    pending = PendingWrites(10_000)
    for key in "abc":
        pending.add(write(key))

    taken = pending.take(3)
    pending.give_back([taken[1]])
    assert pending.take(9) == [taken[1]]


def test_a_purge_replaces_waiting_entries_by_removals() -> None:
    """An older entry of the key, with other tags, must not reappear."""
    pending = PendingWrites(10_000)
    pending.add(write("tagged", b"v", "t"))
    pending.add(write("other", b"v", "u"))
    pending.add(StorePurge(3, None, "t"))
    assert pending.find(SCOPE, "tagged") == remove("tagged")
    assert isinstance(pending.find(SCOPE, "other"), StoreWrite)
    pending.add(write("tagged", b"new", "t"))
    assert isinstance(pending.find(SCOPE, "tagged"), StoreWrite)
    kinds = [type(change).__name__ for change in pending.take(9)]
    assert kinds == ["StoreWrite", "StorePurge", "StoreWrite"]


def test_a_purge_is_pending_until_it_is_done() -> None:
    """While it waits, while it is taken, and again after it failed."""
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


def test_a_purge_by_task_removes_entries_of_the_task() -> None:
    """Pending and stored ones; with a tag, only entries that match both."""
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


def test_an_entry_purged_while_it_is_written_is_not_found() -> None:
    """1. An entry is taken, to be written. 2. It is purged. 3. It is looked up: the write in progress is outdated."""
    pending = PendingWrites(10_000)
    pending.add(write("k", b"v", "t"))
    pending.add(write("other", b"v", "u"))
    pending.take(2)
    pending.add(StorePurge(3, None, "t"))
    assert pending.find(SCOPE, "k") == remove("k")
    assert isinstance(pending.find(SCOPE, "other"), StoreWrite)


def test_an_entry_purged_during_a_failed_write_does_not_reappear() -> None:
    """1. An entry is taken. 2. It is purged. 3. The write fails. 4. It is looked up, long before the purge is done."""
    pending = PendingWrites(10_000)
    pending.add(write("k", b"v", "t"))
    pending.take(1)
    pending.add(StorePurge(3, None, "t"))
    pending.give_back()
    assert pending.find(SCOPE, "k") == remove("k")
    assert [type(change).__name__ for change in pending.take(9)] == ["StoreRemove", "StorePurge"]
    assert pending.find(SCOPE, "k") == remove("k")
    pending.done()
    assert pending.bytes == 0


def test_a_purge_hides_pending_entries_without_touching_them() -> None:
    """1. very many entries wait; 2. a purge; 3. one of them is written again. The purge takes no time for any of them."""
    pending = PendingWrites(10_000_000)
    for number in range(100):
        pending.add(write(f"k{number}", b"v", "t"))

    before = pending.waiting
    pending.add(StorePurge(3, None, "t"))
    pending.add(write("k7", b"new", "t"))

    assert [change for _, change in pending.waiting[:7]] == [change for _, change in before[:7]]
    for taken in (0, 50, 101):
        pending.take(taken)
        seen = {number: pending.find(SCOPE, f"k{number}") for number in range(100)}
        assert seen.pop(7) == write("k7", b"new", "t", replace=True)
        assert all(change == remove(f"k{number}") for number, change in seen.items())


def test_a_taken_purge_does_not_affect_later_entries() -> None:
    """Whether it is done or fails."""
    pending = PendingWrites(10_000)
    pending.add(StorePurge(3, None, "t"))
    pending.take(1)
    pending.add(write("k", b"v", "t"))
    assert isinstance(pending.find(SCOPE, "k"), StoreWrite)
    pending.give_back()
    assert isinstance(pending.find(SCOPE, "k"), StoreWrite)


def test_a_failed_purge_does_not_affect_later_entries_of_its_batch() -> None:
    """The order of the changes decides which was first."""
    pending = PendingWrites(10_000)
    pending.add(StorePurge(3, None, "t"))
    pending.add(write("k", b"v", "t"))
    pending.take(2)
    pending.give_back()
    assert isinstance(pending.find(SCOPE, "k"), StoreWrite)


def test_a_write_that_replaces_a_removal_still_removes() -> None:
    """1. A key is to be removed. 2. An entry of it is to be written, which would let another stay. 3. The old one stays."""
    pending = PendingWrites(10_000)
    pending.add(remove("k"))
    pending.add(write("k"))
    found = pending.find(SCOPE, "k")
    assert isinstance(found, StoreWrite)
    assert found.replace


def test_a_failed_removal_is_merged_into_a_later_write() -> None:
    """1. A removal is taken. 2. An entry of the key is to be written. 3. The removal fails. 4. The old entry stays."""
    pending = PendingWrites(10_000)
    pending.add(remove("k"))
    pending.take(1)
    pending.add(write("k"))
    pending.give_back()
    (change,) = pending.take(9)
    assert isinstance(change, StoreWrite)
    assert change.replace


def test_a_write_without_replacement_stays_one() -> None:
    """Another host's entry may stay; a write with a claim is judged by its claim."""
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


def test_beyond_the_limit_the_oldest_entries_are_dropped_and_counted() -> None:
    """The limit always holds, and the newest entries are there."""
    pending = PendingWrites(20_000)
    for number in range(100):
        pending.add(write(str(number), b"x" * 1000))
        assert pending.bytes <= 20_000

    assert pending.dropped == 100 - len(pending)
    assert pending.find(SCOPE, "99") is not None
    assert pending.find(SCOPE, "0") is None
    assert not pending.must_clear_store


def test_a_dropped_write_leaves_its_removal() -> None:
    """The entry it was to replace must not reappear, also where the write had replaced a removal."""
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
    assert not pending.must_clear_store


def test_too_many_removals_lose_track() -> None:
    """Nothing that the store has can be trusted then; a forgotten purge is no longer pending."""
    pending = PendingWrites(20 * OVERHEAD_BYTES)
    pending.add(StorePurge(NO_TICKET, None, None))
    for number in range(100):
        pending.add(remove(str(number)))
        assert pending.bytes <= 20 * OVERHEAD_BYTES

    assert pending.must_clear_store
    assert pending.dropped == 0
    assert not pending.purged(SCOPE, record())


@pytest.mark.parametrize(
    "change",
    [
        write("k" * 1000),
        write("k", b"v" * 1000),
        write("k", b"v", *(f"{number:100}" for number in range(10))),
        StoreWrite(SCOPE, "k", Record(b"v", 1.0, 300.0, 60.0, "b" * 1000)),
        StoreWrite(SCOPE, "k", Record(b"v", 1.0, 300.0, 60.0, "cloud", Usage(model="m" * 1000))),
        StoreWrite(SCOPE, "k", Record(b"v", 1.0, 300.0, 60.0, "cloud", task="t" * 1000)),
        remove("k" * 1000),
        StorePurge(NO_TICKET, None, "t" * 1000),
        StorePurge(NO_TICKET, "n" * 1000, None),
        StorePurge(NO_TICKET, None, None, "t" * 1000),
    ],
)
def test_every_text_of_a_change_counts(change: StoreWrite | StoreRemove | StorePurge) -> None:
    """Whatever a peer chooses the length of: 50,000 entries with 16 long tags each would take 150 MB."""
    pending = PendingWrites(10_000)
    pending.add(change)
    assert pending.bytes >= OVERHEAD_BYTES + 1000


def test_at_the_limit_changes_are_not_scanned_for_each_new_one() -> None:
    """A disk may be unavailable for hours, and each stored answer would cost milliseconds."""
    pending = PendingWrites(200_000)
    shrinkings = 0
    for number in range(3000):
        before = pending.dropped
        pending.add(write(str(number), b"x" * 100))
        shrinkings += pending.dropped > before

    assert 0 < shrinkings < 3000 / 10


def test_a_dropped_entry_leaves_the_removal_that_is_being_written() -> None:
    """1. A removal is taken. 2. An entry of its key is dropped for lack of room. 3. The removal fails."""
    pending = PendingWrites(10_000)
    removal = remove("k", 1)
    pending.add(removal)
    pending.take(1)
    pending.add(write("k", bytes(20_000)))
    assert pending.dropped == 1
    assert pending.find(SCOPE, "k") == removal

    pending.give_back()
    assert pending.find(SCOPE, "k") == removal
    pending.take(1)
    pending.done()
    assert (len(pending), pending.bytes) == (0, 0)
