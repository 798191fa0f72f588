"""Attacks by entries and their values."""

import time
from contextlib import suppress

from tests.bench.bystanders.attack import Target, attack, exchange, framed, line

MIB = 1024 * 1024


@attack()
def own_value_of_15_mib_as_json(target: Target) -> None:
    """`get` of an own value of 15 MiB over a JSON connection."""
    target.connect().ask(op="put", key="large", value=list(range(128)) * (15 * MIB // 128))
    reader = target.connect()
    for _ in range(4):
        reader.socket.sendall(line({"op": "get", "key": "large"}))
        while not reader.socket.recv(1 << 20).endswith(b"\n"):
            pass


@attack()
def own_value_of_15_mib(target: Target) -> None:
    """`put` and `get` of an own value of 15 MiB of small integers."""
    connection = target.connect()
    message = framed({"op": "put", "key": "large", "value": [1] * (15 * MIB)})
    for _ in range(10):
        connection.socket.sendall(message)
        connection.receive()
        connection.send({"op": "get", "key": "large"})
        connection.discard(0.5)


@attack()
def json_waiters_of_2_mib(target: Target) -> None:
    """`complete` of 2 MiB with 64 JSON waiters."""
    holder, key = target.connect(), target.name()
    lease = holder.lease(key)
    waiters = target.crowd(64)
    for waiter in waiters:
        waiter.socket.sendall(line({"op": "begin", "key": key, "id": 1}))

    time.sleep(0.1)
    holder.ask(op="complete", lease=lease, value=["x" * 100] * 20_000)
    for waiter in waiters:
        with suppress(OSError):
            waiter.discard(0.5)


@attack()
def waiters_of_2_mib(target: Target) -> None:
    """`complete` of 2 MiB with 4,096 waiters on 64 connections that do not read."""
    holder, key = target.connect(), target.name()
    lease = holder.lease(key)
    waiters = target.crowd(64)
    burst = framed(*({"op": "begin", "key": key, "id": number} for number in range(64)))
    for waiter in waiters:
        waiter.socket.sendall(burst)

    time.sleep(0.2)
    holder.ask(op="complete", lease=lease, value=b"x" * (2 * MIB))
    time.sleep(0.5)


@attack(long=True)
def list_streamed_by_its_elements(target: Target) -> None:
    """A stored list of 4,000,000 integers, read as a stream."""
    connection = target.connect()
    connection.ask(op="put", key="list", value=[1] * 4_000_000)
    connection.send({"op": "begin", "key": "list", "stream": True, "id": 1})
    with suppress(TimeoutError):
        connection.discard(2.0)


@attack()
def large_hits_unread(target: Target) -> None:
    """Hits of 8 MiB on 64 connections that do not read them."""
    target.connect().ask(op="put", key="large", value=b"x" * (8 * MIB))
    connections = target.crowd(64)
    for connection in connections:
        with suppress(OSError):
            connection.send(*({"op": "get", "key": "large", "id": number} for number in range(16)))

    time.sleep(1.0)


@attack(processes=2)
def large_hits_read_slowly(target: Target) -> None:
    """Hits of 1 MiB, read 4 KiB at a time."""
    target.connect().ask(op="put", key="large", value=b"x" * MIB)
    connections = target.crowd(32)
    for connection in connections:
        connection.send(*({"op": "get", "key": "large", "id": number} for number in range(8)))

    for _ in range(100):
        for connection in connections:
            connection.socket.recv(4096)

        time.sleep(0.01)


@attack(processes=2, long=True)
def puts_with_new_tags(target: Target) -> None:
    """`put` of small values with 16 new tags each, in a new namespace each."""
    connection = target.connect()
    while True:
        exchange(
            connection,
            (
                {
                    "op": "put",
                    "key": target.name(),
                    "value": 1,
                    "namespace": target.name(),
                    "tags": [target.name("t" * 100) for _ in range(16)],
                }
                for _ in range(100)
            ),
        )


@attack(processes=2, long=True)
def puts_of_1_mib(target: Target) -> None:
    """`put` of new values of 1 MiB without pause, which evict others."""
    connection = target.connect()
    value = b"x" * MIB
    while True:
        connection.ask(op="put", key=target.name(), value=value)


@attack(processes=2, long=True)
def puts_of_nothing(target: Target) -> None:
    """`put` of new keys of 1,000 characters with an empty value."""
    connection = target.connect()
    while True:
        exchange(connection, ({"op": "put", "key": target.name("k" * 980), "value": None} for _ in range(200)))


@attack(processes=2)
def only_if_cached_misses(target: Target) -> None:
    """`begin` with `only_if_cached` of unknown keys, and `explain`."""
    connection = target.connect()
    while True:
        requests = [{"op": "begin", "key": target.name(), "mode": "only_if_cached"} for _ in range(200)]
        exchange(connection, requests)
        exchange(connection, ({"op": "explain", "key": "k" * 1000, "task": target.name()} for _ in range(200)))


def _200_000_entries(target: Target) -> None:
    connection = target.connect()
    for start in range(0, 200_000, 500):
        exchange(
            connection,
            (
                {"op": "put", "key": f"e{number}", "value": number, "namespace": "many", "tags": ["tag"]}
                for number in range(start, start + 500)
            ),
        )


@attack(prepare=_200_000_entries, operator=True, settings=("cache.max_bytes=256MiB",))
def purge_of_200_000_entries(target: Target) -> None:
    """`purge` by an operator, of 200,000 entries."""
    target.connect().ask(op="purge", namespace="many")
    time.sleep(2.0)


@attack(prepare=_200_000_entries, operator=True, settings=("cache.max_bytes=256MiB",))
def purge_of_a_tag_of_200_000_entries(target: Target) -> None:
    """`purge` by an operator, of a tag of 200,000 entries."""
    target.connect().ask(op="purge", tag="tag")
    time.sleep(2.0)


def _short_lived_entries(target: Target) -> None:
    connection = target.connect()
    until = time.monotonic() + 5.0
    for start in range(0, 200_000, 500):
        ttl = max(0.1, until + 1.0 - time.monotonic())
        exchange(
            connection,
            (
                {"op": "put", "key": f"e{number}", "value": number, "ttl_seconds": ttl, "tags": ["a", "b"]}
                for number in range(start, start + 500)
            ),
        )


@attack(prepare=_short_lived_entries, settings=("cache.sharing_window_seconds=0",), long=True)
def expiry_of_200_000_entries(target: Target) -> None:
    """200,000 entries that expire at the same moment."""
    time.sleep(1.0)
    del target


def _1_000_000_entries(target: Target) -> None:
    connection = target.connect()
    for start in range(0, 1_000_000, 1000):
        messages = [{"op": "put", "key": f"e{number}", "value": number} for number in range(start, start + 1000)]
        exchange(connection, messages)


@attack(prepare=_1_000_000_entries, settings=("cache.max_bytes=1GiB", "limits.max_memory_bytes=2GiB"), long=True)
def churn_beside_1_000_000_entries(target: Target) -> None:
    """New entries and new calls while 1,000,000 entries are stored: pauses of the garbage collector."""
    connection = target.connect()
    while True:
        exchange(connection, ({"op": "put", "key": target.name(), "value": [1, {"a": 2}]} for _ in range(100)))
        exchange(connection, ({"op": "begin", "key": target.name(), "id": number} for number in range(100)))
        time.sleep(0.01)


def _entries_on_disk(target: Target) -> None:
    connection = target.connect()
    for number in range(1000):
        connection.ask(op="put", key=f"disk{number}", value=b"x" * 20_000)

    time.sleep(2.0)


@attack(prepare=_entries_on_disk, stalled_disk=True, processes=2, settings=("cache.max_bytes=4MiB",), long=True)
def reads_of_a_stalled_disk(target: Target) -> None:
    """Hits that are on the disk only, whose reads hang."""
    connection = target.connect()
    for number in range(500):
        connection.ask(op="begin", key=f"disk{number}", id=1)
