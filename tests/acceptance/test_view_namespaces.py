"""Views across namespaces of the kernel: clients in another time, user, mount, network or process namespace than their daemon."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.daemons import Daemon, ask, poll

Start = Callable[..., Daemon]

pytestmark = pytest.mark.skipif(
    os.geteuid() != 0 or shutil.which("unshare") is None, reason="needs root and unshare: namespaces are made here"
)

READER = (
    "import sys, time\n"
    "from sidecard_client import Client\n"
    "from sidecard_client.view.reader import ViewReader\n"
    "read, found = ViewReader.read, []\n"
    "def counted(*arguments):\n"
    "    hit = read(*arguments)\n"
    "    found.append(hit is not None)\n"
    "    return hit\n"
    "ViewReader.read = counted\n"
    "with Client(sys.argv[1], daemon_timeout=10) as client:\n"
    "    client.put('key', 'value')\n"
    "    until = time.monotonic() + float(sys.argv[2])\n"
    "    while time.monotonic() < until and not any(found):\n"
    "        assert client.get('key') == 'value'\n"
    "    print('view' if any(found) else 'socket')\n"
)
"""Reads an entry until a view has it, or for so long, and prints which one answered."""


def read(path: str, *namespace: str, seconds: float) -> str:
    """Read in a namespace of its own."""
    done = subprocess.run(
        [*namespace, sys.executable, "-c", READER, path, str(seconds)],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        cwd=Path(__file__).parents[2],
    )
    if done.returncode and "unshare" in done.stderr:
        pytest.skip(f"this machine makes no such namespace: {done.stderr.strip()}")

    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def _answers(path: str) -> bool:
    try:
        return ask(path, {"op": "ping"})["type"] == "pong"
    except OSError:
        return False


def test_view_is_read_in_other_namespaces(daemon: Start, socket_path: str) -> None:
    """A view needs the socket alone: nothing of the daemon's processes, network, mounts or names is used."""
    daemon()
    assert read(socket_path, "unshare", "--mount", "--uts", "--ipc", "--net", "--pid", "--fork", seconds=20) == "view"


@pytest.mark.parametrize("offset_seconds", [100_000, pytest.param(-1, marks=pytest.mark.slow)])
def test_client_in_another_time_namespace_reads_no_view(daemon: Start, socket_path: str, offset_seconds: int) -> None:
    """Its clock is not the daemon's, so it could not tell what has expired; all its answers come over the socket."""
    daemon()
    time = ("unshare", "--time", f"--boottime={offset_seconds}", "--fork")
    assert read(socket_path, *time, seconds=1.0) == "socket"


@pytest.mark.slow
def test_client_in_a_time_namespace_with_the_same_clock_reads_the_view(daemon: Start, socket_path: str) -> None:
    """What counts is the clock, not the namespace."""
    daemon()
    assert read(socket_path, "unshare", "--time", "--fork", seconds=20) == "view"


@pytest.mark.slow
def test_daemon_in_another_time_namespace_shares_no_view(socket_directory: Path) -> None:
    """Its clock is not its clients' clock, so they attach nothing."""
    path = str(socket_directory / "s.sock")
    command = ["unshare", "--time", "--boottime=5000", "--fork", "--kill-child"]
    serve = [sys.executable, "-m", "sidecard", "serve", "--socket", path, "--no-state"]
    with subprocess.Popen([*command, *serve], stderr=subprocess.DEVNULL) as process:
        try:
            poll(lambda: _answers(path), "no daemon")
            assert read(path, seconds=1.0) == "socket"
        finally:
            process.kill()
