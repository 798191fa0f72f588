import json
import re
import sys

import msgspec
import pytest

from sidecard.server.json_lines.text import json_line
from sidecard.server.reader import BadMessage
from sidecard_client.protocol import wire
from sidecard_client.protocol.errors import FramingError
from sidecard_client.protocol.frames import FrameBuffer, LineBuffer, frame
from sidecard_client.protocol.wire import Begin, Ping
from tests.readers import WholeReader

PING = frame(wire.pack(Ping(id=7)))


def hit(value: bytes) -> wire.Hit:
    """Return a hit whose value is these msgpack bytes."""
    return wire.Hit(3, msgspec.Raw(value), 1.0, False, 2.0, 0.0, "default", wire.Usage())


def test_frame_is_length_and_payload() -> None:
    """Four bytes, big-endian."""
    assert frame(b"abc") == b"\x00\x00\x00\x03abc"


def test_feed_of_one_whole_frame_gives_its_payload() -> None:
    """One read usually holds one frame."""
    assert [bytes(payload) for payload in FrameBuffer().feed(frame(b"abc"))] == [b"abc"]


def test_feed_of_a_frame_in_many_pieces_gives_it_once_whole() -> None:
    """A frame may be split anywhere."""
    buffer = FrameBuffer()
    pieces = [frame(b"abc")[index : index + 1] for index in range(7)]

    assert [[bytes(payload) for payload in buffer.feed(piece)] for piece in pieces] == [[]] * 6 + [[b"abc"]]


def test_feed_of_many_frames_and_a_half_keeps_the_half() -> None:
    """An incomplete frame waits for its rest."""
    buffer = FrameBuffer()
    data = frame(b"a") + frame(b"bc") + frame(b"def")

    assert [bytes(payload) for payload in buffer.feed(data[:-1])] == [b"a", b"bc"]
    assert [bytes(payload) for payload in buffer.feed(data[-1:])] == [b"def"]


def test_frames_on_both_sides_of_the_copied_window_arrive_whole() -> None:
    """The first 64 KiB are split from a copy, later frames from the buffer."""
    payloads = [bytes([number]) * size for number, size in enumerate((65_525, 3, 1, 70_000, 2, 65_536, 1))]
    buffer = FrameBuffer()
    buffer.hold(b"".join(map(frame, payloads)))
    assert buffer.take() == payloads
    assert not buffer.held_bytes


def test_take_calls_few_functions_for_each_frame() -> None:
    """Three of C for each, and none of Python: a memoryview of each frame would double the cost of a hit's framing."""
    buffer = FrameBuffer()
    buffer.hold(frame(b"abc") * 64)
    called: list[str] = []
    sys.setprofile(lambda _, event, what: called.append(str(what)) if event in {"call", "c_call"} else None)
    try:
        payloads = buffer.take()
    finally:
        sys.setprofile(None)

    assert len(payloads) == 64
    assert len(called) <= 3 * 64 + 16, called


@pytest.mark.parametrize("length", [101, 2**32 - 1])
def test_a_length_above_the_limit_is_refused_before_its_payload_comes(length: int) -> None:
    """No memory is reserved for an announced length."""
    with pytest.raises(FramingError, match="max_frame_bytes") as caught:
        FrameBuffer(100).feed(length.to_bytes(4, "big"))

    assert caught.value.code == "too_large"


def test_a_whole_frame_above_the_limit_is_refused() -> None:
    """Arriving in one piece does not evade the limit."""
    with pytest.raises(FramingError):
        FrameBuffer(100).feed(frame(b"x" * 101))


def test_a_length_of_zero_is_refused() -> None:
    """No message is empty."""
    with pytest.raises(FramingError, match="length 0"):
        FrameBuffer().feed(b"\x00\x00\x00\x00\x00")


@pytest.mark.parametrize(
    ("data", "served"),
    [
        (PING + b"\x00\x00\x00\x00", (Ping(id=7),)),
        (PING + PING + b"\x01\x00\x00\x00", (Ping(id=7), Ping(id=7))),
        (b'{"op":"ping"}\n\n{"op":1}\n' + b"x" * 101, (Ping(), BadMessage)),
        (b'{"op":"ping"}\n' + b"x" * 101 + b'\n{"op":"ping"}\n', (Ping(),)),
    ],
)
def test_messages_before_a_fault_in_the_same_bytes_come_with_it(data: bytes, served: tuple[object, ...]) -> None:
    """Complete messages must be answered, even if a fault follows in the same read."""
    with pytest.raises(FramingError) as caught:
        WholeReader(max_frame_bytes=100, max_line_bytes=100).feed(data)

    got = caught.value.before
    assert len(got) == len(served)
    assert all(
        isinstance(one, want) if isinstance(want, type) else one == want for one, want in zip(got, served, strict=True)
    )


