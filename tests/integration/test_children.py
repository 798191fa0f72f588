"""The processes that ``demo`` and ``bench`` start, and what an interruption leaves of them."""

import subprocess
import sys

import pytest

INTERRUPTED_WHILE_STARTING = """
import os, signal, sys
from sidecard.cli.children import Children

children = Children()
try:
    with children:
        # Before the new process is what it is to be, its starter is interrupted.
        children.start(sys.executable, "-c", "input()", preexec_fn=lambda: os.kill(os.getppid(), signal.{name}))
        print("went on")
except KeyboardInterrupt:
    try:
        os.waitpid(-1, 0)
        print("left one behind")
    except ChildProcessError:
        print("ended it")
"""


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_a_process_that_starts_while_its_starter_is_interrupted_is_ended(name: str) -> None:
    """It is on the list by the time that the list is worked off."""
    script = INTERRUPTED_WHILE_STARTING.format(name=name)
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=30, check=False)

    assert (run.stdout, run.stderr) == ("ended it\n", "")
