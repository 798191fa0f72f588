"""The compared systems, as a blocking worker uses them: each fetches the stored answer to a prompt."""

import hashlib
import json
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from time import monotonic, sleep
from typing import Any

from sidecard.cli.bench.load import PROMPTS, VALUE, answer, reply_bytes, request_bytes
from sidecard.cli.query import query
from sidecard_client import Client
from sidecard_client.call.call import prepare
from sidecard_client.call.options import Options
from sidecard_client.protocol import wire

KEY_PREFIX = "bench:cache:"
TTL_SECONDS = 86400
PUBLISHED_SECONDS = 5.0
"""How long the daemon may take to publish all answers."""
PATIENCE_SECONDS = 30.0
"""Time limit for the daemon: on a busy machine, or on half a core, it is slow."""
PAUSE_SECONDS = 0.01
WARM_UP_SECONDS = 0.3
"""Time after which each client has received the view, and has its memory in the page table."""

Hit = Callable[[str], Any]
"""Returns the stored answer to a prompt."""


def view_hit(path: str) -> Hit:
    """Make calls of a function, as an app does. The daemon publishes the answers."""
    hit = socket_hit(path)
    for _ in until_published(path):
        _make_all(hit)

    return hit


def until_published(path: str) -> Iterator[None]:
    """Yield, for calls of all prompts, until the daemon has published their answers and this client reads them."""
    gives_up_at = monotonic() + PUBLISHED_SECONDS
    while query(path, wire.GetStats(id=1), wire.Stats).view_entries < len(PROMPTS) and monotonic() < gives_up_at:
        yield
        sleep(PAUSE_SECONDS)

    ends_at = monotonic() + WARM_UP_SECONDS
    while monotonic() < ends_at:
        yield
        sleep(PAUSE_SECONDS)


def socket_hit(path: str) -> Hit:
    """Make the same calls of a daemon that publishes nothing."""
    client = Client(path, daemon_timeout=PATIENCE_SECONDS, on_unavailable="raise")
    call = client.call

    def hit(prompt: str) -> Any:
        return call(answer, prompt)

    _make_all(hit)
    return hit


def _make_all(hit: Hit) -> None:
    for prompt in PROMPTS:
        hit(prompt)


def redis_hit(path: str) -> Hit:
    """Hash the prompt, ``GET``, decode, with redis-py and hiredis."""
    import redis  # noqa: PLC0415 - optional

    client = redis.Redis(unix_socket_path=path)
    for prompt in PROMPTS:
        client.setex(redis_key(prompt), TTL_SECONDS, VALUE)

    get = client.get

    def hit(prompt: str) -> Any:
        stored: Any = get(redis_key(prompt))
        return stored.decode()

    return hit


def echo_hit(path: str) -> Hit:
    """Make a bare round trip with as many bytes each way. The echo stores nothing."""
    connection = socket.socket(socket.AF_UNIX)
    connection.connect(path)
    request, length = b"x" * request_bytes(), reply_bytes()
    buffer = bytearray(65536)

    def hit(_: str) -> Any:
        connection.sendall(request)
        received = 0
        while received < length:
            received += connection.recv_into(buffer)

        return VALUE

    return hit


def memory_hit(_: str) -> Hit:
    """Read a dict of this process, by sidecard's own key: nothing is shared, and no process is asked."""
    import cachetools  # noqa: PLC0415 - optional

    cache: Any = cachetools.TTLCache(10_000, TTL_SECONDS)
    options = Options()
    for prompt in PROMPTS:
        cache[prepare(options, answer, (prompt,), {}).key] = VALUE

    def hit(prompt: str) -> Any:
        return cache[prepare(options, answer, (prompt,), {}).key]

    return hit


def disk_hit(directory: str) -> Hit:
    """Hash the prompt, and read diskcache's files, which the processes of a host share."""
    import diskcache  # noqa: PLC0415 - optional

    cache = diskcache.Cache(str(Path(directory)))
    for prompt in PROMPTS:
        cache.set(redis_key(prompt), VALUE, expire=TTL_SECONDS)

    def hit(prompt: str) -> Any:
        return cache[redis_key(prompt)]

    return hit


SIDES: dict[str, Callable[[str], Hit]] = {
    "sidecard": view_hit,
    "socket": socket_hit,
    "redis": redis_hit,
    "echo": echo_hit,
    "memory": memory_hit,
    "disk": disk_hit,
}
"""By side: takes the path of its server or directory, stores the answers to `PROMPTS`, and returns a `Hit`."""


def redis_key(prompt: str) -> str:
    """Return the Redis key of a prompt."""
    content = json.dumps({"prompt": prompt, "context": {}}, sort_keys=True)
    return KEY_PREFIX + hashlib.sha256(content.encode()).hexdigest()
