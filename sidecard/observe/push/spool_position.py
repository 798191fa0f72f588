"""The position of the spool's next block, kept on disk."""

import contextlib
import os
import struct
import zlib
from pathlib import Path
from typing import NamedTuple

from sidecard.persistence.files import SAFE_FLAGS, read_regular

MAX_NUMBER = 10**15
"""Limit of a file's number: sidecard never writes larger ones."""

_POSITION = struct.Struct("<QQ")
_CHECKSUM = struct.Struct("<I")
_BYTES = _POSITION.size + _CHECKSUM.size


class BlockPosition(NamedTuple):
    """Where a block ends: the number of its file, and an offset in it."""

    file: int
    offset: int


class PositionFile:
    """The position of the last block that was taken, in a file of its own. No method raises."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._descriptor: int | None = None

    def write(self, position: BlockPosition) -> None:
        """Write a position, in case the process is killed. If that fails, a later process sends some blocks again."""
        data = _POSITION.pack(*position)
        with contextlib.suppress(OSError):
            if self._descriptor is None:
                self._descriptor = os.open(self._path, os.O_WRONLY | os.O_CREAT | SAFE_FLAGS, 0o600)
                os.ftruncate(self._descriptor, _BYTES)

            os.pwrite(self._descriptor, data + _CHECKSUM.pack(zlib.crc32(data)), 0)

    def read(self) -> BlockPosition | None:
        """Return the position that an earlier process wrote; None if it is missing or damaged."""
        try:
            data = read_regular(self._path, _BYTES)
        except OSError:
            return None

        if len(data) != _BYTES or data[_POSITION.size :] != _CHECKSUM.pack(zlib.crc32(data[: _POSITION.size])):
            return None

        position = BlockPosition(*_POSITION.unpack_from(data))
        return position if position.file < MAX_NUMBER else None

    def close(self) -> None:
        """Close the file."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None
