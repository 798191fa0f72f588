"""Large values that many peers get in the same moment: each frame refers to the one value in memory, and copies nothing of it."""

from typing import Final

from msgspec import structs

from sidecard_client.protocol import wire
from sidecard_client.protocol.wire import pack

LARGE_BYTES: Final = 64 * 1024
"""Below it, one copy is cheaper than a frame of three parts."""

LargeReply = wire.Shared | wire.Chunk
"""Replies that others get as well, with the field of the value right after the id."""


def large_value(reply: wire.AnyReply) -> memoryview | None:
    """Return the value of a reply that others get too, where it is large."""
    if type(reply) is wire.Shared:
        value = memoryview(reply.value)
    elif type(reply) is wire.Chunk:
        value = memoryview(reply.chunk)
    else:
        return None

    return value if len(value) >= LARGE_BYTES else None


def around(reply: LargeReply, value: memoryview) -> tuple[bytes, bytes]:
    """Return what a frame has before and after its ``value``."""
    name = "value" if type(reply) is wire.Shared else "chunk"
    rest = pack(structs.replace(reply, **{name: wire.NO_VALUE}))
    before = sum(map(len, map(pack, ("type", wire.tag_of(type(reply)), "id", reply.id, name)))) + 1
    length = len(rest) + len(value)
    return length.to_bytes(4, "big") + rest[:before], rest[before:]
