"""Real daemons for tests: the real command as a subprocess."""

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from typing import Any

import anyio


def poll(condition: Callable[[], bool], complaint: str, seconds: float = 20.0) -> None:
    """Wait until ``condition`` holds; fail with ``complaint`` after ``seconds``."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, complaint
        time.sleep(0.01)


async def until(condition: Callable[[], bool], seconds: float = 20.0) -> None:
    """Wait until ``condition`` holds, in an event loop; raise `TimeoutError` after ``seconds``."""
    with anyio.fail_after(seconds):
        while not condition():  # noqa: ASYNC110 - of another process, or thread, that sets no event here
            await anyio.sleep(0.002)


def _connects(connection: socket.socket, path: str) -> bool:
    """Connect; return False if more connections wait to be accepted than the kernel keeps."""
    try:
        connection.connect(path)
    except BlockingIOError:
        return False

    return True


def listens(path: str) -> bool:
    """Return whether a daemon accepts connections: a socket's file exists a moment earlier."""
    with socket.socket(socket.AF_UNIX) as connection:
        try:
            connection.connect(path)
        except (FileNotFoundError, ConnectionRefusedError):
            return False

    return True


def ask(path: str, request: Mapping[str, object], seconds: float = 5.0) -> dict[str, object]:
    """Send one JSON line and return the last reply line."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(seconds)
        poll(lambda: _connects(connection, path), "the daemon accepts no connection", seconds)
        connection.sendall(json.dumps(request).encode() + b"\n")
        connection.shutdown(socket.SHUT_WR)
        received = b""
        while data := connection.recv(65536):
            received += data

    reply: dict[str, object] = json.loads(received.splitlines()[-1])
    return reply


class Daemon:
    """One ``sidecard serve``; ``environ`` holds its settings. What it prints goes to a file, so that it never has to wait."""

    def __init__(self, path: str, *arguments: str, **environ: str) -> None:
        self.socket = path
        self._command = [sys.executable, "-m", "sidecard", "serve", "--socket", path, *arguments]
        clean = {name: value for name, value in os.environ.items() if not name.startswith("SIDECARD_")}
        # Not the state of the user who runs the tests.
        if not {"STATE_DIRECTORY", "XDG_STATE_HOME", "HOME"} & environ.keys():
            self._command.append("--no-state")

        self._environ = clean | environ
        self._printed = tempfile.TemporaryFile()  # noqa: SIM115 - open as long as the daemon may be started again
        self.start_again()

    def start_again(self) -> None:
        """Start a daemon, after the last one has ended, of the same settings on the same path."""
        self.process = subprocess.Popen(
            self._command, env=self._environ, stdin=subprocess.DEVNULL, stdout=self._printed, stderr=subprocess.STDOUT
        )
        poll(self._answers, f"no daemon answered at {self.socket}")

    @property
    def pid(self) -> int:
        """The process."""
        return self.process.pid

    def _answers(self) -> bool:
        assert self.process.poll() is None, self.output()
        try:
            return ask(self.socket, {"op": "ping"})["type"] == "pong"
        except (OSError, IndexError):
            return False

    def purge(self) -> None:
        """Remove all entries."""
        assert ask(self.socket, {"op": "purge"})["type"] == "deleted"

    def kill(self) -> None:
        """End it without warning."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait(timeout=10)

    def terminate(self, seconds: float = 30.0) -> int:
        """Ask it to stop and return its exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout=seconds)

    def output(self) -> str:
        """Return what it has printed so far."""
        # Not by seek and read: the daemon writes at the same offset.
        printed = self._printed.fileno()
        return os.pread(printed, os.fstat(printed).st_size, 0).decode()

    def log(self) -> list[dict[str, Any]]:
        """Return the lines of its log so far, whole ones only."""
        return [json.loads(line) for line in self.output().splitlines(keepends=True) if line.endswith("\n")]

    def said(self, event: str) -> list[dict[str, Any]]:
        """Return what its log has so far of one event. A thread writes it: all is there once the daemon has ended."""
        return [line for line in self.log() if line["event"] == event]

    def close(self) -> None:
        """End it whatever its state."""
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait(timeout=10)

        self._printed.close()
