"""Environments of other packages than the tests', made by uv under a directory of the temporary one and kept for the next run."""

import fcntl
import hashlib
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
DIRECTORY = Path(tempfile.gettempdir()) / f"sidecard-frameworks-{os.getuid()}"

_UNREACHABLE = re.compile(
    r"failed to fetch|error sending request|dns error|connection (refused|reset)|timed out|offline", re.IGNORECASE
)


def python_of(requirements: str) -> Path:
    """Return the interpreter of an environment with these packages and the client; skip the test if no index answers."""
    given = [*requirements.split(), "-e", f"{ROOT / 'client'}[async]"]
    directory = DIRECTORY / hashlib.sha256(f"{sys.version} {given}".encode()).hexdigest()[:12]
    python = directory / "bin/python"
    with _locked(f"{directory}.lock"):
        uv = _uv()
        if not (directory / "complete").exists():
            _run(uv, "venv", "--quiet", "--clear", "--python", sys.executable, str(directory))
            _run(uv, "pip", "install", "--quiet", "--python", str(python), *given)
            (directory / "complete").touch()

    return python


def _uv() -> str:
    """Return uv, installed beside the environments."""
    directory = DIRECTORY / "uv"
    with _locked(f"{directory}.lock"):
        if not (directory / "complete").exists():
            _run(sys.executable, "-m", "venv", "--clear", str(directory))
            _run(str(directory / "bin/pip"), "install", "--quiet", "uv")
            (directory / "complete").touch()

    return str(directory / "bin/uv")


def _run(*command: str) -> None:
    ended = subprocess.run(command, capture_output=True, text=True, check=False, timeout=600)
    if ended.returncode and _UNREACHABLE.search(ended.stderr):
        pytest.skip(f"no package index answers: {ended.stderr.strip()[-300:]}")

    assert ended.returncode == 0, f"{' '.join(command)}\n{ended.stderr}"


@contextmanager
def _locked(path: str) -> Iterator[None]:
    """Exclude other test processes."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    with Path(path).open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
