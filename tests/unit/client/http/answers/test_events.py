"""Splitting streams into events and lines as SDKs do."""

import tracemalloc

import pytest

from sidecard_client.http.answers import events
from sidecard_client.http.answers.events import EventSplitter, LineSplitter


def split(*pieces: bytes) -> list[tuple[str, bytes]]:
    """Return the events of a stream in these pieces."""
    splitter = EventSplitter()
    found = [event for piece in pieces for event in splitter.feed(piece)]
    return [*found, *splitter.rest()]


@pytest.mark.parametrize(
    ("stream", "found"),
    [
        (b"data: a\n\ndata: b\n\n", [("", b"a"), ("", b"b")]),
        (b"data: a\ndata: b\n\n", [("", b"a\nb")]),
        (b"data:a\n\n", [("", b"a")]),
        (b"data:  a\n\n", [("", b" a")]),
        (b"event: ping\ndata: a\n\ndata: b\n\n", [("ping", b"a"), ("", b"b")]),
        (b"data: a\nevent: late\nid: 7\nretry: 5\nfoo: bar\nbaz\n\n", [("late", b"a")]),
        (b": comment\n\n:\ndata: a\n\n", [("", b"a")]),
        (b"event: only\n\ndata: a\n\n", [("", b"a")]),
        (b"data\ndata:\n\ndata: a\n\n", [("", b"a")]),
        (b"data: a", [("", b"a")]),
        (b"data: a\n", [("", b"a")]),
        (b"\xef\xbb\xbfdata: a\n\n", [("", b"a")]),
        (b"\n\n\xef\xbb\xbfdata: a\n\n", []),
        (b"data: a\r\rdata: b\r\n\r\ndata: c\n\r\n", [("", b"a"), ("", b"b"), ("", b"c")]),
        (b"data: a\rdata: b\r\ndata: c\n\n", [("", b"a\nb\nc")]),
        (b"event: \xff\ndata: a\n\n", [("�", b"a")]),
        (b"", []),
    ],
)
def test_events_are_split_as_the_standard_says(stream: bytes, found: list[tuple[str, bytes]]) -> None:
    """Every split of the bytes gives the same events."""
    assert split(stream) == found
    assert split(*(stream[at : at + 1] for at in range(len(stream)))) == found
    for cut in range(len(stream)):
        assert split(stream[:cut], b"", stream[cut:]) == found


@pytest.mark.parametrize("step", [1, 3, 100])
@pytest.mark.parametrize("ending", [b"\n\n", b"\r\r", b"\n"])
def test_nothing_follows_an_event_that_is_too_long(monkeypatch: pytest.MonkeyPatch, step: int, ending: bytes) -> None:
    """A line or event above the limit ends parsing, in one piece or in many."""
    monkeypatch.setattr(events, "MAX_EVENT_BYTES", 20)
    for long in (b"data: " + b"x" * 20, b"data: 0123456789\ndata: 0123456789"):
        stream = b"data: a\n\n" + long + ending + b"data: b\n\n"
        splitter = EventSplitter()
        found = [event for at in range(0, len(stream), step) for event in splitter.feed(stream[at : at + step])]
        assert [*found, *splitter.rest()] == [("", b"a")]
        assert splitter.too_long


def test_a_line_of_the_greatest_length_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """The limit itself is allowed."""
    monkeypatch.setattr(events, "MAX_EVENT_BYTES", 5)
    splitter = LineSplitter()
    assert list(splitter.feed(b"12345\n123456\n1\n")) == [b"12345"]
    assert splitter.too_long
    assert splitter.rest() == b""


@pytest.mark.parametrize(("piece", "count"), [(b"ab", 20_000), (b"data: ab\n", 20_000)])
def test_a_line_in_small_pieces_takes_no_more_memory_than_its_bytes(piece: bytes, count: int) -> None:
    """A server may send it byte by byte, and never end it."""
    splitter = EventSplitter()
    tracemalloc.start()
    try:
        for _ in range(count):
            assert list(splitter.feed(bytes(bytearray(piece)))) == []

        assert tracemalloc.get_traced_memory()[0] < 2 * count * len(piece)
    finally:
        tracemalloc.stop()
