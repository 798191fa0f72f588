"""Planted bugs of readers and writers of views, each planted between the real code and its memory, or into what the writer is asked.

``checked`` says that the bug shows although the reader compares checksums; otherwise these are taken away too. Without them the
sequence and the generation alone are exact on ``x86-64, ascending``, so each of their parts is needed there.
"""

from collections.abc import Callable
from struct import Struct as Layout
from typing import NamedTuple

from sidecard.core.effects import Publish, Withdraw
from sidecard_client.protocol import view as layout
from tests.simulation.view.exactness import Change, ReadBytes, ReadWords
from tests.simulation.view.plans import ARENA_OFFSET, Operation
from tests.simulation.view.words import WORD, Architecture, Store

_GENERATION_WORD = layout.GENERATION_AT // WORD
_EXPIRY_AT, _EXPIRY = 48, Layout("<d")
_GENERATION_IN_SLOT_AT = 56
_DIGEST = slice(8, 40)
_BUCKET_BYTES = layout.BUCKET_SLOTS * layout.SLOT_BYTES
_SLOT_WORDS = layout.SLOT_BYTES // WORD
_FIRST_SLOT_WORD = layout.HEADER_BYTES // WORD
_ARENA_WORD = ARENA_OFFSET // WORD


class ReaderBug:
    """Changes what a reader has loaded. One instance sees one read of ``digest``."""

    def __init__(self, data: ReadBytes, words: ReadWords, digest: bytes) -> None:
        self._data = data
        self._words = words
        self.digest = digest
        self.bucket = b""
        self.bucket_at = 0

    def __getitem__(self, place: slice | int) -> bytes | int:
        if isinstance(place, int):
            return self.word(place)

        data = self._data[place]
        if len(data) == _BUCKET_BYTES and not self.bucket:
            self.bucket_at = place.start
            self.bucket = data = b"".join(
                self.slot(data[at : at + layout.SLOT_BYTES]) for at in range(0, _BUCKET_BYTES, layout.SLOT_BYTES)
            )

        return data

    def word(self, place: int) -> int:
        """Load a word."""
        return self._words[place]

    def slot(self, slot: bytes) -> bytes:
        """Change a slot of the copied bucket."""
        return slot


class _NoSecondSequenceCheck(ReaderBug):
    def word(self, place: int) -> int:
        if place == _GENERATION_WORD:
            return super().word(place)

        return int.from_bytes(self.bucket[place * WORD - self.bucket_at :][:WORD], "little")


class _NoGenerationCheck(ReaderBug):
    def word(self, place: int) -> int:
        found = self.bucket.find(self.digest)
        if place != _GENERATION_WORD or found < 0:
            return super().word(place)

        at = found - _DIGEST.start + _GENERATION_IN_SLOT_AT
        return int.from_bytes(self.bucket[at : at + 4], "little")


class _GenerationFirst(ReaderBug):
    def __init__(self, data: ReadBytes, words: ReadWords, digest: bytes) -> None:
        super().__init__(data, words, digest)
        self._generation = words[_GENERATION_WORD]

    def word(self, place: int) -> int:
        return self._generation if place == _GENERATION_WORD else super().word(place)


class _PartOfTheKey(ReaderBug):
    def slot(self, slot: bytes) -> bytes:
        if slot[8:16] == self.digest[:8]:
            return slot[:8] + self.digest + slot[40:]

        return slot


class _NoExpiryCheck(ReaderBug):
    def slot(self, slot: bytes) -> bytes:
        return slot[:_EXPIRY_AT] + _EXPIRY.pack(1e9) + slot[_GENERATION_IN_SLOT_AT:]


class _SlotBeingWritten(ReaderBug):
    def slot(self, slot: bytes) -> bytes:
        sequence = int.from_bytes(slot[:8], "little") & ~1
        return sequence.to_bytes(8, "little") + slot[8:]

    def word(self, place: int) -> int:
        return super().word(place) & ~1 if place != _GENERATION_WORD else super().word(place)


def sequence_not_advanced(operation: Operation, stores: list[Store]) -> list[Store]:
    """Withdraw without a word to the readers: drop the stores of sequences."""
    return [store for store in stores if store.word % _SLOT_WORDS] if isinstance(operation, Withdraw) else stores


def sequence_reused(_: Operation, stores: list[Store]) -> list[Store]:
    """Let the sequences of all stable slots be the same."""
    return [
        store._replace(value=(int.from_bytes(store.value, "little") & 1).to_bytes(WORD, "little"))
        if _FIRST_SLOT_WORD <= store.word < _ARENA_WORD and store.word % _SLOT_WORDS == 0
        else store
        for store in stores
    ]


def record_last(operation: Operation, stores: list[Store]) -> list[Store]:
    """Publish a slot before its record."""
    if not isinstance(operation, Publish):
        return stores

    return sorted(stores, key=lambda store: store.word >= _ARENA_WORD)


class Bug(NamedTuple):
    """One bug."""

    architecture: Architecture = "x86-64, ascending"
    checked: bool = False
    reader: Callable[[ReadBytes, ReadWords, bytes], ReaderBug] | None = None
    stored: Change | None = None
    """Changes what each operation has stored."""
    planned: dict[str, bool] = {}  # noqa: RUF012 - a default that nobody changes
    """Options of `Planner`."""


BUGS = {
    "the sequence is not compared again": Bug(reader=_NoSecondSequenceCheck),
    "the key is compared in part": Bug(reader=_PartOfTheKey),
    "the generation is loaded first": Bug(reader=_GenerationFirst),
    "the generation is not compared": Bug("x86-64", checked=True, reader=_NoGenerationCheck),
    "the expiry is not compared": Bug(reader=_NoExpiryCheck),
    "a slot that is being written is read": Bug(reader=_SlotBeingWritten),
    "space is reused at once": Bug(planned={"reuses": True}),
    "the slot is cleared after the reply": Bug("x86-64", checked=True, planned={"late": True}),
    "a withdrawal does not advance the sequence": Bug(stored=sequence_not_advanced),
    "sequences are used again": Bug(stored=sequence_reused),
    "the record is written after its slot": Bug(stored=record_last),
    "arm64: no checksum": Bug("arm64"),
    "x86-64: no checksum, and a copy in any order": Bug("x86-64"),
}
