"""An app worker that may run with the client of any version: it uses public names of 0.1.0 only.

Run as ``version_worker.py SOCKET SCENARIO [ARGUMENT]``; prints one JSON value per line.
"""

import asyncio
import json
import socket
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from msgspec import Raw

import sidecard_client
from sidecard_client import AsyncClient, CallFailed, Client, wire

PATIENCE_SECONDS = 10.0


def show(value: object) -> None:
    """Print one JSON line."""
    print(json.dumps(value), flush=True)


def answer(prompt: str) -> str:
    """Be the upstream of `calls`."""
    return f"answer to {prompt}"


def pieces(prompt: str) -> Iterator[str]:
    """Be the upstream of `streams`."""
    yield from prompt


def calls(client: Client) -> None:
    """Show the client's place, a ping, a miss, a hit, a stream made and one replayed."""
    show(str(Path(sidecard_client.__file__).parent))
    show(client.ping().protocol)
    show([client.outcome(answer, "a").source, client.outcome(answer, "a").source, client.call(answer, "a")])
    for _ in range(2):
        with client.stream(pieces, "xyz") as stream:
            show([list(stream), stream.source])


def entries(client: Client) -> None:
    """Show what put, get, delete and purge return."""
    show([client.put("k", {"a": [1, b"\x00"]}, tags=["t"]), client.get("k") == {"a": [1, b"\x00"]}])
    show([client.delete("k"), client.delete("k"), client.get("k")])
    client.put("k", 1, tags=["t"])
    show([client.purge(tag="t"), client.get("k")])


def operations(client: Client) -> None:
    """Show the daemon's state, and what became of a counter."""
    client.counter("documents").inc(3)
    show([client.flush_metrics(5.0), client.health().status, client.stats().draining, client.report().total.calls > 0])
    show([client.breakers().backends["default"].state, "cache.max_bytes" in client.config().settings])


def batch(path: str) -> None:
    """Send several msgpack messages in one go; show the replies' types by id, and the last one's value."""
    requests = [
        wire.Ping(id=1),
        wire.Put(id=2, key="batch", value=Raw(wire.pack("v"))),
        wire.Get(id=3, key="batch"),
        wire.Begin(id=4, key="batch"),
        wire.RecordMetrics(id=5, acknowledge=True, metrics=(wire.Measurement(name="sent", kind="counter"),)),
        wire.Begin(id=6, key="other", wait_seconds=1.0),
    ]
    packed = [wire.pack(request) for request in requests]
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(PATIENCE_SECONDS)
        connection.connect(path)
        connection.sendall(b"".join(len(one).to_bytes(4, "big") + one for one in packed))
        replies: dict[int, wire.AnyReply] = {}
        with connection.makefile("rb") as received:
            while len(replies) < len(requests):
                reply = wire.unpack_reply(received.read(int.from_bytes(received.read(4), "big")))
                replies[reply.id] = reply

    show({number: wire.tag_of(type(replies[number])) for number in sorted(replies)})
    show(replies[3].value)  # type: ignore[union-attr]  # a Hit, as the line above shows


def fresh(client: Client) -> None:
    """Show sources and values of calls with limits that one of both versions may not know."""
    count = iter(range(1, 99))

    def upstream(_prompt: str) -> int:
        return next(count)

    def made(**policy: Any) -> list[object]:
        outcome = client.outcome(upstream, "p", name="fresh", **policy)
        return [outcome.value, outcome.source]

    show([made(), made(max_age=60), made(max_age=0), made(), made(valid=lambda value: value != 2), made()])
    show([made(valid=lambda _: False), made(), client.outcome(upstream, "p", name="fresh").refresh().value])


def prefixed(client: Client, keyword: str) -> None:
    """Show the sources of two equal calls, which pass the prefix of their prompt if ``keyword`` does."""
    policy: Any = {keyword: "You answer from the manual."} if keyword else {}
    show([client.outcome(answer, "p", **policy).source for _ in range(2)])


def bounded(client: Client) -> None:
    """Show sources of calls with ``ttl=``, which every version knows, after its end."""
    sources = [client.outcome(answer, "p", ttl=0.2).source]
    time.sleep(0.3)
    show([*sources, client.outcome(answer, "p", ttl=0.2).source, client.outcome(answer, "p").source])


def hold(client: Client, failing: str) -> None:
    """Make the call "shared": show that it runs, wait for a line, then return or fail; fatally if ``failing`` begins so."""

    def upstream(_prompt: str) -> str:
        show("running")
        sys.stdin.readline()
        if failing:
            raise (ValueError if failing.startswith("fatal") else ConnectionError)(failing)

        return "the holder's"

    try:
        show(client.outcome(upstream, "p", key="shared").source)
    except (ConnectionError, ValueError) as error:
        show(str(error))


def wait(client: Client) -> None:
    """Ask for the call "shared" that another worker makes; show the value and its source."""
    try:
        outcome = client.outcome(lambda _prompt: "the waiter's", "p", key="shared", wait=PATIENCE_SECONDS)
        show([outcome.value, outcome.source])
    except CallFailed as error:
        show(str(error))


async def concurrent_calls(path: str) -> list[Any]:
    """Make ten calls at the same time on one connection."""
    async with AsyncClient(path, daemon_timeout=PATIENCE_SECONDS) as client:
        async with asyncio.TaskGroup() as tasks:
            running = [tasks.create_task(client.call(answer, f"c{number % 2}")) for number in range(10)]

        return sorted({task.result() for task in running})


def main(path: str, scenario: str, argument: str = "") -> None:
    """Run one scenario."""
    if scenario == "batch":
        batch(path)
        return

    if scenario == "async":
        show(asyncio.run(concurrent_calls(path)))
        return

    with Client(path, daemon_timeout=PATIENCE_SECONDS) as client:
        match scenario:
            case "alone":
                calls(client)
                entries(client)
                operations(client)
            case "fresh":
                fresh(client)
            case "bounded":
                bounded(client)
            case "prefixed":
                prefixed(client, argument)
            case "hold":
                hold(client, argument)
            case "wait":
                wait(client)


if __name__ == "__main__":
    main(*sys.argv[1:])
