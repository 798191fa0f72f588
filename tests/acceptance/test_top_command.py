"""``sidecard top`` on a pseudo-terminal, and without a terminal."""

import fcntl
import json
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator

import pytest

from sidecard_client import Client
from tests.acceptance.test_commands import run
from tests.daemons import Daemon

pytestmark = pytest.mark.usefixtures("patient_clients")

Start = Callable[..., Daemon]

ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


class Terminal:
    """A pseudo-terminal that runs ``sidecard top``."""

    def __init__(self, path: str, columns: int, rows: int) -> None:
        self._master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
        self.before = termios.tcgetattr(slave)
        self._slave = slave
        environ = {name: value for name, value in os.environ.items() if name not in {"COLUMNS", "LINES"}}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "sidecard", "top", "--socket", path, "--interval", "0.2"],
            stdin=slave,
            stdout=slave,
            stderr=slave,
            env=environ | {"TERM": "xterm"},
            start_new_session=True,
        )
        self.seen = ""

    def press(self, key: str) -> None:
        """Press a key."""
        os.write(self._master, key.encode())

    def shows(self, text: str, seconds: float = 20.0) -> None:
        """Wait until the terminal shows a text in new output."""
        seen, deadline = "", time.monotonic() + seconds
        while text not in ESCAPES.sub("", seen):
            assert time.monotonic() < deadline, ESCAPES.sub("", self.seen + seen)[-3000:]
            if select.select([self._master], [], [], 0.1)[0]:
                seen += os.read(self._master, 65536).decode(errors="replace")

        self.seen += seen

    def ends(self) -> int:
        """Read all output until the process ends; return the exit code."""
        deadline = time.monotonic() + 20
        while self.process.poll() is None:
            assert time.monotonic() < deadline
            if select.select([self._master], [], [], 0.05)[0]:
                self.seen += os.read(self._master, 65536).decode(errors="replace")

        while select.select([self._master], [], [], 0.05)[0]:
            self.seen += os.read(self._master, 65536).decode(errors="replace")

        return self.process.returncode

    @property
    def restored(self) -> bool:
        """Whether the terminal's modes, screen and cursor are restored."""
        screen = self.seen.rindex("\x1b[?1049l") > self.seen.rindex("\x1b[?1049h")
        cursor = self.seen.rindex("\x1b[?25h") > self.seen.rindex("\x1b[?25l")
        return screen and cursor and termios.tcgetattr(self._slave) == self.before

    def close(self) -> None:
        """Kill the process and close the terminal."""
        self.process.kill()
        self.process.wait()
        os.close(self._slave)
        os.close(self._master)


@pytest.fixture
def terminal(socket_path: str) -> Iterator[Callable[[int, int], Terminal]]:
    """Start ``sidecard top`` in terminals."""
    opened: list[Terminal] = []

    def start(columns: int, rows: int) -> Terminal:
        opened.append(Terminal(socket_path, columns, rows))
        return opened[-1]

    yield start
    for one in opened:
        one.close()


def test_top_shows_new_calls_and_survives_a_restart_of_the_daemon(
    daemon: Start, socket_path: str, terminal: Callable[[int, int], Terminal]
) -> None:
    """A silent daemon is reported; q restores the terminal."""
    one = daemon("--no-state")
    top = terminal(100, 30)
    top.shows("no calls yet")
    with Client(socket_path) as client:
        client.call(str, 1, name="f", task="translation")

    top.shows("translation")
    one.kill()
    top.shows("DAEMON DOES NOT ANSWER, since")
    one.start_again()
    top.shows("serving")
    top.press("q")
    assert top.ends() == 0
    assert top.restored


def test_top_interrupted_restores_the_terminal(daemon: Start, terminal: Callable[[int, int], Terminal]) -> None:
    """A small terminal is restored as well."""
    daemon("--no-state")
    top = terminal(40, 8)
    top.shows("sidecard")
    top.process.send_signal(signal.SIGINT)
    assert top.ends() == 0
    assert top.restored


def test_top_without_a_terminal_shows_one_snapshot(daemon: Start, socket_path: str) -> None:
    """The output has no control characters."""
    daemon("--no-state")
    done = run("top", "--socket", socket_path, "--interval", "0.1")
    assert (done.returncode, done.stderr) == (0, "")
    assert "no calls yet" in done.stdout
    assert "\x1b" not in done.stdout


def test_top_json_writes_one_line_per_snapshot(daemon: Start, socket_path: str) -> None:
    """A line has the fields of ``stats``, ``report`` and ``breakers``."""
    daemon("--no-state")
    (line,) = run("top", "--socket", socket_path, "--once", "--json").stdout.splitlines()
    assert json.loads(line).keys() == {"per_second", "stats", "report", "breakers"}


def test_top_without_a_daemon_exits_69(socket_path: str) -> None:
    """The error says what to start."""
    done = run("top", "--socket", socket_path)
    assert done.returncode == 69
    assert "sidecard serve" in done.stderr
