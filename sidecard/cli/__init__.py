"""The command ``sidecard``.

Each command lives in a module of this package that has ``add_parser(commands)``:
it adds its parser and sets ``run``, which takes the parsed arguments and returns an exit code.
Only the module of the command that is asked for is imported, so that each starts as fast as it can.
"""

import argparse
import importlib
import os
import sys
from collections.abc import Callable, Sequence
from typing import Final

from sidecard.errors import ConfigError, SidecardError
from sidecard_client import __version__

FINE: Final = 0
NOT_FINE: Final = 1
USAGE: Final = 2
UNREACHABLE: Final = 69
"""EX_UNAVAILABLE of sysexits.h."""
BAD_CONFIG: Final = 78
"""EX_CONFIG of sysexits.h."""

COMMANDS: Final = {
    "serve": "serve",
    "ping": "inspect",
    "stats": "inspect",
    "report": "inspect",
    "top": "top",
    "watch": "watch",
    "explain": "explain",
    "metrics": "inspect",
    "breakers": "inspect",
    "purge": "inspect",
    "log-level": "inspect",
    "reload": "inspect",
    "cache": "cache",
    "calls": "calls",
    "config": "inspect",
    "files": "files",
    "demo": "demo.command",
    "bench": "bench.command",
}
"""The module of each command."""

Run = Callable[[argparse.Namespace], int]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code; see `FINE` and those after it."""
    arguments = sys.argv[1:] if arguments is None else arguments
    parsed = _parser(arguments[0] if arguments else "").parse_args(arguments)
    try:
        run: Run = parsed.run
        return run(parsed)
    except ConfigError as error:
        for problem in error.problems:
            print(f"sidecard: {problem}", file=sys.stderr)

        return BAD_CONFIG
    except SidecardError as error:
        print(f"sidecard: {error}", file=sys.stderr)
        return NOT_FINE
    except BrokenPipeError:
        # `sidecard stats | head`: the reader has had enough. Standard output is not flushed again at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FINE


def _parser(command: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="sidecard",
        description="Makes the LLM calls of one host shared, cheap and safe.",
        epilog=f"Exit codes: {FINE} fine, {NOT_FINE} what was asked about is not fine, {USAGE} usage, "
        f"{UNREACHABLE} no daemon answers, {BAD_CONFIG} configuration.",
    )
    parser.add_argument("--version", action="version", version=f"sidecard {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    modules = {COMMANDS[command]} if command in COMMANDS else dict.fromkeys(COMMANDS.values())
    for module in modules:
        importlib.import_module(f"sidecard.cli.{module}").add_parser(commands)

    return parser
