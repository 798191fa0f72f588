"""The daemon that is attacked: the real command of a source tree, its memory, and what its settings allow it."""

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tests.bench.bystanders.attack import Attack

ROOT = Path(__file__).parents[3]
MIB = 1024 * 1024

DAEMON_NICE = -20
"""Above other work on the machine."""

BOUND_SETTINGS = ("cache.max_bytes", "limits.max_buffered_bytes", "limits.max_memory_bytes")
ALLOWANCE_BYTES = 40 * MIB
START_SECONDS = 30.0
NAMED_SECTIONS = frozenset({"backends", "budgets", "namespaces", "tasks"})
"""Their settings are shown only if they are set."""


def environ_of(tree: Path) -> dict[str, str]:
    """Return the environment in which a tree's daemon, client and commands run."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("SIDECARD_")}
    return clean | {"PYTHONPATH": f"{tree}:{tree}/client", "PYTHONSAFEPATH": "1", "XDG_STATE_HOME": "/nonexistent"}


def _stalling(directory: Path, environ: dict[str, str]) -> dict[str, str]:
    """Let a daemon's reads of its disk stall while the file ``stalled`` exists in ``directory``."""
    (directory / "state").mkdir()
    (directory / "sitecustomize.py").write_text(
        "import importlib.util, pathlib\n"
        f"spec = importlib.util.spec_from_file_location('stalled_disk', {str(ROOT / 'tests' / 'stalled_disk.py')!r})\n"
        "module = importlib.util.module_from_spec(spec)\n"
        "spec.loader.exec_module(module)\n"
        f"module.install(pathlib.Path({str(directory / 'stalled')!r}))\n"
    )
    path = f"{directory}:{environ['PYTHONPATH']}"
    return environ | {"PYTHONPATH": path, "STATE_DIRECTORY": str(directory / "state")}


@contextmanager
def serving(
    tree: Path, directory: Path, port: int, attack: Attack | None, *, quiet: bool
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a tree's daemon with the socket ``s`` and the log ``log`` in ``directory``."""
    environ = environ_of(tree)
    arguments = ["--socket", str(directory / "s"), "--log-format", "json", "--set", "socket.mode=0666"]
    if attack is not None and attack.stalled_disk:
        environ = _stalling(directory, environ)
    else:
        arguments.append("--no-state")

    known = subprocess.run(
        [sys.executable, "-m", "sidecard", "config", "show"], env=environ, capture_output=True, text=True, check=False
    ).stdout
    for setting in attack.settings if attack else ():
        name = setting.partition("=")[0]
        # An older version lacks some settings.
        if name in known or name.partition(".")[0] in NAMED_SECTIONS:
            arguments += ["--set", setting.replace("{port}", str(port))]

    log = directory / "log"
    with log.open("wb") as output:
        command = [sys.executable, "-m", "sidecard", "serve", *arguments]
        process = subprocess.Popen(command, env=environ, stdin=subprocess.DEVNULL, stdout=output, stderr=output)

    try:
        if quiet:
            with suppress(PermissionError):
                os.setpriority(os.PRIO_PROCESS, process.pid, DAEMON_NICE)

        until = time.monotonic() + START_SECONDS
        while not _accepts(directory / "s"):
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < until, log.read_text()
            time.sleep(0.02)

        yield process
    finally:
        process.kill()
        process.wait()


def _accepts(path: Path) -> bool:
    with suppress(OSError), socket.socket(socket.AF_UNIX) as connection:
        connection.connect(str(path))
        return True

    return False


def bounds(path: str) -> int:
    """Return the bytes that a daemon's settings allow it, and the allowance."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(path)
        connection.sendall(b'{"op":"config"}\n')
        connection.shutdown(socket.SHUT_WR)
        text = b""
        while data := connection.recv(1 << 16):
            text += data

    settings = json.loads(text)["settings"]
    values = [settings.get(name, 0) for name in BOUND_SETTINGS]
    return sum(value for value in values if isinstance(value, int)) + ALLOWANCE_BYTES


def memory(pid: int, what: str) -> int:
    """Return bytes that `/proc` reports of a process (``VmRSS``, ``VmHWM``); 0 if it has ended."""
    with suppress(OSError):
        for text in Path(f"/proc/{pid}/status").read_text().splitlines():
            if text.startswith(f"{what}:"):
                return int(text.split()[1]) * 1024

    return 0
