"""The driver: events in, effects out, timers, and the cost of an internal error."""

import pytest

from sidecard.core.notes import DrainStarted, LeaseEnded
from sidecard.core.operations.watch import MAX_WAITING, WINDOW_NOTES
from sidecard.server.deliveries import POLL_SECONDS
from sidecard.server.driver import TIMED_BEGINS, TIMER_GRAIN_SECONDS
from sidecard_client.protocol import wire
from tests.unit.server.harness import ServerHarness, value_of


def test_a_reply_goes_to_its_own_peer() -> None:
    """No other peer gets it."""
    server = ServerHarness()
    alice, bob = server.connect(), server.connect()
    alice.send(wire.Ping(id=7))

    assert alice.received() == [wire.Pong(7, "1", wire.PROTOCOL_VERSION, "boot", 0.0)]
    assert bob.received() == []


def test_requests_of_one_read_are_answered_in_one_write(monkeypatch: pytest.MonkeyPatch) -> None:
    """One system call each would double their cost."""
    server = ServerHarness()
    alice = server.connect()
    writes: list[bytes] = []
    monkeypatch.setattr(alice.transport, "write", writes.append)
    alice.send(*(wire.Ping(id=number) for number in range(5)))

    assert len(writes) == 1


def test_one_answer_reaches_all_waiters() -> None:
    """An effect may address any peer."""
    server = ServerHarness()
    alice, bob = server.connect(), server.connect()
    alice.send(wire.Begin("key", id=1))
    bob.send(wire.Begin("key", id=2))
    (lease,) = alice.received()
    alice.send(wire.Complete(lease.lease, value_of("answer"), id=3))

    pending, shared = bob.received()
    assert isinstance(pending, wire.Pending)
    assert (shared.id, shared.value) == (2, "answer")


def test_the_timer_is_set_for_the_earliest_deadline() -> None:
    """A later deadline sets no timer; an earlier one moves it."""
    server = ServerHarness(lease_seconds=15)
    alice, bob = server.connect(), server.connect()
    alice.send(wire.Begin("key", id=1))
    assert server.loop.armed == [pytest.approx(115 + TIMER_GRAIN_SECONDS)]

    bob.send(wire.Begin("key", id=2, wait_seconds=60))
    assert server.loop.armed == [pytest.approx(115 + TIMER_GRAIN_SECONDS)]
    assert len(server.loop.timers) == 1

    bob.send(wire.Begin("key", id=3, wait_seconds=2))
    assert server.loop.armed == [pytest.approx(102 + TIMER_GRAIN_SECONDS)]


def test_a_deadline_produces_a_tick_and_the_next_timer() -> None:
    """First the waiter's deadline, then the lease's."""
    server = ServerHarness(lease_seconds=15)
    alice, bob = server.connect(), server.connect()
    alice.send(wire.Begin("key", id=1))
    bob.send(wire.Begin("key", id=2, wait_seconds=2))
    bob.received()
    server.loop.pass_time(2 + TIMER_GRAIN_SECONDS)
    (timeout,) = bob.received()

    assert isinstance(timeout, wire.Timeout)
    assert server.loop.armed == [pytest.approx(115 + TIMER_GRAIN_SECONDS)]


def test_a_passed_deadline_sets_a_timer_of_one_grain() -> None:
    """A timer of zero would spin."""
    server = ServerHarness(lease_seconds=15)
    server.connect().send(wire.Begin("key", id=1))
    server.loop.pass_time(14.9999)
    server.connect().send(wire.Begin("other", id=1, wait_seconds=0))

    assert all(due >= server.loop.now + TIMER_GRAIN_SECONDS for due in server.loop.armed)


def test_what_is_due_after_a_sleep_is_handled_once_it_is_known() -> None:
    """The loop's timer did not count the sleep: it would fire a whole lifetime of the entry later."""
    server = ServerHarness()
    alice = server.connect()
    alice.send(wire.Put("key", value_of("answer"), id=1))
    server.slept_seconds += 3600.0
    (armed,) = server.loop.armed
    server.notice_sleep()
    assert server.engine.next_deadline() is None
    assert server.loop.armed == []
    assert armed > server.loop.now


