"""Events in, effects out: who is called, when the next wake-up is, and what a mistake of our own costs."""

from typing import cast

import pytest

from sidecard.core.notes import DrainStarted, LeaseEnded
from sidecard.core.operations.watch import MAX_WAITING, WINDOW_NOTES
from sidecard.server.driver import LOOK_AGAIN_SECONDS, TIMED_BEGINS, TIMER_GRAIN_SECONDS
from sidecard_client.protocol import wire
from tests.unit.server.lines import Switchboard, value_of


def test_a_request_is_answered_to_its_own_peer() -> None:
    """And to nobody else."""
    board = Switchboard()
    alice, bob = board.phone(), board.phone()
    alice.says(wire.Ping(id=7))

    assert alice.heard() == [wire.Pong(7, "1", wire.PROTOCOL_VERSION, "boot", 0.0)]
    assert bob.heard() == []


def test_requests_of_one_read_are_answered_in_one_write(monkeypatch: pytest.MonkeyPatch) -> None:
    """A system call each would double their cost."""
    board = Switchboard()
    alice = board.phone()
    writes: list[bytes] = []
    monkeypatch.setattr(alice.transport, "write", writes.append)
    alice.says(*(wire.Ping(id=number) for number in range(5)))

    assert len(writes) == 1


def test_the_answer_of_one_reaches_all_who_wait() -> None:
    """An effect may address any peer."""
    board = Switchboard()
    alice, bob = board.phone(), board.phone()
    alice.says(wire.Begin("key", id=1))
    bob.says(wire.Begin("key", id=2))
    (lease,) = alice.heard()
    alice.says(wire.Complete(lease.lease, value_of("answer"), id=3))

    pending, shared = bob.heard()
    assert isinstance(pending, wire.Pending)
    assert (shared.id, shared.value) == (2, "answer")


def test_a_timer_is_set_for_what_is_due_first() -> None:
    """A later deadline sets none of its own; an earlier one moves it."""
    board = Switchboard(lease_seconds=15)
    alice, bob = board.phone(), board.phone()
    alice.says(wire.Begin("key", id=1))
    assert board.loop.armed == [pytest.approx(115 + TIMER_GRAIN_SECONDS)]

    bob.says(wire.Begin("key", id=2, wait_seconds=60))
    assert board.loop.armed == [pytest.approx(115 + TIMER_GRAIN_SECONDS)]
    assert len(board.loop.timers) == 1

    bob.says(wire.Begin("key", id=3, wait_seconds=2))
    assert board.loop.armed == [pytest.approx(102 + TIMER_GRAIN_SECONDS)]


def test_time_that_has_come_is_told_to_the_engine_and_the_next_is_waited_for() -> None:
    """First the waiter's time, then the lease's."""
    board = Switchboard(lease_seconds=15)
    alice, bob = board.phone(), board.phone()
    alice.says(wire.Begin("key", id=1))
    bob.says(wire.Begin("key", id=2, wait_seconds=2))
    bob.heard()
    board.loop.pass_time(2 + TIMER_GRAIN_SECONDS)
    (timeout,) = bob.heard()

    assert isinstance(timeout, wire.Timeout)
    assert board.loop.armed == [pytest.approx(115 + TIMER_GRAIN_SECONDS)]


def test_a_deadline_that_has_passed_is_met_at_the_timers_grain_and_not_before() -> None:
    """A timer of nothing would spin."""
    board = Switchboard(lease_seconds=15)
    board.phone().says(wire.Begin("key", id=1))
    board.loop.pass_time(14.9999)
    board.phone().says(wire.Begin("other", id=1, wait_seconds=0))

    assert all(due >= board.loop.now + TIMER_GRAIN_SECONDS for due in board.loop.armed)


def test_notes_reach_their_listener() -> None:
    """As data."""
    board = Switchboard()
    alice = board.phone()
    alice.says(wire.Begin("key", id=1))
    alice.hangs_up()

    (note,) = board.notes
    assert isinstance(note, LeaseEnded)
    assert note.outcome == "lost"


