"""Values that no client can read, stored by a program that speaks the protocol itself."""

import socket
from collections.abc import Callable

import anyio
import msgspec

from sidecard_client import AsyncClient, Client
from sidecard_client.protocol import wire
from sidecard_client.protocol.frames import FrameBuffer, frame
from tests.daemons import Daemon, ask

NO_TEXT = b"\xa1\xff"
"""A string of msgpack that is not UTF-8."""


def put(path: str, key: str, value: bytes) -> None:
    """Store a value as it is."""
    with socket.socket(socket.AF_UNIX) as peer:
        peer.connect(path)
        peer.sendall(frame(wire.pack(wire.Put(key, msgspec.Raw(value), id=1))))
        (reply,) = FrameBuffer().feed(peer.recv(4096))
        assert isinstance(wire.unpack_reply(reply), wire.Stored)


def test_a_value_that_no_client_can_read_is_as_good_as_none(daemon: Callable[..., Daemon]) -> None:
    """Its callers make their own calls, nothing is raised into an app, and the connection is good for the next call."""
    path = daemon().socket
    put(path, "bad", NO_TEXT)
    with Client(path, daemon_timeout=10) as client:
        assert client.get("bad", "nothing") == "nothing"
        outcome = client.outcome(str, 5, key="bad")
        assert (outcome.value, outcome.source) == ("5", "upstream")
        assert client.outcome(str, 6, key="good").source == "upstream"
        assert client.outcome(str, 6, key="good").source == "cache"


def test_a_value_that_no_client_can_read_takes_no_other_call_with_it(daemon: Callable[..., Daemon]) -> None:
    """Many calls share the asynchronous client's one connection."""
    path = daemon().socket
    put(path, "bad", NO_TEXT)

    async def slow(started: anyio.Event, go: anyio.Event) -> str:
        started.set()
        await go.wait()
        return "slow"

    async def main() -> None:
        async with AsyncClient(path, daemon_timeout=10) as client, anyio.create_task_group() as tasks:
            started, go = anyio.Event(), anyio.Event()
            sources: list[str] = []

            async def other() -> None:
                sources.append((await client.outcome(slow, started, go, key="slow")).source)

            tasks.start_soon(other)
            await started.wait()
            assert await client.get("bad", "nothing") == "nothing"
            assert (await client.outcome(str, 5, key="bad")).source == "upstream"
            go.set()

            with anyio.fail_after(20):
                while not sources:  # noqa: ASYNC110 - the other task sets no event when it has its outcome
                    await anyio.sleep(0.002)

            # Stored: the lease, and so the connection, has lived through it.
            assert (sources, await client.get("slow")) == (["upstream"], "slow")

    anyio.run(main)
    assert ask(path, {"op": "get", "id": 1, "key": "bad"})["type"] == "error"
