"""``sidecard watch``, and the ``watch`` op, with a real daemon."""

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from sidecard_client import Client
from sidecard_client.protocol.frames import frame
from sidecard_client.protocol.wire import Watch, pack
from tests.daemons import Daemon, ask, poll

pytestmark = pytest.mark.usefixtures("patient_clients")

Start = Callable[..., Daemon]

NOTES = 3000
"""More than a watcher's unread (256) and queued (1,024) notes."""


def down(_: str) -> str:
    """Simulate a failing backend."""
    raise ConnectionError("with the prompt in it")


@contextmanager
def watching(path: str, *arguments: str) -> Iterator[tuple["subprocess.Popen[str]", str]]:
    """Run the command until the end of the block; yield it and its first line on standard error."""
    environ = {name: value for name, value in os.environ.items() if not name.startswith("SIDECARD_")}
    command = [sys.executable, "-m", "sidecard", "watch", "--socket", path, *arguments]
    with subprocess.Popen(
        command, env=environ, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stderr is not None
            # The line is written after the daemon's first reply, or says why there is none.
            yield process, process.stderr.readline()
        finally:
            process.kill()


def fail_once(path: str) -> None:
    """Cause one note."""
    with Client(path) as client, pytest.raises(ConnectionError):
        client.call(down, "a")


def line_of(process: "subprocess.Popen[str]") -> str:
    """Wait for the next line and return it."""
    assert process.stdout is not None
    return process.stdout.readline()


def test_watch_writes_one_line_per_note_until_interrupted(daemon: Start) -> None:
    """An interrupt ends the command with exit code 0."""
    path = daemon().socket
    with watching(path) as (process, first_line):
        for _ in range(2):
            fail_once(path)
            line = line_of(process)
            assert "lease ended" in line
            assert "outcome=transient" in line
            assert "error=ConnectionError" in line
            assert "prompt" not in line

        process.send_signal(signal.SIGINT)
        assert process.wait(10) == 0
        assert first_line.startswith("watching")
        assert process.stderr is not None
        assert process.stderr.read() == ""


def test_watch_filters_notes_and_writes_json(daemon: Start) -> None:
    """A line is one object. If the daemon ends, the exit code is 69."""
    one = daemon()
    with watching(one.socket, "--json", "--note", "drain_started") as (process, _):
        fail_once(one.socket)
        one.process.terminate()
        note = json.loads(line_of(process))
        assert (note["note"], note["fields"]) == ("drain_started", {"flights": 0, "waiters": 0})
        assert note["at_seconds"] > 1e9
        assert process.wait(20) == 69


def test_watch_for_an_unknown_note_is_a_usage_error(daemon: Start) -> None:
    """The error lists the known notes."""
    path = daemon().socket
    with watching(path, "--note", "breaker_open") as (process, first_line):
        assert process.wait(20) == 2
        assert process.stderr is not None
        assert "breaker_opened" in first_line + process.stderr.read()


def test_a_half_closed_json_peer_gets_notes(daemon: Start) -> None:
    """``echo '{"op":"watch"}' | socat -t 999 - UNIX-CONNECT:...`` prints notes."""
    path = daemon().socket
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(20)
        connection.connect(path)
        connection.sendall(b'{"op":"watch"}\n')
        connection.shutdown(socket.SHUT_WR)
        lines = connection.makefile()
        assert json.loads(lines.readline()) == {"type": "pending", "id": 0}
        for _ in range(2):
            fail_once(path)
            assert json.loads(lines.readline())["note"] == "lease_ended"


def test_a_watcher_that_does_not_read_loses_notes_and_gets_their_number(daemon: Start) -> None:
    """Its connection stays open, other peers are unaffected, and the daemon's buffer is bounded."""
    one = daemon(SIDECARD_LIMITS_STALL_SECONDS="0.2")
    with socket.socket(socket.AF_UNIX) as slow:
        slow.settimeout(20)
        slow.connect(one.socket)
        slow.sendall(frame(pack(Watch(id=1))))
        poll(lambda: ask(one.socket, {"op": "stats"})["peers"] == 2, "it is not connected")
        with socket.socket(socket.AF_UNIX) as busy:
            busy.settimeout(20)
            busy.connect(one.socket)
            lines = busy.makefile()
            for number in range(NOTES):
                busy.sendall(b'{"op":"begin","key":"k%d","id":1}\n' % number)
                lease = json.loads(lines.readline())["lease"]
                busy.sendall(json.dumps({"op": "fail", "lease": lease, "kind": "ignored", "id": 2}).encode() + b"\n")
                assert json.loads(lines.readline())["type"] == "ok"

        received = b""
        while b"left_out" not in received:
            data = slow.recv(1 << 16)
            assert data, "it was closed"
            received += data

        sent = received.count(b"lease_ended")
        assert 256 + 1024 <= sent < NOTES
        tail = received[received.index(b"left_out") :]
        assert b"count" in tail
