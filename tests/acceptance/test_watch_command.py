"""``sidecard watch`` as a shell runs it, and the op by hand, against a real daemon."""

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

Start = Callable[..., Daemon]

NOTES = 3000
"""More than are sent ahead and wait: 256 and 1,024."""


def down(_: str) -> str:
    """Stand for a backend that is down."""
    raise ConnectionError("with the prompt in it")


@contextmanager
def watching(path: str, *arguments: str) -> Iterator[tuple["subprocess.Popen[str]", str]]:
    """Run the command until the end of the block at the latest; yield it, and the first thing that it says on the side."""
    environ = {name: value for name, value in os.environ.items() if not name.startswith("SIDECARD_")}
    command = [sys.executable, "-m", "sidecard", "watch", "--socket", path, *arguments]
    with subprocess.Popen(
        command, env=environ, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stderr is not None
            # It says so once the daemon has, or why it does not.
            yield process, process.stderr.readline()
        finally:
            process.kill()


def fail_once(path: str) -> None:
    """Have a note made."""
    with Client(path) as client, pytest.raises(ConnectionError):
        client.call(down, "a")


def line_of(process: "subprocess.Popen[str]") -> str:
    """Return the next line, as soon as it is there."""
    assert process.stdout is not None
    return process.stdout.readline()


def test_notes_are_lines_as_they_are_made_until_an_interrupt(daemon: Start) -> None:
    """Which is its ordinary end."""
    path = daemon().socket
    with watching(path) as (process, began_by):
        for _ in range(2):
            fail_once(path)
            line = line_of(process)
            assert "lease ended" in line
            assert "outcome=transient" in line
            assert "error=ConnectionError" in line
            assert "prompt" not in line

        process.send_signal(signal.SIGINT)
        assert process.wait(10) == 0
        assert began_by.startswith("watching")
        assert process.stderr is not None
        assert process.stderr.read() == ""


def test_only_what_is_named_and_in_json_where_that_is_asked_for(daemon: Start) -> None:
    """An object a line. The end of the daemon is none of the command's: 69."""
    one = daemon()
    with watching(one.socket, "--json", "--note", "drain_started") as (process, _):
        fail_once(one.socket)
        one.process.terminate()
        note = json.loads(line_of(process))
        assert (note["note"], note["fields"]) == ("drain_started", {"flights": 0, "waiters": 0})
        assert note["at_seconds"] > 1e9
        assert process.wait(20) == 69


def test_a_name_that_no_note_has_is_a_mistake_in_usage(daemon: Start) -> None:
    """With those that there are."""
    path = daemon().socket
    with watching(path, "--note", "breaker_open") as (process, began_by):
        assert process.wait(20) == 2
        assert process.stderr is not None
        assert "breaker_opened" in began_by + process.stderr.read()


def test_a_half_closed_peer_that_speaks_json_is_told(daemon: Start) -> None:
    """As ``echo '{"op":"watch"}' | socat -t 999 - UNIX-CONNECT:...`` does."""
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


def test_a_watcher_that_does_not_read_is_told_what_it_missed_and_is_not_closed(daemon: Start) -> None:
    """Nor does anybody else notice; the daemon keeps no more for it than its bounds."""
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

        told = received.count(b"lease_ended")
        assert 256 + 1024 <= told < NOTES
        tail = received[received.index(b"left_out") :]
        assert b"count" in tail