def test_a_timer_after_a_sleep_ends_no_lease() -> None:
    """1. A lease and a short wait. 2. The host sleeps. 3. The wait's timer fires before the sleep is known."""
    server = ServerHarness(lease_seconds=15)
    alice, bob = server.connect(), server.connect()
    alice.send(wire.Begin("key", id=1))
    (lease,) = alice.received()
    bob.send(wire.Begin("key", id=2, wait_seconds=2))
    server.slept_seconds += 3600.0
    server.loop.pass_time(2 + TIMER_GRAIN_SECONDS)
    alice.send(wire.Complete(lease.lease, value_of("answer"), id=3))
    assert isinstance(alice.received()[-1], wire.Stored)


def test_notes_reach_their_listener() -> None:
    """Notes are data."""
    server = ServerHarness()
    alice = server.connect()
    alice.send(wire.Begin("key", id=1))
    alice.disconnect()

    (note,) = server.notes
    assert isinstance(note, LeaseEnded)
    assert note.outcome == "lost"


def test_notes_reach_watchers_before_the_next_event() -> None:
    """The listener gets them too; a peer that stopped watching gets none."""
    server = ServerHarness()
    root, alice = server.connect(uid=0), server.connect()
    root.send(wire.Watch(id=1))
    assert root.received() == [wire.Pending(1)]
    alice.send(wire.Begin("key", id=1))
    alice.disconnect()
    (note,) = root.received()
    assert (note.id, note.note, note.fields["outcome"]) == (1, "lease_ended", "lost")

    root.send(wire.Cancel(1, id=2))
    assert root.received() == [wire.Ok(2)]
    bob = server.connect()
    bob.send(wire.Begin("key", id=1))
    bob.disconnect()
    assert root.received() == []
    assert len(server.notes) == 2


def test_a_watcher_that_does_not_read_is_paused_and_not_closed() -> None:
    """Its buffer is polled; once it has read, it gets the waiting notes and the number left out."""
    server = ServerHarness()
    root = server.connect(uid=0)
    root.send(wire.Watch(id=1))
    root.received()
    root.transport.reads = False
    count = WINDOW_NOTES + MAX_WAITING + 5
    for number in range(count):
        alice = server.connect()
        alice.send(wire.Begin(f"k{number}", id=1))
        alice.disconnect()
        server.loop.turn()

    assert len(root.received()) == WINDOW_NOTES
    server.loop.pass_time(100 * server.limits.stall_seconds)
    assert not root.transport.aborted
    assert root.received() == []

    root.transport.reads = True
    root.transport.buffered = 0
    replies: list[wire.Note] = []
    while len(replies) <= MAX_WAITING:
        server.loop.pass_time(POLL_SECONDS)
        server.loop.turn()
        replies += [reply for reply in root.received() if isinstance(reply, wire.Note)]

    assert [note.note for note in replies] == ["lease_ended"] * MAX_WAITING + ["left_out"]
    assert replies[-1].fields == {"count": 5}


def test_a_lost_peer_is_reported_once() -> None:
    """End of file and connection lost are two calls."""
    server = ServerHarness()
    alice, bob = server.connect(), server.connect()
    alice.disconnect()
    bob.send(wire.GetStats(id=1))

    assert bob.received()[0].peers == 1


def test_an_invalid_message_gets_an_error_and_the_next_is_served() -> None:
    """Replies keep the order of messages."""
    server = ServerHarness()
    alice = server.connect()
    alice.send_text('{"op":"nonsense","id":1}\n{"op":"ping","id":2}\n')

    assert [(reply["type"], reply["id"]) for reply in alice.received()] == [("error", 1), ("pong", 2)]


def test_an_internal_error_costs_one_request(monkeypatch: pytest.MonkeyPatch) -> None:
    """The reply has the correlation id of the log line, and the next request is served."""
    server = ServerHarness()
    alice = server.connect()
    fault = ZeroDivisionError("ours")

    def fail(*_: object) -> None:
        raise fault

    monkeypatch.setattr(type(server.engine._status), "ping", fail)
    alice.send(wire.Ping(id=1), wire.Get("key", id=2))
    error, miss = alice.received()

    assert (error.id, error.code) == (1, "internal")
    assert isinstance(miss, wire.Miss)
    (bug,) = server.bugs
    assert bug.correlation in error.message
    assert "ours" not in error.message
    assert bug.__cause__ is fault


