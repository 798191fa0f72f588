"""The number of Python functions that a request passes in the daemon: each costs about 50 ns, and hits pass all of them."""

import sys
from collections.abc import Callable
from types import FrameType
from typing import Any

from sidecard_client.protocol import wire
from sidecard_client.protocol.frames import frame
from tests.unit.server.harness import ServerHarness, value_of

MAX_FRAMES_OF_HIT = 17
"""0.1.0 took 25."""

MAX_FRAMES_OF_BATCHED_HIT = 11
"""Of 64 hits in one piece, each, with its share of what the batch passes once."""

MAX_FRAMES_OF_MISS = 190
"""Of begin and complete, without a store. A bound against growth: new work on every miss has to be worth it."""


def frames_of(call: Callable[[], None]) -> list[str]:
    """Return the functions of the product that are entered during a call."""
    entered = list[str]()

    def profile(entering: FrameType, event: str, _: Any) -> None:
        path = entering.f_code.co_filename
        if event == "call" and ("/sidecard/" in path or "/sidecard_client/" in path) and "/tests/" not in path:
            entered.append(entering.f_code.co_qualname)

    sys.setprofile(profile)
    try:
        call()
    finally:
        sys.setprofile(None)

    return entered


def packed(request: wire.Request) -> bytes:
    """Return a request as it travels."""
    return frame(wire.pack(request))


def test_a_hit_passes_few_functions() -> None:
    """From the bytes that the transport has received to the reply's bytes in the transport."""
    server = ServerHarness()
    alice = server.connect()
    alice.send(wire.Put("key", value_of("answer"), id=1))
    hit = packed(wire.Begin("key", id=2))
    alice.connection.data_received(hit)  # the first of many begins is timed
    alice.received()
    entered = frames_of(lambda: alice.connection.data_received(hit))
    (reply,) = alice.received()
    assert isinstance(reply, wire.Hit)
    assert entered[0] == "PeerConnection.data_received"
    assert "PeerOutput.flush" in entered
    assert len(entered) <= MAX_FRAMES_OF_HIT, entered


def test_a_batch_of_hits_passes_fewer_functions_each() -> None:
    """As many as an `AsyncClient` has concurrent calls are served in one go, without a turn."""
    server = ServerHarness()
    alice = server.connect()
    alice.send(wire.Put("key", value_of("answer"), id=1))
    hits = b"".join(packed(wire.Begin("key", id=number)) for number in range(64))
    alice.connection.data_received(hits)
    server.loop.turn()
    alice.received()
    entered = frames_of(lambda: alice.connection.data_received(hits))
    assert len(alice.received()) == 64
    assert len(entered) <= MAX_FRAMES_OF_BATCHED_HIT * 64, entered


def test_a_miss_passes_a_bounded_number_of_functions() -> None:
    """A lease, and the answer."""
    server = ServerHarness()
    alice = server.connect()
    alice.send(wire.Begin("other", id=1))
    alice.received()
    begin = packed(wire.Begin("key", id=2))
    entered = frames_of(lambda: alice.connection.data_received(begin))
    (lease,) = alice.received()
    complete = packed(wire.Complete(lease.lease, value_of("answer"), id=3))
    entered += frames_of(lambda: alice.connection.data_received(complete))
    (reply,) = alice.received()
    assert isinstance(reply, wire.Stored)
    assert len(entered) <= MAX_FRAMES_OF_MISS, entered
