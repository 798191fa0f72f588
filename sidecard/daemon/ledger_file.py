"""The ledger on disk, so that savings, spending and budgets survive a restart.

It is written every `WRITE_SECONDS` in which something was booked, and at the daemon's stop. A killed daemon or host loses what
was booked since the last write, at most those seconds, and never the file.
"""

import asyncio
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import msgspec

from sidecard.core.accounts.ledger import LEDGER_VERSION, LedgerSnapshot
from sidecard.core.accounts.ledger_repair import repaired_snapshot
from sidecard.daemon.state import StateUnusableError
from sidecard.persistence.files import SAFE_FLAGS, read_regular
from sidecard.persistence.worker import run_in_thread

NAME = "ledger.json"
WRITE_SECONDS = 5.0

MAX_BYTES = 16 * 1024 * 1024
"""A larger file is not read: with all its tables full, a ledger has less than one MiB."""


_SHOWN_REPAIRS = 4


class LedgerDamagedError(StateUnusableError):
    """The file's content is not a ledger."""


def _object_of(data: bytes) -> dict[str, Any]:
    """Return the file's object. Raises `ValueError` or `RecursionError`."""
    try:
        fields = msgspec.json.decode(data)
    except msgspec.MsgspecError:
        from json import loads  # noqa: PLC0415 - it takes numbers such as NaN and 1e999, and no sound ledger has one

        fields = loads(data)

    if not isinstance(fields, dict):
        raise ValueError("a ledger is an object")  # noqa: TRY004 - as for other contents

    return fields


class LedgerFile:
    """The ledger's file in a state directory, which must be locked. All methods wait for the disk."""

    def __init__(self, directory: Path) -> None:
        self.path = directory / NAME
        self.repairs: list[str] = []
        """What of the file that was read is broken; it counts as 0, and the rest is kept."""

    def read(self) -> LedgerSnapshot | None:
        """Return what an earlier run wrote; None if there is no file.

        Raises `LedgerDamagedError`, or `StateUnusableError`, after which the file must be left as it is.
        """
        try:
            # Links are followed: an operator may keep the file on another disk.
            data = read_regular(self.path, MAX_BYTES, os.O_NONBLOCK)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise StateUnusableError(
                f"{self.path} cannot be read ({error.strerror}): move it away, or repair it"
            ) from error

        if len(data) > MAX_BYTES:
            raise LedgerDamagedError(f"{self.path} is larger than {MAX_BYTES} bytes")

        try:
            fields = _object_of(data)
        except (ValueError, RecursionError) as error:
            raise LedgerDamagedError(f"{self.path} is not a ledger") from error

        version = fields.get("version")
        if version == LEDGER_VERSION:
            snapshot, self.repairs = repaired_snapshot(fields)
            return snapshot

        if not isinstance(version, int) or version < LEDGER_VERSION:
            raise LedgerDamagedError(f"{self.path} is a ledger of version {version}, which never existed")

        raise StateUnusableError(
            f"{self.path} was written by a later version of sidecard: move it away, or run that version"
        )

    def set_aside(self) -> Path:
        """Rename a damaged file, for inspection; return its new name. Raises `OSError`."""
        corrupt = self.path.with_name(f"{NAME}.corrupt")
        self.path.replace(corrupt)
        return corrupt

    def write(self, snapshot: LedgerSnapshot) -> None:
        """Replace the file atomically: after an interruption, the old or the new file exists as a whole. Raises `OSError`."""
        # A fixed name instead of a random one: the directory is locked, and a killed daemon's leftover is overwritten.
        new = self.path.with_name(f"{NAME}.new")
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | SAFE_FLAGS
        with open(os.open(new, flags, 0o600), "wb") as file:  # noqa: PTH123 - a descriptor, for the mode
            os.fchmod(file.fileno(), 0o600)
            file.write(msgspec.json.encode(snapshot))
            file.flush()
            os.fsync(file.fileno())

        new.replace(self.path)
        # The rename itself is stored in the directory.
        directory = os.open(self.path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)


class LedgerOwner(Protocol):
    """The owner of a ledger; an engine is one."""

    @property
    def ledger_changes(self) -> int:
        """A number that grows with each booking."""

    def ledger_snapshot(self) -> LedgerSnapshot:
        """Return all sums."""

    def restore_ledger(self, snapshot: LedgerSnapshot) -> None:
        """Continue from an earlier run's sums."""


class LedgerKeeper:
    """Keeps one engine's ledger in one file. Restore it once, before anything is booked.

    ``log(level, event, **fields)`` writes a log line.
    """

    def __init__(self, file: LedgerFile, engine: LedgerOwner, log: Callable[..., None]) -> None:
        self._file = file
        self._engine = engine
        self._log = log
        self._written_changes = engine.ledger_changes
        self._failing = False
        self._usable = True
        self.problem = ""
        """Why the ledger is not kept, as a sentence; empty if it is."""

    def restore(self) -> None:
        """Continue from the file's content. A file that cannot be used is logged and does not prevent the start."""
        try:
            snapshot = self._file.read()
        except LedgerDamagedError as error:
            self._set_aside(error)
        except StateUnusableError as error:
            # The file may be worth more than what this run would write over it.
            self._not_kept(str(error))
        else:
            if snapshot is not None:
                self._engine.restore_ledger(snapshot)
                self._log("info", "ledger restored", file=str(self._file.path))
                if self._file.repairs:
                    repairs = self._file.repairs
                    shown = "; ".join(repairs[:_SHOWN_REPAIRS])
                    self._log("warning", "ledger repaired", items=len(repairs), reason=shown)

    async def run(self) -> None:
        """Write every `WRITE_SECONDS` until canceled; a write that has started is completed first."""
        while True:
            await asyncio.sleep(WRITE_SECONDS)
            await self.write()

    async def write(self) -> None:
        """Write if something was booked, in a thread. A failure is logged once, until a write succeeds.

        Only one call, including that of `run`, may be in progress.
        """
        changes = self._engine.ledger_changes
        if not self._usable or changes == self._written_changes:
            return

        try:
            # The snapshot does not change any more: the thread encodes it while the engine books.
            await run_in_thread("sidecard-ledger", partial(self._file.write, self._engine.ledger_snapshot()))
        # `RuntimeError` if the host allows no further thread, `ValueError` and `OverflowError` for numbers that JSON lacks.
        except (OSError, RuntimeError, ValueError, OverflowError) as error:
            reason = error.strerror if isinstance(error, OSError) else str(error)
            if not self._failing:
                self._log("warning", "ledger not written", file=str(self._file.path), reason=reason)

            self._failing = True
            self.problem = f"Report, budgets and breakers are not saved: cannot write {self._file.path} ({reason})."
        else:
            self._written_changes = changes
            if self._failing:
                self._log("info", "ledger written again", file=str(self._file.path))

            self._failing = False
            self.problem = ""

    def _not_kept(self, reason: str) -> None:
        self._usable = False
        self.problem = f"Report, budgets and breakers are not saved: {reason}."
        self._log("warning", "ledger not kept", reason=reason)

    def _set_aside(self, damage: LedgerDamagedError) -> None:
        try:
            corrupt = self._file.set_aside()
        except OSError as error:
            self._not_kept(f"{damage}, and cannot be renamed ({error.strerror})")
        else:
            self._log("warning", "ledger reset", reason=str(damage), kept_as=str(corrupt))
