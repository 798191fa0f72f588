"""Notes as log lines."""

import time

import pytest

from sidecard.cli.status.watch import line_of
from sidecard_client.protocol.wire import Note


@pytest.fixture(autouse=True)
def utc(monkeypatch: pytest.MonkeyPatch) -> None:
    """Use one time zone on all machines."""
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()


def test_a_note_is_a_line_with_its_fields() -> None:
    """A note is one line; unknown and empty fields are omitted."""
    fields = {"backend": "cloud", "cause": "failures", "seconds": 10.0, "calls": 12, "key": None, "error": ""}
    line = line_of(Note(1, "breaker_opened", 50_602.5, fields))
    assert line == "14:03:22  breaker opened        backend=cloud cause=failures seconds=10 calls=12"


def test_a_note_without_fields_has_no_trailing_space() -> None:
    """A note without fields has no trailing space."""
    assert line_of(Note(1, "evicted", 0.0, {})) == "00:00:00  evicted"


@pytest.mark.parametrize("name", ["a b", "a\nb", "\x1b[31mred", "gr\u00fcn"])
def test_a_name_with_special_characters_stays_on_one_line(name: str) -> None:
    """Any peer can choose the name of a backend."""
    line = line_of(Note(1, "queue_full", 0.0, {"backend": name, "limit": 3}))
    assert line.endswith(" limit=3")
    assert line.isprintable()
