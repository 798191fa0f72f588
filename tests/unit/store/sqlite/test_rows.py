"""Rows of the store on disk: whole, damaged, or of another version."""

from typing import Any

import msgspec
import pytest

from sidecard.core.records import Record
from sidecard.store.sqlite.rows import EntryRow, is_damaged, record_of, row_of
from sidecard_client.protocol.wire import Usage

RECORD = Record(b"\xa5value", 1.5, 600.0, 60.0, "cloud", Usage("m", 1, 2, 0.5), ("a", "b"))
ROW = row_of("1:default", "key", RECORD, 1000.0, 1600.0)


def flipped(data: bytes, bit: int) -> bytes:
    """Return bytes with one bit flipped."""
    return (int.from_bytes(data, "big") ^ (1 << bit)).to_bytes(len(data), "big")


def test_a_row_returns_its_record() -> None:
    """With its age."""
    record = record_of(ROW, 1010.0)

    assert record == msgspec.structs.replace(RECORD, age_seconds=10.0)
    assert not is_damaged(ROW)


@pytest.mark.parametrize("field", ["about", "value"])
def test_a_row_with_any_changed_bit_is_a_miss(field: str) -> None:
    """Neither the answer nor its terms can be served changed."""
    data: bytes = getattr(ROW, field)
    for bit in range(8 * len(data)):
        changed: dict[str, Any] = {field: flipped(data, bit)}
        assert record_of(ROW._replace(**changed), 1010.0) is None


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
    assert record_of(ROW._replace(**changed), 1010.0) is None  # type: ignore[arg-type]  # as SQLite may return them


def test_damage_differs_from_another_version() -> None:
    """Damage means an unreliable disk; another version is what an upgrade leaves."""
    older = msgspec.msgpack.encode((1, 1.5, 600.0, 60.0, "cloud", Usage(), ()))
    assert is_damaged(ROW._replace(value=b"\xa5valuf"))
    assert not is_damaged(EntryRow("1:default", "key", 1000.0, 1600.0, older, b"\xa5value"))
    assert record_of(EntryRow("1:default", "key", 1000.0, 1600.0, older, b"\xa5value"), 1010.0) is None
