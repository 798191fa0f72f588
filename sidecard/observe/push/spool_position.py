"""Which block of the spool is next, on disk; and how files are read that others may have put there."""

import contextlib
import os
import stat
import struct
import zlib
from pathlib import Path
from typing import NamedTuple

NO_WAITING = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
"""A link may lead anywhere, and a FIFO of a file's name must not be waited for."""

MAX_NUMBER = 10**15
"""Of a file: what is above was never written by us."""

_PLACE = struct.Struct("<QQ")
_CHECKSUM = struct.Struct("<I")
_BYTES = _PLACE.size + _CHECKSUM.size


class Place(NamedTuple):
    """Where a block ends: the number of its file, and an offset in it."""

    file: int
    offset: int


class Position:
    """The place of the last block that was taken, in a file of its own. No method raises."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._descriptor: int | None = None

    def note(self, place: Place) -> None:
        """Write a place down, for whoever kills us. Where that fails, a later process gives some blocks again."""
        data = _PLACE.pack(*place)
        with contextlib.suppress(OSError):
            if self._descriptor is None:
                self._descriptor = os.open(self._path, os.O_WRONLY | os.O_CREAT | NO_WAITING, 0o600)
                os.ftruncate(self._descriptor, _BYTES)

            os.pwrite(self._descriptor, data + _CHECKSUM.pack(zlib.crc32(data)), 0)

    def noted(self) -> Place | None:
        """Return what an earlier process has noted; None where that cannot be read, or makes no sense."""
        try:
            data = content(self._path, _BYTES)
        except OSError:
            return None

        if len(data) != _BYTES or data[_PLACE.size :] != _CHECKSUM.pack(zlib.crc32(data[: _PLACE.size])):
            return None

        place = Place(*_PLACE.unpack_from(data))
        return place if place.file < MAX_NUMBER else None

    def close(self) -> None:
        """Close the file."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


def content(path: Path, max_bytes: int) -> bytes:
    """Return a file's content, or its beginning of a little more than ``max_bytes``. Raises `OSError`."""
    descriptor = os.open(path, os.O_RDONLY | NO_WAITING)
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError(0, "it is not a regular file")

        data = bytearray()
        while len(data) <= max_bytes and (more := os.read(descriptor, max_bytes + 1)):
            data += more
    finally:
        os.close(descriptor)

    return bytes(data)