def test_an_internal_error_at_a_deadline_does_not_stop_the_timer(monkeypatch: pytest.MonkeyPatch) -> None:
    """The next deadline is still met."""
    server = ServerHarness(lease_seconds=15)
    alice = server.connect()
    alice.send(wire.Begin("key", id=1))
    with monkeypatch.context() as broken:
        broken.setattr(type(server.engine._deadlines), "tick", lambda *_: 1 / 0)
        server.loop.pass_time(15 + TIMER_GRAIN_SECONDS)

    assert [bug.event for bug in server.bugs] == ["Tick"]
    server.loop.pass_time(1)
    alice.send(wire.GetStats(id=2))
    assert alice.received()[-1].expired == 1


def test_a_drain_ends_when_no_lease_and_no_waiter_is_left() -> None:
    """It is reported once."""
    server = ServerHarness()
    alice, ended = server.connect(), list[str]()
    alice.send(wire.Begin("key", id=1))
    (lease,) = alice.received()
    server.driver.drain(lambda: ended.append("idle"))
    assert [type(note) for note in server.notes] == [DrainStarted]
    assert ended == []

    alice.send(wire.Begin("other", id=2))
    assert alice.received()[0].reason == "draining"
    assert ended == []

    alice.send(wire.Complete(lease.lease, value_of("answer"), id=3), wire.Ping(id=4))
    assert ended == ["idle"]


def test_a_drain_of_an_idle_daemon_ends_immediately() -> None:
    """There is nothing to wait for."""
    server, ended = ServerHarness(), list[str]()
    server.driver.drain(lambda: ended.append("idle"))
    assert ended == ["idle"]


def test_the_end_of_a_drain_ends_every_wait() -> None:
    """Whether or not a holder still works."""
    server = ServerHarness()
    alice, bob = server.connect(), server.connect()
    alice.send(wire.Begin("key", id=1))
    bob.send(wire.Begin("key", id=2))
    server.driver.drain(lambda: None)
    bob.received()
    server.driver.end_drain()

    assert bob.received()[0].reason == "draining"


def test_requests_are_counted_by_reply_and_timed() -> None:
    """A wait is counted once, when its later reply is sent."""
    server = ServerHarness()
    alice, bob = server.connect(), server.connect()
    alice.send(wire.Begin("key", id=1), wire.Ping(id=2))
    bob.send(wire.Begin("key", id=3))
    lease, _ = alice.received()
    alice.send(wire.Complete(lease.lease, value_of("answer"), id=4))

    assert server.engine.metrics.requests == {
        (wire.Begin, wire.Lease): 1,
        (wire.Ping, wire.Pong): 1,
        (wire.Begin, wire.Pending): 1,
        (wire.Begin, wire.Shared): 1,
        (wire.Complete, wire.Stored): 1,
    }
    handled = {kind: sum(histogram.counts) for kind, histogram in server.engine.metrics.handled.items()}
    assert handled == {wire.Begin: 1, wire.Ping: 1, wire.Complete: 1}


def test_one_in_many_begins_is_timed() -> None:
    """All other requests are timed. The engine counts begins that hit."""
    server = ServerHarness()
    alice = server.connect()
    alice.send(wire.Put("key", value_of("answer"), id=0))
    for number in range(TIMED_BEGINS + 1):
        alice.send(wire.Begin("key", id=number))

    handled = {kind: sum(histogram.counts) for kind, histogram in server.engine.metrics.handled.items()}
    assert handled == {wire.Put: 1, wire.Begin: 2}
    assert server.engine.metrics.requests == {(wire.Put, wire.Stored): 1}
    metrics = server.driver.query(wire.GetMetrics())
    assert isinstance(metrics, wire.Metrics)
    (requests,) = (family.samples for family in metrics.families if family.name == "sidecard_requests")
    assert {"op": "begin", "outcome": "hit"} in [sample.labels for sample in requests]
    assert sum(sample.value for sample in requests) == TIMED_BEGINS + 2


def test_a_query_of_the_daemon_itself_has_operator_rights() -> None:
    """It returns the reply; other effects are executed as usual."""
    server = ServerHarness()
    assert isinstance(server.driver.query(wire.GetStats()), wire.Stats)
    assert server.driver.query(wire.SetLog("debug")) == wire.Ok(0)
    assert server.levels == ["debug"]


def test_calls_reach_the_call_log() -> None:
    """Each call does when it ends."""
    server = ServerHarness(log_calls=True)
    alice = server.connect()
    alice.send(wire.Begin("key", id=1))
    (lease,) = alice.received()
    assert server.calls == []
    alice.send(wire.Complete(lease.lease, value_of("answer"), id=2))

    assert [(call.key, call.source) for call in server.calls] == [("key", "upstream")]
