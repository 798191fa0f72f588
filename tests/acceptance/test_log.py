"""The log of a real daemon: its level set while it runs, and an output stream that is not read."""

import fcntl
import functools
import os
import signal
import struct
import subprocess
import sys
import termios
from collections.abc import Callable
from pathlib import Path

from sidecard_client import Client
from tests.daemons import Daemon, ask, poll
from tests.metrics import samples

Start = Callable[..., Daemon]

PIPE_BYTES = 4096


def test_sigusr1_and_sigusr2_change_the_log_level(daemon: Start, socket_path: str) -> None:
    """SIGUSR1 logs each call with its peer, key and lease; SIGUSR2 restores the configured level."""
    one = daemon("--no-state")
    with Client(socket_path) as client:
        client.call(str, "before", name="f")
        os.kill(one.pid, signal.SIGUSR1)
        poll(lambda: one.said("log level set") != [], "nothing said")
        client.call(str, "meanwhile", name="f")
        poll(lambda: len(one.said("answered")) >= 2, "debug lines are missing")
        os.kill(one.pid, signal.SIGUSR2)
        poll(lambda: len(one.said("log level set")) == 2, "nothing said")
        client.call(str, "after", name="f")

    assert [line["now"] for line in one.said("log level set")] == ["debug", "info"]
    begin, complete = one.said("answered")
    assert (begin["op"], begin["reply"], complete["op"], complete["reply"]) == ("begin", "lease", "complete", "stored")
    assert (begin["lease"], begin["peer"]) == (complete["lease"], complete["peer"])
    assert begin["key"].startswith("k2-")


def test_log_level_command_sets_the_level(daemon: Start, socket_path: str) -> None:
    """``sidecard log-level`` sets the level over the socket."""
    one = daemon("--no-state")
    assert ask(socket_path, {"op": "log", "level": "error"})["type"] == "ok"
    assert ask(socket_path, {"op": "log", "level": "loud"})["type"] == "error"
    os.kill(one.pid, signal.SIGHUP)
    assert one.terminate() == 0
    assert [line["event"] for line in one.log()] == ["state not kept", "serving", "log level set"]


def _answers(socket_path: str) -> bool:
    try:
        return ask(socket_path, {"op": "ping"})["type"] == "pong"
    except (FileNotFoundError, ConnectionRefusedError):  # it is not there, or no server listens yet
        return False


def test_unread_log_stops_no_call(socket_path: str, tmp_path: Path) -> None:
    """With a full pipe calls go on, and lost lines are reported as dropped."""
    read, write = os.pipe()
    fcntl.fcntl(write, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
    environ = {name: value for name, value in os.environ.items() if not name.startswith("SIDECARD_")}
    command = [sys.executable, "-m", "sidecard", "serve", "--socket", socket_path, "--no-state", "--log-level", "debug"]
    with subprocess.Popen(command, env=environ, stderr=write, cwd=tmp_path) as process:
        try:
            os.close(write)
            poll(lambda: _answers(socket_path), "no daemon")
            with Client(socket_path) as client:
                call = functools.partial(client.call, str, name="f", mode="refresh")

                def full() -> bool:
                    call("until it is full")
                    waiting = struct.unpack("i", fcntl.ioctl(read, termios.FIONREAD, bytes(4)))[0]
                    return bool(waiting > PIPE_BYTES - 200)

                poll(full, "the pipe never filled")
                for number in range(100):
                    assert call(number) == str(number)

                assert samples(socket_path)["sidecard_dropped_total what=log_lines"] > 0
        finally:
            process.kill()
            os.close(read)
