"""Replies to JSON-lines peers: in order, small ones at once, large ones in pieces, shared ones once."""

import json
from typing import Any

import pytest
from msgspec import Raw, msgpack

from sidecard.server.json_lines.outbox import WHOLE_BYTES, JsonOutbox, JsonValues
from sidecard.server.json_lines.pieces import PIECE_BYTES
from sidecard.server.json_lines.text import json_line
from sidecard.server.scheduler import TURN_SECONDS
from sidecard_client.protocol import wire
from tests.unit.server.harness import ServerHarness, value_of

LARGE = Raw(msgpack.encode(["text", 1.5] * 100_000))


def shared(value: Raw, request_id: int = 1) -> wire.Shared:
    """Return the answer of another caller's call, whose other fields have the names of values."""
    return wire.Shared(request_id, value, 0.0, False, 1.0, 0.5, '"value":null', {"value": None})


def drain(outbox: JsonOutbox) -> list[bytes]:
    """Return all lines."""
    lines = []
    while outbox.lines:
        parts = outbox.work()
        if parts:
            lines.append(b"".join(parts))

    return lines


@pytest.mark.parametrize(
    "reply",
    [
        shared(LARGE),
        wire.Chunk(1, LARGE, source="shared"),
        wire.Lease(1, "l", "b", 5.0, 1, passed_over={"stale_value": "busy"}, stale_value=LARGE),
        wire.Rejected(1, "busy", backends={'"stale_value":null': "busy"}, stale_value=LARGE),
        wire.Error(1, "internal", "e" * (WHOLE_BYTES + 1)),
    ],
)
def test_a_large_reply_is_the_same_line_in_pieces(reply: wire.AnyReply) -> None:
    """Its value is written apart from the rest."""
    outbox = JsonOutbox(JsonValues())
    assert outbox.encode(reply) is None
    assert outbox.held_bytes > WHOLE_BYTES
    assert drain(outbox) == [json_line(reply)]
    assert outbox.held_bytes == 0


def test_a_small_reply_is_written_at_once_unless_a_large_one_precedes_it() -> None:
    """Replies keep their order."""
    outbox = JsonOutbox(JsonValues())
    small = shared(Raw(msgpack.encode("v" * (WHOLE_BYTES - 200))), 2)
    assert outbox.encode(small) == json_line(small)
    assert outbox.encode(shared(LARGE)) is None
    assert outbox.encode(small) is None
    assert drain(outbox) == [json_line(shared(LARGE)), json_line(small)]


def test_a_value_is_written_once_for_all_its_receivers() -> None:
    """They share the work and the memory."""
    values = JsonValues()
    outboxes = [JsonOutbox(values) for _ in range(64)]
    for number, outbox in enumerate(outboxes):
        outbox.encode(shared(LARGE, number))

    (text,) = drain(outboxes[0])
    works = 0
    for outbox in outboxes[1:]:
        while not outbox.work():
            works += 1

    assert works == 0
    assert json.loads(text)["id"] == 0
    assert sum(outbox.held_bytes for outbox in outboxes) == 0


def test_a_value_that_json_cannot_express_is_an_error_for_each_receiver() -> None:
    """However late in the value, and the lines after it are sent."""
    bad, values = Raw(msgpack.encode(["text"] * 100_000 + [float("nan")])), JsonValues()
    for number in (1, 2):
        outbox = JsonOutbox(values)
        outbox.encode(shared(bad, number))
        outbox.encode(wire.Stored(3, stored=True))
        replies: list[dict[str, Any]] = [json.loads(line) for line in drain(outbox)]
        assert [(reply["id"], reply["type"]) for reply in replies] == [(number, "error"), (3, "stored")]


def test_a_cleared_outbox_holds_nothing() -> None:
    """Its connection has ended; other receivers get the value."""
    values = JsonValues()
    gone, other = JsonOutbox(values), JsonOutbox(values)
    gone.encode(shared(LARGE))
    other.encode(shared(LARGE))
    gone.work()
    gone.clear()
    assert not gone.lines
    assert gone.held_bytes == 0
    assert drain(other) == [json_line(shared(LARGE))]


def test_other_peers_are_served_between_the_pieces_of_one_value() -> None:
    """64 JSON waiters of 2 MiB, and a bystander of another uid that waits for one piece at most."""
    server = ServerHarness()
    waiters = [server.connect(uid=1001) for _ in range(64)]
    holder, bystander = server.connect(uid=1001), server.connect(uid=1002)
    holder.send(wire.Begin("key", id=1))
    (lease,) = holder.received()
    assert isinstance(lease, wire.Lease)
    for waiter in waiters:
        waiter.connection.data_received(b'{"op":"begin","key":"key","id":1}\n')

    server.loop.turn()
    assert all(waiter.received()[0]["type"] == "pending" for waiter in waiters)
    holder.send(wire.Complete(lease.lease, value_of("v" * 2**21), id=2))
    server.loop.cost = 0.001  # at each piece the clock is read
    turns = 0
    while any(waiter.connection.has_unread for waiter in waiters):
        before = server.loop.now
        server.loop.turn()
        assert server.loop.now - before < 0.02
        bystander.send(wire.Ping(id=turns))
        assert [reply.id for reply in bystander.received()] == [turns]
        turns += 1
        assert turns < 500

    assert turns > 10
    assert all(waiter.received()[0]["value"] == "v" * 2**21 for waiter in waiters)


def test_a_turn_writes_few_pieces_of_a_value() -> None:
    """Each piece counts, whoever waits for it."""
    server = ServerHarness()
    reader = server.connect()
    server.connect().send(wire.Put("key", value_of("v" * 2**21), id=1))
    server.loop.cost = TURN_SECONDS / 2
    reader.send_text('{"op":"get","key":"key","id":7}\n')
    turns = 0
    while reader.connection.has_unread and turns < 500:
        server.loop.turn()
        turns += 1

    assert turns > 2**21 / PIECE_BYTES / 4
    assert reader.received()[0]["value"] == "v" * 2**21
