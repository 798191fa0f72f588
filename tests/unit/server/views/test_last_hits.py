"""The last hits of connections that received views: they are booked, whether the daemon or the peer ends first."""

import asyncio
import os
import socket
from collections.abc import Callable
from typing import Any

import pytest
import uvloop

from sidecard.core.events import Peer
from sidecard.server.connection import PeerConnection
from sidecard.server.scheduler import MAX_BATCH, TURN_SECONDS
from sidecard_client.protocol import wire
from sidecard_client.protocol.frames import frame
from tests.unit.server.harness import FakePeer, ServerHarness, value_of

HITS = wire.RecordHits(id=1, hits=((7, 3, 0.0, 0.0),))
"""On a publication that there is not: such hits are counted as dropped."""


def reader_on(server: ServerHarness) -> FakePeer:
    """Connect a peer that receives a view."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        peer = server.connect(connected=ours)
        reply = wire.View(2, view=1, layout=1, size=4096, now_seconds=1.0)
        assert peer.connection.pass_descriptor(reply, ours.fileno())
        _, descriptors, _, _ = socket.recv_fds(theirs, 4096, 4)
        os.close(descriptors[0])

    return peer


def taken(server: ServerHarness) -> int:
    """Return how many reported hits the engine has received."""
    return server.engine.metrics.dropped["view_hits"]


def test_a_stop_ends_the_output_of_connections_with_views_and_awaits_their_end() -> None:
    """Their peers notice, report, and end the connection. Others stay as they are."""
    server, reported = ServerHarness(), list[str]()
    other, idle, busy = server.connect(), reader_on(server), reader_on(server)
    busy.connection.queue(wire.Ok(5))
    server.connections.end_views(lambda: reported.append("all"))
    assert [peer.transport.ended for peer in (other, idle, busy)] == [False, True, True]
    assert busy.received() == [wire.Ok(5)]

    idle.disconnect()
    busy.send(HITS)
    assert reported == []
    busy.disconnect()
    assert taken(server) == 3
    assert reported == ["all"]
    other.send(wire.Ping(id=9))
    assert isinstance(other.received()[0], wire.Pong)


def test_nothing_is_sent_after_the_end_of_output() -> None:
    """A transport would fail, and drop the hits that have not been read yet."""
    server = ServerHarness()
    peer = reader_on(server)
    server.connections.end_views(lambda: None)
    peer.send(wire.Ping(id=1))
    peer.send(HITS, wire.Ping(id=2), HITS)
    peer.connection.queue_shared(wire.Chunk(3, value_of("x" * 100_000)))
    peer.connection.queue_metrics(4, [b"\x80"])
    assert peer.connection.pass_descriptor(wire.Ok(5), 0)
    assert peer.received() == []
    assert taken(server) == 6
    assert not server.bugs


def test_the_end_of_a_reader_that_is_closed_instead_counts() -> None:
    """The wait for the last hits may be over before the peer has reacted."""
    server, reported = ServerHarness(), list[str]()
    peer = reader_on(server)
    server.connections.end_views(lambda: reported.append("all"))
    server.connections.close_all(lambda: reported.append("empty"))
    assert peer.transport.closed
    peer.connection.connection_lost(None)
    assert reported == ["all", "empty"]


def test_no_connection_with_a_view_is_not_awaited() -> None:
    """A daemon whose clients use no views stops as fast as without them."""
    server, reported = ServerHarness(), list[str]()
    server.connect()
    server.connections.end_views(lambda: reported.append("all"))
    assert reported == ["all"]


async def _connects_sends_and_ends(server: ServerHarness, data: bytes) -> None:
    """Accept a connection whose peer has sent all, and has closed it. Nothing is served inline."""
    loop = asyncio.get_running_loop()
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    with theirs:
        theirs.setblocking(False)
        assert theirs.send(data) == len(data)

    admission = server.connections.admit(ours)
    assert isinstance(admission, Peer)
    connection = PeerConnection(server.context, server.limits, admission, ours.fileno())
    await loop.connect_accepted_socket(lambda: connection, ours)
    while len(server.connections):
        server.loop.turn()
        server.context.scheduler.inline_until = float("-inf")
        await asyncio.sleep(0)


@pytest.mark.parametrize("reports", [1, MAX_BATCH + 1, 40 * MAX_BATCH])
@pytest.mark.parametrize("new_loop", [asyncio.new_event_loop, uvloop.new_event_loop])
def test_reports_that_wait_for_a_turn_are_booked_before_the_end_of_file(
    new_loop: Callable[[], Any], reports: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """1. Reports are held, as their uid is over its time. 2. The peer closes. The connection is read no further until 1 is served."""
    server, loop = ServerHarness(), new_loop()
    server.loop.cost = TURN_SECONDS
    monkeypatch.setattr(server.context.scheduler, "may_serve_inline", lambda *_: False)
    try:
        loop.run_until_complete(
            asyncio.wait_for(_connects_sends_and_ends(server, reports * frame(wire.pack(HITS))), 20.0)
        )
    finally:
        loop.close()

    assert taken(server) == 3 * reports
