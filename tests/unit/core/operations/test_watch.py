"""Who hears of notes, what of them, and how much of it a slow one gets."""

from typing import Any, get_args

import pytest

from sidecard.core import notes
from sidecard.core.effects import AwaitRead
from sidecard.core.events import NoteEmitted
from sidecard.core.notes import Note
from sidecard.core.operations.watch import LEFT_OUT, MAX_WAITING, MAX_WATCHES, NAMES, WINDOW_NOTES, fields_of, name_of
from sidecard_client.protocol import wire
from sidecard_client.protocol.wire import Cancel, Ok, Pending, Watch
from tests.host import Actor, Host

KEY = "k1-0123456789abcdef"


def watcher(host: Host, *names: str, request_id: int = 5) -> Actor:
    """Return an operator who watches."""
    actor = host.peer(0, 0, operator=True)
    actor.asks(Watch(notes=names, id=request_id))
    assert actor.hears() == [Pending(request_id)]
    return actor


def told(actor: Actor) -> list[tuple[str, dict[str, Any]]]:
    """Return the names and fields of the notes that have arrived since the last time."""
    heard = actor.hears()
    assert all(isinstance(reply, wire.Note) for reply in heard), heard
    return [(reply.note, reply.fields) for reply in heard if isinstance(reply, wire.Note)]


def evicts(host: Host, *counts: int) -> None:
    """Let notes be made."""
    for count in counts:
        host.happens(NoteEmitted(notes.Evicted(count)))


def test_notes_are_told_as_they_are_made() -> None:
    """With the instant of the wall clock; the key cut, and of a message the exception alone."""
    host = Host(wall_offset_seconds=1_000_000.0)
    root, alice = watcher(host), host.peer()
    lease = alice.leads(KEY)
    host.passes(1.0)
    alice.fails(lease, message="ValueError: what the prompt said")

    (note,) = root.hears()
    assert note == wire.Note(
        5,
        "lease_ended",
        1_000_101.0,
        {
            "outcome": "transient",
            "key": KEY[:12],
            "lease": lease,
            "backend": "default",
            "peer": alice.peer.id,
            "error": "ValueError",
        },
    )


def test_only_those_that_are_named_are_told() -> None:
    """By their names, any number of them."""
    host = Host()
    evictions, failures = watcher(host, "evicted"), watcher(host, "flight_failed", "lease_ended")
    evicts(host, 3)
    alice = host.peer()
    alice.fails(alice.leads("key"), "fatal")

    assert told(evictions) == [("evicted", {"count": 3})]
    assert [name for name, _ in told(failures)] == ["lease_ended"]


def test_a_name_that_no_note_has_is_refused() -> None:
    """With those that there are."""
    host = Host()
    root = host.peer(0, 0, operator=True)
    root.asks(Watch(notes=("evicted", "breaker_open"), id=1))

    error = root.gets(wire.Error)
    assert error.code == "bad_request"
    assert "breaker_opened" in error.message
    assert not host.engine.watched


def test_watching_is_for_operators() -> None:
    """Notes tell of other uids' peers."""
    host = Host()
    alice = host.peer()
    alice.asks(Watch(id=1))

    assert alice.gets(wire.Error).code == "denied"
    assert not host.engine.watched


def test_it_ends_with_a_cancel_or_with_the_connection() -> None:
    """And then costs nothing more."""
    host = Host()
    root, other = watcher(host), watcher(host)
    root.asks(Cancel(5, id=6))
    assert root.hears() == [Ok(6)]
    evicts(host, 1)
    assert root.hears() == []
    assert len(told(other)) == 1
    other.dies()

    assert not host.engine.watched


def test_a_connection_may_watch_twice_under_two_ids() -> None:
    """Not under one: nobody could tell the notes apart."""
    host = Host()
    root = watcher(host)
    root.asks(Watch(id=5))
    assert root.gets(wire.Error).code == "bad_request"
    root.asks(Watch(id=6))
    assert root.hears() == [Pending(6)]
    evicts(host, 1)

    assert sorted(reply.id for reply in root.hears()) == [5, 6]


