"""Where a daemon keeps its state: a plain user's directory is created, and a daemon without one says so."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from sidecard_client import Client
from tests.daemons import Daemon, ask, poll

pytestmark = pytest.mark.usefixtures("patient_clients")

StartDaemon = Callable[..., Daemon]


@pytest.mark.parametrize("number", [signal.SIGTERM, pytest.param(signal.SIGKILL, marks=pytest.mark.slow)])
def test_state_of_a_plain_user_survives_the_daemon(
    number: int, daemon: StartDaemon, socket_path: str, tmp_path: Path
) -> None:
    """The directory is created for the user alone, logged, and holds answers and report."""
    running = daemon(HOME=str(tmp_path), XDG_STATE_HOME="")
    directory = tmp_path / ".local/state/sidecard"
    assert directory.stat().st_mode & 0o777 == 0o700
    with Client(socket_path) as client:
        assert client.call(lambda: "answer", name="f") == "answer"
        if number == signal.SIGKILL:  # otherwise both are written at the end
            poll((directory / "ledger.json").exists, "no ledger was written")
            poll(lambda: ask(socket_path, {"op": "stats"})["store_written"] == 1, "no entry was written")

    running.process.send_signal(number)
    running.process.wait(30)
    running.start_again()
    with Client(socket_path) as client:
        assert client.outcome(lambda: "another", name="f").value == "answer"
        assert client.report().total.calls == 2

    assert [line["state"] for line in running.said("serving")] == [str(directory)] * 2
    assert ask(socket_path, {"op": "health"})["reasons"] == []


def test_an_unusable_state_directory_is_a_reason(daemon: StartDaemon, socket_path: str, tmp_path: Path) -> None:
    """The daemon serves, and its log and health say what is lost, why, and what to change."""
    running = daemon(STATE_DIRECTORY=str(tmp_path / "missing"))
    reason = str(ask(socket_path, {"op": "health"})["reasons"])
    assert "No state is kept" in reason
    assert "missing, which is not a directory: create it, or use --no-state" in reason
    running.terminate()
    (line,) = running.said("state not kept")
    assert line["level"] == "warning"
    assert "each start begins with empty report" in line["effect"]


def test_a_daemon_that_is_to_keep_no_state_has_no_problem(daemon: StartDaemon, socket_path: str) -> None:
    """``--no-state`` is logged with its effect, and is not a reason."""
    running = daemon("--no-state")
    assert ask(socket_path, {"op": "health"})["reasons"] == []
    running.terminate()
    (line,) = running.said("state not kept")
    assert (line["level"], line["reason"]) == ("info", "--no-state")


def check(*arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    """Run ``sidecard config check``."""
    command = [sys.executable, "-m", "sidecard", "config", "check", *arguments]
    clean = {
        name: value for name, value in os.environ.items() if not name.startswith(("SIDECARD_", "XDG_STATE", "STATE_"))
    }
    return subprocess.run(command, env=clean | environ, capture_output=True, text=True, check=False, timeout=30)


def test_config_check_names_the_state_directory(tmp_path: Path) -> None:
    """It names the place without creating it, or warns that there is none."""
    planned = check(HOME=str(tmp_path))
    assert f"{tmp_path}/.local/state/sidecard" in planned.stdout
    assert list(tmp_path.iterdir()) == []
    nowhere = check("--json", HOME="/nonexistent-home")
    answer = json.loads(nowhere.stdout)
    assert (nowhere.returncode, answer["state"]) == (0, None)
    assert "there is no /nonexistent-home" in answer["warnings"][0]
