"""The processes that ``demo`` and ``bench`` start, and the directory that they share; nothing of either is left over."""

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
from types import FrameType, TracebackType
from typing import Any, Self

from sidecard.cli.asking import ask
from sidecard.errors import SidecardError
from sidecard_client import DaemonUnavailable, RequestRefused
from sidecard_client.protocol import wire

READY_SECONDS = 30.0
"""A daemon needs a third of a second; a machine that is busy with something else gets a hundred times that."""

END_SECONDS = 5.0
"""How long a process may take to end when it is told to, before it is killed."""

_ORDERS = (
    "CACHE_TTL",
    "DATABASE_URL",
    "DEDUPLICATION_WINDOW",
    "LISTEN_",
    "METRICS_ENABLED",
    "NOTIFY_SOCKET",
    "REDIS_URL",
    "RUNTIME_DIRECTORY",
    "SIDECARD_",
    "SOVEREIGN_MODE",
    "STATE_DIRECTORY",
    "WATCHDOG_",
)
"""Beginnings of the environment names that are meant for the host's own daemon, not for one that a command starts."""


class Children:
    """Context manager: on leaving, however that happens, all processes have ended and the directory is gone."""

    def __init__(self) -> None:
        self.directory = Path()
        self._processes: list[subprocess.Popen[bytes]] = []
        self._before: dict[int, Any] = {}
        """What signals did before."""
        self._starting = False
        self._interrupted = False

    def __enter__(self) -> Self:
        self.directory = Path(tempfile.mkdtemp(prefix="sidecard-"))
        self._before[signal.SIGTERM] = signal.signal(signal.SIGTERM, self._interrupt)
        # A shell's background job ignores Ctrl-C, and is to go on doing so.
        if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            self._before[signal.SIGINT] = signal.signal(signal.SIGINT, self._interrupt)

        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            for process in reversed(self._processes):
                end(process)
        finally:
            shutil.rmtree(self.directory, ignore_errors=True)
            for number, handler in self._before.items():
                signal.signal(number, handler)

    def start(self, *command: str, **popen: Any) -> subprocess.Popen[bytes]:
        """Start a process; what it says on standard error goes to a file that `said` reads.

        1. the process runs; 2. we are interrupted; 3. it is put on our list. An interruption in 2 waits for 3, or nobody
        would end that process.
        """
        self._starting = True
        try:
            with self._log(len(self._processes)).open("wb") as log:
                # A group of its own: an interruption from the keyboard comes to us alone, and we end it in our order.
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
        """Start ``sidecard serve`` with nothing but ``flags`` for settings; return its socket and itself, once it answers."""
        path = str(self.directory / f"{name}.sock")
        settings = self.directory / "empty.toml"
        settings.touch()
        process = self.start(
            sys.executable, "-m", "sidecard", "serve", "--no-state", "--config", str(settings), "--socket", path, *flags
        )
        self.wait_until(process, lambda: answers(path))
        return path, process

    def wait_until(
        self, process: subprocess.Popen[bytes], ready: Callable[[], bool], seconds: float = READY_SECONDS
    ) -> None:
        """Wait until ``process`` is ready. Raises `SidecardError` with what it said where it is not in time."""
        deadline = monotonic() + seconds
        while not ready():
            if process.poll() is not None or monotonic() > deadline:
                raise SidecardError(f"This did not start: {process.args!r}\n{self.said(process)}")

            sleep(0.002)

    def said(self, process: subprocess.Popen[bytes]) -> str:
        """Return the end of what a process has said on standard error."""
        return self._log(self._processes.index(process)).read_text(errors="replace")[-2000:]

    def _interrupt(self, _number: int, _frame: FrameType | None) -> None:
        self._interrupted = True
        if not self._starting:
            raise KeyboardInterrupt

    def _log(self, number: int) -> Path:
        return self.directory / f"{number}.log"


def answers(path: str) -> bool:
    """Tell whether a daemon answers at ``path``."""
    try:
        ask(path, wire.Ping(id=1), wire.Pong)
    except (DaemonUnavailable, RequestRefused):
        return False

    return True


def end(process: subprocess.Popen[bytes]) -> None:
    """End a process: by closing its input, by asking, by force."""
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
    return {name: value for name, value in environ.items() if not name.startswith(_ORDERS)}
