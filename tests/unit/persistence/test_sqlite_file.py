"""SQLite files: recognized, damaged, foreign, set aside."""

import sqlite3
from pathlib import Path

import pytest

from sidecard.persistence.sqlite_file import (
    DamagedError,
    ForeignError,
    SqliteFormat,
    UnusableError,
    connect,
    is_damage,
    set_aside,
)

FORMAT = SqliteFormat(0x1234, 2, "CREATE TABLE things (name TEXT)", "things.url")
PROBE = "SELECT name FROM things"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Name a file that does not exist yet."""
    return tmp_path / "things.db"


def test_a_missing_file_is_created_with_its_tables(path: Path) -> None:
    """A second open finds the same file, and keeps what is in it."""
    connection = FORMAT.open(path, ["journal_mode = WAL"])
    connection.execute("INSERT INTO things VALUES (?)", ("one",))
    connection.close()
    again = FORMAT.open(path, probe=PROBE)
    assert again.number("SELECT count(*) FROM things") == 1
    assert FORMAT.recognizes(again, path)
    again.close()


def test_a_file_without_its_table_is_damaged(path: Path) -> None:
    """The probe notices what the header does not show."""
    connection = FORMAT.open(path)
    connection.execute("DROP TABLE things")
    connection.close()
    with pytest.raises(DamagedError, match=r"is damaged \(no such table"):
        FORMAT.open(path, probe=PROBE)


def test_what_is_no_database_is_damaged_and_can_be_set_aside(path: Path) -> None:
    """The file and its log get another name; an earlier damaged file's log is removed."""
    path.write_bytes(b"no database" * 1000)
    aside = path.with_name("things.db.corrupt")
    for suffix in ("-wal", "-shm"):
        aside.with_name(aside.name + suffix).write_bytes(b"an earlier one's")

    with pytest.raises(DamagedError):
        FORMAT.open(path)

    path.with_name("things.db-wal").write_bytes(b"this one's")
    assert set_aside(path) == aside
    assert aside.read_bytes().startswith(b"no database")
    assert aside.with_name("things.db.corrupt-wal").read_bytes() == b"this one's"
    assert not aside.with_name("things.db.corrupt-shm").exists()
    FORMAT.open(path).close()


@pytest.mark.parametrize(
    ("pragma", "reason"),
    [("application_id = 5", "another program: choose another things.url"), ("user_version = 3", "a later version")],
)
def test_a_foreign_file_is_left_alone(path: Path, pragma: str, reason: str) -> None:
    """The error names the file, the reason and the setting; the file does not change."""
    connection = FORMAT.open(path)
    connection.execute(f"PRAGMA {pragma}")
    connection.close()
    before = path.read_bytes()
    with pytest.raises(ForeignError, match=reason):
        FORMAT.open(path)

    assert path.read_bytes() == before


def test_a_path_that_cannot_be_a_file_is_unusable(path: Path) -> None:
    """A missing directory may appear later; a directory in the file's place is another's."""
    with pytest.raises(UnusableError, match="cannot be opened"):
        FORMAT.open(path / "missing" / "file")

    path.mkdir()
    with pytest.raises(UnusableError):
        FORMAT.open(path)


def test_a_message_that_quotes_damaged_bytes_is_damage(path: Path) -> None:
    """SQLite's complaint about a table's text that is not UTF-8 is an error of the file, not of ours."""
    FORMAT.open(path).close()
    data = path.read_bytes()
    path.write_bytes(data.replace(b"CREATE TABLE things", b"CREATE TABLE \xff\xfe\xfdngs"))
    with pytest.raises(sqlite3.DatabaseError) as raised:
        connect(path, "ro").execute(PROBE)

    assert is_damage(raised.value, schema_too=True)
