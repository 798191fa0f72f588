"""Bytes that no client of ours sends, and keys that no caller should use. See `tests.acceptance.fault_index`.

Lengths, bombs and endless lines are in `test_serve`, those that a daemon says to clients in the tests of either client.
"""

import json
import random
import socket
from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from sidecard_client import Client
from sidecard_client.protocol import wire
from sidecard_client.protocol.frames import frame
from tests.acceptance.test_serve import Wire, unnoticed
from tests.callers import KINDS, Caller, connecting
from tests.daemons import Daemon, ask
from tests.faults import PATIENT, SHAPES, Injected, Scene

Start = Callable[..., Daemon]

KEYS = {"64 KiB": "k" * 65536, "one too many": "k" * 1025, "empty": "", "not UTF-8": "\ud800"}

BYTES = [b"k" * 65536, b"", b"\xff\xfe", b"\xed\xa0\x80", b"\xc0\x80"]
"""Too long, empty, no UTF-8 at all, half of a surrogate pair, and an overlong NUL."""


def call(caller: Caller, shape: str, key: str) -> Any:
    """Call, or read a stream to its end."""
    if shape == "plain":
        return caller.outcome(lambda: ["a"], key=key).value

    if caller.portal is None:
        return list(caller.sidecard.stream(lambda: ["a"], key=key))

    async def read() -> list[str]:
        async with caller.sidecard.stream(lambda: ["a"], key=key) as stream:
            return [piece async for piece in stream]

    return caller.portal.call(read)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", SHAPES)
def test_invalid_keys_raise_in_the_client_before_anything_is_sent(
    kind: str, shape: str, scenes: Callable[..., Scene], injected: Injected
) -> None:
    """A client rejects an invalid key before it sends anything, and stays usable; the longest valid key works."""
    scene = scenes()
    with connecting(kind, scene.daemon.socket) as make:
        caller = make(daemon_timeout=10)
        for key in KEYS.values():
            with pytest.raises(ValueError, match=r"1 to 1024 characters|surrogates"):
                call(caller, shape, key)

        assert call(caller, shape, "k" * 1024) == ["a"]
        assert call(caller, shape, "ключ \0 \N{SNOWMAN}") == ["a"]
        assert scene.stats()["peers"] == 2
        assert scene.stats()["begins"] == 2

    injected(len(KEYS), callers=len(KEYS))
    scene.calm()


def packed(key: bytes) -> bytes:
    """Pack a begin with a key of any bytes."""
    header = b"\xda" + len(key).to_bytes(2, "big") if len(key) < 65536 else b"\xdb" + len(key).to_bytes(4, "big")
    return frame(b"\x83\xa2op\xa5begin\xa2id\x05\xa3key" + header + key)


def lined(key: bytes) -> bytes:
    """Write a begin with a key of any bytes as a line."""
    return b'{"op":"begin","id":5,"key":"' + key + b'"}\n'


@pytest.mark.parametrize("write", [packed, lined], ids=["msgpack", "JSON lines"])
def test_invalid_keys_on_the_wire_are_rejected_and_the_connection_stays(
    write: Callable[[bytes], bytes], scenes: Callable[..., Scene], injected: Injected
) -> None:
    """The daemon answers an invalid key with an error that names the cause, and serves the next request."""
    scene = scenes()
    with unnoticed(scene.daemon.socket), socket.socket(socket.AF_UNIX) as stranger:
        stranger.settimeout(20)
        stranger.connect(scene.daemon.socket)
        decode = msgspec.json.decode if write is lined else msgspec.msgpack.decode
        for key, expected in [*((key, "error") for key in BYTES), (b"fine", "lease")]:
            stranger.sendall(write(key))
            answer = stranger.recv(65536)
            reply = decode(answer if write is lined else answer[4:])
            assert reply["type"] == expected, reply
            assert expected == "lease" or (reply["code"], bool(reply["message"])) == ("bad_request", True)

    injected(len(BYTES))
    scene.calm()


@pytest.mark.parametrize("shape", SHAPES)
def test_calls_with_ids_in_any_order_receive_their_own_answers(
    shape: str, scenes: Callable[..., Scene], injected: Injected
) -> None:
    """A hundred calls wait on one connection under ids of all sizes, end in another order, and receive their own answers."""
    scene = scenes(*PATIENT)
    chance = random.Random(25)
    ids = chance.sample([0, 1, -1, 2**63 - 1, -(2**63), *range(1000, 1200)], 100)
    with Wire(scene.daemon.socket) as holder, Wire(scene.daemon.socket) as line:
        leases = []
        for number in ids:
            granted = holder.ask(wire.Begin(str(number), id=7, stream=shape == "stream"))
            assert isinstance(granted, wire.Lease)
            leases.append((number, granted.lease))

        line.send(*(wire.Begin(str(number), id=number, stream=shape == "stream") for number in ids))
        pending = [line.receive() for _ in ids]
        assert [reply.id for reply in pending if isinstance(reply, wire.Pending)] == ids
        chance.shuffle(leases)
        for number, lease in leases:
            value = msgspec.Raw(msgspec.msgpack.encode(number))
            if shape == "stream":
                holder.send(wire.Append(lease, value, id=9), wire.Complete(lease, id=8))
            else:
                holder.send(wire.Complete(lease, value, id=8))

            assert isinstance(holder.receive(), wire.Stored)
            reply = line.receive()
            assert isinstance(reply, wire.Shared | wire.Chunk)
            assert (reply.id, reply.value if isinstance(reply, wire.Shared) else reply.chunk) == (number, number)
            if shape == "stream":
                end = line.receive()
                assert isinstance(end, wire.End)
                assert end.id == number

    injected(len(ids), callers=len(ids))
    scene.calm()


def test_json_requests_with_ids_in_any_order_receive_their_own_answers(
    scenes: Callable[..., Scene], injected: Injected
) -> None:
    """Three kinds of requests in JSON lines, sent together, receive their own answers."""
    scene = scenes()
    requests = [{"op": "ping", "id": 2**63 - 1}, {"op": "get", "key": "k", "id": -5}, {"op": "stats", "id": 0}]
    with socket.socket(socket.AF_UNIX) as line:
        line.settimeout(20)
        line.connect(scene.daemon.socket)
        line.sendall(b"".join(json.dumps(request).encode() + b"\n" for request in requests))
        line.shutdown(socket.SHUT_WR)
        received = b""
        while data := line.recv(65536):
            received += data

    replies = {reply["id"]: reply["type"] for reply in map(json.loads, received.splitlines())}
    assert replies == {2**63 - 1: "pong", -5: "miss", 0: "stats"}
    injected(len(requests))
    scene.calm()


@pytest.mark.parametrize("encoding", ["msgpack", "JSON lines"])
def test_partial_begin_holds_nothing(encoding: str, daemon: Start, injected: Injected) -> None:
    """A begin that arrives in part opens no flight and no wait: a caller of the same key leads immediately."""
    running = daemon()
    whole = packed(b"key") if encoding == "msgpack" else lined(b"key")[:-1]
    for length in range(1, len(whole)):
        with socket.socket(socket.AF_UNIX) as stranger:
            stranger.connect(running.socket)
            stranger.sendall(whole[:length])

    with Client(running.socket, daemon_timeout=10) as client:
        assert client.outcome(str, 5, key="key").source == "upstream"

    stats = ask(running.socket, {"op": "stats"})
    assert (stats["flights"], stats["begins"]) == (0, 1)
    injected(len(whole) - 1)
