from collections.abc import Callable

import pytest

from sidecard.core.accounts.ledger import TaskLedgers
from sidecard.core.cache.entry import Entry, Terms
from sidecard.core.names import OTHER
from sidecard_client.protocol.wire import Usage

ENTRY = Entry("key", b"v", 0.0, 4.0, Terms("1:default", 300.0, 60.0, "default", Usage(cost_dollars=0.02)))


def test_an_empty_ledger_has_rates_of_zero() -> None:
    """A rate of nothing is 0."""
    total = TaskLedgers(4).total()

    assert (total.hit_rate, total.deduplication_rate, total.average_latency_reduction) == (0.0, 0.0, 0.0)


def test_four_sums_add_up() -> None:
    """Served is billed plus saved by the cache and by sharing, plus the time waited."""
    ledgers = TaskLedgers(4)
    ledger = ledgers.of("rag")
    ledger.led += 1
    ledger.count_call(4.0, 0.02)
    ledger.count_hit(ENTRY)
    assert ledger.count_shared(4.0, 0.02, 1.0) == 3.0
    total = ledgers.total()

    assert total.served_dollars == pytest.approx(0.06)
    assert (total.billed_dollars, total.saved_by_cache_dollars, total.saved_by_sharing_dollars) == (0.02, 0.02, 0.02)
    assert total.served_seconds == 12.0
    assert (total.billed_seconds, total.saved_by_cache_seconds, total.saved_by_sharing_seconds) == (4.0, 4.0, 3.0)
    assert total.waited_seconds == 1.0
    assert total.calls == 3
    assert total.hit_rate == total.deduplication_rate == pytest.approx(1 / 3)
    assert total.average_latency_reduction == pytest.approx(7 / 12)


def test_sharing_after_a_wait_longer_than_the_call_saves_no_time() -> None:
    """A first holder was lost: the second call's time is all that this caller could have saved."""
    ledgers = TaskLedgers(4)

    assert ledgers.of("rag").count_shared(4.0, 0.0, 30.0) == 0.0
    assert ledgers.total().served_seconds == 4.0


def test_tasks_beyond_the_bound_share_one_ledger() -> None:
    """A peer that invents tasks cannot fill the memory."""
    ledgers = TaskLedgers(2)
    for number in range(100):
        ledgers.of(f"task{number}").led += 1

    assert sorted(ledgers.by_task()) == [OTHER, "task98", "task99"]
    assert ledgers.by_task()[OTHER].calls == 98


def test_a_report_shows_every_booking_since_the_last_one() -> None:
    """Summaries of unchanged tasks are reused, those of changed ones are not: equal to those of a ledger never asked before."""
    ledgers, fresh = TaskLedgers(5), TaskLedgers(5)
    bookings: tuple[Callable[[TaskLedgers], object], ...] = (
        lambda of: of.of("a").count_call(2.0, 0.5),
        lambda of: of.of("b").count_shared(5.0, 0.25, 1.0),
        lambda of: of.of("a").count_rejection("busy"),
        lambda of: of.add({"b": {"hits": 3, "billed_seconds": 1.5}, "c": {"led": 2}}, {}, 0.0, 0.0),
        lambda of: of.add({"b": {"hits": 4}}, {}, 0.0, 0.0),
        lambda of: of.of("c").count_call(1e300, 1e300),
        lambda of: of.of("d"),
    )
    for number, book in enumerate(bookings):
        book(ledgers)
        fresh = TaskLedgers(5)
        for earlier in bookings[: number + 1]:
            earlier(fresh)

        assert ledgers.by_task() == fresh.by_task()
        assert ledgers.total() == fresh.total()
        assert ledgers.by_task() == fresh.by_task()
