"""A reader of views, written from `sidecard docs view` alone: it shares no code with the client or the daemon."""

import hashlib
import struct
import zlib
from collections.abc import Callable
from typing import Any

import msgspec

FIELDS = ("publication", "stored_at", "seconds", "dollars", "backend", "task", "meta", "value")


class PlainView:
    """Reads one view. ``memory`` is the whole file; ``ended`` returns whether the connection that sent it has ended."""

    def __init__(self, memory: Any, ended: Callable[[], bool] = lambda: False) -> None:
        magic, layout, bucket_slots, _, size, self.index, self.slots, arena, arena_size, self.number, self.boot_id = (
            struct.unpack_from("<8sIIQQQQQQQ16s", memory)
        )
        if (magic, layout, bucket_slots, size) != (b"sidecard", 1, 4, len(memory)):
            raise ValueError("not a view of layout 1")

        self.memory, self.ended = memory, ended
        self.arena, self.end = arena, arena + arena_size

    def read(self, key: str, now: float, task: str | None = None) -> dict[str, Any] | str:
        """Return the record of a key, or the reason why the socket must answer."""
        if self.ended():
            return "ended"

        digest = hashlib.sha256(key.encode()).digest()
        bucket = int.from_bytes(digest[:8], "little") % (self.slots // 4)
        start = self.index + bucket * 256
        copy = bytes(self.memory[start : start + 256])
        for at in range(0, 256, 64):
            if copy[at + 8 : at + 40] == digest:
                break
        else:
            return "absent"

        sequence, _, unit, length, expires_at, generation, checksum = struct.unpack_from("<Q32sIIdII", copy, at)
        offset = unit * 8
        if sequence % 2 or not self.arena <= offset <= offset + length <= self.end:
            return "being written" if sequence % 2 else "out of bounds"

        if not now < expires_at:
            return "expired"

        record = bytes(self.memory[offset : offset + length])
        if struct.unpack_from("<Q", self.memory, start + at) != (sequence,):
            return "changed"

        if struct.unpack_from("<Q", self.memory, 16)[0] & 0xFFFFFFFF != generation:
            return "withdrawn"

        if zlib.crc32(copy[at : at + 60] + record) != checksum:
            return "damaged"

        found = dict(zip(FIELDS, msgspec.msgpack.decode(record), strict=False))
        return found if task is None or found["task"] == task else "another task"
