"""Rows of the store on disk: whole, damaged, or of another version."""

from typing import Any

import msgspec
import pytest

from sidecard.core.records import Record
from sidecard.store.sqlite.rows import EntryRow, Instant, _checksum, is_damaged, record_of, row_of
from sidecard_client.protocol.wire import Usage

RECORD = Record(b"\xa5value", 1.5, 600.0, 60.0, "cloud", Usage("m", 1, 2, 0.5), ("a", "b"))
NOW = Instant(1010.0)
ROW = row_of("1:default", "key", RECORD, Instant(1000.0))


def flipped(data: bytes, bit: int) -> bytes:
    """Return bytes with one bit flipped."""
    return (int.from_bytes(data, "big") ^ (1 << bit)).to_bytes(len(data), "big")


def test_a_row_returns_its_record() -> None:
    """With its age."""
    record = record_of(ROW, NOW)

    assert record == msgspec.structs.replace(RECORD, age_seconds=10.0)
    assert not is_damaged(ROW)


@pytest.mark.parametrize("field", ["about", "value"])
def test_a_row_with_any_changed_bit_is_a_miss(field: str) -> None:
    """Neither the answer nor its terms can be served changed."""
    data: bytes = getattr(ROW, field)
    for bit in range(8 * len(data)):
        changed: dict[str, Any] = {field: flipped(data, bit)}
        assert record_of(ROW._replace(**changed), NOW) is None


@pytest.mark.parametrize(
    "changed",
    [
        {"scope": "2:default"},
        {"key": "another"},
        {"stored_at": 1000.5},
        {"expires_at": 9999.0},
        {"value": b""},
        {"value": None},
        {"value": 5},
        {"about": None},
        {"about": b""},
        {"expires_at": None},
        {"expires_at": "1600"},
        {"stored_at": 1001},
    ],
    ids=str,
)
def test_a_row_of_another_key_or_lifetime_is_a_miss(changed: dict[str, object]) -> None:
    """A damaged index leads to whole rows of other keys; a damaged column may have any type."""
    assert record_of(ROW._replace(**changed), NOW) is None  # type: ignore[arg-type]  # as SQLite may return them


def test_damage_differs_from_another_version() -> None:
    """Damage means an unreliable disk; another version is what an upgrade leaves."""
    older = msgspec.msgpack.encode((1, 1.5, 600.0, 60.0, "cloud", Usage(), ()))
    assert is_damaged(ROW._replace(value=b"\xa5valuf"))
    assert not is_damaged(EntryRow("1:default", "key", 1000.0, 1600.0, older, b"\xa5value"))
    assert record_of(EntryRow("1:default", "key", 1000.0, 1600.0, older, b"\xa5value"), NOW) is None


DAY = 86400.0
BOOTED = Instant(1000.0, "boot", 50.0)


@pytest.mark.parametrize(
    ("stored", "now", "age_seconds"),
    [
        pytest.param(BOOTED, Instant(1010.0, "boot", 60.0), 10.0, id="steady"),
        pytest.param(BOOTED, Instant(1010.0 + DAY, "boot", 60.0), 10.0, id="wall clock set forward since"),
        pytest.param(BOOTED, Instant(1010.0 - DAY, "boot", 60.0), 10.0, id="wall clock set back since"),
        pytest.param(BOOTED, Instant(1010.0, "another", 3.0), 10.0, id="another boot"),
        pytest.param(BOOTED, Instant(1010.0 - DAY, "another", 3.0), None, id="another boot, from the future"),
        pytest.param(BOOTED, Instant(1010.0), 10.0, id="no clock of the boot"),
        pytest.param(Instant(1000.0), Instant(1010.0, "boot", 60.0), 10.0, id="an older row"),
        pytest.param(Instant(1000.0), Instant(1000.0 - DAY, "boot", 60.0), None, id="an older row, from the future"),
        pytest.param(Instant(1000.0), Instant(999.5), 0.0, id="within the error of clocks"),
    ],
)
def test_no_step_of_the_wall_clock_makes_an_entry_younger(
    stored: Instant, now: Instant, age_seconds: float | None
) -> None:
    """Within a boot its own clock decides; after it, an entry from the future has an unknown age, which is a miss."""
    record = record_of(row_of("1:default", "key", RECORD, stored), now)
    assert (None if record is None else record.age_seconds) == age_seconds


def test_a_row_of_a_version_without_boots_is_read() -> None:
    """That version also reads ours: it ignores what follows its fields."""
    terms = msgspec.msgpack.decode(ROW.about[:-4])
    assert len(terms) == 10
    older = msgspec.msgpack.encode(terms[:8])
    whole = ROW._replace(about=older + _checksum(*ROW[:4], older, ROW.value))
    assert record_of(whole, NOW) == record_of(ROW, NOW)
    assert record_of(whole, NOW) is not None


@pytest.mark.parametrize(
    ("field", "value"),
    [(1, float("nan")), (2, float("inf")), (3, -1.0), (4, "x" * 5000), (6, ["t"] * 50), (7, "x" * 129)],
)
def test_terms_that_no_daemon_writes_are_a_miss(field: int, value: object) -> None:
    """Their checksum holds: another program wrote them so."""
    terms = msgspec.msgpack.decode(ROW.about[:-4])
    terms[field] = value
    foreign = msgspec.msgpack.encode(terms)
    assert record_of(ROW._replace(about=foreign + _checksum(*ROW[:4], foreign, ROW.value)), NOW) is None
