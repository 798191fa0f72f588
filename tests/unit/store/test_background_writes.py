"""What all stores' writes share: callers that wait for removals, and reports that do not repeat."""

import pytest

from sidecard.core.effects import StoreRemove
from sidecard.core.events import Removed, StoreAnswered, StoreEvent, StoreMeasured, StoreStateChanged, Unavailable
from sidecard.store.background_writes import BackgroundWrites
from sidecard.store.base import StoreReporter
from tests.unit.store.test_pending_writes import SCOPE, write


@pytest.fixture
def events() -> list[StoreEvent]:
    """Collect what a store reports."""
    return []


@pytest.fixture
def writes(events: list[StoreEvent]) -> BackgroundWrites:
    """Return the writes of some store."""
    reporter = StoreReporter()
    reporter.notify = events.append
    return BackgroundWrites(reporter)


def test_a_removal_is_answered_once(writes: BackgroundWrites, events: list[StoreEvent]) -> None:
    """Also where the store answers after its caller was given up."""
    writes.expect_removal(7, unwritten=2)
    assert writes.unwritten(7) == 2
    writes.answer_removal(7, Removed(1))
    writes.answer_removal(7, Removed(1))
    writes.give_up_removals()
    assert events == [StoreAnswered(7, Removed(1))]
    assert writes.unwritten(7) == 0


def test_late_removals_are_given_up(writes: BackgroundWrites, events: list[StoreEvent]) -> None:
    """Those requested later still wait."""
    writes.expect_removal(1, since=10.0)
    writes.expect_removal(2, since=11.0)
    writes.give_up_removals(until=10.0)
    assert events == [StoreAnswered(1, Unavailable())]
    writes.answer_removal(2, Removed(1))
    assert events[1:] == [StoreAnswered(2, Removed(1))]


def test_a_removal_that_a_write_replaces_is_answered(writes: BackgroundWrites) -> None:
    """It is no longer done by itself; a removal without a waiting request needs no answer."""
    assert writes._add(StoreRemove(7, SCOPE, "k")) is None
    writes.expect_removal(7)
    assert writes._add(write("k")) == StoreAnswered(7, Unavailable())
    writes._add(StoreRemove(8, SCOPE, "k"))
    assert writes._add(write("k")) is None


def test_states_and_gauges_are_reported_when_they_change(writes: BackgroundWrites, events: list[StoreEvent]) -> None:
    """The gauges are reported after each new state."""
    writes.reporter.state(StoreStateChanged("up"))
    writes.reporter.state(StoreStateChanged("up"))
    writes.measure()
    assert [type(event) for event in events] == [StoreStateChanged, StoreMeasured]
    writes.written += 1
    writes.measure()
    writes.measure()
    assert len(events) == 3
    writes.reporter.faults += 1
    writes.reporter.state(StoreStateChanged("down", "gone."))
    assert [type(event) for event in events[3:]] == [StoreStateChanged, StoreMeasured]
