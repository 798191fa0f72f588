"""Layout 1 of a view: a memory file from which clients read published entries without a round trip.

All numbers are little-endian. ``sidecard docs view`` describes each byte, for other languages too.

======  =====================  ===============================================================================
offset  size                   content
======  =====================  ===============================================================================
0       `HEADER_BYTES`         header (`ViewHeader`); only its generation ever changes
4096    64 x number of slots   index: buckets of `BUCKET_SLOTS` slots (`Slot`), chosen by `bucket_of`
then    the rest               arena: records (`ViewRecord`, msgpack), each at a multiple of `UNIT_BYTES`
======  =====================  ===============================================================================

The daemon is the only writer. A change is a short list of stores in a fixed order (`publish_stores`, `withdraw_stores`), so that a
reader without locks notices every change that overlaps its read.
"""

import hashlib
import zlib
from collections.abc import Callable
from struct import Struct as Layout
from typing import Any, Final, NamedTuple, TypeAlias

from msgspec import Struct, msgpack

LAYOUT: Final = 1
"""Number of the layout. A reader uses no view with another number."""

HEADER_BYTES: Final = 4096
SLOT_BYTES: Final = 64
BUCKET_SLOTS: Final = 4
UNIT_BYTES: Final = 8
"""Slots give offsets of records in units of this size."""

GENERATION_AT: Final = 16
"""Offset of the header's generation, a word. It starts at 1 and grows each time that the whole view is withdrawn."""

RETIRED: Final = 0
"""The generation of a view that is never written again."""

GENERATION_MASK: Final = 0xFFFFFFFF
"""A slot holds the low 32 bits of the generation in which its record was published."""

CHECKED_BYTES: Final = 60
"""The checksum covers this many bytes of the slot, then the record."""

MIN_VIEW_BYTES: Final = 2 * HEADER_BYTES
MAX_VIEW_BYTES: Final = UNIT_BYTES << 32

_MAGIC = b"sidecard"
_HEADER = Layout("<8sIIQQQQQQQ16s")
_SLOT = Layout("<Q32sIIdII")
_CHECKED = Layout("<Q32sIIdI")
_U32 = Layout("<I")

GET_SEALS: Final = 1034
ADD_SEALS: Final = 1033
"""Operations of fcntl(2). `fcntl` lacks their names, and some of the seals, where Python was built for an older C library."""

SEALS: Final = 0x1 | 0x2 | 0x4 | 0x10
"""``F_SEAL_SEAL``, ``F_SEAL_SHRINK``, ``F_SEAL_GROW``, ``F_SEAL_FUTURE_WRITE`` (Linux 5.1): a view has all of them, and may have more."""

Memory: TypeAlias = bytes | bytearray | memoryview

Store: TypeAlias = tuple[int, int | bytes]
"""One store to a view's memory: its offset, and a word that is stored at once, or bytes that are stored in any order."""


class ViewHeader(NamedTuple):
    """The header of a view. Sizes and offsets in bytes from the start of the file."""

    generation: int
    size: int
    """Of the whole file."""
    index_offset: int
    slot_count: int
    """A power of two."""
    arena_offset: int
    arena_size: int
    view: int
    """Number of the view in this run of the daemon."""
    boot_id: bytes
    """Name of this run of the daemon: 16 ASCII characters, as in `Pong.boot_id`."""


class Slot(NamedTuple):
    """One place of the index. An empty slot has only zeros behind its sequence."""

    sequence: int
    """Even if the slot is stable, odd while it is written. It only grows."""
    digest: bytes
    """The key's `digest_of`."""
    offset: int
    """Of the record, in units of `UNIT_BYTES` from the start of the file."""
    length: int
    """Of the record, in bytes; 0 if the slot is empty."""
    expires_at: float
    """Seconds of CLOCK_BOOTTIME from which the record must not be used."""
    generation: int
    """Low 32 bits of the view's generation when the record was published."""
    checksum: int
    """CRC-32 of the bytes before it and the record."""


class ViewRecord(Struct, frozen=True, array_like=True, gc=False):
    """A published entry: a msgpack array of these fields, in this order."""

    publication: int
    """Number of this publication in this run of the daemon; `Hits` names it."""
    stored_at: float
    """Seconds of CLOCK_BOOTTIME at which the answer was stored."""
    seconds: float
    """Duration of the call that produced the answer."""
    dollars: float
    """Price of that call."""
    backend: str
    task: str
    """Of the calls that may use the record."""
    meta: Any
    """Usage of the call, as in `Hit.meta`; None if there was none."""
    value: Any


encode_record: Callable[[ViewRecord], bytes] = msgpack.Encoder().encode

decode_record: Callable[[bytes], ViewRecord] = msgpack.Decoder(ViewRecord).decode
"""Raises `msgspec.DecodeError`, `msgspec.ValidationError` or `RecursionError`."""


class ViewLayoutError(ValueError):
    """A file is not a view of this layout."""


