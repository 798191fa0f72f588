"""The real demo with its real model, small."""

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.daemons import poll

COMMAND = [sys.executable, "-m", "sidecard", "demo"]
SMALL = ["--workers", "3", "--questions", "5"]

pytestmark = [pytest.mark.model, pytest.mark.timeout(240)]


@pytest.fixture
def place() -> Iterator[Path]:
    """Make a directory for the demo's temporary files: a short one, for its socket, that only the demo uses."""
    directory = Path(tempfile.mkdtemp(prefix="sc-", dir="/tmp"))
    yield directory
    shutil.rmtree(directory, ignore_errors=True)


def demo(place: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the command to its end."""
    environ = os.environ | {"TMPDIR": str(place)}
    return subprocess.run([*COMMAND, *arguments], env=environ, capture_output=True, text=True, timeout=200, check=False)


def processes(place: Path) -> dict[int, str]:
    """Return the commands, by process, that were started with ``place`` for temporary files."""
    found = {}
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it has ended meanwhile
            if f"TMPDIR={place}\0".encode() in (process / "environ").read_bytes():
                found[int(process.name)] = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode()

    return found


def assert_nothing_is_left(place: Path) -> None:
    """Assert that no file or process of the demo remains."""
    assert list(place.iterdir()) == []
    assert processes(place) == {}


def test_demo_makes_one_call_for_each_distinct_question(place: Path) -> None:
    """The possible maximum is saved, all parties agree, and the model's answers are real."""
    run = demo(place, *SMALL, "--json")

    assert run.returncode == 0, run.stderr
    numbers = json.loads(run.stdout)
    assert numbers["asked"] == 15
    assert 1 < numbers["distinct"] < 15
    assert numbers["made"] == numbers["least_made"] == numbers["distinct"]
    assert numbers["shared"] + numbers["cached"] == numbers["saved"] == numbers["most_saved"]
    assert numbers["saved"] == numbers["asked"] - numbers["distinct"]
    assert numbers["shared"] >= 2  # the first burst: three workers, one call
    assert numbers["cached"] >= 1
    assert 0 < numbers["least_model_seconds"] == numbers["model_seconds"] < numbers["took_seconds"]
    assert 0 < numbers["saved_seconds"] < numbers["most_saved_seconds"]
    assert 0 < numbers["billed_dollars"] == pytest.approx(numbers["least_billed_dollars"])
    assert 0 < numbers["saved_dollars"] == pytest.approx(numbers["most_saved_dollars"])
    assert numbers["disagreements"] == []
    assert len(numbers["answers"]) == numbers["distinct"]
    assert all(len(answer["answer"].split()) > 2 for answer in numbers["answers"])
    assert_nothing_is_left(place)


def test_demo_ends_with_a_table(place: Path) -> None:
    """Without a terminal there are progress lines, then answers, numbers and their bounds."""
    run = demo(place, *SMALL)

    assert run.returncode == 0, run.stderr
    assert "Asked 15 of 15:" in run.stderr
    assert re.search(r"calls made to the model +(\d+) +at least \1\n", run.stdout)
    assert re.search(r"calls saved +(\d+) +at most \1\n", run.stdout)
    assert "All answers to one question are equal." in run.stdout
    assert max(map(len, run.stdout.splitlines())) <= 80
    assert_nothing_is_left(place)


def test_an_invalid_model_file_is_reported(place: Path, tmp_path: Path) -> None:
    """The error contains llama.cpp's output and no traceback."""
    junk = tmp_path / "junk.gguf"
    junk.write_text("junk")
    run = demo(place, *SMALL, "--model", str(junk))

    assert run.returncode == 1
    assert run.stdout == ""
    assert f"sidecard: cannot load the model {junk}" in run.stderr
    assert "Traceback" not in run.stderr
    assert_nothing_is_left(place)


@pytest.mark.parametrize("signal_number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_demo_cleans_up(place: Path, signal_number: signal.Signals) -> None:
    """An interruption during an answer ends all processes and removes all files."""
    environ = os.environ | {"TMPDIR": str(place)}
    with subprocess.Popen([*COMMAND, "--json"], env=environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as run:
        poll(lambda: sum("demo.worker" in command for command in processes(place).values()) == 4, "no workers started")
        run.send_signal(signal_number)
        output, complaint = run.communicate(timeout=30)

    assert run.returncode == 128 + signal.SIGINT
    assert output == b""
    assert b"interrupted" in complaint
    assert b"Traceback" not in complaint
    assert_nothing_is_left(place)


def test_a_demo_whose_model_dies_fails(place: Path) -> None:
    """The demo reports it, exits with 1, and ends its workers."""
    environ = os.environ | {"TMPDIR": str(place)}
    with subprocess.Popen([*COMMAND, "--json"], env=environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as run:
        poll(lambda: sum("demo.worker" in command for command in processes(place).values()) == 4, "no workers started")
        (model,) = (pid for pid, command in processes(place).items() if "demo.model" in command)
        os.kill(model, signal.SIGKILL)
        output, complaint = run.communicate(timeout=60)

    assert run.returncode == 1
    assert output == b""
    assert complaint.startswith(b"sidecard: the model ended unexpectedly")
    assert_nothing_is_left(place)