def test_no_bytes_choose_no_encoding() -> None:
    """The first byte chooses the encoding."""
    reader = WholeReader()

    assert reader.feed(b"") == []
    assert reader.json is None
    assert reader.feed(PING) == [Ping(id=7)]


def test_lines_are_cut_and_blank_ones_skipped() -> None:
    """Lines may arrive split; the last may lack its line feed."""
    buffer = LineBuffer()

    assert buffer.feed(b'{"a"') == []
    assert buffer.feed(b':1}\n\r\n{"b":2}\n{"c"') == [b'{"a":1}', b'{"b":2}']
    assert buffer.finish() == [b'{"c"']
    assert buffer.finish() == []


@pytest.mark.parametrize("data", [b"x" * 101, b"x" * 101 + b"\n", b"ok\n" + b"x" * 101])
def test_a_line_above_the_limit_is_refused_before_it_ends(data: bytes) -> None:
    """A long line without a line feed is not collected."""
    with pytest.raises(FramingError, match="max_line_bytes"):
        LineBuffer(100).feed(data)


def test_reader_detects_msgpack_by_the_first_byte() -> None:
    """A length below 16 MiB begins with 0 or 1."""
    reader = WholeReader()

    assert reader.feed(PING[:2]) == []
    assert reader.feed(PING[2:]) == [Ping(id=7)]
    assert reader.json is False


@pytest.mark.parametrize("start", [b"", b" ", b"\t", b"\n", b"\r\n"])
def test_reader_detects_json_by_the_first_byte(start: bytes) -> None:
    """A brace or white space."""
    reader = WholeReader()

    assert reader.feed(start + b'{"op":"begin","key":"k"}\n') == [Begin("k")]
    assert reader.json is True


def test_reader_takes_the_last_line_without_its_line_feed() -> None:
    """As ``printf`` writes it."""
    reader = WholeReader()

    assert reader.feed(b'{"op":"ping"}') == []
    assert reader.finish() == [Ping()]


@pytest.mark.parametrize(("data", "word"), [(b"GET / HTTP/1.1\r\n", "JSON lines"), (b"\xff\xff\xff\xff", "length")])
def test_reader_refuses_other_encodings(data: bytes, word: str) -> None:
    """The error names the encodings."""
    with pytest.raises(FramingError, match=word):
        WholeReader().feed(data)


@pytest.mark.parametrize(
    ("line", "code", "request_id", "word"),
    [
        (b'{"op":"pong","id":5}', "unknown_op", 5, "there are: append, begin"),
        (b'{"op":"begin","key":5,"id":6}', "bad_request", 6, r"\$\.key"),
        (b'{"op":"begin","key":""}', "bad_request", 0, "length"),
        (b'{"op":"begin","ttl_seconds":-1}', "bad_request", 0, "ttl_seconds"),
        (b'{"op":"begin","route":"nearest"}', "bad_request", 0, "there are: order, cheapest"),
        (b'{"op":"log","level":"loud"}', "bad_request", 0, "there are: debug, info"),
        (b'{"op":"fail","lease":"l","kind":"fatl"}', "bad_request", 0, "there are: transient, fatal"),
        (b'{"op":"record","metrics":[{"name":"x","kind":"countr"}]}', "bad_request", 0, "there are: counter, gauge"),
        (b'{"id":3}', "bad_request", 3, "op is missing"),
        (b'{"op":"ping","id":"x"}', "bad_request", 0, "id must be an integer"),
        (b'{"op":"ping","id":true}', "bad_request", 0, "id must be an integer"),
        (b"{nonsense", "bad_request", 0, "JSON"),
        (b'{"op":"put","key":"k","value":{"$bytes":"!"}}', "bad_request", 0, "base64"),
        (b'{"a":' * 5000, "bad_request", 0, "JSON"),
        (b'{"op":"ping","id":99999999999999999999999}', "bad_request", 0, "64 bits"),
        (b'{"op":"put","key":"\xff"}', "bad_request", 0, "JSON"),
    ],
)
def test_a_wrong_line_is_explained_and_the_connection_goes_on(
    line: bytes, code: str, request_id: int, word: str
) -> None:
    """The error has code, id if readable, and the correction."""
    reader = WholeReader()
    (bad,) = reader.feed(line + b"\n")

    assert isinstance(bad, BadMessage)
    assert (bad.code, bad.id) == (code, request_id)
    assert re.search(word, bad.message)
    assert reader.feed(b'{"op":"ping"}\n') == [Ping()]


