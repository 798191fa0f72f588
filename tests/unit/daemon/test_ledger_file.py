"""The ledger's file: written whole or not at all, read back, and never in the way of anything."""

import errno
import json
import os
import threading
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from sidecard.core.accounts.ledger import LEDGER_VERSION, LedgerSnapshot
from sidecard.core.backends.budgets import BudgetMemory
from sidecard.daemon.ledger_file import (
    MAX_BYTES,
    NAME,
    WRITE_SECONDS,
    LedgerDamagedError,
    LedgerFile,
    LedgerKeeper,
)
from sidecard.daemon.state import StateUnusableError
from sidecard_client.protocol.wire import BackendSpending


def snapshot_of(dollars: float) -> LedgerSnapshot:
    """Make a ledger that can be told from others."""
    spending = BackendSpending(3, 1.5, dollars, 100, 10, 0.0)
    return LedgerSnapshot(
        began_at=1e9,
        tasks={"rag": {"hits": 5.0, "billed_dollars": dollars}},
        backends={"cloud": spending},
        models={"cloud/gpt-4o": spending},
        budgets={"daily": BudgetMemory(20000, dollars)},
    )


class Account:
    """What the engine is to the file: sums that grow by a dollar a booking."""

    def __init__(self) -> None:
        self.ledger_changes = 0
        self.restored: list[LedgerSnapshot] = []

    def book(self) -> None:
        """Book a dollar."""
        self.ledger_changes += 1

    def ledger_snapshot(self) -> LedgerSnapshot:
        """Return the sums."""
        return snapshot_of(self.ledger_changes)

    def restore_ledger(self, snapshot: LedgerSnapshot) -> None:
        """Take an earlier run's sums."""
        self.restored.append(snapshot)


class Said:
    """A log that remembers."""

    def __init__(self) -> None:
        self.lines: list[tuple[str, str, dict[str, Any]]] = []

    def say(self, level: str, event: str, **fields: object) -> None:
        """Remember a line."""
        self.lines.append((level, event, fields))

    @property
    def events(self) -> list[str]:
        """What was said."""
        return [event for _, event, _ in self.lines]


class Disk(LedgerFile):
    """A file on a disk that may be full, slow or broken."""

    fault: Exception | None = None
    gate: threading.Event | None = None
    writing = 0
    most_writing = 0
    writes = 0

    def write(self, snapshot: LedgerSnapshot) -> None:
        """Write, as well as the disk does at the moment."""
        self.writing += 1
        self.most_writing = max(self.writing, self.most_writing)
        try:
            if self.gate is not None:
                assert self.gate.wait(10)

            if self.fault is not None:
                raise self.fault

            super().write(snapshot)
            self.writes += 1
        finally:
            self.writing -= 1


@pytest.fixture
def file(tmp_path: Path) -> Disk:
    """Name a file."""
    return Disk(tmp_path)


@pytest.fixture
def account() -> Account:
    """Open an account."""
    return Account()


@pytest.fixture
def said() -> Said:
    """Listen."""
    return Said()


# The file ------------------------------------------------------------------------------------------------------------


def test_what_is_written_is_read_back(file: Disk, tmp_path: Path) -> None:
    """The later one replaces the earlier, and nothing else is left in the directory."""
    assert file.read() is None
    for dollars in (1.0, 2.0):
        file.write(snapshot_of(dollars))
        assert file.read() == snapshot_of(dollars)

    assert [path.name for path in tmp_path.iterdir()] == [NAME]


def test_only_the_daemons_user_may_read_it(file: Disk, tmp_path: Path) -> None:
    """Whatever the umask, and whatever was left behind."""
    (tmp_path / f"{NAME}.new").touch(mode=0o666)
    (tmp_path / f"{NAME}.new").chmod(0o666)
    before = os.umask(0)
    try:
        file.write(snapshot_of(1))
    finally:
        os.umask(before)

    assert file.path.stat().st_mode & 0o777 == 0o600


