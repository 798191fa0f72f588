"""The queue of entries behaves like a deque and the table like a dictionary, and the garbage collector does not see what is in it."""

import gc
from collections import deque
from collections.abc import Callable
from random import Random
from sys import getrefcount, getsizeof

import pytest

from sidecard.core.cache import containers
from sidecard.core.cache.containers import FEW, PAGE, SHARD_ENTRIES, EntryQueue, EntryTable, queue_of
from sidecard.core.cache.entry import DEAD, Entry, Terms

TERMS = Terms("default", 300.0, 60.0, "cloud")


def _entry(key: int | str) -> Entry:
    return Entry(key if isinstance(key, str) else str(key), b"v", 0.0, 0.0, TERMS)


@pytest.mark.parametrize("count", [0, 1, FEW, FEW + 1, PAGE - 1, PAGE, PAGE + 1, 3 * PAGE + 7])
def test_entries_leave_in_order_from_either_end(count: int) -> None:
    """For lengths around those of the pages."""
    entries = [_entry(number) for number in range(count)]
    first, last = queue_of(entries), queue_of(entries)

    assert list(first) == entries
    assert [first.popleft() for _ in range(count)] == entries
    assert [last.pop() for _ in range(count)] == entries[::-1]
    assert not first
    assert not last


@pytest.mark.parametrize("seed", range(20))
def test_queue_behaves_like_a_deque(seed: int) -> None:
    """Random operations, at both ends and in between."""
    random = Random(seed)
    queue, model = EntryQueue(), deque[Entry]()
    growth = random.choice([0.4, 0.5, 0.6, 0.9])
    for number in range(2000):
        entry = _entry(number)
        if random.random() < growth or not model:
            queue.append(entry)
            model.append(entry)
        elif random.random() < 0.5:
            assert queue.popleft() is model.popleft()
        else:
            assert queue.pop() is model.pop()

        if model:
            index = random.randrange(len(model))
            assert queue[index] is model[index]
            model[index].state = random.choice([0, DEAD])
            dead = not model[index].alive
            assert queue.replace_dead(index, entry) is dead
            if dead:
                model[index] = entry

        assert len(queue) == len(model)

    assert all(one is other for one, other in zip(queue, model, strict=True))


@pytest.mark.parametrize("count", [1, FEW + 1, 2 * PAGE + 3])
@pytest.mark.parametrize("dead", [0, 1, FEW, PAGE, PAGE + 2])
def test_dead_entries_leave_up_to_the_first_live_one(count: int, dead: int) -> None:
    """Dead ones after it stay."""
    entries = [_entry(number) for number in range(count)]
    queue = queue_of(entries)
    for entry in [*entries[:dead], *entries[dead + 1 :: 3]]:
        entry.mark_dead()

    assert queue.drop_dead() == min(dead, count)
    assert list(queue) == entries[dead:]
    assert not queue or queue.popleft() is entries[dead]


@pytest.mark.parametrize("most", [0, 1, PAGE, PAGE + 2, 2 * PAGE])
def test_at_most_so_many_dead_entries_leave(most: int) -> None:
    """The rest stays in its order."""
    entries = [_entry(number) for number in range(3 * PAGE)]
    queue = queue_of(entries)
    for entry in entries[: PAGE + 3]:
        entry.mark_dead()

    dropped = queue.drop_dead(most)
    assert dropped == min(most, PAGE + 3)
    assert list(queue) == entries[dropped:]


@pytest.mark.parametrize("take", [EntryQueue.pop, EntryQueue.popleft, lambda queue: queue[0], lambda queue: queue[-1]])
def test_an_empty_queue_raises(take: Callable[[EntryQueue], object]) -> None:
    """As a deque does."""
    queue = queue_of([_entry(1)])
    queue.pop()
    with pytest.raises(IndexError):
        take(queue)


def test_the_collector_sees_nothing_of_a_long_queue() -> None:
    """No object is tracked, from its creation on; and a queue that was emptied keeps nothing."""
    gc.collect()
    before = len(gc.get_objects())
    gc.disable()
    try:
        queues = [EntryQueue() for _ in range(10)]
        for number in range(20 * PAGE):
            for queue in queues:
                queue.append(_entry(number))

        for queue in queues:
            for _ in range(10 * PAGE):
                queue.popleft()

        assert len(gc.get_objects()) - before < 10
    finally:
        gc.enable()


def test_what_left_is_not_kept_alive() -> None:
    """Beyond the references of a local variable and of the call itself, none is left."""
    queue = queue_of(_entry(number) for number in range(PAGE + 2))
    first, last = queue.popleft(), queue.pop()

    assert (getrefcount(first), getrefcount(last)) == (2, 2)
    assert (queue[0].key, len(queue)) == ("1", PAGE)


class _Key(str):
    """A key whose hash all others have, too."""

    __slots__ = ()

    def __hash__(self) -> int:
        return 7


def _fill(count: int) -> EntryTable:
    table = EntryTable()
    for number in range(count):
        table.add(_entry(f"key {number}"))

    return table


@pytest.mark.parametrize("seed", range(5))
def test_table_behaves_like_a_dictionary(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Random operations, with shards that are split early."""
    monkeypatch.setattr(containers, "SHARD_ENTRIES", 8)
    monkeypatch.setattr(containers, "_LEAST_PER_PLACE", 1)
    random = Random(seed)
    table, model = EntryTable(), dict[str, Entry]()
    for number in range(3000):
        key = str(random.randrange(600))
        if key in model and random.random() < 0.5:
            del table[key], model[key]
        elif key not in model:
            entry = _entry(key)
            table.add(entry)
            model[key] = entry

        assert len(table) == len(model)
        assert table.get(key) is model.get(key)
        assert (key in table) == (key in model)
        if number % 500 == 0:
            assert {id(entry) for entry in table.values()} == {id(entry) for entry in model.values()}

    assert len(table.shards) > 32
    assert all(table[key] is entry for key, entry in model.items())
    with pytest.raises(KeyError):
        table["unknown"]


def test_no_shard_grows_large() -> None:
    """And there are not many more places than shards."""
    table = _fill(20 * SHARD_ENTRIES)

    assert max(map(len, table.shards)) < SHARD_ENTRIES
    assert len(table.shards) <= 128
    assert len(list(table.values())) == 20 * SHARD_ENTRIES


def test_a_split_shard_takes_no_more_memory_than_one_that_never_was() -> None:
    """Not even once it is almost full again: Python enlarges a dictionary the more, the more keys were deleted from it."""
    table = _fill(28 * SHARD_ENTRIES)
    full = getsizeof({str(number): None for number in range(SHARD_ENTRIES)})

    assert max(map(getsizeof, table.shards)) <= full


def test_keys_with_equal_hashes_do_not_multiply_the_places(monkeypatch: pytest.MonkeyPatch) -> None:
    """Their shard cannot be split, so it grows."""
    monkeypatch.setattr(containers, "SHARD_ENTRIES", 8)
    monkeypatch.setattr(containers, "_LEAST_PER_PLACE", 4)
    table = EntryTable()
    for number in range(200):
        table.add(_entry(_Key(number)))

    assert len(table.shards) <= 64
    assert len(list(table.values())) == 200


def test_the_collector_sees_one_object_per_shard() -> None:
    """And nothing of a small table."""
    gc.collect()
    before = len(gc.get_objects())
    tables = [_fill(1) for _ in range(100)]
    large = _fill(4 * SHARD_ENTRIES)

    assert len(gc.get_objects()) - before < 20
    assert len(large) + len(tables) == 4 * SHARD_ENTRIES + 100
