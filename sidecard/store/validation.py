"""Judge what a store returns as strictly as an import: any program may have written it, on any host, by any clock.

Data that does not pass is a miss. It is counted, and logged within the log's rate limit (`StoreReporter.invalid`).
"""

from typing import Annotated

import msgspec
from msgspec import Meta

from sidecard.adapters.zstd import Zstd
from sidecard.core.cache.compression import decompress
from sidecard_client.protocol.nesting import nesting_problem
from sidecard_client.protocol.wire import MAX_FRAME_BYTES

StoredSeconds = Annotated[float, Meta(ge=0, le=1e12)]
StoredBackend = Annotated[str, Meta(max_length=4096)]
StoredTask = Annotated[str, Meta(max_length=128)]
StoredScope = Annotated[str, Meta(pattern=r"^([0-9]+|\*):[^:]+$", max_length=200)]

UNDECODABLE = (msgspec.MsgspecError, UnicodeError, RecursionError, ValueError)
"""Exceptions of decoding foreign bytes."""

MAX_CLOCK_ERROR_SECONDS = 1.0
"""How far in the future an entry may have been stored. If it is more, a clock was set, and the entry's age is unknown."""

FULL_CHECK_BYTES = 256 * 1024
"""Values up to this size are decoded (at most 3 ms, for small integers). Larger ones are checked for their structure alone, at a
quarter of the time: enough for the frame that carries them."""


def is_value(data: bytes, *, compressed: bool = False) -> bool:
    """Return whether bytes are one msgpack value, which a reply can carry and clients can decode."""
    value = decompress(Zstd(), data) if compressed else data
    if value is None or len(value) > MAX_FRAME_BYTES or nesting_problem(value) is not None:
        return False

    try:
        if len(value) <= FULL_CHECK_BYTES:
            msgspec.msgpack.decode(value)
        else:
            msgspec.msgpack.decode(value, type=msgspec.Raw)
    except UNDECODABLE:
        return False

    return True
