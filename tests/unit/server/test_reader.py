"""The daemon's side of a connection: bytes to requests, in pieces that turns can count."""

import tracemalloc

import pytest

from sidecard.server.reader import TURN_BYTES, BadMessage
from sidecard_client.protocol import wire
from sidecard_client.protocol.errors import FramingError
from sidecard_client.protocol.frames import frame
from tests.readers import WholeReader


def framed(request: wire.Request) -> bytes:
    """Return a request as a frame."""
    return frame(wire.pack(request))


PINGS = [wire.Ping(id=number) for number in range(1, 9)]
LINES = b"".join(b'{"op":"ping","id":%d}\n' % ping.id for ping in PINGS)
FRAMES = b"".join(map(framed, PINGS))


@pytest.mark.parametrize("data", [LINES, FRAMES])
@pytest.mark.parametrize("size", [1, 7, 1000])
def test_requests_are_the_same_however_bytes_arrive(data: bytes, size: int) -> None:
    """In both encodings."""
    reader = WholeReader()
    received = [request for at in range(0, len(data), size) for request in reader.feed(data[at : at + size])]
    assert received == PINGS
    assert not reader.has_more
    assert not reader.held_bytes


@pytest.mark.parametrize(("data", "at_once"), [(LINES, 1), (FRAMES, 3)])
def test_a_reader_for_turns_returns_few_requests_at_once(data: bytes, at_once: int) -> None:
    """One line, because a line may take 20 ms; as many frames as a batch has."""
    reader = WholeReader(at_once=3)
    counts = [len(reader.feed(data))]
    while reader.has_more:
        counts.append(len(reader.take_more()))

    assert sum(counts) == len(PINGS)
    assert max(counts) == at_once


