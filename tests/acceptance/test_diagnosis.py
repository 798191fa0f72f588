"""Commands tell apart: no daemon, one that hangs, one of another version, another program; each with advice."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from tests.daemons import Daemon

Start = Callable[..., Daemon]


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run one command to its end."""
    command = [sys.executable, "-m", "sidecard", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)


@contextmanager
def answering(path: str, answer: Callable[[bytes], bytes]) -> Iterator[None]:
    """Listen at ``path`` and answer whatever is received, each connection once."""
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(path)
        listening.listen()

        def serve() -> None:
            while True:
                try:
                    connection, _ = listening.accept()
                except OSError:
                    return

                with connection:
                    connection.sendall(answer(connection.recv(65536)))

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        try:
            yield
        finally:
            listening.shutdown(socket.SHUT_RDWR)
            thread.join(5)


@pytest.mark.slow
def test_a_stopped_daemon_is_named_with_its_state(daemon: Start, socket_path: str) -> None:
    """The error has its pid, and how to resume it, instead of advice to start another."""
    running = daemon()
    running.process.send_signal(signal.SIGSTOP)
    try:
        for command in (["ping"], ["health", "--wait=0.1"], ["watch"]):
            done = run(*command, "--socket", socket_path)
            assert done.returncode == 69, done.stderr
            assert f"process {running.pid} (" in done.stderr
            assert "did not answer within 3 s; it is stopped (SIGSTOP)" in done.stderr
            assert f"kill -CONT {running.pid}" in done.stderr
            assert "Start one" not in done.stderr
    finally:
        running.process.send_signal(signal.SIGCONT)

    assert run("ping", "--socket", socket_path).returncode == 0


def test_a_hung_process_is_told_from_none(socket_path: str) -> None:
    """One that accepts and answers nothing is restarted; where none listens, one is started."""
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(socket_path)
        listening.listen()
        hung = run("ping", "--socket", socket_path)

    assert (hung.returncode, f"process {os.getpid()} (" in hung.stderr) == (69, True), hung.stderr
    assert "it hangs, or the host is overloaded. Read its log, then restart it." in hung.stderr
    none = run("ping", "--socket", socket_path)
    assert none.returncode == 69
    assert "Start one: sidecard serve" in none.stderr


@pytest.mark.parametrize("kind", ["unknown reply", "unknown op", "other reply"])
def test_another_version_is_named(kind: str, socket_path: str) -> None:
    """Both versions are in the error; an older daemon does not know the request, a newer one answers with something new."""

    def answer(received: bytes) -> bytes:
        if received.startswith(b"{"):
            pong = {"type": "pong", "id": 1, "version": "9.9.9", "protocol": 9, "boot_id": "b", "uptime_seconds": 1.0}
            return json.dumps(pong).encode() + b"\n"

        reply = {
            "unknown reply": b"\x82\xa4type\xa6novum!\xa2id\x01",
            "unknown op": b"\x84\xa4type\xa5error\xa2id\x01\xa4code\xaaunknown_op\xa7message\xa4none",
            "other reply": b"\x82\xa4type\xa2ok\xa2id\x01",
        }[kind]
        return len(reply).to_bytes(4, "big") + reply

    with answering(socket_path, answer):
        done = run("stats", "--socket", socket_path)

    assert done.returncode == 69, done.stderr
    assert "version 9.9.9 runs there, this command is version " in done.stderr
    assert "Install the same version for both" in done.stderr


def test_another_program_is_no_daemon(socket_path: str) -> None:
    """An HTTP server, for example."""
    with answering(socket_path, lambda _: b"HTTP/1.1 400 Bad Request\r\n\r\n"):
        done = run("ping", "--socket", socket_path)

    assert done.returncode == 69
    assert "no sidecard daemon" in done.stderr
    assert "--socket" in done.stderr


def test_health_lists_problems_and_waits_for_their_end(daemon: Start, socket_path: str) -> None:
    """Exit code 1 and one line per problem; ``--wait`` returns once there is none, or a daemon answers."""
    with subprocess.Popen(
        [sys.executable, "-m", "sidecard", "health", "--socket", socket_path, "--wait", "20"], stdout=subprocess.PIPE
    ) as waiting:
        daemon("--set", "backends.cloud.weight=1")
        assert waiting.wait(timeout=20) == 0

    fine = run("health", "--socket", socket_path)
    assert (fine.returncode, fine.stdout.strip().endswith(": no problems")) == (0, True)
    assert run("breakers", "open", "cloud", "--socket", socket_path).returncode == 0
    problem = run("health", "--socket", socket_path)
    assert problem.returncode == 1
    assert ": 1 problem\n- The breaker of backend 'cloud' is forced open." in problem.stdout
    answer = json.loads(run("health", "--socket", socket_path, "--json").stdout)
    assert (answer["fine"], answer["status"], len(answer["reasons"])) == (False, "ok", 1)
    still = run("health", "--socket", socket_path, "--wait", "0.3")
    assert still.returncode == 1
    for wrong in ("-1", "x", "nan", "1e9"):
        assert run("health", f"--wait={wrong}").returncode == 2


def test_health_without_a_daemon_is_69(socket_path: str) -> None:
    """As for the other commands."""
    assert run("health", "--socket", socket_path).returncode == 69