def test_a_write_that_is_cut_off_leaves_the_old_file(
    file: Disk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The new one is on disk before it takes the name; what it left behind does not disturb the next."""
    file.write(snapshot_of(1))
    happened: list[str] = []
    fsync = os.fsync

    def cut_off(descriptor: int) -> None:
        fsync(descriptor)
        happened.append(str(Path(f"/proc/self/fd/{descriptor}").readlink()))
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as full:
        full.setattr(os, "fsync", cut_off)
        with pytest.raises(OSError, match="No space"):
            file.write(snapshot_of(2))

    assert happened == [str(tmp_path / f"{NAME}.new")]
    assert file.read() == snapshot_of(1)
    file.write(snapshot_of(3))
    assert file.read() == snapshot_of(3)


def test_nothing_is_written_through_a_link(file: Disk, tmp_path: Path) -> None:
    """Whoever put it there wants another file overwritten."""
    other = tmp_path / "other"
    other.write_text("precious")
    (tmp_path / f"{NAME}.new").symlink_to(other)
    with pytest.raises(OSError, match="symbolic links"):
        file.write(snapshot_of(1))

    assert other.read_text() == "precious"


GOOD = json.loads(json.dumps({"began_at": 1, "tasks": {}, "backends": {}, "models": {}, "budgets": {}, "version": 1}))


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"\0" * 4096,
        b"\xff\xfe",
        b"[" * 100_000,
        b"[]",
        b"null",
        json.dumps(GOOD).encode()[:-1],
        json.dumps(GOOD | {"version": 0}).encode(),
        json.dumps(GOOD | {"version": "1"}).encode(),
        json.dumps({name: value for name, value in GOOD.items() if name != "version"}).encode(),
        json.dumps({name: value for name, value in GOOD.items() if name != "tasks"}).encode(),
        json.dumps(GOOD | {"tasks": {"rag": {"hits": "many"}}}).encode(),
        json.dumps(GOOD).replace('"began_at": 1', '"began_at": 1e999').encode(),
        b" " * (MAX_BYTES + 1),
    ],
)
def test_what_is_no_ledger_is_damaged(content: bytes, file: Disk) -> None:
    """Cut off, another thing altogether, or of a version that never was."""
    file.path.write_bytes(content)
    with pytest.raises(LedgerDamagedError):
        file.read()


def test_the_smallest_ledger_is_read(file: Disk) -> None:
    """The one that the damaged ones were made from."""
    file.path.write_text(json.dumps(GOOD))
    assert file.read() == LedgerSnapshot(began_at=1, tasks={}, backends={}, models={}, budgets={})


@pytest.mark.parametrize("kind", ["newer", "directory", "fifo", "loop"])
def test_what_cannot_be_read_is_not_called_damaged(kind: str, file: Disk) -> None:
    """It must be left alone; and nothing is waited for."""
    if kind == "newer":
        file.path.write_text(json.dumps({"version": LEDGER_VERSION + 1, "everything": "else"}))
    elif kind == "directory":
        file.path.mkdir()
    elif kind == "fifo":
        os.mkfifo(file.path)
    else:
        file.path.symlink_to(file.path)

    with pytest.raises(StateUnusableError, match=r": move it away, or") as caught:
        file.read()

    assert not isinstance(caught.value, LedgerDamagedError)


# At the start --------------------------------------------------------------------------------------------------------


def test_the_engine_goes_on_from_the_file(file: Disk, account: Account, said: Said) -> None:
    """And says so; the first start says nothing."""
    LedgerKeeper(file, account, said.say).restore()
    assert (account.restored, said.lines) == ([], [])

    file.write(snapshot_of(7))
    LedgerKeeper(file, account, said.say).restore()
    assert account.restored == [snapshot_of(7)]
    assert said.events == ["ledger restored"]


@pytest.mark.anyio
async def test_a_damaged_file_is_set_aside_and_a_new_one_begun(file: Disk, account: Account, said: Said) -> None:
    """An operator may look at it; an older one of that name has had its time."""
    corrupt = file.path.with_name("ledger.json.corrupt")
    corrupt.write_text("older")
    file.path.write_text("{")
    keeping = LedgerKeeper(file, account, said.say)
    keeping.restore()

    assert [(level, event) for level, event, _ in said.lines] == [("warning", "ledger reset")]
    assert said.lines[0][2]["kept_as"] == str(corrupt)
    assert corrupt.read_text() == "{"
    assert not file.path.exists()

    account.book()
    await keeping.write()
    assert file.read() == snapshot_of(1)


@pytest.mark.anyio
@pytest.mark.parametrize("kind", ["newer", "directory"])
async def test_a_file_that_must_be_left_alone_is_not_written_over(
    kind: str, file: Disk, account: Account, said: Said
) -> None:
    """The daemon runs without, and says so."""
    if kind == "newer":
        file.path.write_text('{"version": 99}')
    else:
        file.path.mkdir()

    keeping = LedgerKeeper(file, account, said.say)
    keeping.restore()
    account.book()
    await keeping.write()

    assert [(level, event) for level, event, _ in said.lines] == [("warning", "ledger not kept")]
    assert file.writes == 0
    assert file.path.is_dir() if kind == "directory" else file.path.read_text() == '{"version": 99}'


@pytest.mark.anyio
async def test_a_damaged_file_that_cannot_be_set_aside_is_left_alone(file: Disk, account: Account, said: Said) -> None:
    """What is in its place may be worth something to somebody."""
    file.path.write_text("{")
    file.path.with_name("ledger.json.corrupt").mkdir()
    keeping = LedgerKeeper(file, account, said.say)
    keeping.restore()
    account.book()
    await keeping.write()

    assert said.events == ["ledger not kept"]
    assert file.path.read_text() == "{"


# While it serves -----------------------------------------------------------------------------------------------------


@pytest.mark.anyio
async def test_the_file_is_written_where_something_was_booked(file: Disk, account: Account, said: Said) -> None:
    """And only then."""
    keeping = LedgerKeeper(file, account, said.say)
    await keeping.write()
    assert file.writes == 0

    account.book()
    await keeping.write()
    await keeping.write()
    assert file.writes == 1
    assert file.read() == snapshot_of(1)
    assert said.lines == []


@pytest.mark.anyio
async def test_a_failing_write_is_told_once_until_it_works_again(file: Disk, account: Account, said: Said) -> None:
    """What could not be written is written then; a later failure is told anew."""
    keeping = LedgerKeeper(file, account, said.say)
    account.book()
    for fault in (OSError(errno.ENOSPC, "No space left on device"), RuntimeError("can't start new thread")):
        file.fault = fault
        await keeping.write()
        await keeping.write()

    file.fault = None
    await keeping.write()
    assert file.read() == snapshot_of(1)

    account.book()
    file.fault = OSError(errno.EROFS, "Read-only file system")
    await keeping.write()
    assert [(level, event) for level, event, _ in said.lines] == [
        ("warning", "ledger not written"),
        ("info", "ledger written again"),
        ("warning", "ledger not written"),
    ]
    assert said.lines[0][2]["reason"] == "No space left on device"


@pytest.mark.anyio
async def test_a_slow_disk_keeps_nobody_waiting_and_is_never_written_to_twice(
    file: Disk, account: Account, said: Said, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The loop goes on; what is booked meanwhile is written next; cancelled, the write is ended first."""
    monkeypatch.setattr("sidecard.daemon.ledger_file.WRITE_SECONDS", 0.0)
    keeping = LedgerKeeper(file, account, said.say)
    file.gate = threading.Event()
    account.book()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(keeping.run)
        with anyio.fail_after(10):
            while not file.writing:
                await anyio.lowlevel.checkpoint()

        account.book()
        tasks.cancel_scope.cancel()
        file.gate.set()

    assert file.writing == 0
    assert file.read() == snapshot_of(1)
    await keeping.write()
    assert file.read() == snapshot_of(2)
    assert file.most_writing == 1


@pytest.mark.anyio
async def test_the_engine_may_change_while_its_sums_are_written(file: Disk, account: Account, said: Said) -> None:
    """What counts as written is what was taken, not what was booked meanwhile."""
    keeping = LedgerKeeper(file, account, said.say)
    file.gate = threading.Event()
    account.book()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(keeping.write)
        with anyio.fail_after(10):
            while not file.writing:
                await anyio.lowlevel.checkpoint()

        account.book()
        file.gate.set()

    assert file.read() == snapshot_of(1)
    await keeping.write()
    assert file.read() == snapshot_of(2)


def test_the_window_of_loss_is_as_documented() -> None:
    """Seconds: a change of it is a change of the promise."""
    assert WRITE_SECONDS == 5.0
