"""The layout of views, and golden files by which programs in other languages can test their readers."""

import itertools
import json
import re
import struct
from importlib import resources
from pathlib import Path
from typing import Any

import pytest
from msgspec import Raw, ValidationError, msgpack

from sidecard_client.protocol import view
from tests.plain_view import PlainView

GOLDEN = Path(__file__).parent / "golden"
SIZE, SLOTS = 8192, 8
KEY = "k2-" + "ab" * 32

RECORD = view.ViewRecord(1, 990.5, 1.25, 0.003, "cloud", "general", {"model": "m", "prompt_tokens": 12}, "hello")


class Memory:
    """A view in a plain buffer, changed as the daemon changes it."""

    def __init__(self, size: int = SIZE, slots: int = SLOTS) -> None:
        self.header = view.header_for(7, size, slots, "0123456789abcdef")
        self.bytes = bytearray(size)
        encoded = view.encode_header(self.header)
        self.bytes[: len(encoded)] = encoded
        self.sequences = [0] * slots

    def store(self, stores: tuple[view.Store, ...]) -> None:
        """Execute stores in order."""
        for offset, data in stores:
            stored = data.to_bytes(8, "little") if isinstance(data, int) else data
            self.bytes[offset : offset + len(stored)] = stored

    def publish(
        self,
        key: str,
        place: int,
        offset: int,
        record: view.ViewRecord,
        expires_at: float = 1100.0,
        generation: int = 2,
    ) -> int:
        """Publish at place 0 to 3 of the key's bucket, and return the slot."""
        digest = view.digest_of(key)
        slot = view.bucket_of(digest, self.header.slot_count) + place
        encoded = view.encode_record(record)
        self.store(view.publish_stores(slot, self.sequences[slot], digest, offset, expires_at, generation, encoded))
        self.sequences[slot] += 2
        return slot

    def withdraw(self, slot: int) -> None:
        """Empty a slot."""
        self.store(view.withdraw_stores(slot, self.sequences[slot]))
        self.sequences[slot] += 2


def golden_view() -> tuple[bytes, dict[str, Any]]:
    """Return a view with a slot of each kind, and what a reader finds in it at 1000 s."""
    memory = Memory()
    memory.store(((view.GENERATION_AT, 2),))
    expected: dict[str, Any] = {}
    places = {0: itertools.count(), 4: itertools.count()}
    offsets = itertools.count(view.slot_offset(SLOTS) + 8, 256)

    def publish(key: str, found: str | None, publication: int, value: Any, **changes: Any) -> int:
        record = view.ViewRecord(publication, 990.5, 1.25, 0.003, "cloud", "general", None, value)
        if found is None:
            expected[key] = dict(zip(record.__struct_fields__, msgpack.decode(view.encode_record(record)), strict=True))
        else:
            expected[key] = found

        place = next(places[view.bucket_of(view.digest_of(key), SLOTS)])
        assert place < view.BUCKET_SLOTS
        return memory.publish(key, place, next(offsets), record, **changes)

    publish(KEY, None, 1, "hello")
    publish("päron:1", None, 2, {"choices": [{"text": "Grüße", "logprob": -0.5}], "data": b"\x00\xff"})
    memory.withdraw(publish("withdrawn", "absent", 3, "old"))
    publish("earlier", "withdrawn", 4, "old", generation=1)
    publish("expired", "expired", 5, "old", expires_at=1000.0)
    written = publish("half written", "being written", 6, "half")
    memory.store(((view.slot_offset(written), memory.sequences[written] + 1),))
    damaged = publish("damaged", "damaged", 7, "value")
    at = view.decode_slot(memory.bytes, view.slot_offset(damaged)).offset * 8 + 10
    memory.bytes[at] ^= 1
    expected["never published"] = "absent"
    return bytes(memory.bytes), expected


def test_layout_1_never_changes() -> None:
    """The functions write the golden file, byte for byte."""
    data, _ = golden_view()
    assert data == (GOLDEN / "view-layout-1.bin").read_bytes()


