"""Answers whose value cannot be read: what stands in their place, so that one bad value costs one call and not a connection.

The daemon passes values on as they came, unread, so any program that speaks the protocol can store bytes that are well framed
and yet no value: text that is not UTF-8, a map whose key is a map, a time stamp out of range.
A client that gave its connection up for that would lose all its other calls with it, again for each time that it is served.
"""

import msgspec
from msgspec import Struct

from sidecard_client.protocol.wire import Chunk, Failed, Hit, RequestId, Shared, tag_of

UNREADABLE = (msgspec.DecodeError, RecursionError, UnicodeError, ValueError)
"""What decoding a reply may raise. `UnicodeDecodeError` is no `msgspec.DecodeError`."""

VALUES = frozenset({tag_of(Hit), tag_of(Shared)})
PIECES = frozenset({tag_of(Chunk)})


class _Head(Struct, frozen=True):
    id: RequestId
    type: str


_head = msgspec.msgpack.Decoder(_Head).decode


def instead_of(payload: bytes | bytearray | memoryview, kinds: frozenset[str], fault: Exception) -> Failed | None:
    """Return the reply that takes an unreadable one's place; None where it is none of ``kinds``, or not even its head can be read.

    It is what waiters get where an answer cannot be shared: the caller makes its own call.
    """
    try:
        head = _head(payload)
    except UNREADABLE:
        return None

    return Failed(head.id, "ignored", f"the answer cannot be read: {fault}") if head.type in kinds else None
