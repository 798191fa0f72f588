"""The ledger's file: written whole or not at all, read back, and no fault of it stops the daemon."""

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
from sidecard.core.sums import MAX_SUM
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
    """Make a ledger that differs from others."""
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
        """The logged events."""
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
def anyio_backend() -> str:
    """Run on the daemon's own backend alone."""
    return "asyncio"


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


def test_a_written_ledger_is_read_back(file: Disk, tmp_path: Path) -> None:
    """A later write replaces the earlier one, and leaves no other file in the directory."""
    assert file.read() is None
    for dollars in (1.0, 2.0):
        file.write(snapshot_of(dollars))
        assert file.read() == snapshot_of(dollars)

    assert [path.name for path in tmp_path.iterdir()] == [NAME]


def test_the_file_is_readable_by_its_owner_only(file: Disk, tmp_path: Path) -> None:
    """The mode is 0600 with any umask, and also over a leftover file."""
    (tmp_path / f"{NAME}.new").touch(mode=0o666)
    (tmp_path / f"{NAME}.new").chmod(0o666)
    before = os.umask(0)
    try:
        file.write(snapshot_of(1))
    finally:
        os.umask(before)

    assert file.path.stat().st_mode & 0o777 == 0o600


def test_an_interrupted_write_leaves_the_old_file(file: Disk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The new file is on disk before it takes the name; its leftover does not disturb the next write."""
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


def test_a_link_in_the_new_files_place_is_not_followed(file: Disk, tmp_path: Path) -> None:
    """A link there could have another file overwritten."""
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
        b" " * (MAX_BYTES + 1),
    ],
)
def test_a_file_that_is_not_a_ledger_is_damaged(content: bytes, file: Disk) -> None:
    """It may be cut off, something else, or of a version that never existed."""
    file.path.write_bytes(content)
    with pytest.raises(LedgerDamagedError):
        file.read()


def test_the_smallest_ledger_is_read(file: Disk) -> None:
    """The damaged ledgers of these tests are derived from it."""
    file.path.write_text(json.dumps(GOOD))
    assert file.read() == LedgerSnapshot(began_at=1, tasks={}, backends={}, models={}, budgets={})


SOUND_TASK = {"hits": 5, "billed_dollars": 2.5}
SPENDING: dict[str, Any] = {
    "calls": 3,
    "seconds": 1.5,
    "dollars": 2.0,
    "prompt_tokens": 7,
    "completion_tokens": 1,
    "saved_dollars": 0.5,
}


@pytest.mark.parametrize(
    ("broken", "repair"),
    [
        ({"began_at": "yesterday"}, "began_at is 'yesterday'"),
        ({"began_at": None}, "began_at is None"),
        ({"tasks": {"sound": SOUND_TASK, "rag": {"hits": "many", "led": 2}}}, "tasks.rag.hits is 'many'"),
        ({"tasks": {"sound": SOUND_TASK, "rag": {"led": 2, "billed_dollars": None}}}, "tasks.rag.billed_dollars is None"),
        ({"tasks": {"sound": SOUND_TASK, "rag": {"led": 2, "hits": -1}}}, "tasks.rag.hits is -1"),
        ({"tasks": {"sound": SOUND_TASK, "rag": []}}, "tasks.rag is a list"),
        ({"backends": {"sound": SPENDING, "b": SPENDING | {"prompt_tokens": 2**70}}}, "backends.b.prompt_tokens is larger than"),
        ({"models": {"sound": SPENDING, "b": SPENDING | {"dollars": True}}}, "models.b.dollars is True"),
        ({"models": 3}, "models is 3"),
        ({"budgets": {"d": {"period": None, "spent_dollars": 3}}}, "budgets.d.period is None"),
        ({"budgets": {"d": {"period": 3, "spent_dollars": "x"}}}, "budgets.d.spent_dollars is 'x'"),
        ({"breakers": {"b": {"state": "ajar", "cause": None, "until": 1, "doublings": 1}}}, "breakers.b.state is 'ajar'"),
        ({"breakers": {"b": {"state": "open", "cause": 1, "until": 1, "doublings": 1}}}, "breakers.b.cause is 1"),
        ({"breakers": {"b": {"state": "open", "cause": None, "until": 1e300, "doublings": 1}}}, "breakers.b.until is 1e+300"),
        ({"breakers": {"b": {"state": "open", "cause": None, "until": 1, "doublings": 1e9}}}, "breakers.b.doublings is"),
        ({"breakers": {"b": {"state": "open", "cause": None, "until": 1, "doublings": 1, "status": 200}}}, "breakers.b.status is"),
        ({"breakers": {"b": {"state": "open", "cause": None, "until": 1, "doublings": 1, "status": "429"}}}, "breakers.b.status is"),
    ],
)  # fmt: skip
def test_a_broken_item_of_a_ledger_takes_no_other_with_it(
    broken: dict[str, Any], repair: str, file: Disk, account: Account, said: Said
) -> None:
    """What can be read is kept, the rest counts as 0 and is logged, and the ledger can be written again."""
    sound = {"tasks": {"sound": SOUND_TASK}, "backends": {"sound": SPENDING}, "models": {"sound": SPENDING}}
    file.path.write_text(json.dumps(GOOD | sound | broken))
    LedgerKeeper(file, account, said.say).restore()
    (restored,) = account.restored

    assert restored.tasks["sound"] == SOUND_TASK
    assert restored.tasks.get("rag", {}).get("led", 2) == 2
    assert restored.backends["sound"] == BackendSpending(**SPENDING)
    assert ("models" in broken) or restored.models["sound"] == BackendSpending(**SPENDING)
    assert said.events == ["ledger restored", "ledger repaired"]
    assert said.lines[-1][2]["items"] == 1
    assert said.lines[-1][2]["reason"].startswith(repair)
    file.write(restored)


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999", "1" + "0" * 400])
def test_numbers_that_json_lacks_take_no_other_with_them(number: str, file: Disk) -> None:
    """They may be those of another tool; a sum that is infinite is at its bound."""
    tasks = {"sound": SOUND_TASK, "rag": {"billed_dollars": 17, "hits": 4}}
    file.path.write_text(json.dumps(GOOD | {"tasks": tasks}).replace("17", number))
    restored = file.read()

    assert restored is not None
    assert restored.tasks["sound"] == SOUND_TASK
    assert restored.tasks["rag"]["billed_dollars"] == (0.0 if number in {"NaN", "-Infinity"} else MAX_SUM)
    assert restored.tasks["rag"]["hits"] == 4
    assert len(file.repairs) == 1


@pytest.mark.parametrize("kind", ["newer", "directory", "fifo", "loop"])
def test_a_file_that_cannot_be_read_is_not_damaged(kind: str, file: Disk) -> None:
    """It is left alone, and nothing waits for it."""
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


def test_the_engine_continues_from_the_file(file: Disk, account: Account, said: Said) -> None:
    """That is logged; a first start logs nothing."""
    LedgerKeeper(file, account, said.say).restore()
    assert (account.restored, said.lines) == ([], [])

    file.write(snapshot_of(7))
    LedgerKeeper(file, account, said.say).restore()
    assert account.restored == [snapshot_of(7)]
    assert said.events == ["ledger restored"]


@pytest.mark.anyio
async def test_a_damaged_file_is_set_aside_and_recreated(file: Disk, account: Account, said: Said) -> None:
    """It is kept for inspection, in place of an older damaged one."""
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
async def test_a_file_that_must_be_left_alone_is_not_overwritten(
    kind: str, file: Disk, account: Account, said: Said
) -> None:
    """The daemon runs without a ledger file, and logs that."""
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
async def test_a_damaged_file_that_cannot_be_renamed_is_left_alone(file: Disk, account: Account, said: Said) -> None:
    """It is not overwritten either."""
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
async def test_the_file_is_written_only_after_a_booking(file: Disk, account: Account, said: Said) -> None:
    """Without a booking nothing is written."""
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
async def test_a_failing_write_is_logged_once_until_one_succeeds(file: Disk, account: Account, said: Said) -> None:
    """The next successful write has everything; a later failure is logged again."""
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
async def test_a_slow_disk_blocks_no_caller_and_gets_one_write_at_a_time(
    file: Disk, account: Account, said: Said, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The event loop goes on, later bookings are in the next write, and a canceled write is completed first."""
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
async def test_bookings_during_a_write_are_written_later(file: Disk, account: Account, said: Said) -> None:
    """Only the sums of the snapshot count as written."""
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
    """Changing the write interval changes a documented promise."""
    assert WRITE_SECONDS == 5.0