def test_another_implementation_reads_the_golden_file() -> None:
    """A reader written from the document finds in the golden file what its companion lists, and nothing else."""
    listed = json.loads((GOLDEN / "view-layout-1.json").read_text(encoding="utf-8"))
    plain = PlainView((GOLDEN / "view-layout-1.bin").read_bytes())
    found = {key: plain.read(key, listed["now"]) for key in listed["reads"]}
    assert json.loads(json.dumps(found, default=bytes.hex)) == listed["reads"]
    assert len(set(map(str, listed["reads"].values()))) == 7, "one of each kind"


def test_header_round_trips() -> None:
    """A decoded header equals the encoded one, and takes 88 bytes."""
    header = view.header_for(9, 1 << 20, view.slots_for(1 << 20), "0123456789abcdef")
    encoded = view.encode_header(header)
    assert len(encoded) == 88
    assert view.decode_header(encoded + bytes(10)) == header
    assert struct.unpack_from("<Q", encoded, view.GENERATION_AT) == (1,)


@pytest.mark.parametrize(
    ("offset", "data"),
    [
        (0, b"Sidecard"),
        (8, b"\x02"),
        (12, b"\x08"),
        (24, struct.pack("<Q", 4096)),
        (24, struct.pack("<Q", 1 << 60)),
        (32, struct.pack("<Q", 4032)),
        (40, struct.pack("<Q", 0)),
        (40, struct.pack("<Q", 12)),
        (40, struct.pack("<Q", 1 << 63)),
        (48, struct.pack("<Q", 1 << 63)),
        (56, struct.pack("<Q", 0)),
        (56, struct.pack("<Q", (1 << 64) - 4096)),
    ],
)
def test_header_with_a_wrong_field_is_refused(offset: int, data: bytes) -> None:
    """A file of another kind or layout, or with offsets out of bounds, is no view."""
    changed = bytearray(Memory().bytes)
    view.decode_header(bytes(changed))
    changed[offset : offset + len(data)] = data
    with pytest.raises(view.ViewLayoutError):
        view.decode_header(bytes(changed))


@pytest.mark.parametrize(
    ("size", "slots", "boot_id"),
    [(4096, 4, "0" * 16), (8192, 6, "0" * 16), (8192, 64, "0" * 16), (8192, 8, "0" * 15), (1 << 40, 8, "0" * 16)],
)
def test_header_of_a_view_that_the_layout_forbids_is_refused(size: int, slots: int, boot_id: str) -> None:
    """A view must have room for its index and its records, and slots in whole buckets."""
    with pytest.raises(view.ViewLayoutError):
        view.header_for(1, size, slots, boot_id)


def test_header_too_short_is_refused() -> None:
    """A file shorter than a header is no view."""
    with pytest.raises(view.ViewLayoutError):
        view.decode_header(b"sidecard")


@pytest.mark.parametrize(("size", "slots"), [(256 * 1024, 512), (1 << 20, 2048), ((1 << 20) - 4096, 1024), (8192, 16)])
def test_index_takes_up_to_an_eighth_of_the_file(size: int, slots: int) -> None:
    """The number of slots is a power of two, whatever the size."""
    assert view.slots_for(size) == slots
    assert view.header_for(1, size, slots, "0" * 16).arena_size >= size * 3 // 8


def test_records_round_trip_and_accept_encoded_values() -> None:
    """A record is a msgpack array of eight fields; a value that is encoded already is not encoded again."""
    raw = view.ViewRecord(1, 990.5, 1.25, 0.003, "cloud", "general", None, Raw(msgpack.encode({"a": [1]})))
    encoded = view.encode_record(raw)
    assert msgpack.decode(encoded) == [1, 990.5, 1.25, 0.003, "cloud", "general", None, {"a": [1]}]
    assert view.decode_record(encoded).value == {"a": [1]}
    assert view.decode_record(view.encode_record(RECORD)) == RECORD


def test_record_of_another_form_is_refused() -> None:
    """A record with a wrong type or too few fields does not decode."""
    for wrong in ([1, 2.0], ["1", 990.5, 1.25, 0.003, "cloud", "general", None, 1], {"publication": 1}):
        with pytest.raises(ValidationError):
            view.decode_record(msgpack.encode(wrong))


