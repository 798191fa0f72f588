"""Attacks by calls: begins, leases, waiters and streams."""

import os
import time
from contextlib import suppress

from tests.bench.bystanders.attack import Target, attack, exchange, framed

MIB = 1024 * 1024
SIMILAR = ("tasks.alike.similar=true",)
PROMPTS = ("backends.prompts.prefix_affinity=provider", "backends.prompts.requests_per_minute=10000000")


@attack()
def waiting_vectors(target: Target) -> None:
    """16,384 waiting begins that each carry a vector of 4,096 numbers."""
    holder, key = target.connect(), target.name()
    holder.lease(key)
    connections = target.crowd(16)
    request = {"op": "begin", "key": key, "vector": [1] * 4096, "group": "g"}
    for start in range(0, 1024, 64):
        burst = framed(*(request | {"id": number} for number in range(start, start + 64)))
        for connection in connections:
            connection.socket.sendall(burst)
            connection.discard()

    time.sleep(1.0)


@attack(settings=SIMILAR)
def vectors_of_many_answers(target: Target) -> None:
    """Answers with vectors of 4,096 numbers, each in a group of its own, and searches among them."""
    connection = target.connect()
    while True:
        for _ in range(32):
            vector = [target.random.random() for _ in range(4096)]
            fields = {"task": "alike", "vector": vector, "group": target.random.choice("ab")}
            reply = connection.ask(op="begin", key=target.name(), id=1, **fields)
            if reply["type"] == "lease":
                connection.ask(op="complete", lease=reply["lease"], value=1)


@attack(processes=2, long=True)
def begins_of_new_backends(target: Target) -> None:
    """Calls on 16 new backends of a new task each, that fail."""
    connection = target.connect()
    while True:
        backends = [target.name("b" * 100) for _ in range(16)]
        reply = connection.ask(op="begin", key=target.name(), backends=backends, task=target.name())
        while reply["type"] == "pending":
            reply = connection.receive()

        if reply["type"] == "lease":
            connection.ask(op="fail", lease=reply["lease"], retry_after_seconds=60, message="m" * 4096)


@attack(processes=2, long=True)
def usage_of_new_models(target: Target) -> None:
    """Calls whose usage names a new model each and is as large as a number can be."""
    connection = target.connect()
    while True:
        leases = [connection.lease(None) for _ in range(50)]
        usage = {"prompt_tokens": 2**53, "completion_tokens": 2**53, "cost_dollars": 1e9}
        exchange(
            connection,
            (
                {"op": "complete", "lease": lease, "value": 1, "usage": usage | {"model": target.name("m" * 100)}}
                for lease in leases
            ),
        )


@attack(processes=2)
def renewals_without_pause(target: Target) -> None:
    """`renew` of a lease, and of leases that never were, without pause."""
    connection = target.connect()
    lease = connection.lease(target.name())
    burst = framed(*({"op": "renew", "lease": lease}, {"op": "renew", "lease": "x" * 128}) * 250)
    while True:
        connection.socket.sendall(burst)
        for _ in range(500):
            connection.receive()


@attack()
def chunks_of_one_byte(target: Target) -> None:
    """`append` of single bytes to a stream with 64 followers."""
    holder, key = target.connect(), target.name()
    lease = holder.lease(key, stream=True)
    followers = target.crowd(64)
    for follower in followers:
        follower.send({"op": "begin", "key": key, "stream": True, "id": 1})

    burst = framed(*({"op": "append", "lease": lease, "chunk": 1} for _ in range(1000)))
    for _ in range(100):
        holder.socket.sendall(burst)
        for follower in followers:
            follower.discard()


@attack(processes=2)
def chunks_nobody_reads(target: Target) -> None:
    """256 streams of single bytes that never end."""
    holder = target.connect()
    leases = [holder.lease(target.name(), stream=True) for _ in range(256)]
    while True:
        for lease in leases:
            holder.send(*({"op": "append", "lease": lease, "chunk": 1} for _ in range(200)))
            holder.discard()


@attack(long=True)
def late_follower_of_many_chunks(target: Target) -> None:
    """Followers that join after 500,000 chunks."""
    holder, key = target.connect(), target.name()
    lease = holder.lease(key, stream=True)
    burst = framed(*({"op": "append", "lease": lease, "chunk": 1} for _ in range(5000)))
    for _ in range(100):
        holder.socket.sendall(burst)

    holder.ask(op="ping")
    followers = target.crowd(16)
    for follower in followers:
        follower.send({"op": "begin", "key": key, "stream": True, "id": 1})

    for follower in followers:
        with suppress(OSError):
            follower.discard(0.2)


