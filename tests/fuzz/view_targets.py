"""Targets in shared memory: a view whose bytes are damaged, and records that are none.

Only the daemon can write to a view. These targets stand for faults of memory and of the daemon.
"""

from typing import Any

from sidecard_client.protocol import view as layout
from sidecard_client.protocol.wire import Hit
from sidecard_client.view.reader import ViewReader
from tests.fuzz.target import Target

NOW = 1000.0
SIZE = layout.MIN_VIEW_BYTES
SLOTS = 2 * layout.BUCKET_SLOTS
KEYS = ("k1", "k2", "k3", "absent")
_RECORD_AT = layout.slot_offset(SLOTS)
_RECORD_SPACE = 512
_PATCH_BYTES = 4

Answers = dict[str, tuple[Any, ...]]


def _record(number: int) -> layout.ViewRecord:
    return layout.ViewRecord(number, NOW - number, number / 2, number / 4, "b", "general", None, [number, f"v{number}"])


def _view(records: dict[str, bytes]) -> bytearray:
    """Return a view in which records are published."""
    memory = bytearray(SIZE)
    header = layout.encode_header(layout.header_for(1, SIZE, SLOTS, "0123456789abcdef"))
    memory[: len(header)] = header
    for place, (key, record) in enumerate(records.items()):
        slot = layout.bucket_of(layout.digest_of(key), SLOTS) + place
        at = _RECORD_AT + place * _RECORD_SPACE
        for offset, stored in layout.publish_stores(slot, 0, layout.digest_of(key), at, NOW + 60.0, 1, record):
            data = stored.to_bytes(8, "little") if isinstance(stored, int) else stored
            memory[offset : offset + len(data)] = data

    return memory


def read_all(memory: bytearray) -> Answers:
    """Return what a reader finds under each of the keys."""
    try:
        reader = ViewReader(bytes(memory), memoryview(memory).cast("Q"), lambda: lambda _: None, lambda: NOW)
    except layout.ViewLayoutError:
        return {}

    booked: list[tuple[int, float]] = []
    found = {key: reader.read(key, "general", None, booked.append) for key in KEYS}
    hits = {key: hit for key, hit in found.items() if hit is not None}
    assert len(booked) == len(hits)
    return {key: _shown(hit) for key, hit in hits.items()}


def _shown(hit: Hit) -> tuple[Any, ...]:
    return hit.value, hit.age_seconds, hit.stale, hit.saved_seconds, hit.saved_dollars, hit.backend


_INTACT = _view({f"k{number}": layout.encode_record(_record(number)) for number in (1, 2, 3)})
_FOUND = read_all(_INTACT)


def damaged_view(data: bytes) -> None:
    """A view with other bytes at some places: each key has its own answer, or none."""
    memory = bytearray(_INTACT)
    for at in range(0, len(data) - _PATCH_BYTES + 1, _PATCH_BYTES):
        place = int.from_bytes(data[at : at + 2], "little") % SIZE
        memory[place] ^= data[at + 2] or 1
        memory[(place + 1) % SIZE] ^= data[at + 3]

    found = read_all(memory)
    assert found == {key: _FOUND[key] for key in found}, f"{found} of {_FOUND}"


def view_of_bytes(data: bytes) -> None:
    """Any bytes as the beginning of a view: no answer, and no exception."""
    memory = bytearray(SIZE)
    memory[: len(data)] = data[:SIZE]
    read_all(memory)


def view_record(data: bytes) -> None:
    """Any bytes as a record with the right checksum: an answer, or none."""
    found = read_all(_view({"k1": data[:_RECORD_SPACE]}))
    assert set(found) <= {"k1"}


def _patch(place: int, *flips: int) -> bytes:
    return place.to_bytes(2, "little") + bytes(flips or (1, 0))


def _damages() -> list[bytes]:
    slot = layout.slot_offset(layout.bucket_of(layout.digest_of("k1"), SLOTS))
    return [
        b"",
        *(_patch(place) for place in (0, 12, 16, 24, slot, slot + 8, slot + 40, slot + 44, slot + 48, slot + 60)),
    ]


def _records() -> list[bytes]:
    whole = layout.encode_record(_record(1))
    return [
        whole,
        whole[:-1],
        whole + b"\xc0",
        b"\x98" + whole[1:] + b"\xc0",
        b"\xdd\xff\xff\xff\xff",
        whole[:-1] + b"\x81\x80\x01",
    ]


def _beginnings() -> list[bytes]:
    return [bytes(_INTACT), bytes(_INTACT[:80])]


VIEW_TARGETS = (
    Target("damaged_view", damaged_view, _damages),
    Target("view", view_of_bytes, _beginnings, (b"sidecard",), max_bytes=SIZE),
    Target("view_record", view_record, _records, (b"\x98", b"\xcb", b"\xc0", b"\x81")),
)
