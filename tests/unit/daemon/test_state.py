"""The state directory: its place and its lock."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from sidecard.daemon.state import (
    LOCK,
    StateLock,
    StateUnusableError,
    create_directory,
    planned_directory,
    problem_before_start,
    protection_problem,
    state_directory,
)


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


def test_looking_for_the_directory_does_not_create_it(tmp_path: Path) -> None:
    """Commands that read state find none; a missing $STATE_DIRECTORY is an error."""
    assert state_directory({"HOME": str(tmp_path)}) is None
    assert planned_directory({"HOME": str(tmp_path)}) == tmp_path / ".local/state/sidecard"
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "file").touch()
    for name in ("missing", "file"):
        for find in (state_directory, create_directory):
            with pytest.raises(
                StateUnusableError, match=f"{name}, which is not a directory: create it, or use --no-state"
            ):
                find({"STATE_DIRECTORY": str(tmp_path / name)})


@pytest.mark.parametrize("variable", ["HOME", "XDG_STATE_HOME"])
def test_the_daemon_creates_a_users_directory(variable: str, tmp_path: Path) -> None:
    """Only its user can use it, and the directories made for it, whatever the umask."""
    base = tmp_path if variable == "HOME" else tmp_path / "made" / "state"
    before = os.umask(0o077 if variable == "HOME" else 0)
    try:
        made = create_directory({variable: str(base)})
    finally:
        os.umask(before)

    assert made == (base / ".local/state/sidecard" if variable == "HOME" else base / "sidecard")
    above = made
    while above != tmp_path:
        assert above.stat().st_mode & 0o777 == 0o700
        above = above.parent

    assert create_directory({variable: str(base)}) == made
    assert protection_problem(made) == ""


@pytest.mark.parametrize("variable", ["HOME", "XDG_STATE_HOME"])
def test_a_home_that_does_not_exist_is_not_created(variable: str) -> None:
    """Accounts of services have a home that must stay missing; even root does not make it."""
    environ = {variable: "/nonexistent-home/state"}
    with pytest.raises(StateUnusableError, match=r"there is no /nonexistent-home.*STATE_DIRECTORY.*--no-state"):
        create_directory(environ)

    assert "there is no /nonexistent-home" in problem_before_start(environ)
    assert not Path("/nonexistent-home").exists()


@pytest.mark.parametrize(
    ("environ", "shown"),
    [({}, "HOME is ''"), ({"HOME": "x"}, "HOME is 'x'"), ({"XDG_STATE_HOME": "y"}, "XDG_STATE_HOME is 'y'")],
)
def test_without_an_absolute_home_there_is_no_place(environ: dict[str, str], shown: str) -> None:
    """The error has the values and what to set."""
    assert planned_directory(environ) is None
    with pytest.raises(StateUnusableError, match="no place for it") as caught:
        create_directory(environ)

    assert shown in str(caught.value)
    assert "set STATE_DIRECTORY" in str(caught.value)
    assert problem_before_start(environ) == str(caught.value)


def test_a_file_in_the_way_is_named(tmp_path: Path) -> None:
    """The error says which part of the path is no directory."""
    (tmp_path / ".local").touch()
    with pytest.raises(StateUnusableError, match=rf"cannot create .*at {tmp_path}/.local\).*--no-state"):
        create_directory({"HOME": str(tmp_path)})


def test_a_read_only_file_system_has_its_own_advice(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Another owner does not help there."""

    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(tmp_path / ".local"))

    monkeypatch.setattr(Path, "mkdir", refuse)
    with pytest.raises(StateUnusableError, match=r"Read-only file system at .*: mount a writable volume there"):
        create_directory({"HOME": str(tmp_path)})


def test_a_directory_that_others_may_change_is_reported(tmp_path: Path) -> None:
    """Its group, if that is not the user's own, every user, or another owner may replace the files of answers."""
    tmp_path.chmod(0o777)
    assert "every user" in protection_problem(tmp_path)
    tmp_path.chmod(0o1777)
    assert protection_problem(tmp_path) == ""
    tmp_path.chmod(0o770)
    if os.geteuid() == 0:
        os.chown(tmp_path, 0, 4242)
        assert "every member of group 4242" in protection_problem(tmp_path)
        os.chown(tmp_path, 4243, 4243)
        assert "uid 4243 owns" in protection_problem(tmp_path)


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