def test_a_reader_for_turns_splits_few_bytes_at_once() -> None:
    """Each frame is decoded as well."""
    reader = WholeReader(at_once=64)
    large = framed(wire.Put(key="k", value=wire.pack("v" * (TURN_BYTES // 2))))  # type: ignore[arg-type]  # packed
    assert len(reader.feed(large * 8)) == 2
    assert reader.has_more


def test_held_bytes_wait_until_they_are_taken() -> None:
    """Only their encoding is judged when they arrive."""
    reader = WholeReader(at_once=1)
    reader.hold(LINES)
    assert reader.json
    assert reader.held_bytes == len(LINES)
    assert reader.take_more() == PINGS[:1]


def test_single_frames_take_the_fast_path_once_all_are_served() -> None:
    """And not while part of another is held."""
    reader = WholeReader()
    assert reader.feed(framed(PINGS[0])) == PINGS[:1]
    reader.mark_served()
    assert reader.single_frames
    assert reader.feed(framed(PINGS[1])) == PINGS[1:2]
    reader.feed(framed(PINGS[2])[:3])
    reader.mark_served()
    assert not reader.single_frames


def test_lines_never_take_the_fast_path_of_frames() -> None:
    """A first line may look like anything."""
    reader = WholeReader()
    reader.feed(LINES)
    reader.mark_served()
    assert not reader.single_frames


def test_messages_before_a_fault_are_returned_with_it() -> None:
    """They must still be served."""
    reader = WholeReader(max_line_bytes=100)
    with pytest.raises(FramingError) as raised:
        reader.feed(b'{"op":"ping","id":1}\n' + b"x" * 200)

    assert raised.value.code == "too_large"
    assert list(raised.value.before) == PINGS[:1]


@pytest.mark.parametrize(
    ("data", "code"),
    [(b"GET / HTTP/1.1\r\n", "bad_request"), (b"\xff\xff\xff\xff", "too_large"), (b"\xc3\xa4", "too_large")],
)
def test_other_encodings_are_rejected_by_their_first_byte(data: bytes, code: str) -> None:
    """With a sentence that says what is spoken here."""
    with pytest.raises(FramingError) as raised:
        WholeReader().feed(data)

    assert raised.value.code == code


def test_the_end_completes_the_last_line() -> None:
    """`echo -n` sends none."""
    reader = WholeReader()
    assert reader.feed(b'{"op":"ping","id":1}') == []
    assert reader.finish() == PINGS[:1]


def test_each_incomplete_message_has_its_own_number() -> None:
    """So a timer can tell whether the same one is still incomplete."""
    reader = WholeReader()
    reader.feed(framed(PINGS[0])[:5])
    first = reader.partial
    reader.feed(framed(PINGS[0])[5:6])
    assert reader.partial == first > 0
    reader.feed(framed(PINGS[0])[6:] + framed(PINGS[1])[:5])
    assert reader.partial > first
    reader.feed(framed(PINGS[1])[5:])
    assert reader.partial == 0


LARGE = b",".join([b"1e308"] * 30_000)
"""Its conversion is limited, and so it is not converted only to explain what else is wrong."""


@pytest.mark.parametrize(
    ("line", "code", "about"),
    [
        (b'{"op":"nop","id":3,"value":[' + LARGE + b"]}", "unknown_op", "'nop'"),
        (b'{"op":"put","id":3,"key":"k","value":[' + LARGE + b"]}", "too_large", "65536"),
        (b'{"op":[' + LARGE[:60_000] + b"0]}" + b" " * 70_000, "bad_request", "op is missing"),
        (b'{"id":1.5,"op":"ping"}', "bad_request", "id must be"),
        (b'{"op":"begin","id":3,"key":"k","mode":"uze"}', "bad_request", "only_if_cached"),
        (b" [1]", "bad_request", "map with the fields op and id"),
        (b"{", "bad_request", "cannot be decoded as the JSON object"),
    ],
)
def test_invalid_lines_are_explained(line: bytes, code: str, about: str) -> None:
    """The connection stays open."""
    (bad,) = WholeReader().feed(line + b"\n")
    assert isinstance(bad, BadMessage)
    assert bad.code == code
    assert about in bad.message


@pytest.mark.parametrize(
    ("payload", "code"),
    [
        (wire.pack({"op": "nop", "id": 3, "value": [1] * 100_000}), "unknown_op"),
        (wire.pack({"id": 3}), "bad_request"),
        (wire.pack({"op": "get", "id": 3, "key": 5}), "bad_request"),
    ],
)
def test_invalid_frames_are_answered_with_their_id(payload: bytes, code: str) -> None:
    """A client finds the call that failed."""
    (bad,) = WholeReader().feed(frame(payload))
    assert isinstance(bad, BadMessage)
    assert (bad.id, bad.code) == (3, code)


@pytest.mark.parametrize("op", [b"", b'"op":"unknown",'])
def test_a_wrong_message_of_many_fields_is_rejected_without_making_them(op: bytes) -> None:
    """An object for each of 5,000,000 fields took 200 ms in one go."""
    fields = 80_000
    line = b"{" + op + b",".join(b'"%05d":1' % number for number in range(fields)) + b"}\n"
    named = b"\xa2op\xa7unknown" if op else b""
    packed = b"\xdf" + (fields + bool(op)).to_bytes(4, "big") + named
    packed += b"".join(b"\xa5%05d\x01" % number for number in range(fields))
    for data in (line, len(packed).to_bytes(4, "big") + packed):
        reader = WholeReader()
        reader.hold(data)
        (whole,) = reader.split_more()
        reader.decode(whole)  # makes what every message of this kind needs
        tracemalloc.start()
        try:
            bad = reader.decode(whole)
            assert tracemalloc.get_traced_memory()[1] < fields
        finally:
            tracemalloc.stop()

        assert isinstance(bad, BadMessage)
        assert bad.code == ("unknown_op" if op else "bad_request")


REST = b"\xdd\x00\xf0\x00\x00" + b"\x01" * 100_000
"""A list that is announced longer than it is: decoding or skipping it fails."""


@pytest.mark.parametrize(
    ("head", "code", "request_id", "about"),
    [
        (b"\x84\xa2op\xa3nop\xa2id\x07\xa1k\xc0\xa1v", "unknown_op", 7, "'nop'"),
        (b"\xde\x00\x03\xa1k\xda\x00\x02ab\xa2id\xcd\x01\x00\xa2op\xd9\x03nop\xa1v", "unknown_op", 256, "'nop'"),
        (b"\x82\xa2op\xa3nop\xa1v", "unknown_op", 0, "'nop'"),
        (b"\x84\xa2op\xa3get\xa2id\x07\xa3key\x05\xa1v", "bad_request", 7, "get: Expected `str"),
    ],
)
def test_a_large_wrong_message_is_read_no_further_than_its_op(
    head: bytes, code: str, request_id: int, about: str
) -> None:
    """Skipping 15 MiB of small integers takes 60 ms in one go."""
    (bad,) = WholeReader().feed(frame(head + REST))
    assert isinstance(bad, BadMessage)
    assert (bad.code, bad.id) == (code, request_id)
    assert about in bad.message


def test_the_op_of_a_large_wrong_message_may_follow_a_list() -> None:
    """Clients in other languages send fields in any order."""
    packed = wire.pack({"list": [1] * 100_000, "id": 3, "op": "nop"})
    (bad,) = WholeReader().feed(frame(packed))
    assert isinstance(bad, BadMessage)
    assert (bad.id, bad.code) == (3, "unknown_op")


def test_a_large_malformed_message_is_explained() -> None:
    """With the decoder's words."""
    (bad,) = WholeReader().feed(frame(b"\x83\xa2op\xa4ping\xa2id\x07\xa1v" + REST))
    assert isinstance(bad, BadMessage)
    assert (bad.id, bad.code) == (0, "bad_request")
    assert "cannot be decoded as a msgpack map: Input data was truncated" in bad.message
