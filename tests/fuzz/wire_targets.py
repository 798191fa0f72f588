"""Targets on the socket: requests, replies, and whole conversations."""

from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from sidecard.config.schema import LimitSettings
from sidecard.server.json_lines.text import json_line
from sidecard.server.reader import BadMessage, Incoming
from sidecard_client.protocol import wire
from sidecard_client.protocol.connection import Connection
from sidecard_client.protocol.errors import FramingError, ProtocolError
from sidecard_client.protocol.frames import FrameBuffer, LineBuffer, frame
from tests.fuzz.target import Target, pieces, same
from tests.readers import WholeReader
from tests.unit.server.harness import FakePeer, ServerHarness

MAX_FRAME_BYTES = 2048
"""Small, so that a fuzzer reaches it."""

REQUESTS: tuple[wire.AnyRequest, ...] = (
    wire.Ping(id=1),
    wire.Begin("key", id=2, backends=("local", "cloud"), wait_seconds=1.5, mode="refresh", route="cheapest", trace="00-a-b-01"),
    wire.Begin(None, id=3, stream=True, vector=(0.5, -1.0)),
    wire.Append("boot-1", msgspec.Raw(b"\xa5piece"), id=4),
    wire.Complete("boot-1", msgspec.Raw(b"\xa6answer"), id=5, usage=wire.Usage("m", 1, 2, 0.5), tags=("a", "b")),
    wire.Fail("boot-1", "fatal", "it broke", id=6, next=True, retry=True, ttl_seconds=5.0),
    wire.Renew("boot-1", id=7),
    wire.Cancel(2, id=8),
    wire.Get("key", id=9),
    wire.Put("key", msgspec.Raw(b"\x81\xa1a\x01"), id=10, ttl_seconds=60.0),
    wire.Delete("key", id=11),
    wire.Purge(id=12, tag="a"),
    wire.RecordMetrics(
        (wire.Measurement(name="pages", kind="counter", value=1.0, labels={"kind": "pdf"}),), id=13, acknowledge=True
    ),
    wire.GetStats(id=14),
    wire.SetBreaker("cloud", "open", id=15),
    wire.Append("boot-1", msgspec.Raw(b"\xa5early"), output=False, id=16),
)  # fmt: skip

REPLIES: tuple[bytes, ...] = (
    wire.pack(wire.Pong(1, "1", wire.PROTOCOL_VERSION, "boot", 1.0)),
    wire.pack(wire.Pending(2)),
    wire.pack(wire.Hit(2, "value", 1.0, False, 1.0, 0.5, "local", {"model": "m"})),
    wire.pack(wire.Chunk(2, "piece")),
    wire.pack(wire.Miss(9)),
    wire.pack(wire.Ok(7)),
    wire.pack(wire.Error(4, "bad_request", "no")),
    wire.pack(wire.Error(0, "too_large", "no")),
    wire.pack(wire.Deleted(11, 1)),
)


def requests(data: bytes) -> None:
    """Any bytes, cut anywhere, are messages, or a `FramingError` after the messages before it."""
    cut, data = data[:1], data[1:]
    whole = _read(WholeReader(MAX_FRAME_BYTES, MAX_FRAME_BYTES), [data])
    cut_up = _read(WholeReader(MAX_FRAME_BYTES, MAX_FRAME_BYTES), pieces(data, cut[0] if cut else 1))
    assert same(whole, cut_up), f"{whole} and, in pieces, {cut_up}"
    for message in whole[0]:
        if isinstance(message, BadMessage):
            json_line(wire.Error(message.id, message.code, message.message))
        else:
            _comes_back(message)


def _read(reader: WholeReader, data: Any) -> tuple[list[Incoming], str]:
    messages: list[Incoming] = []
    try:
        for piece in data:
            messages += reader.feed(piece)

        messages += reader.finish()
    except FramingError as fault:
        return [*messages, *fault.before], fault.code

    return messages, ""


