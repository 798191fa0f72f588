"""The watch operation: which peer gets which notes, and how many a slow watcher gets."""

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
    """Return an operator with a watch."""
    actor = host.peer(0, 0, operator=True)
    actor.asks(Watch(notes=names, id=request_id))
    assert actor.receives() == [Pending(request_id)]
    return actor


def received(actor: Actor) -> list[tuple[str, dict[str, Any]]]:
    """Return the names and fields of the notes that have arrived since the last call."""
    replies = actor.receives()
    assert all(isinstance(reply, wire.Note) for reply in replies), replies
    return [(reply.note, reply.fields) for reply in replies if isinstance(reply, wire.Note)]


def evicts(host: Host, *counts: int) -> None:
    """Cause notes."""
    for count in counts:
        host.happens(NoteEmitted(notes.Evicted(count)))


def test_notes_are_sent_as_they_are_made() -> None:
    """With the wall clock's instant; keys are cut, and of an error only the type is sent."""
    host = Host(wall_offset_seconds=1_000_000.0)
    root, alice = watcher(host), host.peer()
    lease = alice.leads(KEY)
    host.passes(1.0)
    alice.fails(lease, message="ValueError: what the prompt said")

    (note,) = root.receives()
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
            "pid": 0,
            "error": "ValueError",
        },
    )


def test_only_named_notes_are_sent() -> None:
    """Any number of names."""
    host = Host()
    evictions, failures = watcher(host, "evicted"), watcher(host, "flight_failed", "lease_ended")
    evicts(host, 3)
    alice = host.peer()
    alice.fails(alice.leads("key"), "fatal")

    assert received(evictions) == [("evicted", {"count": 3})]
    assert [name for name, _ in received(failures)] == ["lease_ended"]


def test_an_unknown_note_is_rejected() -> None:
    """The error lists the known ones."""
    host = Host()
    root = host.peer(0, 0, operator=True)
    root.asks(Watch(notes=("evicted", "breaker_open"), id=1))

    error = root.gets(wire.Error)
    assert error.code == "bad_request"
    assert "breaker_opened" in error.message
    assert not host.engine.watched


def test_watch_is_for_operators() -> None:
    """Notes are about other uids' peers as well."""
    host = Host()
    alice = host.peer()
    alice.asks(Watch(id=1))

    assert alice.gets(wire.Error).code == "denied"
    assert not host.engine.watched


def test_a_watch_ends_with_a_cancel_or_with_the_connection() -> None:
    """Then notes cost nothing more."""
    host = Host()
    root, other = watcher(host), watcher(host)
    root.asks(Cancel(5, id=6))
    assert root.receives() == [Ok(6)]
    evicts(host, 1)
    assert root.receives() == []
    assert len(received(other)) == 1
    other.dies()

    assert not host.engine.watched


def test_a_connection_may_watch_twice_under_two_ids() -> None:
    """Under one id the notes could not be distinguished."""
    host = Host()
    root = watcher(host)
    root.asks(Watch(id=5))
    assert root.gets(wire.Error).code == "bad_request"
    root.asks(Watch(id=6))
    assert root.receives() == [Pending(6)]
    evicts(host, 1)

    assert sorted(reply.id for reply in root.receives()) == [5, 6]


def test_watches_are_bounded() -> None:
    """The next one gets an error."""
    host = Host()
    root = host.peer(0, 0, operator=True)
    for number in range(MAX_WATCHES + 1):
        root.asks(Watch(id=number))

    *pending, error = root.receives()
    assert pending == [Pending(number) for number in range(MAX_WATCHES)]
    assert isinstance(error, wire.Error)
    assert error.code == "unavailable"


def test_a_slow_watcher_gets_waiting_notes_after_reading() -> None:
    """A window at first, the rest later, in order and once each."""
    host = Host()
    root = watcher(host)
    evicts(host, *range(3 * WINDOW_NOTES))
    first = received(root)
    assert host.behind == [AwaitRead(root.peer.id, 5, all=True)]
    host.all_have_read()
    second = received(root)
    host.all_have_read()
    evicts(host, 9_999)
    host.all_have_read()

    counts = [fields["count"] for _, fields in first + second + received(root)]
    assert [len(first), len(second)] == [WINDOW_NOTES, WINDOW_NOTES]
    assert counts == [*range(3 * WINDOW_NOTES), 9_999]


def test_excess_notes_are_left_out_and_counted_in_their_place() -> None:
    """Earlier notes come before the count, later ones after it."""
    host = Host()
    root = watcher(host)
    room = WINDOW_NOTES + MAX_WAITING
    evicts(host, *range(room + 7))
    replies = received(root)
    while host.behind:
        host.all_have_read()
        replies += received(root)

    evicts(host, 9_999)
    replies += received(root)
    assert replies[:room] == [("evicted", {"count": count}) for count in range(room)]
    assert replies[room:] == [(LEFT_OUT, {"count": 7}), ("evicted", {"count": 9_999})]


def test_notes_after_a_left_out_one_are_left_out() -> None:
    """1. one is left out; 2. the watcher reads, and there is room; 3. the next would be sent before the count."""
    host = Host()
    root = watcher(host)
    room = WINDOW_NOTES + MAX_WAITING
    evicts(host, *range(room + 1))
    host.all_have_read()
    evicts(host, 9_999)
    replies = received(root)
    while host.behind:
        host.all_have_read()
        replies += received(root)

    assert replies[room:] == [(LEFT_OUT, {"count": 2})]


def test_a_read_after_a_cancel_is_ignored() -> None:
    """1. the daemon awaits a read; 2. the watch is canceled; 3. the peer reads."""
    host = Host()
    root = watcher(host)
    evicts(host, *range(WINDOW_NOTES))
    root.asks(Cancel(5, id=6))
    root.receives()
    host.all_have_read()

    assert root.receives() == []


def test_a_drain_does_not_wait_for_watchers() -> None:
    """They get the note of the drain; their connections end with it."""
    host = Host()
    root = watcher(host)
    host.drains()

    assert [name for name, _ in received(root)] == ["drain_started"]
    assert host.engine.idle


def test_a_watch_has_no_outcome_to_count() -> None:
    """As chunks of streams have none."""
    host = Host()
    watcher(host)
    evicts(host, 1)
    assert not [name for name in host.samples() if "op=watch" in name]


@pytest.mark.parametrize("kind", get_args(Note))
def test_every_note_has_a_name(kind: type[Note]) -> None:
    """In lower case: people type them."""
    assert name_of(kind) in NAMES
    assert name_of(kind).replace("_", "").isalpha()
    assert name_of(kind).islower()


def test_the_note_of_a_full_table_keeps_its_name() -> None:
    """Watchers and log filters know it as ``saturated``."""
    assert name_of(notes.TableFull) == "saturated"


def test_a_note_without_key_and_message_is_sent_as_it_is() -> None:
    """The lease of a call without a key has none."""
    assert fields_of(notes.LeaseEnded("lost", None, "l", "b", 1, 7, "no exception at all"))["error"] == ""
    assert fields_of(notes.TableFull("waiters", 3)) == {"table": "waiters", "limit": 3}
