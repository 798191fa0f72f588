"""The child processes of ``demo`` and ``bench`` when they are interrupted."""

import subprocess
import sys

import pytest

INTERRUPTED_WHILE_STARTING = """
import os, signal, sys
from sidecard.cli.processes import Processes

processes = Processes()
try:
    with processes:
        # The new process interrupts its parent before exec.
        processes.start(sys.executable, "-c", "input()", preexec_fn=lambda: os.kill(os.getppid(), signal.{name}))
        print("went on")
except KeyboardInterrupt:
    try:
        os.waitpid(-1, 0)
        print("left one behind")
    except ChildProcessError:
        print("ended it")
"""


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_a_process_started_during_an_interruption_is_ended(name: str) -> None:
    """The signal raises only after the process is recorded."""
    script = INTERRUPTED_WHILE_STARTING.format(name=name)
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=30, check=False)

    assert (run.stdout, run.stderr) == ("ended it\n", "")
