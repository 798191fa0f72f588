"""Blocking worker process of the bench: reads one `Order` per line and writes one `Result` per line.

``python -m sidecard.cli.bench.worker SIDE=SOCKET ...`` where SIDE is one of `SIDES`.
"""

import hashlib
import json
import socket
import sys
from collections.abc import Callable
from statistics import median
from time import monotonic, perf_counter, sleep
from typing import Any, Protocol

from sidecard.cli.bench.load import (
    PROMPTS,
    VALUE,
    Order,
    Result,
    Upstream,
    read_order,
    reply_bytes,
    request_bytes,
    write,
)
from sidecard_client import Client

KEY_PREFIX = "bench:cache:"


class Side(Protocol):
    """One of the compared systems."""

    upstream: Upstream

    def fill(self) -> None:
        """Store the answers to `PROMPTS`."""

    def hit(self, prompt: str) -> Any:
        """Fetch a stored answer."""


class SidecardSide:
    """A call through the client, including the key's computation."""

    def __init__(self, path: str) -> None:
        self.upstream = Upstream()
        self._client = Client(path, on_unavailable="raise")

    def fill(self) -> None:
        """Call once per prompt."""
        for prompt in PROMPTS:
            self.hit(prompt)

    def hit(self, prompt: str) -> Any:
        """Make a call as an app does."""
        return self._client.call(self.upstream.answer, prompt)


class RedisSide:
    """A lookup by the prompt's hash, with redis-py and hiredis."""

    def __init__(self, path: str) -> None:
        import redis  # noqa: PLC0415 - optional

        self.upstream = Upstream()
        self._client = redis.Redis(unix_socket_path=path)

    def fill(self) -> None:
        """Store each answer."""
        for prompt in PROMPTS:
            self._client.setex(redis_key(prompt), 86400, VALUE)

    def hit(self, prompt: str) -> Any:
        """Hash, `GET`, decode."""
        stored: Any = self._client.get(redis_key(prompt))
        return stored.decode()


class EchoSide:
    """A bare round trip with the same number of bytes each way."""

    def __init__(self, path: str) -> None:
        self.upstream = Upstream()
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.connect(path)
        self._request = b"x" * request_bytes()
        self._reply_bytes = reply_bytes()
        self._buffer = bytearray(65536)

    def fill(self) -> None:
        """Do nothing: the echo stores no answers."""

    def hit(self, prompt: str) -> Any:  # noqa: ARG002 - the protocol's signature
        """Make one round trip."""
        self._socket.sendall(self._request)
        received = 0
        while received < self._reply_bytes:
            received += self._socket.recv_into(self._buffer)

        return VALUE


SIDES: dict[str, Callable[[str], Side]] = {"sidecard": SidecardSide, "redis": RedisSide, "echo": EchoSide}


def redis_key(prompt: str) -> str:
    """Return the Redis key of a prompt."""
    content = json.dumps({"prompt": prompt, "context": {}}, sort_keys=True)
    return KEY_PREFIX + hashlib.sha256(content.encode()).hexdigest()


class Worker:
    """Performs orders."""

    def __init__(self, sides: dict[str, Side]) -> None:
        self._sides = sides
        self._misses_made = 0
        for side in sides.values():
            side.fill()

    def perform(self, order: Order) -> Result:
        """Perform an order and return its result."""
        side = self._sides[order.side]
        before = side.upstream.calls
        perform = {"single": self._single, "misses": self._misses, "rate": self._rate}[order.do]
        sleep(max(0.0, order.start_at - monotonic()))
        result = perform(side, order)
        result.upstream_calls = side.upstream.calls - before
        return result

    def _single(self, side: Side, order: Order) -> Result:
        prompts = (PROMPTS * (order.count // len(PROMPTS) + 1))[: order.count]
        return Result(seconds=_median(side.hit, prompts), count=order.count)

    def _misses(self, side: Side, order: Order) -> Result:
        prompts = tuple(f"{PROMPTS[0]} Parcel {self._misses_made + number}" for number in range(order.count))
        self._misses_made += order.count
        return Result(seconds=_median(side.hit, prompts), count=order.count)

    def _rate(self, side: Side, order: Order) -> Result:
        count = 0
        began = perf_counter()
        while perf_counter() - began < order.seconds:
            for prompt in PROMPTS:
                side.hit(prompt)

            count += len(PROMPTS)

        return Result(seconds=perf_counter() - began, count=count)


def _median(hit: Callable[[str], Any], prompts: tuple[str, ...]) -> float:
    times = []
    for prompt in prompts:
        began = perf_counter()
        hit(prompt)
        times.append(perf_counter() - began)

    return median(times)


def main(arguments: list[str]) -> None:
    """Report that the answers are stored, then perform orders until standard input ends."""
    worker = Worker({name: SIDES[name](path) for name, _, path in (argument.partition("=") for argument in arguments)})
    sys.stdout.buffer.write(write(Result()) + b"\n")
    sys.stdout.buffer.flush()
    for line in sys.stdin.buffer:
        sys.stdout.buffer.write(write(worker.perform(read_order(line))) + b"\n")
        sys.stdout.buffer.flush()


if __name__ == "__main__":
    main(sys.argv[1:])
