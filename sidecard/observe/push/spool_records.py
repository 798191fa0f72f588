"""Blocks of metrics, and how one is written down in a file of the spool.

A file begins with `FILE_MAGIC`; each record is a header, then the body::

    crc32 of all that follows  4 bytes
    length of the body         4
    format                     1
    samples                    4
    milliseconds               8

Numbers are little-endian. What was written only in part is told from what was written and then damaged:
the former ends with the file, as it does when its writer is killed or the disk is full.
"""

import struct
import zlib
from typing import NamedTuple

FILE_MAGIC = b"scspool1"

MAX_BODY_BYTES = 4 * 1024 * 1024
"""Of one block: more than any that is made, and little enough that a damaged length takes no memory."""

_CHECKSUM = struct.Struct("<I")
_ABOUT = struct.Struct("<IBIq")

RECORD_OVERHEAD_BYTES = _CHECKSUM.size + _ABOUT.size


class Block(NamedTuple):
    """What one request brings: samples of one instant, encoded and compressed."""

    format: int
    """The code of a `sidecard.observe.push.formats.Format`."""
    samples: int
    at_milliseconds: int
    """Of the Unix epoch: the timestamp of all its samples."""
    body: bytes


class Records(NamedTuple):
    """What a file holds."""

    blocks: list[tuple[int, Block]]
    """Each with the offset at which its record ends."""
    damaged: bool
    """Whether something follows that was never written so. What was only cut off is no damage."""


def record(block: Block) -> bytes:
    """Return a block as it is written down."""
    about = _ABOUT.pack(len(block.body), block.format, block.samples, block.at_milliseconds)
    return _CHECKSUM.pack(zlib.crc32(block.body, zlib.crc32(about))) + about + block.body


def records(data: bytes) -> Records:
    """Return the blocks of a file's content, up to the first that is not whole."""
    if not data.startswith(FILE_MAGIC):
        return Records([], damaged=not FILE_MAGIC.startswith(data))

    blocks: list[tuple[int, Block]] = []
    at = len(FILE_MAGIC)
    while len(data) - at >= RECORD_OVERHEAD_BYTES:
        (checksum,) = _CHECKSUM.unpack_from(data, at)
        length, form, samples, at_milliseconds = _ABOUT.unpack_from(data, at + _CHECKSUM.size)
        end = at + RECORD_OVERHEAD_BYTES + length
        if length > MAX_BODY_BYTES:
            return Records(blocks, damaged=True)

        if end > len(data):
            return Records(blocks, damaged=False)

        if zlib.crc32(memoryview(data)[at + _CHECKSUM.size : end]) != checksum:
            return Records(blocks, damaged=True)

        blocks.append((end, Block(form, samples, at_milliseconds, data[at + RECORD_OVERHEAD_BYTES : end])))
        at = end

    return Records(blocks, damaged=False)