def test_notes_reach_those_who_watch_before_anything_else_happens() -> None:
    """And the listener as ever; who has stopped watching hears nothing more."""
    board = Switchboard()
    root, alice = board.phone(uid=0), board.phone()
    root.says(wire.Watch(id=1))
    assert root.heard() == [wire.Pending(1)]
    alice.says(wire.Begin("key", id=1))
    alice.hangs_up()
    (note,) = root.heard()
    assert (note.id, note.note, note.fields["outcome"]) == (1, "lease_ended", "lost")

    root.says(wire.Cancel(1, id=2))
    assert root.heard() == [wire.Ok(2)]
    bob = board.phone()
    bob.says(wire.Begin("key", id=1))
    bob.hangs_up()
    assert root.heard() == []
    assert len(board.notes) == 2


def test_a_watcher_who_does_not_read_is_sent_no_more_and_is_not_closed() -> None:
    """It is looked at from time to time; once it has read, it gets what waited, and how much was left out."""
    board = Switchboard()
    root = board.phone(uid=0)
    root.says(wire.Watch(id=1))
    root.heard()
    root.transport.reads = False
    count = WINDOW_NOTES + MAX_WAITING + 5
    for number in range(count):
        alice = board.phone()
        alice.says(wire.Begin(f"k{number}", id=1))
        alice.hangs_up()
        board.loop.turn()

    assert len(root.heard()) == WINDOW_NOTES
    board.loop.pass_time(100 * board.limits.stall_seconds)
    assert not root.transport.aborted
    assert root.heard() == []

    root.transport.reads = True
    root.transport.buffered = 0
    heard: list[wire.Note] = []
    while len(heard) <= MAX_WAITING:
        board.loop.pass_time(LOOK_AGAIN_SECONDS)
        board.loop.turn()
        heard += [reply for reply in root.heard() if isinstance(reply, wire.Note)]

    assert [note.note for note in heard] == ["lease_ended"] * MAX_WAITING + ["left_out"]
    assert heard[-1].fields == {"count": 5}


def test_a_peer_that_is_lost_is_lost_once() -> None:
    """End of file and the transport's last word are two calls."""
    board = Switchboard()
    alice, bob = board.phone(), board.phone()
    alice.hangs_up()
    bob.says(wire.GetStats(id=1))

    assert bob.heard()[0].peers == 1


def test_a_message_that_is_wrong_gets_its_error_and_the_next_is_served() -> None:
    """In their order."""
    board = Switchboard()
    alice = board.phone()
    alice.types('{"op":"nonsense","id":1}\n{"op":"ping","id":2}\n')

    assert [(reply["type"], reply["id"]) for reply in alice.heard()] == [("error", 1), ("pong", 2)]


