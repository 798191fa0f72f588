"""What is said on the channel that hosts share; whoever may publish in that Redis can say anything there."""

import msgspec
import pytest

from sidecard.core.events import EntriesPurged, KeyChanged
from sidecard.store.redis.invalidations import News


def heard(data: bytes) -> list[object]:
    """Return what a host makes of a message."""
    told: list[object] = []
    News("here", told.append)._heard(data)
    return told


def test_changes_and_purges_of_other_hosts_are_told() -> None:
    """Both of them."""
    there = News("there", lambda _: None)
    assert heard(there.of_key("stored", "1:default", "key")) == [KeyChanged("1:default", "key", "stored")]
    assert heard(there.of_purge("default", None, None)) == [EntriesPurged("default", None)]


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
def test_a_message_that_makes_no_sense_changes_nothing(data: bytes) -> None:
    """And ends no session: each would cost all callers of the host their store for a moment."""
    assert heard(data) == []
