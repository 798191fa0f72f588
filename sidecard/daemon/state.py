"""The state directory: the place of whatever outlives the daemon. A user's is created when it is missing."""

import errno
import os
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple, Self

from sidecard.errors import SidecardError
from sidecard.persistence.files import FileLock

LOCK = "lock"

NOT_KEPT = (
    "each start begins with empty report, budgets and breakers, and without answers unless store.url names a store"
)
"""What it means to run without a state directory."""

_OTHER_PLACE = "set STATE_DIRECTORY to another directory, or use --no-state"

_ADVICE = {
    errno.EROFS: f"mount a writable volume there, {_OTHER_PLACE}",
    errno.ENOSPC: f"free space, {_OTHER_PLACE}",
    errno.EDQUOT: f"free space, {_OTHER_PLACE}",
    errno.ENAMETOOLONG: _OTHER_PLACE,
}
_OWN = f"make the daemon's user its owner, {_OTHER_PLACE}"


class StateUnusableError(SidecardError):
    """The state directory cannot be used; the daemon runs without it."""


class _Place(NamedTuple):
    directory: Path
    base: Path
    """The part of ``directory`` that is never created."""


def _place(environ: Mapping[str, str]) -> _Place:
    # systemd separates several directories by colons (systemd.exec(5)).
    if named := environ.get("STATE_DIRECTORY", "").partition(":")[0]:
        return _Place(Path(named), Path(named))

    # The XDG base directory specification ignores relative paths.
    state_home = environ.get("XDG_STATE_HOME", "")
    if state_home.startswith("/"):
        # Accounts without a home have one such as /nonexistent, which must not be made even by root.
        return _Place(Path(state_home) / "sidecard", Path(*Path(state_home).parts[:2]))

    home = environ.get("HOME", "")
    if not home.startswith("/"):
        ignored = f", and XDG_STATE_HOME is {state_home!r}, which is not an absolute path" if state_home else ""
        raise StateUnusableError(f"there is no place for it: HOME is {home!r}{ignored}; {_OTHER_PLACE}")

    return _Place(Path(home) / ".local/state/sidecard", Path(home))


def state_directory(environ: Mapping[str, str]) -> Path | None:
    """Return ``$STATE_DIRECTORY``, ``$XDG_STATE_HOME/sidecard`` or ``~/.local/state/sidecard``, the first that applies.

    None if that one does not exist. Raises `StateUnusableError` if ``$STATE_DIRECTORY`` does not exist.
    """
    try:
        directory, base = _place(environ)
    except StateUnusableError:
        return None

    # Unlike `Path.is_dir`, this returns False for a name that is too long, or below a directory without access.
    if os.path.isdir(directory):  # noqa: PTH112
        return directory

    if directory == base:
        raise _missing(directory)

    return None


def create_directory(environ: Mapping[str, str]) -> Path:
    """Return the state directory, created with mode 0700 if it is missing. Raises `StateUnusableError`.

    ``$STATE_DIRECTORY`` is not created: the service manager does it, and a missing one may be a volume that is not mounted.
    """
    found = state_directory(environ)
    if found is not None:
        return found

    directory, base = _place(environ)
    if not os.path.isdir(base):  # noqa: PTH112 - as above
        raise StateUnusableError(f"cannot create the state directory {directory}: there is no {base}; {_OTHER_PLACE}")

    try:
        for parent in reversed([directory, *directory.parents]):
            if parent.is_relative_to(base) and parent != base and not os.path.isdir(parent):  # noqa: PTH112 - as above
                parent.mkdir(mode=0o700)
    except OSError as error:
        # Created by another daemon of this user at the same moment.
        if os.path.isdir(directory):  # noqa: PTH112 - as above
            return directory

        raise _unusable("create", directory, error) from error

    return directory


def problem_before_start(environ: Mapping[str, str]) -> str:
    """Return why a daemon could not keep state, as far as can be seen without creating anything; empty if it could."""
    try:
        existing = state_directory(environ)
        directory, base = _place(environ)
        nearest = existing or next(parent for parent in directory.parents if os.path.isdir(parent))  # noqa: PTH112 - as above
        if existing is None and not nearest.is_relative_to(base):
            return f"cannot create the state directory {directory}: there is no {base}; {_OTHER_PLACE}"

        if not os.access(nearest, os.W_OK | os.X_OK):
            read_only = os.statvfs(nearest).f_flag & os.ST_RDONLY
            code = errno.EROFS if read_only else errno.EACCES
            return str(_unusable("use" if existing else "create", directory, OSError(code, os.strerror(code))))

    except StateUnusableError as error:
        return str(error)

    return ""


def planned_directory(environ: Mapping[str, str]) -> Path | None:
    """Return where a daemon would keep state, whether it exists or not; None if there is no place."""
    try:
        return _place(environ).directory
    except StateUnusableError:
        return None


def protection_problem(directory: Path) -> str:
    """Return a warning if another user of the host may replace files in the directory; empty if none may."""
    found = directory.stat()
    mode = stat.S_IMODE(found.st_mode)
    if found.st_uid not in {0, os.geteuid()}:
        return f"uid {found.st_uid} owns the state directory {directory} and may replace its files: chown it to the daemon's user"

    if mode & stat.S_ISVTX:
        return ""

    if mode & stat.S_IWOTH:
        return f"every user of this host can write to the state directory {directory}: chmod it to 0700"

    # Distributions give each user a group of the same number that has no other members.
    if mode & stat.S_IWGRP and found.st_gid not in {0, found.st_uid}:
        return f"every member of group {found.st_gid} can write to the state directory {directory}: chmod it to 0700"

    return ""


class StateLock:
    """The exclusive right to use a state directory. It ends with the process, however that ends.

    Raises `StateUnusableError` if another daemon holds it, or if it cannot be locked.
    """

    def __init__(self, directory: Path) -> None:
        try:
            self._lock = FileLock(directory / LOCK)
        except BlockingIOError as error:
            raise StateUnusableError(
                f"another daemon uses the state directory {directory}: stop it, {_OTHER_PLACE}"
            ) from error
        except OSError as error:
            raise _unusable("use", directory, error) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._lock.close()


def _missing(directory: Path) -> StateUnusableError:
    return StateUnusableError(f"STATE_DIRECTORY is {directory}, which is not a directory: create it, or use --no-state")


def _unusable(act: str, directory: Path, error: OSError) -> StateUnusableError:
    place = error.filename or directory
    at = "" if str(place) == str(directory) else f" at {place}"
    advice = _ADVICE.get(error.errno or 0, _OWN)
    return StateUnusableError(f"cannot {act} the state directory {directory} ({error.strerror}{at}): {advice}")