def test_a_slot_is_stable_only_between_changes() -> None:
    """While a slot is written its sequence is odd; afterwards it has grown by two. A withdrawn slot is empty."""
    memory = Memory()
    digest = view.digest_of(KEY)
    slot = view.bucket_of(digest, SLOTS)
    at = view.slot_offset(slot)
    stores = view.publish_stores(slot, 0, digest, 8000, 1100.0, 1, b"record")
    seen = []
    for store in stores:
        memory.store((store,))
        seen.append(view.decode_slot(memory.bytes, at).sequence)

    assert seen == [1, 1, 1, 2]
    assert [offset for offset, _ in stores] == [at, 8000, at + 8, at], "the record before the slot that names it"
    written = view.decode_slot(memory.bytes, at)
    assert written[:6] == (2, digest, 1000, 6, 1100.0, 1)
    assert written.checksum == view.checksum_of(memory.bytes[at : at + view.CHECKED_BYTES], b"record")

    seen = []
    for store in view.withdraw_stores(slot, 2):
        memory.store((store,))
        seen.append(view.decode_slot(memory.bytes, at).sequence)

    assert seen == [3, 3, 4]
    assert view.decode_slot(memory.bytes, at) == (4, bytes(32), 0, 0, 0.0, 0, 0)


def test_the_checksum_covers_every_bit_of_slot_and_record() -> None:
    """No single flipped bit of a published slot or record leaves the checksum right."""
    stable = view.encode_slot(2, view.digest_of(KEY), 8000, 1100.0, 1, b"record")
    whole = stable[: view.CHECKED_BYTES] + b"record"
    for bit in range(8 * len(whole)):
        changed = bytearray(whole)
        changed[bit // 8] ^= 1 << bit % 8
        checked, record = bytes(changed[: view.CHECKED_BYTES]), bytes(changed[view.CHECKED_BYTES :])
        assert view.checksum_of(checked, record) != view.decode_slot(stable).checksum


def test_long_generations_are_stored_by_their_low_bits() -> None:
    """A slot holds the low 32 bits of a generation."""
    assert view.decode_slot(view.encode_slot(2, bytes(32), 8000, 1.0, (1 << 32) + 5, b"")).generation == 5


def test_keys_that_differ_have_other_digests_and_spread_over_buckets() -> None:
    """Buckets are chosen by the digest, evenly."""
    buckets = [view.bucket_of(view.digest_of(f"key {number}"), 64) for number in range(1600)]
    assert set(buckets) == set(range(0, 64, view.BUCKET_SLOTS))
    assert max(map(buckets.count, set(buckets))) < 160


@pytest.mark.parametrize(("length", "units"), [(0, 0), (1, 1), (8, 1), (9, 2)])
def test_records_take_whole_units(length: int, units: int) -> None:
    """Records begin at multiples of 8 bytes."""
    assert view.units_for(length) == units


def test_the_document_has_the_same_offsets() -> None:
    """``sidecard docs view`` lists each field of the header and of a slot at its offset."""
    text = (resources.files("sidecard") / "docs" / "view.md").read_text(encoding="utf-8")
    tables = {
        title: [int(offset) for offset in re.findall(r"^\| (\d+) \|", table, re.MULTILINE)]
        for title, table in re.findall(r"^\*\*(Header|Index)\*\*.*?\n\n(.*?)\n\n", text, re.MULTILINE | re.DOTALL)
    }
    sizes = {"Header": (8, 4, 4, *(8,) * 7, 16), "Index": (8, 32, 4, 4, 8, 4, 4)}
    assert tables == {
        "Header": list(itertools.accumulate(sizes["Header"], initial=0)),
        "Index": list(itertools.accumulate(sizes["Index"], initial=0))[:-1],
    }
    assert view._HEADER.size == sum(sizes["Header"])
    assert (view._SLOT.size, view.SLOT_BYTES) == (64, sum(sizes["Index"]))
