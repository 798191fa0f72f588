"""Which entries expire next, whatever lifetimes they have and however they leave."""

from math import inf
from random import Random

from sidecard.core.cache.entry import Entry, Terms
from sidecard.core.cache.expiry import _MAX_POPS, ExpiryWheel


def entry(lifetime_seconds: float, stored_at: float = 0.0) -> Entry:
    """Return an entry."""
    return Entry("key", b"", stored_at, 1.0, Terms("1000:default", lifetime_seconds, 0.0, "default"))


def size(wheel: ExpiryWheel) -> int:
    """Return how many seconds the heaps hold."""
    return len(wheel.heap) + len(wheel._old_heap)


def test_every_entry_expires_in_its_second() -> None:
    """Whatever dies in between: the next second is that of the next live entry or earlier, and nothing is late or twice."""
    random = Random(7)
    wheel, live, now = ExpiryWheel(), set[int](), 0.0
    entries: dict[int, Entry] = {}
    for number in range(20_000):
        kind = random.random()
        if kind < 0.55:
            one = entries[number] = entry(random.choice([1, 50, 500, 4000]) * random.random(), now)
            wheel.add(one)
            live.add(number)
        elif kind < 0.95 and live:
            victim = random.choice(list(live)) if number % 50 == 0 else live.pop()
            live.discard(victim)
            entries[victim].mark_dead()
            wheel.discard(entries[victim])
        elif live:
            now += random.random() * 5
            for one in wheel.expired(now, 100_000):
                one.mark_dead()

            due = {one for one in live if int(entries[one].expires_at) + 1 <= now}
            assert all(not entries[one].alive for one in due)
            live -= due

        assert all(entries[one].alive for one in list(live)[:3])
        if number % 100 == 0:
            second = wheel.next_second()
            first = min((int(entries[one].expires_at) + 1 for one in live), default=None)
            assert (second is None) == (first is None)
            assert second is None or (first is not None and second <= first)
            assert wheel.no_expiry_before == (inf if second is None else second)

        assert size(wheel) <= 3 * max(len(wheel.buckets), 1) + 300


def test_seconds_without_entries_are_dropped_in_steps() -> None:
    """1. very many entries expire in a second each; 2. some or most of them are purged. Nothing examines all seconds in one go."""
    for purged in (14_000, 29_999):
        wheel = ExpiryWheel()
        entries = [entry(1.0, float(second)) for second in range(30_000)]
        for one in entries:
            wheel.add(one)

        for one in entries[:purged]:
            one.mark_dead()
            before = size(wheel)
            wheel.discard(one)
            assert before - size(wheel) <= 10

        second = None
        while second != purged + 2:
            before = size(wheel)
            second = wheel.next_second()
            assert before - size(wheel) <= 2 * _MAX_POPS

        assert list(wheel.expired(30_001.0, 30_000)) == entries[purged:]
        assert (wheel.next_second(), size(wheel)) == (None, 0)


def test_seconds_that_come_and_go_take_no_memory() -> None:
    """1. an entry; 2. its removal; and so on, with the same lifetime, beside a live one that expires earlier."""
    wheel = ExpiryWheel()
    wheel.add(entry(5.0))
    for lifetimes in (1, 1000):
        entries = [entry(100.0 + number) for number in range(lifetimes)]
        for one in entries:
            wheel.add(one)

        for number in range(10_000):
            one = entries[number % lifetimes]
            one.mark_dead()
            wheel.discard(one)
            one = entries[number % lifetimes] = entry(100.0 + number % lifetimes)
            wheel.add(one)
            assert size(wheel) < 3 * lifetimes + 300

    assert wheel.next_second() == 6


def test_entries_that_die_in_their_order_move_no_others() -> None:
    """Most are evicted so: their bucket drops them at its start, which is cheap."""
    wheel = ExpiryWheel()
    entries = [entry(100.0) for _ in range(1000)]
    for one in entries:
        wheel.add(one)

    (bucket,) = wheel.buckets.values()
    for dead, one in enumerate(entries[:-1], 1):
        one.mark_dead()
        wheel.discard(one)
        left = [other for other in bucket.entries if other.alive]
        assert left == entries[dead:]
        assert bucket.dead == len(bucket.entries) - len(left) <= len(left)


def test_entries_that_die_in_no_order_leave_too() -> None:
    """Few more are dead than live at any time."""
    random = Random(3)
    wheel = ExpiryWheel()
    entries = [entry(100.0) for _ in range(2000)]
    for one in entries:
        wheel.add(one)

    random.shuffle(entries)
    (bucket,) = wheel.buckets.values()
    for live, one in zip(range(1999, 0, -1), entries, strict=False):
        one.mark_dead()
        wheel.discard(one)
        assert bucket.dead == len(bucket.entries) - live
        assert bucket.dead <= live + 100
