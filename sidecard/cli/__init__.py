"""The command ``sidecard``.

Each command's module has ``add_parser(commands)``, which adds the command's parser and sets ``run``: a function that takes the
parsed arguments and returns an exit code. Only the module of the requested command is imported, for a fast start.
"""

import argparse
import contextlib
import gc
import importlib
import os
import sys
from collections.abc import Sequence
from typing import Any, Final

from sidecard.cli import streams
from sidecard.cli.exit_codes import (
    BAD_CONFIG,
    CANNOT_WRITE,
    INTERRUPTED,
    OK,
    PROBLEM,
    UNREACHABLE,
    USAGE,
    OutputError,
    UnreachableError,
    UsageError,
)
from sidecard.errors import ConfigError, ListenError, SidecardError
from sidecard_client import DaemonUnavailable, RequestRefused, __version__

COMMANDS: Final = {
    "serve": "serve",
    "ping": "control",
    "health": "status.health",
    "stats": "status.stats",
    "report": "status.report",
    "top": "status.top",
    "watch": "status.watch",
    "explain": "explain.command",
    "metrics": "control",
    "breakers": "status.breakers",
    "purge": "control",
    "log-level": "control",
    "reload": "control",
    "cache": "cache",
    "calls": "calls.command",
    "config": "config",
    "files": "files",
    "docs": "docs",
    "demo": "demo.command",
    "bench": "bench.command",
}
"""The module of each command."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code, one of `sidecard.cli.exit_codes`."""
    arguments = sys.argv[1:] if arguments is None else arguments
    streams.prepare()
    exit_code = _run(arguments)
    streams.flush()
    return exit_code


def _run(arguments: Sequence[str]) -> int:
    try:
        parsed = _parser(arguments[0] if arguments else "").parse_args(arguments)
        if arguments[0] != "serve":  # the daemon enables collections when it is ready
            gc.enable()

        exit_code: int = parsed.run(parsed)
    except ConfigError as error:
        return _fail(BAD_CONFIG, *error.problems)
    except UsageError as error:
        return _fail(USAGE, error)
    except (DaemonUnavailable, UnreachableError) as error:
        return _fail(UNREACHABLE, error)
    except ListenError as error:
        # systemd does not restart a service that ends with the code for configuration.
        return _fail(BAD_CONFIG if error.lasting else PROBLEM, error)
    except (SidecardError, RequestRefused) as error:
        return _fail(PROBLEM, error)
    except OutputError as error:
        return _fail(CANNOT_WRITE, error)
    except BrokenPipeError:
        return OK  # `sidecard stats | head`: the reader has what it wants
    except KeyboardInterrupt:
        return INTERRUPTED

    return exit_code


def _fail(exit_code: int, *problems: object) -> int:
    from sidecard.cli.output import warn  # noqa: PLC0415 - the daemon does not need it

    for problem in problems:
        warn(problem)

    return exit_code


class _HelpFormatter(argparse.HelpFormatter):
    """Finds the terminal's width without shutil, whose import takes a fiftieth of the daemon's start."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, width=_terminal_columns() - 2)


def _terminal_columns() -> int:
    """Return the width of lines, as `shutil.get_terminal_size` does: COLUMNS, the terminal's unless it has 0, or 80."""
    try:
        columns = int(os.environ.get("COLUMNS", "0"))
    except ValueError:
        columns = 0

    if columns <= 0:
        with contextlib.suppress(OSError):
            columns = os.get_terminal_size(1).columns

    return columns if columns > 0 else 80


class _Parser(argparse.ArgumentParser):
    """Also the class of all subparsers: argparse formats each argument when it is added."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**{"formatter_class": _HelpFormatter} | options)

    def _print_message(self, message: str, file: Any = None) -> None:
        """Write help or a usage error; argparse itself ignores errors of standard output."""
        from sidecard.cli.output import Verbatim, note, write  # noqa: PLC0415 - the daemon does not need it

        text = Verbatim(message.removesuffix("\n"))
        if file is sys.stdout:
            write(text)
        else:
            note(text)


def _parser(command: str) -> argparse.ArgumentParser:
    parser = _Parser(
        prog="sidecard",
        description="Share the LLM calls of one host between its processes.",
        epilog=f"Exit codes: {OK} success, {PROBLEM} failure or a problem found, {USAGE} usage error, "
        f"{UNREACHABLE} no daemon answers, {CANNOT_WRITE} output cannot be written, {BAD_CONFIG} invalid settings, {INTERRUPTED} interrupted.",
    )
    parser.add_argument("--version", action="version", version=f"sidecard {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    modules = {COMMANDS[command]} if command in COMMANDS else dict.fromkeys(COMMANDS.values())
    for module in modules:
        importlib.import_module(f"sidecard.cli.{module}").add_parser(commands)

    return parser
