"""What the daemon makes is its own user's, whatever umask it was started with; where others could have prepared something, it refuses."""

import os
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from sidecard.errors import ListenError
from sidecard.server import listener
from sidecard_client import Client
from sidecard_client.protocol import socket_path as paths
from tests.daemons import Daemon, poll

pytestmark = pytest.mark.usefixtures("patient_clients")

Start = Callable[..., Daemon]

OPEN_TO_OTHERS = 0o077


@pytest.fixture
def no_umask() -> Iterator[None]:
    """Let what is started here make files that anybody may write to, if it does not see to it itself."""
    before = os.umask(0)
    yield
    os.umask(before)


def modes(directory: Path) -> dict[str, int]:
    """Return the permissions of all that is in a directory, by its path there."""
    found = {}
    for path in sorted(directory.rglob("*")):
        with suppress(FileNotFoundError):  # a journal, which SQLite has removed meanwhile
            found[str(path.relative_to(directory))] = stat.S_IMODE(path.lstat().st_mode)

    return found


def answer(prompt: str) -> str:
    """Stand for a model."""
    return prompt.upper()


def test_files_of_the_daemon_under_any_umask_are_private(
    daemon: Start, socket_path: str, tmp_path: Path, no_umask: None
) -> None:
    """Store, ledger, spool, call log and locks are private while it serves and after it has ended."""
    state = tmp_path / "state"
    state.mkdir(mode=0o700)
    running = daemon(
        "--set=calls.enabled=true", "--set=calls.prompts=true", "--set=push.interval_seconds=0.1",
        "--set=push.url=http://127.0.0.1:9/api/v1/import", "--set=store.write_window_seconds=0.05",
        STATE_DIRECTORY=str(state),
    )  # fmt: skip
    with Client(socket_path) as client:
        client.call(answer, "why?")

    poll(lambda: (state / "store.db-wal").exists() and (state / "calls.sqlite").exists(), "nothing was kept")
    poll(lambda: any(name.endswith(".blocks") for name in modes(state)), "nothing waits to be pushed")
    serving = modes(state)
    assert running.terminate() == 0
    ended = modes(state)
    assert {"ledger.json", "store.db", "calls.sqlite", "spool", "spool/lock", "lock"} <= {*serving, *ended}
    assert {name: oct(mode) for name, mode in (serving | ended).items() if mode & OPEN_TO_OTHERS} == {}


@pytest.mark.parametrize("mode", ["0600", "0660", "0666"])
def test_socket_under_any_umask_has_the_configured_mode(
    daemon: Start, socket_path: str, no_umask: None, mode: str
) -> None:
    """The socket has the configured mode, and its lock file is private."""
    daemon("--no-state", f"--set=socket.mode={mode}")
    assert modes(Path(socket_path).parent) == {"s.sock": int(mode, 8), "s.sock.lock": 0o600}


def test_exported_store_is_private(daemon: Start, socket_path: str, tmp_path: Path, no_umask: None) -> None:
    """An exported store, which has all users' answers, is readable by its owner alone."""
    running = daemon("--set=store.write_window_seconds=0.05", STATE_DIRECTORY=str(tmp_path))
    with Client(socket_path) as client:
        client.call(answer, "why?")

    assert running.terminate() == 0
    target = tmp_path / "exported"
    subprocess.run(
        [sys.executable, "-m", "sidecard", "cache", "export", str(target), "--store", str(tmp_path / "store.db")],
        check=True, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    assert target.stat().st_size
    assert not stat.S_IMODE(target.stat().st_mode) & OPEN_TO_OTHERS


def _of_another(directory: Path) -> None:
    directory.mkdir(mode=0o700)
    os.chown(directory, 12345, 12345)


def _for_everybody(directory: Path) -> None:
    directory.mkdir()
    directory.chmod(0o777)


def _a_link(directory: Path) -> None:
    target = directory.with_name("elsewhere")
    target.mkdir(mode=0o700)
    directory.symlink_to(target)


def _a_file(directory: Path) -> None:
    directory.write_text("", encoding="utf-8")


@pytest.mark.parametrize("prepare", [_of_another, _for_everybody, _a_link, _a_file])
def test_directory_in_tmp_of_another_user_is_rejected(
    prepare: Callable[[Path], None], socket_directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The daemon names the directory and what to do about it, and writes nothing."""
    if prepare is _of_another and os.geteuid() != 0:
        pytest.skip("only root can give a directory away")

    directory = socket_directory / f"sidecard-{os.getuid()}"
    monkeypatch.setattr(paths, "private_directory", lambda _: str(directory))
    prepare(directory)
    with pytest.raises(ListenError) as refused:
        listener.bind(f"{directory}/{paths.SOCKET_NAME}", 0o600, None)

    assert str(directory) in str(refused.value)
    assert "remove it, or choose another --socket" in str(refused.value)
    assert directory.is_file() or not any(directory.iterdir())


def test_directory_in_tmp_is_created_private(
    socket_directory: Path, monkeypatch: pytest.MonkeyPatch, no_umask: None
) -> None:
    """The daemon's directory in /tmp is private under any umask."""
    directory = socket_directory / f"sidecard-{os.getuid()}"
    monkeypatch.setattr(paths, "private_directory", lambda _: str(directory))
    listening = listener.bind(f"{directory}/{paths.SOCKET_NAME}", 0o660, None)
    try:
        assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    finally:
        listening.close()


def test_world_writable_state_directory_is_logged(daemon: Start, tmp_path: Path) -> None:
    """The daemon serves and logs what to change."""
    tmp_path.chmod(0o777)
    running = daemon(STATE_DIRECTORY=str(tmp_path))
    assert running.terminate() == 0
    (line,) = running.said("state directory not protected")
    assert str(tmp_path) in line["reason"]
    assert "chmod it to 0700" in line["reason"]
