"""The ledger on disk, so that savings, spending and budgets survive a restart.

Written every `WRITE_SECONDS` in which something was booked, and at the stop. What was booked since the last write is lost
with a daemon that is killed, or with the host: at most those seconds, and never the file.
"""

import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import anyio
import msgspec
from anyio import to_thread
from msgspec import Struct

from sidecard.core.accounts.ledger import LEDGER_VERSION, LedgerSnapshot
from sidecard.daemon.state import StateUnusableError

NAME = "ledger.json"
WRITE_SECONDS = 5.0

MAX_BYTES = 16 * 1024 * 1024
"""A file above this is not read: with all its tables full, a ledger has less than one MiB."""


class LedgerDamagedError(StateUnusableError):
    """What is in the file is no ledger."""


class _Header(Struct):
    version: int


class LedgerFile:
    """The ledger's file in a state directory, which must be locked. All methods wait for the disk."""

    def __init__(self, directory: Path) -> None:
        self.path = directory / NAME

    def read(self) -> LedgerSnapshot | None:
        """Return what an earlier run wrote; None where there was none.

        Raises `LedgerDamagedError`, else `StateUnusableError`; the file must then be left as it is.
        """
        try:
            data = self._content()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise StateUnusableError(
                f"{self.path} cannot be read ({error.strerror}): move it away, or mend it"
            ) from error

        try:
            version = msgspec.json.decode(data, type=_Header).version
            if version == LEDGER_VERSION:
                return msgspec.json.decode(data, type=LedgerSnapshot)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise LedgerDamagedError(f"{self.path} is no ledger") from error

        if version < LEDGER_VERSION:
            raise LedgerDamagedError(f"{self.path} is a ledger of version {version}, which there never was")

        raise StateUnusableError(
            f"{self.path} was written by a later version of sidecard: move it away, or run that version"
        )

    def set_aside(self) -> Path:
        """Rename a file that is damaged, so that it can be looked at and no longer stands in the way. Raises `OSError`."""
        corrupt = self.path.with_name(f"{NAME}.corrupt")
        self.path.replace(corrupt)
        return corrupt

    def write(self, snapshot: LedgerSnapshot) -> None:
        """Replace the file: whenever this is cut off, the old or the new one is there, whole. Raises `OSError`."""
        # One name, and no random ones: the directory is locked, and what a killed daemon left behind is written over.
        new = self.path.with_name(f"{NAME}.new")
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_NONBLOCK
        with open(os.open(new, flags, 0o600), "wb") as file:  # noqa: PTH123 - a descriptor, for the mode
            os.fchmod(file.fileno(), 0o600)
            file.write(msgspec.json.encode(snapshot))
            file.flush()
            os.fsync(file.fileno())

        new.replace(self.path)
        # The rename itself is in the directory.
        directory = os.open(self.path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)

    def _content(self) -> bytes:
        # Nothing may be waited for: a FIFO of that name opens at once, should it have come since it was looked at.
        if not stat.S_ISREG(self.path.stat().st_mode):
            raise OSError(0, "it is not a regular file")

        with open(os.open(self.path, os.O_RDONLY | os.O_NONBLOCK), "rb") as file:  # noqa: PTH123 - as above
            data = file.read(MAX_BYTES + 1)

        if len(data) > MAX_BYTES:
            raise LedgerDamagedError(f"{self.path} is larger than {MAX_BYTES} bytes")

        return data


class Booking(Protocol):
    """What a ledger is written down from; an engine is one."""

    @property
    def ledger_changes(self) -> int:
        """Grows with each booking."""

    def ledger_snapshot(self) -> LedgerSnapshot:
        """Return all sums."""

    def restore_ledger(self, snapshot: LedgerSnapshot) -> None:
        """Go on from an earlier run's sums."""


class LedgerKeeping:
    """Keeps one engine's ledger in one file. To be restored once, before anything is booked. ``say`` is a log's."""

    def __init__(self, file: LedgerFile, engine: Booking, say: Callable[..., None]) -> None:
        self._file = file
        self._engine = engine
        self._say = say
        self._written_changes = engine.ledger_changes
        self._failing = False
        self._usable = True

    def restore(self) -> None:
        """Go on from what the file has. A file that cannot be used is told of and does not keep anything from starting."""
        try:
            snapshot = self._file.read()
        except LedgerDamagedError as error:
            self._set_aside(error)
        except StateUnusableError as error:
            # Whatever the file has, it is worth more than what we would write over it.
            self._usable = False
            self._say("warning", "ledger not kept", reason=str(error))
        else:
            if snapshot is not None:
                self._engine.restore_ledger(snapshot)
                self._say("info", "ledger restored", file=str(self._file.path))

    async def run(self) -> None:
        """Write every `WRITE_SECONDS`, until cancelled; a write that has begun is ended first."""
        while True:
            await anyio.sleep(WRITE_SECONDS)
            await self.write()

    async def write(self) -> None:
        """Write if something was booked, in a thread; a failure is told, once until it works again, and does no harm.

        Not to be called while another call of it, or `run`, is going on.
        """
        changes = self._engine.ledger_changes
        if not self._usable or changes == self._written_changes:
            return

        try:
            # The snapshot is no longer the engine's: the thread encodes it while the engine goes on booking.
            await to_thread.run_sync(self._file.write, self._engine.ledger_snapshot())
        except (OSError, RuntimeError) as error:  # the latter where the host allows no further thread
            if not self._failing:
                reason = error.strerror if isinstance(error, OSError) else str(error)
                self._say("warning", "ledger not written", file=str(self._file.path), reason=reason)

            self._failing = True
        else:
            self._written_changes = changes
            if self._failing:
                self._say("info", "ledger written again", file=str(self._file.path))

            self._failing = False

    def _set_aside(self, damage: LedgerDamagedError) -> None:
        try:
            corrupt = self._file.set_aside()
        except OSError as error:
            self._usable = False
            self._say("warning", "ledger not kept", reason=f"{damage}, and cannot be renamed ({error.strerror})")
        else:
            self._say("warning", "ledger begun anew", reason=str(damage), kept_as=str(corrupt))
