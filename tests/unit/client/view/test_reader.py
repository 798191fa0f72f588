"""The reader of views: what is a hit, and that every doubt and every damage is none."""

import json
import random
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from msgspec import msgpack

from sidecard_client.protocol import view, wire
from sidecard_client.view.reader import ViewReader
from tests.written_view import KEY, NOW, WrittenView, record_of

GOLDEN = Path(__file__).parents[1] / "protocol" / "golden"


def read(written: WrittenView, reader: ViewReader, key: str = KEY, **limits: Any) -> wire.Hit | None:
    """Read a key for any task and without a bound, unless told otherwise."""
    limits = {"task": None, "bound": None} | limits
    return reader.read(key, limits["task"], limits["bound"], written.booked.append)


def test_golden_file_reads_as_its_companion_lists() -> None:
    """The reader finds in the golden file what is to be found, and nothing else."""
    data = (GOLDEN / "view-layout-1.bin").read_bytes()
    listed = json.loads((GOLDEN / "view-layout-1.json").read_text(encoding="utf-8"))
    reader = ViewReader(data, memoryview(data).cast("Q"), lambda: lambda _: [], lambda: float(listed["now"]))
    for key, expected in listed["reads"].items():
        booked: list[tuple[int, float]] = []
        hit = reader.read(key, None, None, booked.append)
        if isinstance(expected, str):
            assert (hit, booked) == (None, []), key
            continue

        assert hit is not None
        assert booked == [(expected["publication"], listed["now"])]
        assert hit.age_seconds == listed["now"] - expected["stored_at"]
        found = hit.value, hit.saved_seconds, hit.saved_dollars, hit.backend, hit.meta or None
        wanted = expected["value"], expected["seconds"], expected["dollars"], expected["backend"], expected["meta"]
        assert json.loads(json.dumps(found, default=bytes.hex)) == list(wanted)


def test_hit_has_the_fields_of_one_over_the_socket() -> None:
    """A hit carries value, age, cost, backend and usage, and is booked with its time."""
    written = WrittenView()
    written.publish(KEY, record_of(5, {"text": ["hello", None, 1.5]}))
    reader = written.reader()
    expected = wire.Hit(0, {"text": ["hello", None, 1.5]}, 10.0, False, 1.25, 0.003, "cloud", {"model": "m"})
    assert read(written, reader) == expected
    assert written.booked == [(5, NOW)]


def test_record_without_usage_has_an_empty_meta() -> None:
    """`Hit.meta` is a map, as over the socket."""
    written = WrittenView()
    written.publish(KEY, record_of(5, "hello", meta=None))
    hit = read(written, written.reader())
    assert hit is not None
    assert hit.meta == {}


@pytest.mark.parametrize("place", range(view.BUCKET_SLOTS))
def test_each_place_of_a_bucket_is_searched(place: int) -> None:
    """A key is found in every slot of its bucket, also in the last bucket."""
    written = WrittenView()
    last = next(
        f"key {number}"
        for number in range(10_000)
        if view.bucket_of(view.digest_of(f"key {number}"), written.header.slot_count) == written.header.slot_count - 4
    )
    for key in (KEY, last):
        written.publish(key, record_of(5, key), place=place)
        hit = read(written, written.reader(), key)
        assert hit is not None
        assert hit.value == key


