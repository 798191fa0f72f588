"""Messages on the channel that hosts share. Any program that may publish in that Redis can send anything."""

import msgspec
import pytest

from sidecard.core.events import EntriesPurged, KeyChanged
from sidecard.store.base import StoreReporter
from sidecard.store.redis.invalidations import Invalidations


def reported(data: bytes) -> list[object]:
    """Return the events that a message causes."""
    reporter, events = StoreReporter(), list[object]()
    reporter.notify = events.append
    Invalidations("here", reporter).received(data)
    return events


def test_changes_and_purges_of_other_hosts_are_reported() -> None:
    """A message of another host becomes one event."""
    there = Invalidations("there", StoreReporter())
    assert reported(there.of_key("stored", "1:default", "key")) == [KeyChanged("1:default", "key", "stored")]
    assert reported(there.of_purge("default", None, None)) == [EntriesPurged("default", None)]


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"hello",
        b"\x94\xa1\xff\xa6stored\xa1a\xa1b",
        b"\x91" * 5000,
        msgspec.msgpack.encode(("there", "invented", "a", "b")),
        msgspec.msgpack.encode(("there", "stored", None, "b")),
    ],
    ids=["empty", "text", "no UTF-8", "too deep", "an unknown change", "no scope"],
)
def test_an_unknown_message_is_ignored(data: bytes) -> None:
    """It ends no session either: that would cost all callers of the host their store for a moment."""
    assert reported(data) == []
