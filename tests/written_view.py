"""Memory of a view that a test writes as the daemon does, and its reader."""

import mmap
from collections.abc import Callable
from typing import Any

from sidecard_client.protocol import view
from sidecard_client.view.reader import ViewReader

SIZE = 64 * 1024
NOW = 1000.0
KEY = "k2-" + "ab" * 32


def record_of(publication: int, value: Any, **changes: Any) -> view.ViewRecord:
    """Return a record that was stored 10 seconds ago."""
    fields: dict[str, Any] = {
        "stored_at": NOW - 10.0,
        "seconds": 1.25,
        "dollars": 0.003,
        "backend": "cloud",
        "task": "general",
        "meta": {"model": "m"},
    }
    return view.ViewRecord(publication, value=value, **fields | changes)


class WrittenView:
    """A view in memory of its own, or in ``memory``; ``events`` are those of its connection."""

    def __init__(self, memory: mmap.mmap | None = None, size: int = SIZE, number: int = 7) -> None:
        self.memory = mmap.mmap(-1, size) if memory is None else memory
        self.header = view.header_for(number, size, view.slots_for(size), "0123456789abcdef")
        encoded = view.encode_header(self.header)
        self.memory[: len(encoded)] = encoded
        self.words = memoryview(self.memory).cast("Q")
        self.sequences: dict[int, int] = {}
        self.generation = 1
        self.next_offset = self.header.arena_offset
        self.now = NOW
        self.events: list[tuple[int, int]] = []
        self.booked: list[tuple[int, float]] = []

    def reader(self, clock: Callable[[], float] | None = None) -> ViewReader:
        """Return a reader of the memory, at the test's own time."""
        return ViewReader(self.memory, self.words, lambda: self.poll, clock or (lambda: self.now))

    def poll(self, timeout: int) -> list[tuple[int, int]]:
        """Return the events."""
        assert timeout == 0
        return self.events

    def store(self, *stores: view.Store) -> None:
        """Execute stores in order."""
        for offset, data in stores:
            stored = data.to_bytes(8, "little") if isinstance(data, int) else data
            self.memory[offset : offset + len(stored)] = stored

    def publish(self, key: str, record: view.ViewRecord, *, expires_at: float = NOW + 100.0, place: int = 0) -> int:
        """Publish at a place of the key's bucket, and return the slot."""
        return self.publish_bytes(key, view.encode_record(record), expires_at=expires_at, place=place)

    def publish_bytes(self, key: str, encoded: bytes, *, expires_at: float = NOW + 100.0, place: int = 0) -> int:
        """Publish bytes that may be no record."""
        digest = view.digest_of(key)
        slot = view.bucket_of(digest, self.header.slot_count) + place
        offset = self.next_offset
        self.next_offset += view.units_for(len(encoded)) * view.UNIT_BYTES
        stores = view.publish_stores(
            slot, self.sequences.get(slot, 0), digest, offset, expires_at, self.generation, encoded
        )
        self.store(*stores)
        self.sequences[slot] = self.sequences.get(slot, 0) + 2
        return slot

    def withdraw(self, slot: int) -> None:
        """Empty a slot."""
        self.store(*view.withdraw_stores(slot, self.sequences[slot]))
        self.sequences[slot] += 2

    def withdraw_all(self) -> None:
        """Begin another generation."""
        self.generation += 1
        self.store((view.GENERATION_AT, self.generation))

    def retire(self) -> None:
        """Zero the view, as one that is never written again."""
        self.store((view.GENERATION_AT, view.RETIRED))
        self.memory[view.HEADER_BYTES :] = bytes(len(self.memory) - view.HEADER_BYTES)
