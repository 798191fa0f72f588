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
        "--no-state",
        action="store_true",
        help="keep no state: report, budgets, breakers and stored answers start empty",
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
    """Write warnings about the settings, and where state would be kept. Raises `ConfigError`."""
    from sidecard.cli.output import warn, write  # noqa: PLC0415 - the daemon does not write results

    config = load_servable(arguments)
    warnings = [*config.warnings(), *_port_warnings(config)]
    place, state_warnings = planned_state(arguments)
    for warning in [*warnings, *state_warnings]:
        warn(warning)

    write("The settings are valid.")
    write(f"State of a daemon with this user and environment: {place or 'none'}")
    return OK


def _port_warnings(config: "Config") -> list[str]:
    from sidecard.bind_errors import FIRST_FREE_PORT  # noqa: PLC0415 - see `_run`

    port = config.http.listen.rpartition(":")[2] if "/" not in config.http.listen else ""
    if os.geteuid() and port and 0 < int(port) < FIRST_FREE_PORT:
        return [f"http.listen has port {port}, which needs CAP_NET_BIND_SERVICE: use a port from {FIRST_FREE_PORT}."]

    return []


def planned_state(arguments: argparse.Namespace) -> tuple[str | None, list[str]]:
    """Return where a daemon of this user and environment would keep state, and warnings about that place."""
    if getattr(arguments, "no_state", False):
        return None, []

    from sidecard.daemon import state  # noqa: PLC0415 - see `_run`

    problem = state.problem_before_start(os.environ)
    if problem:
        return None, [f"No state would be kept, so {state.NOT_KEPT}: {problem}."]

    directory = state.planned_directory(os.environ)
    unprotected = state.protection_problem(directory) if directory is not None and directory.exists() else ""
    return str(directory), [unprotected] if unprotected else []


def _run(arguments: argparse.Namespace) -> int:
    if arguments.check:
        return check(arguments)

    # Collections during imports would take a tenth of the start time; the daemon enables them before it serves.
    gc.disable()
    config = load_settings(arguments, os.environ)
    from sidecard.daemon import run as daemon  # noqa: PLC0415 - takes 0.1 s, so invalid settings are reported first

    daemon.run(config, os.environ, reread=lambda: load_settings(arguments, os.environ), state=not arguments.no_state)
    # All is written and released. The interpreter's own end would wait, without a limit, for threads of libraries that hang with a
    # file system or a name server, and would free a large cache object by object.
    os._exit(OK)