@attack()
def cancel_storm(target: Target) -> None:
    """Begins that are cancelled at once."""
    holder, key = target.connect(), target.name()
    holder.lease(key)
    waiter = target.connect()
    while True:
        numbers = range(256)
        waiter.send(*({"op": "begin", "key": key, "id": number} for number in numbers))
        waiter.send(*({"op": "cancel", "target": number, "id": 1000} for number in numbers))
        waiter.discard(0.001)


@attack(long=True)
def waiters_that_time_out_together(target: Target) -> None:
    """16,384 waiters of one flight whose time ends at the same moment."""
    holder, key = target.connect(), target.name()
    holder.lease(key)
    waiter = target.connect()
    until = time.monotonic() + 1.5
    for start in range(0, 16_384, 256):
        left = max(0.05, until - time.monotonic())
        waiter.send(
            *({"op": "begin", "key": key, "id": number, "wait_seconds": left} for number in range(start, start + 256))
        )
        waiter.discard()

    waiter.discard(2.0)


@attack()
def leases_lost_together(target: Target) -> None:
    """A connection with 16,000 leases and waits that ends."""
    connection = target.connect()
    for _ in range(0, 16_000, 250):
        connection.send(*({"op": "begin", "key": target.name(), "id": number} for number in range(250)))
        connection.discard()

    time.sleep(0.2)
    connection.close()
    time.sleep(0.2)


@attack()
def elections_of_16_000_waiters(target: Target) -> None:
    """A flight with 16,000 waiters that fails for all of them with 4,096 characters."""
    holder, key = target.connect(), target.name()
    lease = holder.lease(key)
    waiters = target.crowd(16)
    for start in range(0, 1000, 250):
        burst = framed(*({"op": "begin", "key": key, "id": number} for number in range(start, start + 250)))
        for waiter in waiters:
            waiter.socket.sendall(burst)
            waiter.discard()

    time.sleep(0.1)
    holder.ask(op="fail", lease=lease, kind="fatal", message="é" * 4096)
    for waiter in waiters:
        with suppress(OSError):
            waiter.discard(0.1)


@attack()
def ids_that_collide(target: Target) -> None:
    """Begins of the same id and key, again and again."""
    connection = target.connect()
    burst = framed(*({"op": "begin", "key": f"same{number % 3}", "id": -1} for number in range(500)))
    while True:
        connection.socket.sendall(burst)
        connection.discard(0.001)


@attack(processes=2)
def flights_at_the_bound(target: Target) -> None:
    """Flights and queues at their bound, with long keys and names."""
    connection = target.connect()
    while True:
        connection.send(
            *(
                {
                    "op": "begin",
                    "key": target.name("k" * 1000),
                    "id": next(target.names),
                    "backends": [f"{'b' * 100}{number}" for number in range(16)],
                    "trace": "t" * 128,
                    "namespace": "n" * 160,
                }
                for _ in range(200)
            )
        )
        connection.discard()


def _prompt(*places: int) -> dict[str, object]:
    """Return the fields of a begin whose prompt has these prefixes, by numbers."""
    digests = [f"{os.getpid():08x}{place:024x}" for place in places]
    return {"backends": ["prompts"], "prefix": digests, "prefix_bytes": [40_000 * (k + 1) for k in range(len(digests))]}


@attack(settings=PROMPTS)
def prompts_that_wait_for_one(target: Target) -> None:
    """512 calls of 16 prefixes each that wait for the first output of one call, and are made at the same moment."""
    leader = target.connect()
    while True:
        first, crowd = next(target.names), target.connect()
        lease = leader.lease(None, **_prompt(first))
        begins = [
            {"op": "begin", "key": None, "id": k} | _prompt(first, *range(16 * k, 16 * k + 15)) for k in range(512)
        ]
        crowd.send(*begins)
        crowd.discard(0.05)
        leader.send({"op": "started", "lease": lease})
        crowd.discard(0.05)
        leader.ask(op="complete", lease=lease, value=1)
        crowd.close()


@attack()
def deletes_in_flight(target: Target) -> None:
    """`delete` and `get` of keys in flight."""
    connection = target.connect()
    while True:
        numbers = range(100)
        connection.send(*({"op": "begin", "key": f"f{number}", "id": number} for number in numbers))
        connection.send(*({"op": "delete", "key": f"f{number}", "id": 1000 + number} for number in numbers))
        connection.send(*({"op": "get", "key": f"f{number}", "id": 2000 + number} for number in numbers))
        connection.discard(0.001)


@attack()
def one_message_of_16_mib(target: Target) -> None:
    """One message of the greatest size and of the costliest content, once a second: it cannot be cut."""
    connection = target.connect()
    vector = framed({"op": "begin", "key": "k", "id": 1, "group": "g", "vector": [1] * (16 * MIB - 100)})
    unknown = framed({"op": "ping", "id": 1, "unknown": [[]] * (16 * MIB - 100)})
    for message in (vector, unknown):
        connection.socket.sendall(message)
        connection.discard(1.0)
