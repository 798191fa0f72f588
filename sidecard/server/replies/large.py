"""Send one large value to many peers without copying it: each frame refers to the one object in memory."""

from typing import Final

from msgspec import structs

from sidecard_client.protocol import wire
from sidecard_client.protocol.wire import pack

LARGE_BYTES: Final = 64 * 1024
"""Below this size, one copy is cheaper than a frame of three parts."""


def shared_value(reply: wire.AnyReply) -> memoryview | None:
    """Return the value of a reply if other peers get it too and it is large."""
    if type(reply) is wire.Shared:
        value = memoryview(reply.value)
    elif type(reply) is wire.Chunk:
        value = memoryview(reply.chunk)
    else:
        return None

    return value if len(value) >= LARGE_BYTES else None


def around_value(reply: wire.AnyReply, value: memoryview) -> tuple[bytes, bytes]:
    """Return the parts of a reply's frame before and after its ``value``, the field right after the id."""
    name = "value" if type(reply) is wire.Shared else "chunk"
    rest = pack(structs.replace(reply, **{name: wire.NO_VALUE}))
    before = sum(map(len, map(pack, ("type", wire.tag_of(type(reply)), "id", reply.id, name)))) + 1
    length = len(rest) + len(value)
    return length.to_bytes(4, "big") + rest[:before], rest[before:]