def test_a_mistake_of_our_own_costs_one_request(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is answered with a number that finds it in the log, and the next request is served."""
    board = Switchboard()
    alice = board.phone()
    fault = ZeroDivisionError("ours")

    def fail(*_: object) -> None:
        raise fault

    monkeypatch.setitem(cast("dict[object, object]", board.engine._answer), wire.Ping, fail)
    alice.says(wire.Ping(id=1), wire.Get("key", id=2))
    error, miss = alice.heard()

    assert (error.id, error.code) == (1, "internal")
    assert isinstance(miss, wire.Miss)
    (bug,) = board.bugs
    assert bug.correlation in error.message
    assert "ours" not in error.message
    assert bug.__cause__ is fault


def test_a_mistake_at_a_deadline_does_not_stop_the_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """The next deadline is still waited for."""
    board = Switchboard(lease_seconds=15)
    alice = board.phone()
    alice.says(wire.Begin("key", id=1))
    with monkeypatch.context() as broken:
        broken.setattr(board.engine._calls, "tick", lambda _: 1 / 0)
        board.loop.pass_time(15 + TIMER_GRAIN_SECONDS)

    assert [bug.event for bug in board.bugs] == ["Tick"]
    board.loop.pass_time(1)
    alice.says(wire.GetStats(id=2))
    assert alice.heard()[-1].expired == 1


def test_a_drain_ends_when_nobody_holds_or_waits() -> None:
    """It says so once, at the end of the last."""
    board = Switchboard()
    alice, ended = board.phone(), list[str]()
    alice.says(wire.Begin("key", id=1))
    (lease,) = alice.heard()
    board.driver.drain(lambda: ended.append("idle"))
    assert [type(note) for note in board.notes] == [DrainStarted]
    assert ended == []

    alice.says(wire.Begin("other", id=2))
    assert alice.heard()[0].reason == "draining"
    assert ended == []

    alice.says(wire.Complete(lease.lease, value_of("answer"), id=3), wire.Ping(id=4))
    assert ended == ["idle"]


def test_a_drain_of_an_idle_daemon_ends_at_once() -> None:
    """There is nothing to wait for."""
    board, ended = Switchboard(), list[str]()
    board.driver.drain(lambda: ended.append("idle"))
    assert ended == ["idle"]


def test_the_end_of_a_drain_gives_every_waiter_its_end() -> None:
    """The holder does not matter any more."""
    board = Switchboard()
    alice, bob = board.phone(), board.phone()
    alice.says(wire.Begin("key", id=1))
    bob.says(wire.Begin("key", id=2))
    board.driver.drain(lambda: None)
    bob.heard()
    board.driver.end_drain()

    assert bob.heard()[0].reason == "draining"


def test_requests_are_counted_by_their_answers_and_timed() -> None:
    """Also where the answer comes later, by what somebody else has said; who has waited is counted once."""
    board = Switchboard()
    alice, bob = board.phone(), board.phone()
    alice.says(wire.Begin("key", id=1), wire.Ping(id=2))
    bob.says(wire.Begin("key", id=3))
    lease, _ = alice.heard()
    alice.says(wire.Complete(lease.lease, value_of("answer"), id=4))

    assert board.engine.meters.requests == {
        (wire.Begin, wire.Lease): 1,
        (wire.Ping, wire.Pong): 1,
        (wire.Begin, wire.Pending): 1,
        (wire.Begin, wire.Shared): 1,
        (wire.Complete, wire.Stored): 1,
    }
    handled = {kind: sum(histogram.counts) for kind, histogram in board.engine.meters.handled.items()}
    assert handled == {wire.Begin: 1, wire.Ping: 1, wire.Complete: 1}


def test_of_begins_one_in_many_is_timed() -> None:
    """And of all else each. Begins that hit are counted by the engine."""
    board = Switchboard()
    alice = board.phone()
    alice.says(wire.Put("key", value_of("answer"), id=0))
    for number in range(TIMED_BEGINS + 1):
        alice.says(wire.Begin("key", id=number))

    handled = {kind: sum(histogram.counts) for kind, histogram in board.engine.meters.handled.items()}
    assert handled == {wire.Put: 1, wire.Begin: 2}
    assert board.engine.meters.requests == {(wire.Put, wire.Stored): 1}
    metrics = board.driver.ask(wire.GetMetrics())
    assert isinstance(metrics, wire.Metrics)
    (requests,) = (family.samples for family in metrics.families if family.name == "sidecard_requests")
    assert {"op": "begin", "outcome": "hit"} in [sample.labels for sample in requests]
    assert sum(sample.value for sample in requests) == TIMED_BEGINS + 2


def test_the_daemon_asks_itself_as_an_operator() -> None:
    """And hears what it has asked for, while what else comes of it goes where it belongs."""
    board = Switchboard()
    assert isinstance(board.driver.ask(wire.GetStats()), wire.Stats)
    assert board.driver.ask(wire.SetLog("debug")) == wire.Ok(0)
    assert board.levels == ["debug"]


def test_calls_reach_the_call_log() -> None:
    """As they end."""
    board = Switchboard(log_calls=True)
    alice = board.phone()
    alice.says(wire.Begin("key", id=1))
    (lease,) = alice.heard()
    assert board.calls == []
    alice.says(wire.Complete(lease.lease, value_of("answer"), id=2))

    assert [(call.key, call.source) for call in board.calls] == [("key", "upstream")]