@pytest.mark.parametrize(
    "payload",
    [
        b"\xc1",
        b"\x91" * 100_000,
        b"\x82\xa2op\xa8complete\xa5value" + b"\x91" * 100_000 + b"\xc0",
        b"\xdf\xff\xff\xff\xff",
        b"\x82\xa2op\xa5begin\xa8backends\xdd\xff\xff\xff\xff",
        b"\x81\xa2op\xa2\xff\xfe",
        b"\xc0",
    ],
)
def test_a_wrong_frame_is_explained_and_the_connection_goes_on(payload: bytes) -> None:
    """Malformed, nested too deep, claiming huge sizes, not UTF-8, no map."""
    reader = WholeReader()
    (bad,) = reader.feed(frame(payload))

    assert isinstance(bad, BadMessage)
    assert bad.code == "bad_request"
    assert reader.feed(PING) == [Ping(id=7)]


def test_bytes_travel_through_json() -> None:
    """As base64 under ``$bytes``, in and out, at any depth."""
    (request,) = WholeReader().feed(b'{"op":"put","key":"k","value":[{"$bytes":"AP8="}]}\n')
    assert isinstance(request, wire.Put)
    assert msgspec.msgpack.decode(request.value) == [b"\x00\xff"]

    written = json_line(hit(bytes(request.value)))
    assert json.loads(written)["value"] == [{"$bytes": "AP8="}]
    assert written.endswith(b"}\n")


def test_a_framed_reply_carries_the_value_as_it_was() -> None:
    """Opaque bytes in, the same bytes out."""
    encoded = frame(wire.pack(hit(b"\x93\x01\x02\x03")))

    assert encoded[:4] == (len(encoded) - 4).to_bytes(4, "big")
    assert wire.unpack_reply(encoded[4:]).value == [1, 2, 3]  # type: ignore[union-attr]  # it is a hit


@pytest.mark.parametrize(
    "value", [b"\x81\x01\x02", b"\xcb\x7f\xf8\x00\x00\x00\x00\x00\x00", b"\x91" * 2000 + b"\xc0", b"\xa1\xff"]
)
def test_a_value_that_json_cannot_say_becomes_an_error_with_the_same_id(value: bytes) -> None:
    """Integer keys, NaN, too deep, not UTF-8: the error names msgpack."""
    reply = json.loads(json_line(hit(value)))

    assert (reply["type"], reply["id"], reply["code"]) == ("error", 3, "bad_request")
    assert "msgpack" in reply["message"]


@pytest.mark.parametrize(
    ("data", "at_once"),
    [
        (b"".join(frame(wire.pack(wire.Ping(id=number))) for number in range(1, 10)), 4),
        (b"".join(b'{"op":"ping","id":%d}\n' % number for number in range(1, 10)), 1),
    ],
    ids=["frames", "lines"],
)
def test_a_read_returns_a_bounded_number_of_messages_and_keeps_the_rest(data: bytes, at_once: int) -> None:
    """The rest keeps its order before later messages. Lines are decoded one at a time."""
    reader = WholeReader(at_once=4)
    read = [message.id for message in reader.feed(data)]
    assert read == [1, 2, 3, 4][:at_once]
    assert reader.has_more
    read += [message.id for message in reader.feed(data[: len(data) // 9])]
    while reader.has_more:
        read += [message.id for message in reader.take_more()]

    assert read == [*range(1, 10), 1]
    assert reader.held_bytes == 0


def test_a_message_in_parts_has_one_number_until_it_is_whole() -> None:
    """The next incomplete message has another number."""
    one = frame(wire.pack(wire.Ping(id=1)))
    reader = WholeReader()
    reader.feed(one[:3])
    first = reader.partial
    reader.feed(one[3:6])
    assert reader.partial == first != 0
    reader.feed(one[6:] + one[:1])
    assert reader.partial not in {first, 0}
    assert reader.held_bytes == 1
    reader.feed(one[1:])
    assert reader.partial == 0


def test_complete_frames_are_decoded_directly_once_all_are_served() -> None:
    """Not while earlier messages wait."""
    one = frame(wire.pack(wire.Ping(id=1)))
    reader = WholeReader(at_once=1)
    reader.feed(one * 3)
    reader.mark_served()
    assert not reader.single_frames
    reader.take_more()
    reader.take_more()
    reader.mark_served()
    assert reader.single_frames
    assert [message.id for message in reader.feed(one)] == [1]
    assert reader.single_frames
    reader.feed(one[:5])
    assert not reader.single_frames
