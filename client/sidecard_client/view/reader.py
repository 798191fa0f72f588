"""Read published entries from the memory of a view. Takes no lock, and never waits or tries again.

The daemon may change any byte while it is read, and memory may be damaged. So a read is a hit only if every step succeeds;
otherwise the caller asks over the socket::

    1  copy bucket     find the key's whole digest in it
    2  poll            the view's connection shows no event (the daemon has not ended), and its descriptor is still its own
    3  clock           now
    4  check slot      stable, not expired, its record within the arena
    5  copy record
    6  load sequence   the slot has not changed since step 1
    7  load generation the view has not been withdrawn: last, because space is reused after that
    8  checksum        of the slot and the record as they were copied: neither is torn, reordered or damaged
    9  decode          the record has the fields and types of `ViewRecord`

Step 1 comes first so that a key without an entry costs no system call. Step 7 refuses entries whose withdrawal was acknowledged before
the read began. Step 8 decides where the processor may reorder the loads of steps 1 to 7 (arm64), or the copies themselves.
"""

import time
from collections.abc import Callable
from functools import partial
from hashlib import sha256
from struct import Struct as Layout
from typing import Any, Final, Protocol
from zlib import crc32

from sidecard_client.protocol.undecodable import DECODE_ERRORS
from sidecard_client.protocol.values import MAX_FRAME_BYTES
from sidecard_client.protocol.view import (
    BUCKET_SLOTS,
    CHECKED_BYTES,
    GENERATION_AT,
    GENERATION_MASK,
    HEADER_BYTES,
    RETIRED,
    SLOT_BYTES,
    UNIT_BYTES,
    decode_header,
    decode_record,
)
from sidecard_client.protocol.wire import Hit

WORD_BYTES: Final = 8
DIGEST_AT: Final = 8
"""Offset of the digest in a slot."""

_BUCKET_BYTES: Final = BUCKET_SLOTS * SLOT_BYTES
MAX_PLACES: Final = 512
"""Keys whose places a reader remembers."""

_GENERATION: Final = GENERATION_AT // WORD_BYTES
_fields_of = Layout("<Q32xIIdII").unpack_from
"""All fields of a slot but its digest."""

_first_word = Layout("<Q").unpack_from

_STALE: Final = False
"""Only fresh answers are published."""

Poll = Callable[[int], Any]
"""``select.poll().poll`` of one connection: returns a true value after an event."""

Identify = Callable[[], object]
"""Returns a mark of the connection that other files lack; raises `OSError` if its descriptor is closed."""

Book = Callable[[tuple[int, float]], object]
"""Takes the publication and the time of a hit, to be reported."""


class Bytes(Protocol):
    """A view's memory by bytes, such as an `mmap.mmap`. A slice is a copy."""

    def __getitem__(self, place: slice, /) -> bytes: ...


class Words(Protocol):
    """A view's memory by words of 8 bytes, such as a `memoryview` cast to ``"Q"``. Each is loaded at once."""

    def __getitem__(self, place: int, /) -> int: ...


boot_clock = partial(time.clock_gettime, time.CLOCK_BOOTTIME)
"""Seconds since the host was started, including those that it slept: the daemon's clock."""


class ViewReader:
    """Reads one view. Any number of threads may read at the same time.

    ``data`` and ``words`` are the same memory. ``new_poll`` makes a `Poll`, which one thread uses at a time. ``identify`` returns
    another mark than at first if the app has closed the connection, and another file has its descriptor. ``usable`` becomes
    False for good when the view must not be read again: the daemon has ended, or retired the view; its owner may set it too.
    Raises `ViewLayoutError`.
    """

    __slots__ = (
        "_arena_offset",
        "_buckets",
        "_clock",
        "_data",
        "_identify",
        "_mark",
        "_new_poll",
        "_places",
        "_polls",
        "_size",
        "_words",
        "usable",
    )

    def __init__(
        self,
        data: Bytes,
        words: Words,
        new_poll: Callable[[], Poll],
        clock: Callable[[], float] = boot_clock,
        identify: Identify = int,
    ) -> None:
        header = decode_header(data[:HEADER_BYTES])
        self._arena_offset = header.arena_offset
        self._size = header.size
        self._buckets = header.slot_count // BUCKET_SLOTS
        self._data = data
        self._words = words
        self._new_poll = new_poll
        self._identify = identify
        self._mark = identify()
        self._places: dict[str, tuple[bytes, int]] = {}
        """Digests and bucket offsets of keys that were found: a lookup is faster than computing them."""
        self._polls: list[Poll] = []  # not in use; pop and append are atomic
        self._clock = clock
        self.usable = header.generation != RETIRED

    def is_current(self) -> bool:
        """Return whether the view may still be read, without reading an entry."""
        if self._words[_GENERATION] == RETIRED:
            self.usable = False

        return self.usable

    def read(  # noqa: C901 - the steps above, in one function: every hit passes it
        self, key: str, task: str | None, bound: float | None, book: Book
    ) -> Hit | None:
        """Return the published answer to ``key``, after passing it to ``book``; None if the socket must answer.

        The answer is younger than ``bound`` seconds, and was published for ``task``; None accepts any.
        """
        places = self._places
        place = places.get(key) or self._place_of(key)
        if place is None:
            return None

        data, words = self._data, self._words
        digest, at = place
        bucket = data[at : at + _BUCKET_BYTES]
        slot = bucket.find(digest) - DIGEST_AT
        if slot % SLOT_BYTES or slot < 0:
            if words[_GENERATION] == RETIRED:
                self.usable = False

            return None

        try:
            poll = self._polls.pop()
        except IndexError:
            poll = self._new_poll()

        # In this order: the owner clears ``usable`` before it closes the connection. An app that closes the descriptor does not
        # return it, so if the mark is right, poll saw the connection.
        try:
            is_open = not poll(0) and self.usable and self._identify() == self._mark
        except OSError:
            is_open = False

        if not is_open:
            self.usable = False
            return None

        self._polls.append(poll)
        now = self._clock()
        sequence, offset, length, expires_at, generation, checksum = _fields_of(bucket, slot)
        offset *= UNIT_BYTES
        end = offset + length
        if (
            sequence & 1
            or not expires_at > now  # not a number, if damaged
            or offset < self._arena_offset
            or end > self._size
            or not 0 < length <= MAX_FRAME_BYTES
        ):
            return None

        record = data[offset:end]
        if (
            words[(at + slot) // WORD_BYTES] != sequence
            or words[_GENERATION] & GENERATION_MASK != generation
            or crc32(record, crc32(bucket[slot : slot + CHECKED_BYTES])) != checksum
        ):
            return None

        try:
            entry = decode_record(record)
        except DECODE_ERRORS:
            return None

        age_seconds = now - entry.stored_at
        if (
            (task is not None and entry.task != task)
            or not age_seconds >= 0
            or (bound is not None and age_seconds >= bound)
        ):
            return None

        book((entry.publication, now))
        if key not in places:
            if len(places) >= MAX_PLACES:
                places.clear()

            places[key] = place

        return Hit(0, entry.value, age_seconds, _STALE, entry.seconds, entry.dollars, entry.backend, entry.meta or {})

    def _place_of(self, key: str) -> tuple[bytes, int] | None:
        """Return a key's digest and the offset of its bucket; None if the key has a lone surrogate, for which encoding the request raises."""
        try:
            digest = sha256(key.encode()).digest()
        except UnicodeEncodeError:
            return None

        return digest, HEADER_BYTES + _first_word(digest)[0] % self._buckets * _BUCKET_BYTES