def _comes_back(message: wire.AnyRequest) -> None:
    again = wire.unpack_request(wire.pack(message))
    assert same(again, message), f"{message} came back as {again}"


def buffers(data: bytes) -> None:
    """A buffer holds no more than it was given, returns nothing else, and raises if it is too much."""
    cut, data = data[:1], data[1:]
    for make, joined in ((FrameBuffer, _framed), (LineBuffer, b"\n".join)):
        buffer = make(MAX_FRAME_BYTES)
        taken: list[bytes] = []
        try:
            for piece in pieces(data, cut[0] if cut else 1):
                taken += [bytes(payload) for payload in buffer.feed(piece)]
        except FramingError as fault:
            taken += [bytes(payload) for payload in fault.before]

        assert len(joined(taken)) <= len(data) + 1
        assert all(len(payload) <= MAX_FRAME_BYTES for payload in taken)


def _framed(payloads: Sequence[bytes]) -> bytes:
    return b"".join(map(frame, payloads))


def replies(data: bytes) -> None:
    """A client raises `ProtocolError` on replies that make no sense, after which the connection is closed."""
    cut, data = data[:1], data[1:]
    connection = Connection(MAX_FRAME_BYTES)
    for request in REQUESTS:
        connection.send(request)

    opened = len(connection)
    replies: list[wire.AnyReply] = []
    try:
        for piece in pieces(data, cut[0] if cut else 1):
            replies += connection.receive(piece)
    except ProtocolError:
        pass

    assert len(connection) <= opened
    assert all(0 < reply.id <= opened for reply in replies)
    assert len([reply for reply in replies if not isinstance(reply, wire.Pending | wire.Chunk)]) <= opened


LIMITS = LimitSettings(max_frame_bytes=4096, max_line_bytes=4096)


def conversation(data: bytes) -> None:
    """Peers send anything in both encodings: the daemon makes no mistake, and nothing is left when they are gone.

    Each line is a step. Its first byte says what comes: a line of JSON, the same as a frame, raw bytes for a frame, or time.
    """
    server = ServerHarness(LIMITS, max_flights=4, max_waiters=8, cache_max_bytes=65536, max_series=4, max_backends=4)
    peers: dict[int, FakePeer] = {}
    for step in data.split(b"\n")[:64]:
        _step(server, peers, step)
        assert not server.bugs, server.bugs

    for peer in peers.values():
        _check_sent(peer)
        if not _is_closed(peer):
            peer.disconnect()

        _run(server)

    # Armed timers fire and find no participant. A peer that half-closed while a begin of it waited is answered, and closed, only now.
    server.loop.pass_time(400 * 86400.0)
    _run(server)
    for peer in peers.values():
        if _is_closed(peer):
            peer.connection.connection_lost(None)

    assert not server.bugs, [bug.__cause__ for bug in server.bugs]
    assert server.engine.idle
    assert len(server.connections) == 0


def _is_closed(peer: FakePeer) -> bool:
    return peer.transport.closed or peer.transport.aborted


def _run(server: ServerHarness) -> None:
    while server.loop.turn():
        pass


def _check_sent(peer: FakePeer) -> None:
    """Check that sent bytes are well framed, and name a reply and a request; values are passed on unchanged."""
    sent = peer.transport.sent
    if sent[:1] == b"{":
        assert all(isinstance(msgspec.json.decode(one), dict) for one in sent.splitlines())
        return

    for payload in FrameBuffer().feed(sent):
        _HEAD.decode(payload)


class _Head(msgspec.Struct):
    type: str
    id: int


_HEAD = msgspec.msgpack.Decoder(_Head)


def _step(server: ServerHarness, peers: dict[int, FakePeer], step: bytes) -> None:
    if not step:
        return

    kind, said = step[0] % 4, step[1:]
    if kind == 3:
        server.loop.pass_time(said[0] / 10 if said else 60.0)
        return

    if kind not in peers or _is_closed(peers[kind]):
        old = peers.pop(kind, None)
        if old is not None:
            old.connection.connection_lost(None)

        peers[kind] = server.connect(uid=1000 if kind else 0)

    _TALKS[kind](peers[kind], said)
    _run(server)