def digest_of(key: str) -> bytes:
    """Return the digest under which a key is published: SHA-256 of its UTF-8 bytes."""
    return hashlib.sha256(key.encode()).digest()


def bucket_of(digest: bytes, slot_count: int) -> int:
    """Return the number of the first slot of a digest's bucket."""
    return int.from_bytes(digest[:8], "little") % (slot_count // BUCKET_SLOTS) * BUCKET_SLOTS


def slot_offset(slot: int) -> int:
    """Return the offset of a slot, in bytes from the start of the file."""
    return HEADER_BYTES + slot * SLOT_BYTES


def slots_for(size: int) -> int:
    """Return how many slots a view of ``size`` bytes gets: the largest power of two that takes up to an eighth of it."""
    return int(1 << (max(BUCKET_SLOTS, size // (8 * SLOT_BYTES)).bit_length() - 1))


def units_for(length: int) -> int:
    """Return how many units of the arena a record of ``length`` bytes takes."""
    return -(-length // UNIT_BYTES)


def header_for(view: int, size: int, slot_count: int, boot_id: str) -> ViewHeader:
    """Return the header of a new view. Raises `ViewLayoutError` for sizes that the layout does not allow."""
    arena_offset = slot_offset(slot_count)
    header = ViewHeader(
        1, size, HEADER_BYTES, slot_count, arena_offset, size - arena_offset, view, boot_id.encode("ascii")
    )
    _check(header)
    return header


def encode_header(header: ViewHeader) -> bytes:
    """Return the first bytes of a view; the rest of its header is zero."""
    generation, size, index_offset, slot_count, arena_offset, arena_size, view, boot_id = header
    return _HEADER.pack(
        _MAGIC,
        LAYOUT,
        BUCKET_SLOTS,
        generation,
        size,
        index_offset,
        slot_count,
        arena_offset,
        arena_size,
        view,
        boot_id,
    )


def decode_header(data: Memory) -> ViewHeader:
    """Return the header at the start of ``data``.

    Raises `ViewLayoutError` if it is none, is of another layout, or has offsets or sizes out of bounds.
    """
    if len(data) < _HEADER.size:
        raise ViewLayoutError(f"a view of {len(data)} bytes has no header")

    magic, layout, bucket_slots, *fields = _HEADER.unpack_from(data)
    if magic != _MAGIC or layout != LAYOUT or bucket_slots != BUCKET_SLOTS:
        raise ViewLayoutError(f"not a view of layout {LAYOUT}: it begins with {magic + bytes(data[8:16])!r}")

    header = ViewHeader._make(fields)
    _check(header)
    return header


def _check(header: ViewHeader) -> None:
    _, size, index_offset, slot_count, arena_offset, arena_size, _, boot_id = header
    if not (
        MIN_VIEW_BYTES <= size <= MAX_VIEW_BYTES
        and slot_count >= BUCKET_SLOTS
        and slot_count & (slot_count - 1) == 0
        and index_offset == HEADER_BYTES
        and arena_offset == slot_offset(slot_count)
        and arena_size == size - arena_offset
        and arena_size > 0
        and len(boot_id) == 16  # noqa: PLR2004 - the field's size
    ):
        raise ViewLayoutError(f"a view with sizes that do not fit together: {header}")


def decode_slot(data: Memory, offset: int = 0) -> Slot:
    """Return the slot at ``offset`` of ``data``."""
    return Slot._make(_SLOT.unpack_from(data, offset))


def checksum_of(checked: Memory, record: Memory) -> int:
    """Return the checksum of a slot's first `CHECKED_BYTES` bytes and its record."""
    return zlib.crc32(record, zlib.crc32(checked))


def encode_slot(sequence: int, digest: bytes, offset: int, expires_at: float, generation: int, record: bytes) -> bytes:
    """Return a stable slot. ``offset`` is the record's, in bytes from the start of the file; ``sequence`` is even."""
    checked = _CHECKED.pack(
        sequence, digest, offset // UNIT_BYTES, len(record), expires_at, generation & GENERATION_MASK
    )
    return checked + _U32.pack(checksum_of(checked, record))


def publish_stores(
    slot: int, sequence: int, digest: bytes, offset: int, expires_at: float, generation: int, record: bytes
) -> tuple[Store, Store, Store, Store]:
    """Return the stores that publish a record, in order.

    ``sequence`` is the slot's present one. ``offset`` is the record's, in bytes from the start of the file. The slot and the
    record's space must be free: what used them was withdrawn before.
    """
    at = slot_offset(slot)
    stable = encode_slot(sequence + 2, digest, offset, expires_at, generation, record)
    return (at, sequence + 1), (offset, record), (at + 8, stable[8:]), (at, sequence + 2)


def withdraw_stores(slot: int, sequence: int) -> tuple[Store, Store, Store]:
    """Return the stores that empty a slot, in order. ``sequence`` is its present one."""
    at = slot_offset(slot)
    return (at, sequence + 1), (at + 8, _EMPTY), (at, sequence + 2)


_EMPTY = bytes(SLOT_BYTES - 8)
