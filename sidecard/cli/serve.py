"""``sidecard serve``: run the daemon in the foreground."""

import argparse
import gc
import os
from typing import TYPE_CHECKING

from sidecard.cli.arguments import Commands, add_settings_arguments, load_settings
from sidecard.cli.exit_codes import OK

if TYPE_CHECKING:
    from sidecard.config.model import Config


def add_parser(commands: Commands) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "serve",
        help="run the daemon",
        description="Run the daemon in the foreground until SIGTERM or SIGINT; a second signal stops it immediately.",
    )
    add_settings_arguments(parser)
    parser.add_argument(
        "--no-state", action="store_true", help="ignore the state directory: the ledger starts empty and is not saved"
    )
    parser.add_argument("--check", action="store_true", help="report problems of the settings, without serving")
    parser.set_defaults(run=_run)


def load_servable(arguments: argparse.Namespace) -> "Config":
    """Load the settings and check that the optional packages they need are installed. Raises `ConfigError`."""
    config = load_settings(arguments, os.environ)
    from sidecard.daemon import run as daemon  # noqa: PLC0415 - see `_run`

    daemon.require(config)
    return config


def check(arguments: argparse.Namespace) -> int:
    """Write warnings about the settings, or that they are valid. Raises `ConfigError`."""
    from sidecard.cli.output import warn, write  # noqa: PLC0415 - the daemon does not write results

    for warning in load_servable(arguments).warnings():
        warn(warning)

    write("The settings are valid.")
    return OK


def _run(arguments: argparse.Namespace) -> int:
    if arguments.check:
        return check(arguments)

    # Collections during imports would take a tenth of the start time; the daemon enables them before it serves.
    gc.disable()
    config = load_settings(arguments, os.environ)
    from sidecard.daemon import run as daemon  # noqa: PLC0415 - takes 0.1 s, so invalid settings are reported first

    daemon.run(config, os.environ, reread=lambda: load_settings(arguments, os.environ), state=not arguments.no_state)
    return OK
