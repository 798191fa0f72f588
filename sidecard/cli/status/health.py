"""``sidecard health``: the daemon's problems, for hosts without HTTP."""

import argparse
from time import monotonic, sleep

from sidecard.cli.arguments import Commands, add_command
from sidecard.cli.exit_codes import OK, PROBLEM
from sidecard.cli.output import fields_of, write, write_json
from sidecard.cli.query import query, socket_of
from sidecard.cli.text.numbers import plural, seconds
from sidecard.printable import printable
from sidecard_client import DaemonUnavailable
from sidecard_client.protocol import wire

MAX_WAIT_SECONDS = 3600.0
RETRY_SECONDS = 0.2


def add_parser(commands: Commands) -> None:
    """Add the command."""
    parser = add_command(commands, "health", _run, "list the daemon's problems; exit code 1 if there is one")
    parser.add_argument(
        "--wait",
        type=_wait_seconds,
        default=0.0,
        metavar="SECONDS",
        help="wait until a daemon answers and has no problem, at most this long (0)",
    )


def _wait_seconds(text: str) -> float:
    try:
        wait_seconds = float(text)
    except ValueError:
        wait_seconds = -1.0

    if not 0 <= wait_seconds <= MAX_WAIT_SECONDS:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds from 0 to {MAX_WAIT_SECONDS:g}")

    return wait_seconds


def _run(arguments: argparse.Namespace) -> int:
    path = socket_of(arguments)
    health = _wait_for_health(path, monotonic() + arguments.wait)
    if arguments.json:
        write_json({"fine": not health.reasons} | fields_of(health))
    else:
        write(health_text(health, path))

    return PROBLEM if health.reasons else OK


def _wait_for_health(path: str, deadline: float) -> wire.Health:
    """Return the first reply without a problem, or the last one before the deadline. Raises `DaemonUnavailable`."""
    while True:
        late = monotonic() >= deadline
        try:
            health = query(path, wire.GetHealth(id=1), wire.Health)
        except DaemonUnavailable:
            if late:
                raise
        else:
            if late or not health.reasons:
                return health

        sleep(RETRY_SECONDS)


def health_text(health: wire.Health, path: str) -> str:
    """Return the problems, one per line, or that there is none."""
    daemon = f"sidecard {health.version} at {path}, up for {seconds(health.uptime_seconds)}"
    if not health.reasons:
        return f"{daemon}: no problems"

    problems = (f"- {printable(reason)}" for reason in health.reasons)
    return "\n".join([f"{daemon}: {plural(len(health.reasons), 'problem', 'problems')}", *problems])
