"""The state directory: its place and its lock."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from sidecard.daemon.state import LOCK, StateLock, StateUnusableError, state_directory


def test_the_directory_is_the_first_that_applies(tmp_path: Path) -> None:
    """Systemd's, the user's configured one, the user's default."""
    first, second, xdg, home = (tmp_path / name for name in ("first", "second", "xdg", "home"))
    for directory in (first, second, xdg / "sidecard", home / ".local/state/sidecard"):
        directory.mkdir(parents=True)

    environ = {"STATE_DIRECTORY": f"{first}:{second}", "XDG_STATE_HOME": str(xdg), "HOME": str(home)}
    assert state_directory(environ) == first
    assert state_directory(environ | {"STATE_DIRECTORY": ""}) == xdg / "sidecard"
    assert state_directory({"HOME": str(home)}) == home / ".local/state/sidecard"
    assert state_directory({"HOME": str(home), "XDG_STATE_HOME": "relative"}) == home / ".local/state/sidecard"
    assert state_directory({"HOME": str(home), "XDG_STATE_HOME": str(second)}) is None
    assert state_directory({}) is None
    assert state_directory({"HOME": "relative"}) is None


def test_a_missing_directory_is_not_created(tmp_path: Path) -> None:
    """Without a directory no state is kept; a missing $STATE_DIRECTORY is an error."""
    assert state_directory({"HOME": str(tmp_path)}) is None
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "file").touch()
    for name in ("missing", "file"):
        with pytest.raises(StateUnusableError, match=f"{name}, which is not a directory: create it, or use --no-state"):
            state_directory({"STATE_DIRECTORY": str(tmp_path / name)})


def test_a_name_that_cannot_exist_is_a_missing_directory() -> None:
    """A name that is longer than the system allows is no fault of the daemon's own."""
    assert state_directory({"XDG_STATE_HOME": "/" + "a" * 5000}) is None
    with pytest.raises(StateUnusableError, match="which is not a directory"):
        state_directory({"STATE_DIRECTORY": "a" * 5000})


def test_only_one_daemon_holds_the_lock(tmp_path: Path) -> None:
    """A second one gets an error until the first has released it."""
    with StateLock(tmp_path):
        with pytest.raises(StateUnusableError, match=f"another daemon uses the state directory {tmp_path}"):
            StateLock(tmp_path)
        with pytest.raises(StateUnusableError):
            StateLock(tmp_path)

    with StateLock(tmp_path):
        assert (tmp_path / LOCK).stat().st_mode & 0o777 == 0o600


def test_the_lock_ends_with_its_process_and_is_not_inherited(tmp_path: Path) -> None:
    """A killed daemon leaves an unlocked file, and a child that outlives the daemon does not hold the lock."""
    program = (
        "import sys, os; from pathlib import Path; from sidecard.daemon.state import StateLock; "
        "lock = StateLock(Path(sys.argv[1])); "
        "import subprocess; subprocess.Popen(['sleep', '20'], stdin=-3, stdout=-3, stderr=-3); os.kill(os.getpid(), 9)"
    )
    ended = subprocess.run([sys.executable, "-c", program, str(tmp_path)], check=False, timeout=20)
    assert ended.returncode == -9
    assert (tmp_path / LOCK).exists()
    with StateLock(tmp_path):
        pass


@pytest.mark.parametrize("obstacle", ["directory", "symlink", "missing"])
def test_a_lock_file_that_cannot_be_opened_is_an_error(obstacle: str, tmp_path: Path) -> None:
    """It fails immediately, without waiting."""
    directory = tmp_path / "state"
    if obstacle != "missing":
        directory.mkdir()

    if obstacle == "symlink":
        (directory / LOCK).symlink_to("/dev/null")
    elif obstacle == "directory":
        (directory / LOCK).mkdir()

    with pytest.raises(StateUnusableError, match="cannot use the state directory"):
        StateLock(directory)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_directory_of_another_user_is_an_error(tmp_path: Path) -> None:
    """The daemon's user must own it."""
    tmp_path.chmod(0o500)
    with pytest.raises(StateUnusableError, match=r"Permission denied.*make the daemon's user its owner"):
        StateLock(tmp_path)