def _as_line(peer: FakePeer, said: bytes) -> None:
    peer.connection.data_received(b"{" + said.removeprefix(b"{") + b"\n")


def _as_frame(peer: FakePeer, said: bytes) -> None:
    try:
        payload = wire.pack(msgspec.json.decode(said))
    except (msgspec.MsgspecError, ValueError, TypeError, OverflowError, RecursionError):
        payload = said

    if 0 < len(payload) <= LIMITS.max_frame_bytes:
        peer.connection.data_received(frame(payload))


def _as_bytes(peer: FakePeer, said: bytes) -> None:
    if said:
        peer.connection.data_received(frame(said[: LIMITS.max_frame_bytes]))


_TALKS: tuple[Callable[[FakePeer, bytes], None], ...] = (_as_line, _as_frame, _as_bytes)


def _in_json(request: wire.AnyRequest) -> bytes:
    return json_line(request)[:-1]  # type: ignore[arg-type]  # which fields there are is no concern of it


def _request_seeds() -> list[bytes]:
    framed = [frame(wire.pack(request)) for request in REQUESTS]
    lines = [_in_json(request) + b"\n" for request in REQUESTS]
    return [b"\3" + b"".join(framed), b"\7" + b"".join(lines), *(b"\1" + one for one in (*framed, *lines))]


def _reply_seeds() -> list[bytes]:
    framed = [frame(reply) for reply in REPLIES]
    return [b"\5" + b"".join(framed), *(b"\1" + one for one in framed)]


def _conversation_seeds() -> list[bytes]:
    begin = _in_json(wire.Begin("key", id=1))
    stream = _in_json(wire.Begin("key", id=1, stream=True))
    append = _in_json(wire.Append("boot-1", msgspec.Raw(b"\xa5piece"), id=2))
    complete = _in_json(wire.Complete("boot-1", msgspec.Raw(b"\xa6answer"), id=3, usage=wire.Usage("m", 1, 2, 0.5)))
    fail = _in_json(wire.Fail("boot-1", "transient", id=4, next=True, retry=True))
    lead = (b"\1" + begin, b"\2" + wire.pack(wire.Begin("key", id=1)))
    return [
        *(bytes([number % 2]) + _in_json(request) for number, request in enumerate(REQUESTS)),
        b"\n".join((*lead, b"\1" + complete, b"\3\xff", b"\1" + begin)),
        b"\n".join((*lead, b"\1" + fail, b"\3\x10", b"\1" + complete)),
        b"\n".join(
            (b"\1" + stream, b"\2" + wire.pack(wire.Begin("key", id=9, stream=True)), b"\1" + append, b"\1" + complete)
        ),
        b"\n".join((b"\1" + begin, b"\0" + begin, b"\3", b"\3\xff", b"\3\xff", b"\1" + complete)),
    ]


WORDS = (
    b'"op":', b'"id":', b'"key":', b'"lease":', b'"boot-1"', b'"boot-2"', b'"value":', b'{"$bytes":"AAAA"}', b"1e308", b"null",
    *(f'"{wire.tag_of(kind)}"'.encode() for kind in wire.AnyRequest.__args__),
    b'"stream":true', b'"next":true', b'"retry":true', b'"backends":["a","b"]', b'"wait_seconds":0', b'"ttl_seconds":0',
    b'"stale_seconds":9', b'"mode":"only_if_cached"', b'"kind":"ignored"', b'"store":false', b'"tags":["a"]',
)  # fmt: skip

WIRE_TARGETS = (
    Target("requests", requests, _request_seeds, WORDS),
    Target("buffers", buffers, _request_seeds),
    Target("replies", replies, _reply_seeds, tuple(wire.tag_of(kind).encode() for kind in wire.AnyReply.__args__)),
    Target("conversation", conversation, _conversation_seeds, WORDS),
)