def test_keys_that_were_found_are_read_anew_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only where a key belongs is remembered, of a bounded number of keys: not whether it is there, nor its answer."""
    monkeypatch.setattr("sidecard_client.view.reader.MAX_PLACES", 2)
    written = WrittenView()
    reader = written.reader()
    for turn in range(3):
        for number in range(5):
            key = f"key {number}"
            assert read(written, reader, key) is None
            slot = written.publish(key, record_of(5, f"{turn} {key}"))
            for _ in range(2):
                hit = read(written, reader, key)
                assert hit is not None
                assert hit.value == f"{turn} {key}"

            written.withdraw(slot)
            assert len(reader._places) <= 2


def test_key_that_is_no_text_for_the_wire_is_no_hit() -> None:
    """A lone surrogate raises where the request is encoded, as without a view."""
    written = WrittenView()
    assert read(written, written.reader(), "\ud800") is None


@pytest.mark.parametrize(
    ("limits", "is_hit"),
    [
        ({"task": "general"}, True),
        ({"task": "rag"}, False),
        ({"bound": 10.001}, True),
        ({"bound": 10.0}, False),
        ({"bound": 0.0}, False),
    ],
)
def test_entry_of_another_task_or_too_old_is_no_hit(limits: dict[str, Any], is_hit: bool) -> None:
    """The answer was published for the same task, and is younger than the bound. Else nothing is booked."""
    written = WrittenView()
    written.publish(KEY, record_of(5, "hello"))
    reader = written.reader()
    assert (read(written, reader, **limits) is not None) == is_hit
    assert bool(written.booked) == is_hit
    assert reader.usable


def test_entry_expires_at_its_instant() -> None:
    """An entry is a hit before it expires, and none from that instant on, also if the instant is not a number."""
    written = WrittenView()
    written.publish(KEY, record_of(5, "hello"), expires_at=NOW + 1.0)
    reader = written.reader()
    written.now = NOW + 0.999
    assert read(written, reader) is not None
    written.now = NOW + 1.0
    assert read(written, reader) is None
    written.publish(KEY, record_of(6, "hello"), expires_at=float("nan"))
    assert read(written, reader) is None


def test_entry_from_the_future_is_no_hit() -> None:
    """A negative age, or none, is not believed: the clock is another one."""
    written = WrittenView()
    for stored_at in (NOW + 1.0, float("nan")):
        written.publish(KEY, record_of(5, "hello", stored_at=stored_at))
        assert read(written, written.reader()) is None


def test_withdrawn_entry_is_no_hit() -> None:
    """A withdrawn slot is empty; a later publication is read."""
    written = WrittenView()
    slot = written.publish(KEY, record_of(5, "old"))
    reader = written.reader()
    written.withdraw(slot)
    assert read(written, reader) is None
    written.publish(KEY, record_of(6, "new"))
    hit = read(written, reader)
    assert hit is not None
    assert hit.value == "new"
    assert reader.usable


def test_view_that_was_withdrawn_has_no_hits_of_before() -> None:
    """No entry of an earlier generation is a hit. The view stays usable."""
    written = WrittenView()
    written.publish(KEY, record_of(5, "old"))
    reader = written.reader()
    written.withdraw_all()
    assert read(written, reader) is None
    assert reader.usable
    written.publish(KEY, record_of(6, "new"))
    assert read(written, reader) is not None


def test_generation_is_compared_by_its_low_bits() -> None:
    """A generation of more than 32 bits is no other than the slot's, and a view whose low bits are zero is not retired."""
    written = WrittenView()
    for generation in ((1 << 32) + 5, 1 << 32):
        written.generation = generation - 1
        written.withdraw_all()
        written.publish(KEY, record_of(5, "hello"))
        reader = written.reader()
        assert read(written, reader) is not None
        assert read(written, reader, "absent") is None
        assert reader.usable


def test_retired_view_is_not_used_again() -> None:
    """A reader finds out by the first key that it looks for, and so does one that is made later."""
    written = WrittenView()
    written.publish(KEY, record_of(5, "old"))
    reader = written.reader()
    written.retire()
    assert read(written, reader) is None
    assert not reader.usable
    assert not written.reader().usable


def test_event_on_the_connection_ends_the_use_of_a_view() -> None:
    """After an event nothing is read any more, even if the event is gone (the descriptor may be another file's by then)."""
    written = WrittenView()
    written.publish(KEY, record_of(5, "hello"))
    reader = written.reader()
    written.events = [(3, 16)]
    assert read(written, reader) is None
    assert not reader.usable
    written.events = []
    assert read(written, reader) is None


def test_owner_may_end_the_use_of_a_view_between_poll_and_read() -> None:
    """Interleaving: 1. the owner clears ``usable``; 2. it closes the connection; 3. another file gets its number; 4. poll."""
    written = WrittenView()
    written.publish(KEY, record_of(5, "hello"))

    def owner_closes(_: int) -> list[tuple[int, int]]:
        reader.usable = False
        return []

    reader = ViewReader(written.memory, written.words, lambda: owner_closes, lambda: NOW)
    assert read(written, reader) is None
    assert written.booked == []


