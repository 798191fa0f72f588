"""Notes as lines that people read."""

import time

import pytest

from sidecard.cli.watch import line_of
from sidecard_client.protocol.wire import Note


@pytest.fixture(autouse=True)
def utc(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have a place's time that all machines have."""
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()


def test_a_note_is_a_line_with_its_fields() -> None:
    """What is not known is left out."""
    fields = {"backend": "cloud", "cause": "failures", "seconds": 10.0, "calls": 12, "key": None, "error": ""}
    line = line_of(Note(1, "breaker_opened", 50_602.5, fields))
    assert line == "14:03:22  breaker opened        backend=cloud cause=failures seconds=10 calls=12"


def test_a_note_without_fields_has_no_trailing_space() -> None:
    """Lines are compared by tools."""
    assert line_of(Note(1, "evicted", 0.0, {})) == "00:00:00  evicted"


@pytest.mark.parametrize("name", ["a b", "a\nb", "\x1b[31mred", "gr\u00fcn"])
def test_no_peers_words_make_two_lines_of_one(name: str) -> None:
    """Backends are named by whoever may use the socket."""
    line = line_of(Note(1, "queue_full", 0.0, {"backend": name, "limit": 3}))
    assert line.endswith(" limit=3")
    assert line.isprintable()
