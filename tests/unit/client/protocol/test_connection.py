"""The client's side of a multiplexed connection: ids, open requests, and what may answer them."""

from typing import Any

import msgspec
import pytest

from sidecard_client.protocol import wire
from sidecard_client.protocol.connection import ANSWERS, Connection
from sidecard_client.protocol.errors import FramingError, ProtocolError
from sidecard_client.protocol.frames import frame


def framed(*replies: wire.Reply) -> bytes:
    """Build what the daemon would send."""
    return b"".join(frame(wire.pack(reply)) for reply in replies)


def hit(request_id: int, value: object = "x") -> wire.Hit:
    """Build a stored answer."""
    return wire.Hit(request_id, value, 1.0, stale=False, saved_seconds=1.0, saved_dollars=0.0, backend="b", meta={})


def test_send_numbers_requests_from_one() -> None:
    """A request gets the next id, whatever its own is."""
    connection = Connection()
    sent = [connection.send(wire.Ping(id=7)) for _ in range(3)]

    assert [request_id for request_id, _ in sent] == [1, 2, 3]
    assert [wire.unpack_request(data[4:]).id for _, data in sent] == [1, 2, 3]
    assert len(connection) == 3


def test_send_keeps_the_fields_of_a_request() -> None:
    """Only the id is replaced."""
    connection = Connection()
    _, data = connection.send(wire.Begin(key="k", task="rag", wait_seconds=2.0))

    assert wire.unpack_request(data[4:]) == wire.Begin(id=1, key="k", task="rag", wait_seconds=2.0)


def test_next_id_is_the_id_of_the_next_request() -> None:
    """A request that has it already is sent without a copy."""
    connection = Connection()
    connection.send(wire.Ping())

    assert connection.next_id == connection.send(wire.Ping(id=connection.next_id))[0] == 2


def test_receive_returns_replies_in_order_of_arrival() -> None:
    """Requests may be answered in any order; a reply closes its request."""
    connection = Connection()
    connection.send(wire.Begin(key="a"))
    connection.send(wire.Begin(key="b"))
    replies = connection.receive(framed(hit(2), hit(1)))

    assert [reply.id for reply in replies] == [2, 1]
    assert len(connection) == 0


def test_receive_takes_bytes_one_at_a_time() -> None:
    """A reply is returned with its last byte."""
    connection = Connection()
    connection.send(wire.Begin(key="a"))
    data = framed(hit(1, "é" * 50))
    received = [connection.receive(data[place : place + 1]) for place in range(len(data))]

    assert [reply for replies in received for reply in replies] == [hit(1, "é" * 50)]
    assert received[-1] == [hit(1, "é" * 50)]


def test_a_pending_request_stays_open_until_its_last_reply() -> None:
    """`Pending` moves an id to ``pending``, the end removes it."""
    connection = Connection()
    connection.send(wire.Begin(key="a"))
    connection.receive(framed(wire.Pending(1)))

    assert connection.pending == {1}
    assert repr(connection) == "<Connection 0 unanswered, 1 pending>"

    connection.receive(framed(wire.Failed(1, "fatal", "no")))

    assert connection.pending == set()
    assert repr(connection) == "<Connection 0 unanswered, 0 pending>"


@pytest.mark.parametrize("kind", wire.FINAL_REPLIES_OF_BEGIN)
def test_every_final_reply_ends_a_wait(kind: type[wire.Reply]) -> None:
    """Every type that the wire lists closes the request."""
    fields: dict[str, Any] = {
        "id": 1,
        "value": 1,
        "source": "cache",
        "age_seconds": 0.0,
        "stale": False,
        "saved_seconds": 0.0,
        "saved_dollars": 0.0,
    }
    fields |= {"backend": "b", "meta": {}, "lease": "l", "expires_in_seconds": 1.0, "attempt": 1, "waited_seconds": 1.0}
    fields |= {"reason": "busy", "kind": "fatal", "message": "m", "code": "internal"}
    reply = msgspec.convert({"type": kind.__struct_config__.tag, **fields}, kind)
    connection = Connection()
    connection.send(wire.Begin(key="a"))

    assert connection.receive(framed(wire.Pending(1), reply)) == [wire.Pending(1), reply]
    assert len(connection) == 0


def test_every_request_of_the_wire_has_its_answers() -> None:
    """The table covers every request of the wire."""
    assert set(ANSWERS) == set(wire.AnyRequest.__args__)


def test_a_watch_is_open_through_any_number_of_notes() -> None:
    """It stays open until it is forgotten."""
    connection = Connection()
    request_id, _ = connection.send(wire.Watch())
    note = wire.Note(request_id, "evicted", 1.0, {"count": 1})
    assert connection.receive(framed(wire.Pending(request_id), note, note)) == [wire.Pending(request_id), note, note]
    assert len(connection) == 1
    connection.forget(request_id)
    assert connection.receive(framed(note)) == []


def test_a_late_reply_to_a_forgotten_request_is_dropped() -> None:
    """1. The daemon replies; 2. the client forgets the request; 3. the reply arrives."""
    connection = Connection()
    for _ in range(3):
        connection.send(wire.Begin(key="a"))

    connection.receive(framed(wire.Pending(2)))
    connection.forget(1)
    connection.forget(2)

    assert connection.receive(framed(wire.Pending(1), hit(1), hit(2), hit(3))) == [hit(3)]
    assert len(connection) == 0