def test_poll_objects_are_used_by_one_thread_at_a_time() -> None:
    """A read that interrupts another one (a signal handler) gets a poll object of its own; both are kept for later."""
    written = WrittenView()
    written.publish(KEY, record_of(5, "hello"))
    made, used, nested = 0, list[int](), list[wire.Hit | None]()

    def new_poll() -> Any:
        nonlocal made
        made += 1
        number = made

        def poll(_: int) -> list[tuple[int, int]]:
            assert number not in used, "concurrent use"
            used.append(number)
            if not nested:
                nested.append(None)
                nested[0] = read(written, reader)

            used.remove(number)
            return []

        return poll

    reader = ViewReader(written.memory, written.words, new_poll, lambda: NOW)
    assert read(written, reader) is not None
    assert nested[0] is not None
    assert made == 2
    assert read(written, reader) is not None
    assert made == 2


class ChangingBytes:
    """The memory of a view by bytes, whose daemon acts before the reader's load number ``at``, counted with those by words."""

    def __init__(self, written: WrittenView, at: int, act: Callable[[], object]) -> None:
        self.written, self.left, self.act = written, at, act

    def __getitem__(self, place: slice) -> bytes:
        """Copy."""
        self.count()
        return self.written.memory[place]

    def count(self) -> None:
        """Count a load."""
        self.left -= 1
        if self.left == 0:
            self.act()


class ChangingWords:
    """The same memory by words."""

    def __init__(self, memory: ChangingBytes) -> None:
        self.memory = memory

    def __getitem__(self, place: int) -> int:
        """Load."""
        self.memory.count()
        return self.memory.written.words[place]


HEADER, BUCKET, RECORD, SEQUENCE, GENERATION, NEVER = 1, 2, 3, 4, 5, 6
"""The loads of a hit, in order."""


@pytest.mark.parametrize(
    ("change", "values"),
    [
        # before:          bucket record sequence generation, never
        ("replace", ("new", None, None, "old", "old")),
        ("withdraw", (None, None, None, "old", "old")),
        ("begin to write", (None, None, None, "old", "old")),
        ("withdraw all", (None, None, None, None, "old")),
        ("retire", (None, None, None, None, "old")),
    ],
)
def test_change_during_a_read_is_noticed(change: str, values: tuple[str | None, ...]) -> None:
    """What was changed before the last load that shows it is no hit, and no value is a mixture."""
    for before, expected in zip((BUCKET, RECORD, SEQUENCE, GENERATION, NEVER), values, strict=True):
        written = WrittenView()
        slot = written.publish(KEY, record_of(5, "old"))

        def act(written: WrittenView = written, slot: int = slot) -> None:
            match change:
                case "replace":
                    written.withdraw(slot)
                    written.next_offset = written.header.arena_offset
                    written.publish(KEY, record_of(6, "new"))
                case "withdraw":
                    written.withdraw(slot)
                case "begin to write":
                    written.store((view.slot_offset(slot), written.sequences[slot] + 1))
                case "withdraw all":
                    written.withdraw_all()
                    written.next_offset = written.header.arena_offset
                    written.publish("another key", record_of(6, "new"))
                case _:
                    written.retire()

        memory = ChangingBytes(written, before, act)
        reader = ViewReader(memory, ChangingWords(memory), lambda: lambda _: [], lambda: NOW)
        hit = read(written, reader)
        assert (None if hit is None else hit.value) == expected, before
        assert [publication for publication, _ in written.booked] == {"old": [5], "new": [6], None: []}[expected]


def test_every_flipped_bit_of_slot_and_record_is_noticed() -> None:
    """No single flipped bit of a published slot or record leaves a hit, except in what a reader does not use."""
    written = WrittenView()
    slot = written.publish(KEY, record_of(5, "hello"))
    at, length = view.slot_offset(slot), len(view.encode_record(record_of(5, "hello")))
    places = [
        *range(at, at + view.SLOT_BYTES),
        *range(written.header.arena_offset, written.header.arena_offset + length),
    ]
    for place in places:
        for bit in range(8):
            written.memory[place] ^= 1 << bit
            assert read(written, written.reader()) is None, (place, bit)
            written.memory[place] ^= 1 << bit

    assert read(written, written.reader()) is not None


