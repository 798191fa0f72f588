"""Output that cannot be written: closed, full, or without a reader. Every command ends with one sentence, or with none."""

import contextlib
import json
import os
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from sidecard_client import Client
from tests.daemons import Daemon, ask, listens, poll

Start = Callable[..., Daemon]

COMMANDS = [
    ["--help"],
    ["--version"],
    ["serve", "--help"],
    ["config", "show"],
    ["config", "show", "--json"],
    ["config", "example"],
    ["config", "check"],
    ["files", "alerts"],
    ["docs"],
    ["docs", "operations"],
    ["ping"],
    ["ping", "--json"],
    ["stats"],
    ["report"],
    ["metrics"],
    ["breakers"],
    ["top", "--once", "--json"],
    ["top", "--interval=0.1"],
    ["calls", "list"],
    ["calls", "list", "--json"],
    ["calls", "export"],
    ["cache", "export", "-"],
    ["log-level", "info"],
    ["purge", "--tag=none"],
]

IN_PROCESSES = """
import importlib, json, os, pkgutil, sys
import sidecard.cli
from sidecard.cli import main

# Imported once, and not by each of the children.
for module in pkgutil.walk_packages(sidecard.cli.__path__, "sidecard.cli."):
    importlib.import_module(module.name)

os.environ["COLUMNS"] = "80"
for condition, command in json.loads(sys.stdin.read()):
    sys.stderr.flush()
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        os.dup2(writer, 2)
        if condition == "closed":
            os.close(1)
            sys.stdout = None
        else:
            # Line buffering and a buffer that is full early, as of real processes.
            target = os.open("/dev/full", os.O_WRONLY) if condition == "full" else os.pipe()[1]
            os.dup2(target, 1)
            sys.stdout = open(1, "w", closefd=False)
        if condition == "no reader":
            os.closerange(3, 100)
        try:
            code = main(command)
        except SystemExit as end:
            code = end.code
        try:
            (sys.stdout or sys.stderr).flush()
        except OSError:
            code = 120
        os._exit(code)
    os.close(writer)
    text = open(reader).read()
    print(json.dumps([condition, command, os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), text]), flush=True)
"""


def has_a_call(log: Path) -> bool:
    """Return whether a call is in the log, whose table may not be there yet."""
    with contextlib.closing(sqlite3.connect(f"file:{log}?mode=ro", uri=True)) as connection:
        try:
            return bool(connection.execute("SELECT count(*) FROM calls").fetchone()[0])
        except sqlite3.OperationalError:
            return False


@pytest.fixture
def served(daemon: Start, socket_path: str, tmp_path: Path) -> dict[str, str]:
    """Start a daemon with an entry and a logged call; return the environment of commands."""
    environ = {"STATE_DIRECTORY": str(tmp_path), "SIDECARD_CALLS_ENABLED": "true"}
    daemon(**environ)
    with Client(socket_path) as client:
        assert client.call(lambda: "answer" * 1000, name="f")

    poll(lambda: bool(ask(socket_path, {"op": "stats"})["store_written"]), "no entry was written")
    log = tmp_path / "calls.sqlite"
    poll(lambda: log.exists() and has_a_call(log), "no call was logged")
    return environ | {"SIDECARD_SOCKET": socket_path}


def test_every_command_reports_output_that_cannot_be_written(served: dict[str, str]) -> None:
    """A full or closed output is one sentence and exit code 74; a reader that left is silence and 0."""
    runs = [(condition, command) for condition in ("full", "closed", "no reader") for command in COMMANDS]
    done = subprocess.run(
        [sys.executable, "-c", IN_PROCESSES],
        input=json.dumps(runs),
        env=os.environ | served,
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    results = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(results) == len(runs)
    for condition, command, code, errors in results:
        assert "Traceback" not in errors, (condition, command, errors)
        problems = [line for line in errors.splitlines() if "cannot write to standard output" in line]
        if condition == "no reader":
            assert (code, problems) == (0, []), (condition, command, errors)
        else:
            assert (code, len(problems)) == (74, 1), (condition, command, code, errors)


@pytest.mark.parametrize(
    ("redirection", "code"),
    [
        (">/dev/full", 74),
        (">&-", 74),
        ("| true", 0),
        ("2>/dev/full >&-", 74),
        ("2>&- >/dev/full", 74),
        ("2>&- <&- >/dev/null", 0),
    ],
)
@pytest.mark.parametrize("command", ["--help", "config example"])
def test_a_shell_sees_the_exit_code(redirection: str, code: int, command: str) -> None:
    """Also the interpreter's own end adds no message and changes no code."""
    script = f"set -o pipefail; exec 9>&2; {sys.executable} -m sidecard {command} {redirection}"
    done = subprocess.run(["/bin/bash", "-c", script], capture_output=True, text=True, check=False, timeout=30)
    assert done.returncode == code
    assert "Traceback" not in done.stderr
    assert "Exception ignored" not in done.stderr


@pytest.mark.parametrize("redirection", [">&- 2>&- <&-", ">/dev/full 2>/dev/full", ">&- 2>/dev/full"])
def test_a_daemon_lives_without_a_log(redirection: str, socket_path: str, tmp_path: Path) -> None:
    """It serves, its store is no target of messages, and it ends with 0."""
    command = f"exec {sys.executable} -m sidecard serve --socket {socket_path} --log-level debug {redirection}"
    with subprocess.Popen(["/bin/sh", "-c", command], env=os.environ | {"STATE_DIRECTORY": str(tmp_path)}) as process:
        try:
            poll(lambda: listens(socket_path), "the daemon does not listen")
            for _ in range(50):
                assert ask(socket_path, {"op": "put", "key": "k", "value": 1})["type"] == "stored"

            assert (tmp_path / "store.db").read_bytes()[:15] == b"SQLite format 3"
        finally:
            process.terminate()

        assert process.wait(timeout=20) == 0


def test_characters_that_the_output_lacks_are_escaped() -> None:
    """The settings may contain any."""
    command = [sys.executable, "-m", "sidecard", "config", "show", "--set", "socket.path=/tmp/é.sock"]
    environ = os.environ | {"PYTHONIOENCODING": "ascii"}
    done = subprocess.run(command, env=environ, capture_output=True, text=True, check=True, timeout=30)
    assert r"/tmp/\xe9.sock" in done.stdout


def test_a_named_file_that_cannot_be_written_is_74(served: dict[str, str]) -> None:
    """The error names the file."""
    for name in ("/dev/full", "/nowhere/file"):
        command = [sys.executable, "-m", "sidecard", "cache", "export", name]
        done = subprocess.run(command, env=os.environ | served, capture_output=True, text=True, check=False, timeout=30)
        assert done.returncode == 74, done.stderr
        assert f"cannot write {name}: " in done.stderr
