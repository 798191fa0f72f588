"""The call log in real SQLite files: damage, limits, concurrent readers."""

import os
import random
import sqlite3
import stat
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from msgspec import structs

from sidecard.observe.call_log.rows import DAY_SECONDS, CallLogError, CallRow, Filter, NoCallLogError, read
from sidecard.observe.call_log.sqlite import SqliteCallReader, SqliteCallWriter
from tests.call_rows import AT, row

MEBI = 1024 * 1024


def said(at: float = AT, text: str | None = None) -> CallRow:
    """Return a row; with ``text`` for its prompt and its answer."""
    return row(at, text, text)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Name a log that is not there yet."""
    return tmp_path / "calls.sqlite"


Open = Callable[..., SqliteCallWriter]


@pytest.fixture
def opened(path: Path) -> Iterator[Open]:
    """Open the log for writing; it is closed with the test."""
    writers = []

    def open_it(max_bytes: int = 64 * MEBI, days: float = 30.0, now: float = AT) -> SqliteCallWriter:
        writers.append(SqliteCallWriter(path, max_bytes=max_bytes, retention_days=days, wall_clock=lambda: now))
        return writers[-1]

    yield open_it
    for writer in writers:
        writer.close()


def rows_in(path: Path, wanted: Filter | None = None) -> list[CallRow]:
    """Read a log as the command does, the oldest row first."""
    reader = SqliteCallReader(path)
    try:
        return list(read(reader, wanted or Filter(), newest_first=False))
    finally:
        reader.close()


def size_of(path: Path) -> int:
    """Return the bytes of a log on the disk, with all that belongs to it."""
    return sum(file.stat().st_size for file in path.parent.glob(f"{path.name}*"))


def test_written_rows_are_read_back(path: Path, opened: Open) -> None:
    """Field by field; other users cannot read them."""
    rows = [row(AT + number, '{"args":["é"]}', key=f"k{number}", backend="b", model="m") for number in range(300)]
    assert opened().write(rows) == 0
    assert rows_in(path) == rows
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_repeated_batch_is_stored_once(path: Path, opened: Open) -> None:
    """A batch whose result was lost is written again."""
    rows = [row(), row(), row()]
    writer = opened()
    writer.write(rows[:2])
    assert writer.write(rows) == 0
    assert rows_in(path) == rows


def test_a_row_that_can_never_be_stored_fails_alone(path: Path, opened: Open) -> None:
    """Its number is too large; the rows beside it stay."""
    rows = [row(), structs.replace(row(), pid=2**70), row()]
    assert opened().write(rows) == 1
    assert rows_in(path) == [rows[0], rows[2]]


def test_a_log_continues_after_a_restart(path: Path, opened: Open) -> None:
    """Existing rows stay."""
    first = row()
    one = opened()
    one.write([first])
    one.close()
    second = row()
    opened().write([second])
    assert rows_in(path) == [first, second]


def test_a_killed_daemon_leaves_a_readable_log(path: Path, opened: Open) -> None:
    """Committed rows are in the write-ahead log beside the file."""
    writer = opened()
    rows = [row()]
    writer.write(rows)
    for name in path.parent.iterdir():
        (path.parent / f"copy-{name.name}").write_bytes(name.read_bytes())

    copy = path.with_name("copy-calls.sqlite")
    assert rows_in(copy) == rows


# Retention -----------------------------------------------------------------------------------------------------------


def test_old_rows_are_removed_in_small_steps(path: Path, opened: Open) -> None:
    """Rows younger than the limit stay."""
    old = [row(AT - 31 * DAY_SECONDS + number) for number in range(5000)]
    young = [row(AT - 29 * DAY_SECONDS), row(AT)]
    writer = opened()
    writer.write(old + young)
    assert writer.prune() is True
    assert len(rows_in(path)) > 2
    while writer.prune():
        pass

    assert rows_in(path) == young


def test_without_a_retention_limit_all_rows_stay(path: Path, opened: Open) -> None:
    """That is what 0 days mean."""
    rows = [row(1000.0)]
    writer = opened(days=0.0)
    writer.write(rows)
    assert writer.prune() is False
    assert rows_in(path) == rows


@pytest.mark.parametrize(
    ("max_bytes", "text_bytes"),
    [(MEBI, 0), (MEBI, 32 * 1024), (2 * MEBI, 3000), pytest.param(8 * MEBI, 200_000, marks=pytest.mark.slow)],
)
def test_the_file_stays_within_its_limit(path: Path, opened: Open, max_bytes: int, text_bytes: int) -> None:
    """The oldest rows make room: with the write-ahead log, also while a reader is active, and without wasting most of it."""
    chance = random.Random(5)
    writer = opened(max_bytes=max_bytes)
    written: list[CallRow] = []
    largest = 0
    ended = threading.Event()
    failures = []

    def look() -> None:
        while not ended.is_set():
            try:
                rows_in(path)
            except CallLogError as error:
                failures.append(error)

            ended.wait(0.02)  # the writer needs the interpreter as well

    writer.write([row()])
    reader = threading.Thread(target=look)
    reader.start()
    try:
        while sum(each.bytes for each in written) < 4 * max_bytes:
            batch = [
                said(text="x" * chance.randrange(text_bytes // 2, text_bytes + 1))
                for _ in range(chance.randrange(1, 200))
            ]
            assert writer.write(batch) == 0
            written += batch
            largest = max(largest, size_of(path))
    finally:
        ended.set()
        reader.join()

    kept = rows_in(path)
    assert failures == []
    assert largest <= max_bytes
    assert [each.id for each in kept] == [each.id for each in written[-len(kept) :]]
    assert sum(each.bytes for each in kept) > 0.3 * max_bytes


def test_a_lowered_limit_shrinks_the_file(path: Path, opened: Open) -> None:
    """In small steps."""
    writer = opened(max_bytes=32 * MEBI)
    rows = [said(text="x" * 10_000) for _ in range(500)]
    writer.write(rows)
    writer.close()
    lower = opened(max_bytes=2 * MEBI)
    steps = 1
    while lower.prune():
        steps += 1

    assert size_of(path) <= 2 * MEBI
    assert 10 < steps < 500
    kept = rows_in(path)
    assert kept == rows[-len(kept) :]


def test_removed_rows_are_overwritten(path: Path, opened: Open) -> None:
    """Retention is also a promise."""
    secret = "xyzzy-secret-" * 10
    writer = opened(days=1.0)
    writer.write([said(AT - 10 * DAY_SECONDS, secret), said(AT, "young")])
    while writer.prune():
        pass

    writer.close()
    assert secret.encode() not in b"".join(file.read_bytes() for file in path.parent.iterdir())


# What is wrong with the file -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("damage", ["text", "header", "middle", "table"])
def test_a_damaged_file_is_set_aside(path: Path, opened: Open, damage: str) -> None:
    """It is recreated, and a notice says so."""
    writer = opened()
    writer.write([said(text="x" * 5000) for _ in range(50)])
    writer.close()
    content = bytearray(path.read_bytes())
    if damage == "text":
        content[:] = b"not a database" * 1000
    elif damage == "header":
        content[16:100] = b"\xff" * 84
    elif damage == "middle":
        content[4096 : 40 * 4096] = os.urandom(39 * 4096)

    path.write_bytes(content)
    if damage == "table":
        with sqlite3.connect(path) as connection:
            connection.execute("DROP TABLE calls")

        connection.close()

    late = row()
    writer = opened()
    with pytest.raises(CallLogError):
        writer.write([late])

    assert writer.notice() == ""
    writer.write([late])
    assert rows_in(path) == [late]
    assert path.with_name("calls.sqlite.corrupt").exists()
    assert "calls.sqlite.corrupt" in writer.notice()
    assert writer.notice() == ""


def test_a_file_of_another_program_is_left_alone(path: Path, opened: Open) -> None:
    """Nothing is written to it or read from it."""
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE calls (id)")

    connection.close()
    content = path.read_bytes()
    with pytest.raises(CallLogError, match=r"another program: choose another calls\.url"):
        opened().write([row()])

    with pytest.raises(NoCallLogError, match="another program"):
        rows_in(path)

    assert path.read_bytes() == content


def test_a_file_of_a_later_version_is_left_alone(path: Path, opened: Open) -> None:
    """A downgrade must not lose the log."""
    writer = opened()
    writer.write([row()])
    writer.close()
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA user_version = 2")

    connection.close()
    with pytest.raises(CallLogError, match="later version of sidecard"):
        opened().write([row()])

    with pytest.raises(NoCallLogError, match="later version of sidecard"):
        rows_in(path)


def test_a_fifo_is_not_waited_for(path: Path, opened: Open) -> None:
    """It has no writer."""
    os.mkfifo(path)
    with pytest.raises(CallLogError, match="not a regular file"):
        opened().write([row()])

    with pytest.raises(NoCallLogError, match="not a regular file"):
        rows_in(path)


def test_a_link_is_not_followed(path: Path, opened: Open) -> None:
    """It may lead to any file of the daemon's user."""
    path.symlink_to(path.with_name("elsewhere"))
    with pytest.raises(CallLogError, match="cannot be opened"):
        opened().write([row()])

    assert not path.with_name("elsewhere").exists()


