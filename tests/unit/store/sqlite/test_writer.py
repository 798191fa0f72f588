"""Purges of the file outlast a kill."""

import sqlite3
from contextlib import closing
from pathlib import Path
from unittest.mock import patch

import pytest

from sidecard.core.effects import NO_TICKET, StorePurge, StoreWrite
from sidecard.core.records import NO_USAGE, Record
from sidecard.store.base import StoreChange
from sidecard.store.sqlite.writer import StoreWriter

KEYS = ("red", "blue", "none")


class Killed(BaseException):
    """The process ends here."""


def write(key: str, *tags: str) -> tuple[StoreWrite, float]:
    """Return a change that writes an entry."""
    return StoreWrite(
        "1000:default", key, Record(b"\x01", 1.0, 500.0, 0.0, "cloud", NO_USAGE, tags), "", True, 0.0
    ), 0.0


def open_writer(path: Path) -> StoreWriter:
    """Open the file, as a daemon's start does."""
    return StoreWriter(path, 1 << 20, lambda: 1.0)


def keys(path: Path) -> set[str]:
    """Return the keys in the file."""
    with closing(sqlite3.connect(path)) as connection:
        return {key for (key,) in connection.execute("SELECT key FROM entries")}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Return a file with three entries, whose daemon was killed while it purged a tag, and was to write another entry."""
    file = tmp_path / "store.db"
    with closing(open_writer(file)) as writer:
        writer.apply([write("red", "red"), write("blue", "red", "blue"), write("none")])
        changes: list[tuple[StoreChange, float]] = [
            (StorePurge(NO_TICKET, None, "red", None), 0.0),
            write("new", "red"),
        ]
        with patch.object(StoreWriter, "_expire", side_effect=Killed), pytest.raises(Killed):
            writer.apply(changes)

    assert keys(file) == set(KEYS), "rolled back"
    return file


def test_purge_is_finished_after_a_kill(path: Path) -> None:
    """1. a purge is recorded; 2. the daemon is killed while it purges; 3. the next one has purged when it opens the file."""
    with closing(open_writer(path)) as writer:
        assert keys(path) == {"none"}
        assert writer.sums()[0] == 1


def test_purge_is_done_once(path: Path) -> None:
    """What is written after a purge stays, also after further starts."""
    with closing(open_writer(path)) as writer:
        writer.apply([write("new", "red")])

    with closing(open_writer(path)) as writer:
        assert keys(path) == {"none", "new"}
        writer.apply([(StorePurge(NO_TICKET, None, "red", None), 0.0), write("newer", "red")])

    with closing(open_writer(path)):
        assert keys(path) == {"none", "newer"}


def test_damaged_record_of_a_purge_is_noticed(path: Path) -> None:
    """A purge with other values than names is damage, not a mistake of the daemon."""
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("UPDATE purges SET tag = x'00'")

    with pytest.raises(Exception, match="is damaged"):
        open_writer(path)
