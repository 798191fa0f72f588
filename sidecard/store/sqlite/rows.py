"""Rows of the store on disk: encoding, and the checksum that shows whether a row is what was written.

SQLite notices damage to its pages' structure but not to their content: a disk that returns another byte would give an app
another answer. So each row has a checksum over all that is served of it, including scope and key, since a damaged index leads
to whole rows of other keys. A row whose checksum does not match is a miss, until it expires or is replaced.

The checksum is CRC-32, as in ZIP and in the spool: against accidents (it misses one in four billion), not against
anyone who may write to the file. For a row of 1 KiB it costs 2 us to make and to check.
"""

import struct
import zlib
from typing import NamedTuple

import msgspec
from msgspec import Struct

from sidecard.core.records import Record
from sidecard.store.base import terms_of
from sidecard.store.validation import MAX_CLOCK_ERROR_SECONDS, StoredBackend, StoredSeconds, StoredTask
from sidecard_client.protocol.wire import Tags, Usage

ABOUT_VERSION = 2
"""Version 1 had no checksum."""

COMPRESSED_VERSION = 3
"""Like version 2, but with a compressed value (`sidecard.core.cache.compression`). Programs that know only version 2 have a miss."""

_VERSIONS = ABOUT_VERSION, COMPRESSED_VERSION

_INSTANTS = struct.Struct("<dd")
CHECKSUM_BYTES = 4

_FAULTS = (msgspec.MsgspecError, UnicodeError, RecursionError, TypeError, struct.error)
"""Raised for columns with the wrong content or type, as a damaged row may have them."""


class About(Struct, array_like=True, frozen=True):
    """An entry's terms, without its value and its instants. A later layout has another first number."""

    version: int
    seconds: StoredSeconds
    ttl_seconds: StoredSeconds
    window_seconds: StoredSeconds
    backend: StoredBackend
    usage: Usage
    tags: Tags
    task: StoredTask = ""
    boot: str = ""
    """Name of the boot in which it was stored; empty in older rows. Then the wall clock decides its age."""
    boot_seconds: float = 0.0
    """When it was stored, by that boot's clock, which no one can set."""


_pack = msgspec.msgpack.Encoder().encode
_unpack = msgspec.msgpack.Decoder(About).decode


class Instant(NamedTuple):
    """One instant by the wall clock and, if ``boot`` is its name, by the clock of this boot."""

    wall_seconds: float
    boot: str = ""
    boot_seconds: float = 0.0


class EntryRow(NamedTuple):
    """A stored entry. ``about`` has its terms and the checksum; the instants are the wall clock's."""

    scope: str
    key: str
    stored_at: float
    expires_at: float
    about: bytes
    value: bytes


def row_of(scope: str, key: str, record: Record, stored: Instant) -> EntryRow:
    """Return the row of a record that was made at ``stored``."""
    stored_at = float(stored.wall_seconds)
    expires_at = stored_at + record.ttl_seconds
    version = COMPRESSED_VERSION if record.compressed else ABOUT_VERSION
    terms = _pack(About(version, *terms_of(record), record.task, stored.boot, stored.boot_seconds))
    checksum = _checksum(scope, key, stored_at, expires_at, terms, record.value)
    return EntryRow(scope, key, stored_at, expires_at, terms + checksum, record.value)


def record_of(row: EntryRow, now: Instant | None) -> Record | None:
    """Return the record of a row, with its age at ``now``, or an age of 0.

    None if it is damaged, of another version, or stored in the future: then its age is unknown.
    """
    scope, key, stored_at, expires_at, about, value = row
    try:
        terms = about[:-CHECKSUM_BYTES]
        if _checksum(scope, key, stored_at, expires_at, terms, value) != about[-CHECKSUM_BYTES:]:
            return None

        found = _unpack(terms)
    except _FAULTS:
        return None

    if found.version not in _VERSIONS:
        return None

    age_seconds = 0.0 if now is None else _age_seconds(found, stored_at, now)
    if age_seconds < -MAX_CLOCK_ERROR_SECONDS:
        return None

    # Field by field: `terms_of` would take 0.2 us more of each read.
    return Record(
        value,
        found.seconds,
        found.ttl_seconds,
        found.window_seconds,
        found.backend,
        found.usage,
        found.tags,
        max(0.0, age_seconds),
        found.task,
        compressed=found.version == COMPRESSED_VERSION,
    )


def is_damaged(row: EntryRow) -> bool:
    """Return whether a row has one of these versions and is not what was written."""
    try:
        return record_of(row, None) is None and _unpack(row.about[:-CHECKSUM_BYTES]).version in _VERSIONS
    except _FAULTS:
        return False


def _age_seconds(about: About, stored_at: float, now: Instant) -> float:
    if about.boot and about.boot == now.boot:
        return now.boot_seconds - about.boot_seconds

    return now.wall_seconds - stored_at


def _checksum(scope: str, key: str, stored_at: float, expires_at: float, terms: bytes, value: bytes) -> bytes:
    head = f"{scope}\0{key}\0".encode() + _INSTANTS.pack(stored_at, expires_at)
    return zlib.crc32(value, zlib.crc32(head + terms)).to_bytes(CHECKSUM_BYTES, "little")
