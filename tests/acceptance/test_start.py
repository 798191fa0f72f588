"""What a daemon imports until it serves: its start time depends on it."""

import os
import signal
import subprocess
import sys
from pathlib import Path

from tests.daemons import poll

UNNEEDED = {
    "anyio",
    "httpx",
    "prometheus_client",
    "redis",
    "rich",
    "shutil",
    "sidecard.core.backends.affinity",
    "starlette",
    "structlog",
}
"""Modules that only other commands, or daemons with other settings, need. Each takes at least a fiftieth of the start."""

WORDS = ("from sidecard.__main__ import main; raise SystemExit(main())", "serve", "--no-state")


def test_start_with_defaults_imports_nothing_unneeded(socket_path: str, tmp_path: Path) -> None:
    """A daemon without sinks and store serves without these modules; ``-X importtime`` lists all imports."""
    settings, imports = tmp_path / "empty.toml", tmp_path / "imports"
    settings.touch()
    environ = {name: value for name, value in os.environ.items() if not name.startswith(("SIDECARD_", "LISTEN_"))}
    with imports.open("wb") as file:
        command = [sys.executable, "-X", "importtime", "-c", *WORDS, "--config", str(settings), "--socket", socket_path]
        process = subprocess.Popen(command, stderr=file, env=environ)

    try:
        poll(lambda: '"event":"serving"' in imports.read_text(), "the daemon does not serve")
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0
    finally:
        process.kill()
        process.wait()

    lines = [line for line in imports.read_text().splitlines() if line.startswith("import time:")]
    modules = {line.rpartition("|")[2].strip() for line in lines}
    imported = modules | {module.partition(".")[0] for module in modules}
    assert "sidecard" in imported
    assert imported & UNNEEDED == set()
