"""Claims that a host cannot give back, because its Redis hangs or is away: no caller waits for a key that no host computes."""

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from msgspec import Raw

from sidecard.store.redis.scripts import entry_name
from sidecard_client.protocol import wire
from tests.daemons import Daemon, ask, poll
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


def grants(server: RedisServer, to: Daemon) -> None:
    """Do what the server may do or not with the first question that it got before its connection was closed: grant its claim."""
    until = round(time.time() * 1000 + CLAIM_SECONDS * 1000)  # noqa: TID251 - the server's clock, which is this host's
    name = entry_name(f"{os.getuid()}:default", "k")
    with server.client() as client:
        client.hset(name, mapping={"claim": f"{stat(to, 'boot_id')}-1", "claimed_until": until})
        client.pexpireat(name, until + 60_000)


def leads(caller: Wire) -> wire.Lease:
    """Begin, and return the lease; the store may take its time."""
    reply = caller.asks(wire.Begin("k", id=1))
    while isinstance(reply, wire.Pending):
        (reply,) = caller.receives()

    assert isinstance(reply, wire.Lease)
    return reply


def test_claim_that_was_not_released_delays_no_local_caller(daemon: Start, server: RedisServer) -> None:
    """The next caller on the host gets the lease immediately, before the claim expires."""
    running = daemon("--no-state", SIDECARD_STORE_URL=server.url)
    turns(running, "up")
    alice, bob = Wire(running.socket), Wire(running.socket)
    lease = leads(alice)
    server.pause()
    alice.sends(wire.Get("other", id=2))
    turns(running, "down")
    alice.receives()
    assert alice.asks(wire.Fail(lease.lease, id=3)) == wire.Ok(3)
    server.resume()
    turns(running, "up")
    began_at = time.monotonic()
    leads(bob)
    assert time.monotonic() - began_at < CLAIM_SECONDS / 2


def test_claim_granted_without_a_reply_is_reused_after_its_entry_expires(daemon: Start, server: RedisServer) -> None:
    """The host that holds a claim is remembered while its entry is served.

    1. A server hangs, with the question for a claim in its queue; 2. the call is made without; 3. the server grants the claim;
    4. its entry is read from there, and expires; 5. the next callers ask for the key.
    """
    running = daemon("--no-state", "--set", "cache.sharing_window_seconds=0", SIDECARD_STORE_URL=server.url)
    turns(running, "up")
    alice, bob = Wire(running.socket), Wire(running.socket)
    server.pause()
    lease = leads(alice)
    turns(running, "down")
    assert alice.asks(wire.Complete(lease.lease, Raw(b"\xa1x"), ttl_seconds=4.0, id=2)) == wire.Stored(2, stored=True)
    server.resume()
    turns(running, "up")
    grants(server, running)
    poll(lambda: stat(running, "store_pending") == 0, "the entry is not written")
    reply = bob.asks(wire.Begin("k", id=1))
    while isinstance(reply, wire.Pending):
        (reply,) = bob.receives()

    assert isinstance(reply, wire.Hit)
    poll(lambda: ask(running.socket, {"op": "get", "key": "k"})["type"] == "miss", "the entry does not expire")
    began_at = time.monotonic()
    leads(bob)
    assert time.monotonic() - began_at < CLAIM_SECONDS / 2


def test_claim_of_a_replaced_write_is_released(daemon: Start, server: RedisServer) -> None:
    """A write that replaces a pending one takes over its claim.

    1. A call is made under a claim; 2. the server hangs, and its answer waits to be written; 3. it expires; 4. another one is
    made without a claim and takes its place; 5. the server is there again, and has the claim of the first.
    """
    running = daemon("--no-state", "--set", "cache.sharing_window_seconds=0", SIDECARD_STORE_URL=server.url)
    turns(running, "up")
    alice, bob = Wire(running.socket), Wire(running.socket)
    first = leads(alice)
    server.pause()
    alice.sends(wire.Get("other", id=2))
    turns(running, "down")
    alice.receives()

    def expires() -> None:
        poll(lambda: ask(running.socket, {"op": "get", "key": "k"})["type"] == "miss", "the entry does not expire")

    for lease in (first.lease, None):
        held = leads(alice).lease if lease is None else lease
        answer = wire.Complete(held, Raw(b"\xa1x"), ttl_seconds=0.5, id=2)
        assert alice.asks(answer) == wire.Stored(2, stored=True)
        expires()

    server.resume()
    turns(running, "up")
    poll(lambda: stat(running, "store_pending") == 0, "the entry is not written")
    expires()
    began_at = time.monotonic()
    leads(bob)
    assert time.monotonic() - began_at < CLAIM_SECONDS / 2