@pytest.mark.parametrize(
    ("at", "shift", "sequence", "more_bytes"),
    [
        ("index", 0, 2, 0),
        ("header", 0, 2, 0),
        ("end", 0, 2, 8),
        ("arena", 8, 2, 0),
        ("arena", 0, 3, 0),
    ],
    ids=["record in the index", "record in the header", "record beyond the end", "slot out of place", "odd sequence"],
)
def test_slot_that_no_daemon_writes_is_no_hit(at: str, shift: int, sequence: int, more_bytes: int) -> None:
    """A slot out of place or being written, or with a record outside of the arena, is no hit even if its checksum is right."""
    written = WrittenView()
    encoded = view.encode_record(record_of(5, "hello world"))
    assert len(encoded) % 8 == 0, "choose a value with which the record ends where the file ends"
    digest = view.digest_of(KEY)
    slot_at = view.slot_offset(view.bucket_of(digest, written.header.slot_count)) + shift
    offset = {
        "index": view.slot_offset(written.header.slot_count - 4),
        "header": 1024,
        "end": len(written.memory) - len(encoded),
        "arena": written.header.arena_offset,
    }[at]
    fields = sequence, digest, offset // 8, len(encoded) + more_bytes, NOW + 100.0, 1
    checked = struct.pack("<Q32sIIdI", *fields)
    slot = checked + struct.pack("<I", view.checksum_of(checked, encoded))
    written.store((offset, encoded), (slot_at, slot))
    assert read(written, written.reader()) is None
    assert written.booked == []


@pytest.mark.parametrize("length", [0, 16 * 1024 * 1024 + 1, (1 << 32) - 1])
def test_record_of_an_absurd_length_is_not_copied(length: int) -> None:
    """A damaged length costs no copy of all that follows."""
    written = WrittenView()
    slot = written.publish(KEY, record_of(5, "hello"))
    written.store((view.slot_offset(slot) + 44, struct.pack("<I", length)))
    memory = ChangingBytes(written, RECORD, lambda: pytest.fail("the record was copied"))
    reader = ViewReader(memory, ChangingWords(memory), lambda: lambda _: [], lambda: NOW)
    reader._size = 1 << 33
    assert read(written, reader) is None


@pytest.mark.parametrize(
    "encoded",
    [
        b"\xc1",
        msgpack.encode([5]),
        msgpack.encode([5, "x", 1.0, 0.0, "b", "general", None, 1]),
        msgpack.encode([5, 990.0, 1.0, 0.0, "b", "general", None, 1])[:-1] + b"\xa1\xff",
        msgpack.encode([5, 990.0, 1.0, 0.0, "b", "general", None, 1])[:-1] + b"\x81\x80\x01",
        msgpack.encode([5, 990.0, 1.0, 0.0, "b", "general", None, 1])[:-1] + b"\x91" * 100_000 + b"\x01",
        msgpack.encode([5, 990.0, 1.0, 0.0, "b", "general", None, 1]) + b"\x01",
    ],
    ids=["no msgpack", "too short", "wrong type", "no UTF-8", "map as key", "too deep", "trailing byte"],
)
def test_record_that_does_not_decode_is_no_hit(encoded: bytes) -> None:
    """Whatever the daemon stored by another program's wish is left to the socket, which reports what is wrong."""
    written = WrittenView(size=256 * 1024)
    written.publish_bytes(KEY, encoded)
    reader = written.reader()
    assert read(written, reader) is None
    assert (written.booked, reader.usable) == ([], True)


def test_random_memory_never_breaks_a_reader() -> None:
    """Behind an intact header, random words, and random changes of a published view, are never a wrong value."""
    generator = random.Random(7)
    written = WrittenView(size=8192)
    keys = [f"key {number}" for number in range(16)]
    for number, key in enumerate(keys):
        written.publish(key, record_of(number, key), place=number % 4)

    stable = bytes(written.memory)
    for _ in range(2_000):
        start = generator.randrange(view.HEADER_BYTES, len(stable) - 64)
        written.memory[start : start + 64] = generator.randbytes(64)
        for key in keys:
            hit = read(written, written.reader(), key)
            assert hit is None or hit.value == key

        written.memory[:] = stable if generator.random() < 0.2 else bytes(written.memory)


def test_file_that_is_no_view_is_refused() -> None:
    """A reader is made of a view of this layout only."""
    with pytest.raises(view.ViewLayoutError):
        ViewReader(bytes(8192), memoryview(bytes(8192)).cast("Q"), lambda: lambda _: [])
