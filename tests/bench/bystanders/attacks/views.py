"""Attacks by views: files that are asked for, kept and not read, entries that are published, hits that are reported."""

import mmap
import os
import socket
from contextlib import suppress

import msgspec

from tests.bench.bystanders.attack import Connection, Target, attack

KEPT = 16
"""Mappings that one process keeps."""


def _map(connection: Connection, namespace: str) -> mmap.mmap | None:
    """Ask for a view and map it; None if it is refused."""
    connection.send({"op": "view", "id": 1, "namespace": namespace})
    data, descriptors, _, _ = socket.recv_fds(connection.socket, 1 << 16, 1)
    if not descriptors:
        return None

    try:
        size: int = msgspec.msgpack.decode(data[4:])["size"]
        return mmap.mmap(descriptors[0], size, prot=mmap.PROT_READ)
    finally:
        os.close(descriptors[0])


@attack()
def views_that_are_kept(target: Target) -> None:
    """Views of new namespaces without end; a process keeps 16 of them mapped after it has closed their connections."""
    kept: list[mmap.mmap] = []
    for _ in range(1000):
        mapped = _map(target.connect(), target.name())
        if mapped is not None:
            kept.append(mapped)
            if len(kept) > KEPT:
                kept.pop(0).close()


@attack()
def views_that_are_dropped(target: Target) -> None:
    """Views of new namespaces without end, each mapped and unmapped at once: all are allocated, and erased later."""
    for _ in range(1000):
        mapped = _map(target.connect(), target.name())
        if mapped is not None:
            mapped.close()


@attack()
def views_that_are_not_read(target: Target) -> None:
    """`view` without pause on 64 connections that read no reply."""
    connections = target.crowd(64)
    for connection in connections:
        connection.socket.settimeout(0.001)

    for _ in range(100):
        for connection in connections:
            with suppress(TimeoutError):
                connection.send(*({"op": "view", "id": 1} for _ in range(20)))


@attack()
def entries_that_are_published(target: Target) -> None:
    """Entries of 60 KB that are stored, requested twice, and so published in place of others."""
    reader, writer = target.connect(), target.connect()
    _map(reader, "default")
    value = b"x" * 60_000
    for _ in range(500):
        key = target.name()
        writer.send(
            {"op": "put", "id": 1, "key": key, "value": value},
            *({"op": "get", "id": 2, "key": key} for _ in range(2)),
        )
        writer.discard(0.001)


@attack()
def hits_that_are_reported(target: Target) -> None:
    """`hits` with 4,096 items of 65,536 hits on a published entry, without pause."""
    connection, writer = target.connect(), target.connect()
    mapped = _map(connection, "default")
    key = target.name()
    writer.ask(op="put", id=1, key=key, value=b"x")
    for _ in range(3):
        writer.ask(op="get", id=1, key=key)

    if mapped is not None:
        mapped.close()

    items = [[number, 16, 0.0, 1e15] for number in range(1, 4097)]
    for _ in range(200):
        connection.send({"op": "hits", "id": 1, "gets": items})

    connection.ask(op="ping", id=2)
