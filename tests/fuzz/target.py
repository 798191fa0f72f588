"""A fuzz target: a function of bytes that raises where a contract is broken."""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import msgspec


class Target(NamedTuple):
    """One reader of foreign bytes. ``check`` raises for a broken contract, and for nothing else."""

    name: str
    check: Callable[[bytes], None]
    seeds: Callable[[], list[bytes]]
    """Valid inputs, from which others are made."""
    words: tuple[bytes, ...] = ()
    """Words of its format, for the fuzzer to insert."""
    max_bytes: int = 4096


def fields(data: bytes, count: int) -> list[bytes]:
    """Cut an input into ``count`` parts at its zero bytes; the last part has the rest, missing ones are empty."""
    found = data.split(b"\0", count - 1)
    return found + [b""] * (count - len(found))


def pieces(data: bytes, cut: int) -> Iterator[bytes]:
    """Cut bytes as a kernel might, into pieces of ``cut`` bytes and a growing number more."""
    at, size = 0, max(1, cut)
    while at < len(data):
        yield data[at : at + size]
        at += size
        size += 1


def same(one: object, other: object) -> bool:
    """Return whether two messages or records say the same. They may hold NaN, which is equal to nothing: their bytes are compared."""
    return msgspec.msgpack.encode(one) == msgspec.msgpack.encode(other)
