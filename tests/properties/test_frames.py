"""Framing under any split, and under arbitrary bytes."""

import itertools
from collections.abc import Iterator

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from sidecard_client.protocol import wire
from sidecard_client.protocol.errors import FramingError
from sidecard_client.protocol.frames import frame
from sidecard_client.protocol.wire import AnyRequest, Begin, Cancel, Ping
from tests.readers import WholeReader
from tests.thoroughness import cases

REQUESTS = st.one_of(
    st.builds(Ping, id=st.integers(-(2**63), 2**63 - 1)),
    st.builds(
        Begin,
        st.none() | st.text(min_size=1, max_size=50),
        id=st.integers(0, 9),
        mode=st.sampled_from(["use", "refresh"]),
    ),
    st.builds(Cancel, st.integers(0, 2**40)),
)


def pieces(data: bytes, cuts: list[int]) -> Iterator[bytes]:
    """Cut ``data`` at these places."""
    places = sorted({cut % (len(data) + 1) for cut in cuts} | {0, len(data)})
    for start, end in itertools.pairwise(places):
        yield data[start:end]


@given(st.lists(REQUESTS, min_size=1, max_size=8), st.lists(st.integers(0, 2000), max_size=12))
def test_frames_are_the_same_under_any_split(requests: list[AnyRequest], cuts: list[int]) -> None:
    """However the kernel cuts the stream, the requests come out."""
    reader = WholeReader()
    data = b"".join(frame(wire.pack(request)) for request in requests)

    assert [request for piece in pieces(data, cuts) for request in reader.feed(piece)] == requests


@given(st.lists(REQUESTS, min_size=1, max_size=8), st.lists(st.integers(0, 2000), max_size=12), st.booleans())
def test_lines_are_the_same_under_any_split(requests: list[AnyRequest], cuts: list[int], ended: bool) -> None:
    """The same for JSON lines, with or without the last line feed."""
    reader = WholeReader()
    data = b"\n".join(msgspec.json.encode(request) for request in requests) + b"\n" * ended
    read = [request for piece in pieces(data, cuts) for request in reader.feed(piece)]

    assert read + reader.finish() == requests


@settings(max_examples=cases(100))
@given(st.lists(st.binary(min_size=1, max_size=60), min_size=1, max_size=6), st.booleans())
def test_random_bytes_are_answered_or_end_the_connection(chunks: list[bytes], framed: bool) -> None:
    """Nothing but `FramingError` ever comes out, whatever comes in."""
    reader = WholeReader(max_frame_bytes=1000, max_line_bytes=1000)
    try:
        for chunk in chunks:
            reader.feed(frame(chunk) if framed else chunk)

        reader.finish()
    except FramingError:
        return
