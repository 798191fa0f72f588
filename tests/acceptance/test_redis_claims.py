"""Claims that a host cannot give back, because its Redis hangs or is away: nobody waits for what nobody computes."""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from sidecard_client import wire
from tests.daemons import Daemon, poll
from tests.hostile import Wire
from tests.many_hosts import Start, stat
from tests.servers import RedisServer, any_program, ending

CLAIM_SECONDS = 15.0
"""A lease's, as by default: so long a claim would keep callers waiting."""


@pytest.fixture
def server(socket_directory: Path) -> Iterator[RedisServer]:
    """A server of the test's own."""
    one = RedisServer(socket_directory / "redis", any_program())
    with ending(one):
        yield one


def turns(daemon: Daemon, state: str) -> None:
    """Wait until a daemon says so of its store."""
    poll(lambda: stat(daemon, "store") == state, f"the store is not {state}")


def test_a_claim_that_could_not_be_given_back_keeps_nobody_waiting(daemon: Start, server: RedisServer) -> None:
    """The next caller on this host has the lease at once, and need not wait until the claim expires."""
    running = daemon("--no-state", SIDECARD_STORE_URL=server.url)
    turns(running, "up")
    alice, bob = Wire(running.socket), Wire(running.socket)
    lease = alice.asks(wire.Begin("k", id=1))
    assert isinstance(lease, wire.Lease)
    server.pause()
    alice.sends(wire.Get("other", id=2))
    turns(running, "down")
    alice.hears()
    assert alice.asks(wire.Fail(lease.lease, id=3)) == wire.Ok(3)
    server.resume()
    turns(running, "up")
    began_at = time.monotonic()
    reply = bob.asks(wire.Begin("k", id=1))
    while isinstance(reply, wire.Pending):
        (reply,) = bob.hears()

    assert isinstance(reply, wire.Lease)
    assert time.monotonic() - began_at < CLAIM_SECONDS / 2
