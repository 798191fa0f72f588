"""Signals during a daemon's start, before its event loop handles them."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.daemons import poll


class Start(NamedTuple):
    """A daemon that waits in the middle of its start until ``settings`` is closed."""

    process: subprocess.Popen[bytes]
    settings: int
    """The writing end of the pipe that is its settings file."""
    output: Path


@pytest.fixture
def start(socket_path: str, tmp_path: Path) -> Iterator[Start]:
    """Start a daemon that has not read its settings."""
    fifo, output = tmp_path / "sidecard.toml", tmp_path / "output"
    os.mkfifo(fifo)
    command = [sys.executable, "-m", "sidecard", "serve", "--no-state", "--socket", socket_path, "--config", str(fifo)]
    writers = list[int]()

    def read() -> bool:
        with suppress(OSError):  # nobody has opened it for reading yet
            writers.append(os.open(fifo, os.O_WRONLY | os.O_NONBLOCK))

        return bool(writers)

    with output.open("wb") as file, subprocess.Popen(command, stderr=file) as process:
        poll(read, "the settings are not read")
        yield Start(process, writers[0], output)
        process.kill()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_to_stop_ends_the_start_with_0(number: signal.Signals, start: Start) -> None:
    """Also if the start hangs, and without a word."""
    start.process.send_signal(number)
    assert start.process.wait(10) == 0
    assert start.output.read_bytes() == b""
    os.close(start.settings)


def test_other_signals_are_handled_after_the_start(start: Start, socket_path: str) -> None:
    """By default they would kill the process."""
    for number in (signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGUSR1):
        start.process.send_signal(number)

    os.close(start.settings)
    poll(lambda: b"log level set" in start.output.read_bytes(), "SIGUSR1 was lost")
    poll(lambda: Path(socket_path).exists(), "the daemon does not listen")
    start.process.terminate()
    assert start.process.wait(20) == 0