def test_a_removed_file_is_recreated(path: Path, opened: Open) -> None:
    """Otherwise rows would go to a file that cannot be found."""
    writer = opened()
    writer.write([row()])
    for file in path.parent.iterdir():
        file.unlink()

    late = row()
    writer.write([late])
    assert rows_in(path) == [late]


def test_a_locked_file_is_retried(path: Path, opened: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    """The rows are written once the lock is released."""
    monkeypatch.setattr("sidecard.observe.call_log.sqlite.WRITE_PATIENCE_SECONDS", 0.05)
    writer = opened()
    writer.write([row()])
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    late = row()
    with pytest.raises(CallLogError, match="locked"):
        writer.write([late])

    other.execute("ROLLBACK")
    other.close()
    writer.write([late])
    assert rows_in(path)[-1] == late


def test_a_full_disk_is_retried(small_disk: Path) -> None:
    """Committed rows are whole, and more are written once there is room."""
    path = small_disk / "calls.sqlite"
    writer = SqliteCallWriter(path, max_bytes=64 * MEBI, retention_days=30.0, wall_clock=lambda: AT)
    kept = []
    (small_disk / "ballast").write_bytes(bytes(MEBI))
    with pytest.raises(CallLogError, match="cannot be written"):  # noqa: PT012 - which of them fails is the disk's matter
        while True:
            late = said(text="x" * 20_000)
            writer.write([late])
            kept.append(late)

    with pytest.raises(CallLogError):
        writer.write([late])

    (small_disk / "ballast").unlink()
    writer.write([late])
    assert rows_in(path) == [*kept, late]
    writer.close()


def test_a_log_on_a_read_only_disk_can_be_read(small_disk: Path) -> None:
    """Writing to it is an error."""
    path = small_disk / "calls.sqlite"
    rows = [row()]
    writer = SqliteCallWriter(path, max_bytes=MEBI, retention_days=30.0, wall_clock=lambda: AT)
    writer.write(rows)
    writer.close()
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    assert rows_in(path) == rows
    with pytest.raises(CallLogError):
        writer.write([row()])


def test_a_readers_error_names_the_problem(path: Path) -> None:
    """No file, an empty one, a damaged one."""
    with pytest.raises(NoCallLogError, match=r"no call log at .* \(No such file or directory\)"):
        rows_in(path)

    assert not path.exists()
    path.touch()
    with pytest.raises(NoCallLogError, match="no daemon has created"):
        rows_in(path)

    path.write_bytes(b"no database" * 1000)
    with pytest.raises(NoCallLogError, match="damaged"):
        rows_in(path)
