"""Child processes of ``demo`` and ``bench``, and their temporary directory; both are always cleaned up."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from time import monotonic, sleep
from types import FrameType
from typing import Any, Self

from sidecard.cli.query import query
from sidecard.errors import SidecardError
from sidecard_client import DaemonUnavailable, RequestRefused
from sidecard_client.protocol import wire

READY_SECONDS = 30.0
"""Time limit for a start: a hundred times what a daemon needs, for busy machines."""

END_SECONDS = 5.0
"""How long a process may take to end after SIGTERM before it is killed."""

_DAEMON_VARIABLES = (
    "CACHE_TTL",
    "DATABASE_URL",
    "DEDUPLICATION_WINDOW",
    "LISTEN_",
    "METRICS_ENABLED",
    "NOTIFY_SOCKET",
    "PYTHONDONTWRITEBYTECODE",  # each start would compile all modules again
    "REDIS_URL",
    "RUNTIME_DIRECTORY",
    "SIDECARD_",
    "SOVEREIGN_MODE",
    "STATE_DIRECTORY",
    "WATCHDOG_",
)
"""Prefixes of environment names that child processes do not inherit: most configure the host's own daemon."""

_SCRIPT = "from sidecard.__main__ import main; raise SystemExit(main())"
"""The command ``sidecard``, as its installed script has it: ``python -m`` would import more."""


class Processes:
    """Context manager that ends all its processes and removes its directory on exit, also when interrupted."""

    def __init__(self) -> None:
        self.directory = Path()
        self._processes: list[subprocess.Popen[bytes]] = []
        self._handlers: dict[int, Any] = {}
        """Signal handlers to restore."""
        self._starting = False
        self._interrupted = False

    def __enter__(self) -> Self:
        self.directory = Path(tempfile.mkdtemp(prefix="sidecard-"))
        self._handlers[signal.SIGTERM] = signal.signal(signal.SIGTERM, self._interrupt)
        # A shell's background job ignores SIGINT and must continue to do so.
        if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            self._handlers[signal.SIGINT] = signal.signal(signal.SIGINT, self._interrupt)

        return self

    def __exit__(self, *_: object) -> None:
        try:
            for process in reversed(self._processes):
                end(process)
        finally:
            shutil.rmtree(self.directory, ignore_errors=True)
            for number, handler in self._handlers.items():
                signal.signal(number, handler)

    def start(self, *command: str, **popen: Any) -> subprocess.Popen[bytes]:
        """Start a process; its standard error goes to a file that `stderr_of` reads.

        1. the process starts; 2. a signal arrives; 3. the process is recorded. The signal must not raise before 3, or the
        process would never be ended.
        """
        self._starting = True
        try:
            with self._log(len(self._processes)).open("wb") as log:
                # A process group per child: SIGINT from the keyboard reaches only this process, which ends the children in order.
                process = subprocess.Popen(  # noqa: S603 - our own programs
                    command, stderr=log, env=_environment(os.environ), process_group=0, **popen
                )

            self._processes.append(process)
        finally:
            self._starting = False

        if self._interrupted:
            raise KeyboardInterrupt

        return process

    def start_daemon(self, name: str, *flags: str) -> tuple[str, subprocess.Popen[bytes]]:
        """Start ``sidecard serve`` with default settings and ``flags``; return its socket and process once it answers."""
        path = str(self.directory / f"{name}.sock")
        settings = self.directory / "empty.toml"
        settings.touch()
        command = (sys.executable, "-c", _SCRIPT, "serve", "--no-state", "--config", str(settings), "--socket", path)
        process = self.start(*command, *flags)
        self.wait_until(process, lambda: _answers(path))
        return path, process

    def wait_until(
        self, process: subprocess.Popen[bytes], ready: Callable[[], bool], seconds: float = READY_SECONDS
    ) -> None:
        """Wait until ``process`` is ready. Raises `SidecardError` with its standard error if it ends or is late."""
        deadline = monotonic() + seconds
        while not ready():
            if process.poll() is not None or monotonic() > deadline:
                raise SidecardError(f"cannot start {process.args!r}:\n{self.stderr_of(process)}")

            sleep(0.002)

    def stderr_of(self, process: subprocess.Popen[bytes]) -> str:
        """Return the end of a process's standard error."""
        return self._log(self._processes.index(process)).read_text(errors="replace")[-2000:]

    def _interrupt(self, _number: int, _frame: FrameType | None) -> None:
        self._interrupted = True
        if not self._starting:
            raise KeyboardInterrupt

    def _log(self, number: int) -> Path:
        return self.directory / f"{number}.log"


def _answers(path: str) -> bool:
    try:
        query(path, wire.Ping(id=1), wire.Pong)
    except (DaemonUnavailable, RequestRefused):
        return False

    return True


def end(process: subprocess.Popen[bytes]) -> None:
    """End a process: close its standard input, then SIGTERM, then SIGKILL."""
    if process.stdin is not None:
        with contextlib.suppress(BrokenPipeError):  # it has ended already
            process.stdin.close()

    if process.poll() is None:
        process.terminate()
        try:
            process.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    if process.stdout is not None:
        process.stdout.close()


def _environment(environ: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in environ.items() if not name.startswith(_DAEMON_VARIABLES)}
