"""Attacks by connections, bytes and descriptors."""

import os
import socket
import time
from contextlib import suppress

from tests.bench.bystanders.attack import Target, attack, framed, line

MIB = 1024 * 1024


@attack(processes=2, long=True)
def connections_of_one_uid(target: Target) -> None:
    """As many connections as one uid may open, kept open."""
    connections = target.crowd(4096)
    time.sleep(3.0)
    del connections


@attack(processes=2)
def connect_and_close(target: Target) -> None:
    """Connections that are opened and closed without pause."""
    for _ in range(1000):
        target.connect().close()


@attack(processes=2)
def connect_ask_and_close(target: Target) -> None:
    """Connections that each send a request, and are closed before its reply."""
    request = framed({"op": "begin", "key": "k", "id": 1})
    for _ in range(1000):
        connection = target.connect()
        with suppress(OSError):
            connection.socket.sendall(request)

        connection.close()


@attack(processes=2, settings=("limits.max_peers_per_uid=64",))
def connections_beyond_the_limit(target: Target) -> None:
    """A uid at its limit of connections that opens more without pause, and asks why they are denied."""
    connections = target.crowd(64)
    for number in range(500):
        denied = target.connect()
        with suppress(OSError):
            denied.socket.sendall(line({"op": "ping"}))
            if number % 4 == 0:
                denied.discard(0.001)

        denied.close()

    del connections


@attack(processes=8, uids=8)
def crowds_of_many_uids(target: Target) -> None:
    """8 uids that each keep as many connections open as they may, and ask for more."""
    connections = target.crowd(1500)
    for _ in range(200):
        with suppress(OSError):
            target.connect().close()

        time.sleep(0.01)

    del connections


@attack(processes=4)
def long_lines_of_an_unknown_op(target: Target) -> None:
    """JSON lines of 1 MiB with an unknown op on 64 connections."""
    connections = target.crowd(16)
    message = line({"op": "nothing", "list": [0, 1] * 170_000})[:-2] + b" }\n"
    for _ in range(20):
        for connection in connections:
            connection.socket.sendall(message)

        for connection in connections:
            connection.discard()


@attack(processes=4)
def large_frames_of_an_unknown_op(target: Target) -> None:
    """Frames of 15 MiB of small integers with an unknown op."""
    connection = target.connect()
    message = framed({"op": "nothing", "list": [1] * (15 * MIB)})
    while True:
        connection.socket.sendall(message)
        connection.discard()


@attack()
def frames_of_16_mib_by_the_byte(target: Target) -> None:
    """64 frames announced as 16 MiB, sent byte by byte."""
    connections = target.crowd(64)
    for connection in connections:
        connection.socket.sendall(b"\x01\x00\x00\x00")

    for _ in range(100):
        for connection in connections:
            connection.socket.sendall(b"\x00")

        time.sleep(0.05)


@attack()
def half_frames_of_8_mib(target: Target) -> None:
    """128 frames of which 8 MiB arrive and the rest never does."""
    connections = target.crowd(128)
    half = b"\x01\x00\x00\x00" + b"\x81\xa2op" + bytes(8 * MIB)
    for connection in connections:
        with suppress(OSError):
            connection.socket.sendall(half)

    time.sleep(1.0)


@attack()
def nested_json(target: Target) -> None:
    """JSON lines that are nested deep, escaped, or full of duplicate keys."""
    depth = 100_000
    lines = (
        b'{"op":"put","key":"k","value":' + b"[" * depth + b"]" * depth + b"}\n",
        b'{"op":"put","key":"k","value":' + b'{"a":' * depth + b"1" + b"}" * depth + b"}\n",
        b'{"op":"ping","x":"' + rb"\ud83d\ude00" * 80_000 + b'"}\n',
        b'{"op":"ping"' + b',"id":1' * 140_000 + b"}\n",
        b'{"op":"ping","x":' + b"9" * 1_000_000 + b"}\n",
        b'{"op":"put","key":"k","value":{"$bytes":"' + b"AAAA" * 240_000 + b'"}}\n',
    )
    for message in lines:
        for _ in range(5):
            connection = target.connect()
            connection.socket.sendall(message)
            connection.discard(0.01)


@attack()
def numbers_that_are_slow(target: Target) -> None:
    """JSON lines of numbers whose exact conversion is slow."""
    connection = target.connect()
    for number in (b"1e308,", b"5e-324,", b"1e23,"):
        connection.socket.sendall(b'{"op":"put","key":"k","value":[' + number * 160_000 + b"1]}\n")
        while not connection.socket.recv(1 << 20).endswith(b"\n"):
            pass


@attack()
def descriptors_nobody_wants(target: Target) -> None:
    """Messages that carry 64 open descriptors."""
    connections = target.crowd(32)
    message = framed({"op": "ping"})
    descriptors = [os.open("/dev/null", os.O_RDONLY) for _ in range(64)]
    try:
        for _ in range(100):
            for connection in connections:
                socket.send_fds(connection.socket, [message], descriptors)
                connection.discard()
    finally:
        for descriptor in descriptors:
            os.close(descriptor)


@attack(processes=2, stopped=True)
def stopped_with_full_buffers(target: Target) -> None:
    """Processes that ask for much, and are stopped before they read it."""
    connections = target.crowd(64)
    key = target.name()
    connections[0].ask(op="put", key=key, value=b"x" * MIB)
    while True:
        for connection in connections:
            connection.socket.settimeout(0.001)
            with suppress(TimeoutError):
                connection.send(*({"op": "get", "key": key} for _ in range(20)))


@attack(processes=32, uids=32)
def many_uids(target: Target) -> None:
    """32 uids that each send hits and pings without pause."""
    connection = target.connect()
    connection.ask(op="put", key="k", value="x" * 1000)
    burst = framed(*({"op": "begin", "key": "k", "id": number} for number in range(32)))
    while True:
        connection.socket.sendall(burst)
        for _ in range(32):
            connection.receive()


@attack(processes=2)
def pings_without_reading(target: Target) -> None:
    """Small messages without pause, whose replies are not read."""
    connection = target.connect()
    burst = framed(*({"op": "ping", "id": number} for number in range(1000)))
    while True:
        connection.socket.sendall(burst)


@attack(processes=2)
def operations_denied(target: Target) -> None:
    """Operations of operators, which are denied to everyone else."""
    connection = target.connect()
    requests = [{"op": op, "id": 1} for op in ("purge", "watch", "reload", "config")] * 250
    requests += [{"op": "nothing \x1b[2J" * 8}] * 24
    burst = framed(*requests)
    for _ in range(100):
        connection.socket.sendall(burst)
        for _ in requests:
            connection.receive()