def test_forget_of_an_unknown_id_changes_nothing() -> None:
    """A caller may give up a request that was just answered."""
    connection = Connection()
    connection.send(wire.Ping())
    connection.forget(9)

    assert len(connection) == 1


def test_a_hundred_thousand_forgotten_requests_leave_nothing_behind() -> None:
    """Cancelled waits cost no memory."""
    connection = Connection()
    for _ in range(100_000):
        request_id, _ = connection.send(wire.Begin(key="a"))
        connection.receive(framed(wire.Pending(request_id)))
        connection.forget(request_id)

    assert len(connection) == 0


@pytest.mark.parametrize(
    "replies",
    [
        pytest.param([wire.Ok(2)], id="of a request that was never sent"),
        pytest.param([wire.Ok(-1)], id="of a negative id"),
        pytest.param([wire.Ok(1)], id="of a type that the request cannot get"),
        pytest.param([wire.Pending(1), wire.Pending(1)], id="pending twice"),
        pytest.param([wire.Pending(1), wire.Ok(1)], id="an end of a type that no wait has"),
    ],
)
def test_receive_refuses_an_unexpected_reply(replies: list[wire.Reply]) -> None:
    """No caller may get a reply that was meant for another."""
    connection = Connection()
    connection.send(wire.Begin(key="a"))

    with pytest.raises(ProtocolError, match=r"with the id -?\d|answered Begin with Ok"):
        connection.receive(framed(*replies))


def test_receive_refuses_pending_for_anything_but_a_begin() -> None:
    """A ping does not wait."""
    connection = Connection()
    connection.send(wire.Ping())

    with pytest.raises(ProtocolError, match="Pending"):
        connection.receive(framed(wire.Pending(1)))


def test_an_error_about_the_connection_is_raised_with_its_text() -> None:
    """The daemon answers wrong framing with id 0 before it closes."""
    connection = Connection()
    connection.send(wire.Ping())

    with pytest.raises(ProtocolError, match=r"closed the connection \(too_large\): send less"):
        connection.receive(framed(wire.Error(0, "too_large", "send less")))


@pytest.mark.parametrize(
    "garbage",
    [
        pytest.param(b"\x00\x00\x00\x00", id="a frame of length 0"),
        pytest.param(b"\xff\xff\xff\xff", id="a frame of 2^32 - 1 bytes"),
        pytest.param(b"HTTP/1.1 400 Bad Request\r\n", id="another protocol"),
        pytest.param(frame(b"\xc1"), id="no msgpack"),
        pytest.param(frame(b"\x93\x01\x02\x03"), id="no map"),
        pytest.param(frame(wire.pack({"type": "surprise", "id": 1})), id="an unknown type"),
        pytest.param(frame(wire.pack({"type": "pong", "id": "one"})), id="a field of a wrong type"),
        pytest.param(frame(b"\x91" * 100_000 + b"\xc0"), id="deep nesting"),
    ],
)
def test_receive_refuses_bytes_that_are_no_reply(garbage: bytes) -> None:
    """Each is a `ProtocolError`, and closes no request."""
    connection = Connection()
    connection.send(wire.Ping())

    with pytest.raises(ProtocolError):
        connection.receive(garbage)

    assert len(connection) == 1


def test_a_reply_above_the_limit_is_refused_by_its_header() -> None:
    """Its payload need not arrive."""
    connection = Connection(max_reply_bytes=1000)

    with pytest.raises(FramingError, match="1001"):
        connection.receive((1001).to_bytes(4, "big"))


@pytest.mark.parametrize(
    "reply",
    [
        wire.Lease(1, "l", "local", 15.0, 2),
        wire.Rejected(1, "breaker_open"),
        wire.Timeout(1, 2.0),
        wire.Failed(1, "transient", ""),
        hit(1),
    ],
    ids=lambda reply: type(reply).__name__,
)
def test_a_fail_may_wait_like_a_begin(reply: wire.Reply) -> None:
    """Its last reply closes it, immediately or after a `Pending`."""
    for before in ([], [wire.Pending(1)]):
        connection = Connection()
        connection.send(wire.Fail(lease="l", next=True, retry=True))

        assert connection.receive(framed(*before, reply)) == [*before, reply]
        assert len(connection) == 0


def test_a_waiting_fail_is_not_ended_by_ok() -> None:
    """``ok`` is an immediate reply: there is no other lease."""
    connection = Connection()
    connection.send(wire.Fail(lease="l", next=True))

    with pytest.raises(ProtocolError, match="Ok"):
        connection.receive(framed(wire.Pending(1), wire.Ok(1)))


def test_requests_about_breakers_have_answers_of_their_own() -> None:
    """A list for one, a confirmation for the other."""
    connection = Connection()
    connection.send(wire.GetBreakers())
    connection.send(wire.SetBreaker(backend="cloud", action="open"))
    replies = [wire.Breakers(1, {}), wire.Ok(2)]

    assert connection.receive(framed(*replies)) == replies
