"""Replies whose value cannot be decoded: each fails one call, and the connection stays open.

The daemon forwards values without decoding them. So any program that speaks the protocol can store well-framed bytes that
do not decode: text that is not UTF-8, a map whose key is a map, a time stamp out of range. If a client closed its connection
for such a value, all its other calls would fail each time that the value is served.
"""

import msgspec
from msgspec import Struct

from sidecard_client.protocol.wire import Chunk, Failed, Hit, RequestId, Shared, tag_of

DECODE_ERRORS = (msgspec.DecodeError, RecursionError, UnicodeError, ValueError)
"""Exceptions of decoding a reply. `UnicodeDecodeError` is not a `msgspec.DecodeError`."""

VALUE_TAGS = frozenset({tag_of(Hit), tag_of(Shared), tag_of(Chunk), tag_of(Failed)})
"""Replies that carry a value or a failure of another process."""


_AFTER_HEAD = (b"\xa5value", b"\xa5chunk", b"\xa4kind")
"""The fields that follow type and id."""

_MAP_OF_TWO = b"\x82"


class _Head(Struct, frozen=True):
    id: RequestId
    type: str


_decode_head = msgspec.msgpack.Decoder(_Head).decode


def replacement_for(payload: bytes | memoryview, fault: Exception) -> Failed | None:
    """Return the reply that replaces an undecodable one; None if that carries no value, or if its id and type do not decode.

    It is the reply that waiters get for an unshareable answer, so that the caller makes its own call.
    """
    try:
        head = _decode_head(_before_value(bytes(payload)) if isinstance(fault, RecursionError) else payload)
    except DECODE_ERRORS:
        return None

    return Failed(head.id, "ignored", f"the answer cannot be read: {fault}") if head.type in VALUE_TAGS else None


def _before_value(payload: bytes) -> bytes:
    """Return a reply's type and id alone. In a caller deep in its own stack, even skipping a nested value fails."""
    id_at = payload.find(b"\xa2id")  # the tag before it may be "chunk" too
    ends = [end for end in (payload.find(field, id_at) for field in _AFTER_HEAD) if end > 0]
    return _MAP_OF_TWO + payload[1 : min(ends, default=0)]
