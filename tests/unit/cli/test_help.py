"""The width of ``--help``."""

import fcntl
import os
import struct
import subprocess
import sys
import termios

import pytest


@pytest.mark.parametrize(
    ("columns", "variable", "expected"), [(0, None, 80), (0, "0", 80), (60, "0", 60), (60, "x", 60), (60, "100", 100)]
)
def test_help_is_as_wide_as_the_terminal(columns: int, variable: str | None, expected: int) -> None:
    """A terminal without a size, as in some containers, counts as 80 columns wide."""
    controller, terminal = os.openpty()
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 0, columns, 0, 0))
    environ = {name: value for name, value in os.environ.items() if name != "COLUMNS"}
    if variable is not None:
        environ["COLUMNS"] = variable

    try:
        command = [
            sys.executable,
            "-c",
            "import sys; from sidecard.cli import _HelpFormatter; sys.exit(_HelpFormatter('')._width + 2)",
        ]
        assert subprocess.run(command, stdout=terminal, env=environ, check=False).returncode == expected
    finally:
        os.close(controller)
        os.close(terminal)