def test_watches_have_a_bound() -> None:
    """The one beyond it is told so."""
    host = Host()
    root = host.peer(0, 0, operator=True)
    for number in range(MAX_WATCHES + 1):
        root.asks(Watch(id=number))

    *pending, error = root.hears()
    assert pending == [Pending(number) for number in range(MAX_WATCHES)]
    assert isinstance(error, wire.Error)
    assert error.code == "unavailable"


def test_a_slow_watcher_gets_what_waits_once_it_has_read() -> None:
    """A window ahead, the rest later, in order and none twice."""
    host = Host()
    root = watcher(host)
    evicts(host, *range(3 * WINDOW_NOTES))
    first = told(root)
    assert host.behind == [AwaitRead(root.peer.id, 5, all=True)]
    host.all_have_read()
    second = told(root)
    host.all_have_read()
    evicts(host, 9_999)
    host.all_have_read()

    counts = [fields["count"] for _, fields in first + second + told(root)]
    assert [len(first), len(second)] == [WINDOW_NOTES, WINDOW_NOTES]
    assert counts == [*range(3 * WINDOW_NOTES), 9_999]


def test_what_is_too_much_is_left_out_and_counted_in_its_place() -> None:
    """What came before it comes before the count, and what comes after it after."""
    host = Host()
    root = watcher(host)
    room = WINDOW_NOTES + MAX_WAITING
    evicts(host, *range(room + 7))
    heard = told(root)
    while host.behind:
        host.all_have_read()
        heard += told(root)

    evicts(host, 9_999)
    heard += told(root)
    assert heard[:room] == [("evicted", {"count": count}) for count in range(room)]
    assert heard[room:] == [(LEFT_OUT, {"count": 7}), ("evicted", {"count": 9_999})]


def test_while_some_are_left_out_all_that_follow_are() -> None:
    """1. one is left out; 2. the watcher reads, and there is room; 3. the next would be told before the count."""
    host = Host()
    root = watcher(host)
    room = WINDOW_NOTES + MAX_WAITING
    evicts(host, *range(room + 1))
    host.all_have_read()
    evicts(host, 9_999)
    heard = told(root)
    while host.behind:
        host.all_have_read()
        heard += told(root)

    assert heard[room:] == [(LEFT_OUT, {"count": 2})]


def test_room_for_who_has_left_is_for_nobody() -> None:
    """1. room is asked for; 2. the watch is cancelled; 3. there is room."""
    host = Host()
    root = watcher(host)
    evicts(host, *range(WINDOW_NOTES))
    root.asks(Cancel(5, id=6))
    root.hears()
    host.all_have_read()

    assert root.hears() == []


def test_a_daemon_that_drains_does_not_wait_for_watchers() -> None:
    """They hear of the drain, and of its end by that of the connection."""
    host = Host()
    root = watcher(host)
    host.drains()

    assert [name for name, _ in told(root)] == ["drain_started"]
    assert host.engine.idle


def test_watching_has_no_outcome_to_be_counted() -> None:
    """As pieces of streams have none."""
    host = Host()
    watcher(host)
    evicts(host, 1)
    assert not [name for name in host.samples() if "op=watch" in name]


@pytest.mark.parametrize("kind", get_args(Note))
def test_every_note_has_a_name(kind: type[Note]) -> None:
    """In small letters: they are typed by hand."""
    assert name_of(kind) in NAMES
    assert name_of(kind).replace("_", "").isalpha()
    assert name_of(kind).islower()


def test_a_note_without_a_key_or_a_message_is_told_as_it_is() -> None:
    """The lease of a call that is shared with nobody has none."""
    assert fields_of(notes.LeaseEnded("lost", None, "l", "b", 1, "no exception at all"))["error"] == ""
    assert fields_of(notes.Saturated("waiters", 3)) == {"table": "waiters", "limit": 3}
