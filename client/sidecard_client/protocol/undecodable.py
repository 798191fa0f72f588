"""Replies whose value cannot be decoded: one such value costs one call, and not the connection.

The daemon forwards values without decoding them. So any program that speaks the protocol can store well-framed bytes
that are no value: text that is not UTF-8, a map whose key is a map, a time stamp out of range. A client that closed its
connection for that would lose all its other calls, again for each time the value is served.
"""

import msgspec
from msgspec import Struct

from sidecard_client.protocol.wire import Chunk, Failed, Hit, RequestId, Shared, tag_of

DECODE_ERRORS = (msgspec.DecodeError, RecursionError, UnicodeError, ValueError)
"""What decoding a reply may raise. `UnicodeDecodeError` is no `msgspec.DecodeError`."""

VALUE_TAGS = frozenset({tag_of(Hit), tag_of(Shared), tag_of(Chunk)})
"""Replies that carry a value of another process."""


class _Head(Struct, frozen=True):
    id: RequestId
    type: str


_decode_head = msgspec.msgpack.Decoder(_Head).decode


def replacement_for(payload: bytes | memoryview, fault: Exception) -> Failed | None:
    """Return the reply that replaces an undecodable one; None if it carries no value, or not even its head decodes.

    Waiters get the same reply for an unshareable answer: the caller makes its own call.
    """
    try:
        head = _decode_head(payload)
    except DECODE_ERRORS:
        return None

    return Failed(head.id, "ignored", f"the answer cannot be read: {fault}") if head.type in VALUE_TAGS else None
