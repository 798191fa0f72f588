"""A drain with a store: nothing is claimed, and no caller is left waiting for a call that nobody makes."""

import pytest

from sidecard.core.effects import StoreRelease
from sidecard.core.events import Absent, Answer, ClaimedRemotely, Found
from sidecard_client.protocol.wire import Begin, Pending, Rejected
from tests.unit.core.test_engine_store import SCOPE, begun, record, shared


def test_drain_grants_no_lease_after_lookup() -> None:
    """During a drain, a lookup leads to no lease and no further question."""
    host = shared()
    alice, ask = begun(host)
    host.drains()
    host.answers(ask.ticket, Absent("c1"))
    assert alice.receives() == [Rejected(1, "draining")]
    assert host.wants() == [StoreRelease(SCOPE, "key", "c1")]
    alice.asks(Begin("other", id=2))
    assert alice.receives() == [Rejected(2, "draining")]


@pytest.mark.parametrize("answer", [Absent(), Found(record(age=400.0))])
def test_drain_asks_the_store_no_second_time(answer: Answer) -> None:
    """1. A caller waits for another host's call. 2. The daemon drains. 3. That host's claim ends, and the store is asked. 4. It has no entry.

    A drain grants no lease, so the question requests no claim. To ask again because of that would never end if the store answers
    at once, as it does while the key's removal waits to be written.
    """
    host = shared()
    alice, ask = begun(host)
    host.answers(ask.ticket, ClaimedRemotely(3.0))
    assert alice.receives() == [Pending(1)]
    host.drains()
    host.passes(3.0)
    ask = host.asked()
    assert not ask.claim
    host.answers(ask.ticket, answer)
    assert host.wants() == []
    assert alice.gets(Rejected).reason == "draining"
    assert host.stats().flights == 0


def test_drain_replaces_no_stored_answer() -> None:
    """An answer that is too old for a caller stays, and the caller is rejected."""
    host = shared()
    alice, ask = begun(host, max_age_seconds=5.0)
    host.drains()
    host.answers(ask.ticket, Found(record()))
    assert host.wants() == []
    assert alice.gets(Rejected).reason == "draining"
