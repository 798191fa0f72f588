"""The state directory: the place of whatever outlives the daemon. It is used if it exists, and never created here."""

import os
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Self

from sidecard.errors import SidecardError
from sidecard.persistence.files import FileLock

LOCK = "lock"


class StateUnusableError(SidecardError):
    """The state directory cannot be used; the daemon runs without it."""


def state_directory(environ: Mapping[str, str]) -> Path | None:
    """Return ``$STATE_DIRECTORY``, ``$XDG_STATE_HOME/sidecard`` or ``~/.local/state/sidecard``, the first that applies.

    None if that one does not exist: no state is kept. Raises `StateUnusableError` if ``$STATE_DIRECTORY`` does not exist.
    """
    # systemd separates several directories by colons (systemd.exec(5)).
    if named := environ.get("STATE_DIRECTORY", "").partition(":")[0]:
        directory = Path(named)
        # Unlike `Path.is_dir`, this returns False for a name that is too long, or below a directory without access.
        if not os.path.isdir(directory):  # noqa: PTH112
            raise StateUnusableError(
                f"STATE_DIRECTORY is {named}, which is not a directory: create it, or use --no-state"
            )

        return directory

    # The XDG base directory specification ignores relative paths.
    home = environ.get("XDG_STATE_HOME", "")
    if not home.startswith("/"):
        home = environ.get("HOME", "")
        if not home.startswith("/"):
            return None

        home += "/.local/state"

    directory = Path(home) / "sidecard"
    return directory if os.path.isdir(directory) else None  # noqa: PTH112 - as above


def writable_by_others(directory: Path) -> str | None:
    """Return a warning if any user of the host may replace files in the directory."""
    mode = stat.S_IMODE(directory.stat().st_mode)
    if not mode & stat.S_IWOTH or mode & stat.S_ISVTX:
        return None

    return f"every user of this host can write to the state directory {directory}: chmod it to 0700"


class StateLock:
    """The exclusive right to use a state directory. It ends with the process, however that ends.

    Raises `StateUnusableError` if another daemon holds it, or if it cannot be locked.
    """

    def __init__(self, directory: Path) -> None:
        try:
            self._lock = FileLock(directory / LOCK)
        except BlockingIOError as error:
            raise StateUnusableError(f"another daemon uses the state directory {directory}") from error
        except OSError as error:
            raise StateUnusableError(
                f"cannot use the state directory {directory} ({error.strerror}): make the daemon's user its owner"
            ) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._lock.close()
