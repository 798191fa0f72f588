"""Blocks of metrics, and the records of a spool file that hold them.

A file begins with `FILE_MAGIC`; each record is a header, then the body::

    crc32 of all that follows  4 bytes
    length of the body         4
    format                     1
    samples                    4
    milliseconds               8

Numbers are little-endian. A record that was cut off (its writer was killed, or the disk is full) ends with its file: that
distinguishes it from a damaged record.
"""

import struct
import zlib
from typing import NamedTuple

FILE_MAGIC = b"scspool1"

MAX_BODY_BYTES = 4 * 1024 * 1024
"""Limit of one block: more than any block has, and small enough that a damaged length allocates little memory."""

_CHECKSUM = struct.Struct("<I")
_ABOUT = struct.Struct("<IBIq")

RECORD_OVERHEAD_BYTES = _CHECKSUM.size + _ABOUT.size


class Block(NamedTuple):
    """The payload of one request: samples of one instant, encoded and compressed."""

    format: int
    """A `sidecard.observe.push.formats.Format`."""
    samples: int
    at_milliseconds: int
    """Since the Unix epoch: the timestamp of all its samples."""
    body: bytes


class Records(NamedTuple):
    """The content of a file."""

    blocks: list[tuple[int, Block]]
    """Each with the offset at which its record ends."""
    damaged: bool
    """Whether something follows that was never written so. A record that was cut off is no damage."""


def encode_record(block: Block) -> bytes:
    """Return a block's record."""
    about = _ABOUT.pack(len(block.body), block.format, block.samples, block.at_milliseconds)
    return _CHECKSUM.pack(zlib.crc32(block.body, zlib.crc32(about))) + about + block.body


def decode_records(data: bytes) -> Records:
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
