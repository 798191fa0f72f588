"""The state directory: what outlives the daemon is there. It is used where it exists, and never created here."""

import fcntl
import os
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Self

from sidecard.errors import SidecardError

LOCK = "lock"


class StateUnusableError(SidecardError):
    """The daemon runs without its state directory, because of what the message says."""


def state_directory(environ: Mapping[str, str]) -> Path | None:
    """Return where state is kept: ``$STATE_DIRECTORY``, ``$XDG_STATE_HOME/sidecard`` or ``~/.local/state/sidecard``.

    None where the first of these that applies does not exist: state is then not kept.
    Raises `StateUnusableError` where ``$STATE_DIRECTORY`` says otherwise.
    """
    # systemd separates several by colons (systemd.exec(5)).
    if named := environ.get("STATE_DIRECTORY", "").partition(":")[0]:
        directory = Path(named)
        if not directory.is_dir():
            raise StateUnusableError(
                f"STATE_DIRECTORY is {named}, which is no directory: make it, or run with --no-state"
            )

        return directory

    # The XDG base directory specification: a relative path is to be ignored.
    home = environ.get("XDG_STATE_HOME", "")
    if not home.startswith("/"):
        home = environ.get("HOME", "")
        if not home.startswith("/"):
            return None

        home += "/.local/state"

    directory = Path(home) / "sidecard"
    return directory if directory.is_dir() else None


def open_to_others(directory: Path) -> str | None:
    """Say that anybody may put other files in the place of those that are kept here; None where nobody may."""
    mode = stat.S_IMODE(directory.stat().st_mode)
    if not mode & stat.S_IWOTH or mode & stat.S_ISVTX:
        return None

    return f"the state directory {directory} can be written to by every user of this host: chmod it to 0700"


class StateLock:
    """The right to write in a state directory, which one daemon has at a time. It ends with the process, however that ends.

    Raises `StateUnusableError` where another daemon has it, or where it cannot be had at all.
    """

    def __init__(self, directory: Path) -> None:
        try:
            # Not for writing: a lock file that is there can also be locked where nothing may be written at the moment.
            self._descriptor = os.open(
                directory / LOCK, os.O_RDONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK, 0o600
            )
        except OSError as error:
            raise StateUnusableError(
                f"the state directory {directory} cannot be used ({error.strerror}): let it belong to the daemon's user"
            ) from error

        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(self._descriptor)
            raise StateUnusableError(
                f"another daemon keeps its state in {directory}"
                if isinstance(error, BlockingIOError)
                else f"the state directory {directory} cannot be locked ({error.strerror})"
            ) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._descriptor)
