"""``sidecard top``: a live view of the daemon."""

import argparse
import contextlib
import os
import select
import sys
import termios
import tty
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import monotonic, sleep
from typing import TYPE_CHECKING

import msgspec

from sidecard.cli.arguments import Commands, add_command
from sidecard.cli.exit_codes import OK
from sidecard.cli.output import fields_of, write, write_json_line
from sidecard.cli.query import query, socket_of
from sidecard.cli.text.charts import symbols_for
from sidecard.cli.text.numbers import seconds
from sidecard.cli.text.tables import PIPE_COLUMNS, render
from sidecard_client import DaemonUnavailable, RequestRefused
from sidecard_client.protocol import wire

if TYPE_CHECKING:
    from sidecard.cli.status.top_view import Snapshot

WaitForQuit = Callable[[float], bool]
"""Waits for a number of seconds; returns whether the user wants to quit."""

INTERVAL_SECONDS = 1.0
HISTORY_SNAPSHOTS = 600
"""Ten minutes at the default interval; a terminal shows as many as fit."""

ALL_LINES = 10_000

REPLY_SECONDS = 1.0
"""Time limit for a reply: short, so that the view reports a silent daemon soon."""


def add_parser(commands: Commands) -> None:
    """Add the command."""
    parser = add_command(
        commands, "top", _run, "show rates, savings, backends, budgets and tasks, refreshed until q or Ctrl-C"
    )
    parser.add_argument(
        "--interval",
        type=_interval,
        default=INTERVAL_SECONDS,
        metavar="SECONDS",
        help="time between refreshes, over which rates are computed (1); with --json, one line each",
    )
    parser.add_argument(
        "--once", action="store_true", help="show one snapshot; the default if standard output is not a terminal"
    )


def _interval(text: str) -> float:
    try:
        interval_seconds = float(text)
    except ValueError:
        interval_seconds = 0.0

    if not 0.1 <= interval_seconds <= 3600:  # noqa: PLR2004 - stated in the error
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds from 0.1 to 3600")

    return interval_seconds


def _run(arguments: argparse.Namespace) -> int:
    path = socket_of(arguments)
    first = _snapshot(path)
    with contextlib.suppress(KeyboardInterrupt):
        if arguments.json:
            _write_json(path, first, arguments)
        elif arguments.once or not sys.stdout.isatty():
            _write_once(path, first, arguments.interval)
        else:
            _show(path, first, arguments.interval)

    return OK


def _snapshot(path: str) -> "Snapshot":
    """Query the daemon's state. Raises `DaemonUnavailable` and `RequestRefused`."""
    from sidecard.cli.status.top_view import Snapshot  # noqa: PLC0415 - `sidecard --help` imports this module

    return Snapshot(
        monotonic(),
        query(path, wire.GetStats(id=1), wire.Stats, REPLY_SECONDS),
        query(path, wire.GetReport(id=1), wire.Report, REPLY_SECONDS),
        query(path, wire.GetBreakers(id=1), wire.Breakers, REPLY_SECONDS),
    )


def _write_json(path: str, now: "Snapshot", arguments: argparse.Namespace) -> None:
    from sidecard.cli.status.top_view import rates_between  # noqa: PLC0415 - as above

    before = None
    while True:
        replies = {"stats": now.stats, "report": now.report, "breakers": now.breakers}
        fields = {"per_second": msgspec.to_builtins(rates_between(before, now))}
        fields |= {name: fields_of(reply) for name, reply in replies.items()}
        write_json_line(fields)
        if arguments.once:
            return

        sleep(arguments.interval)
        with contextlib.suppress(DaemonUnavailable, RequestRefused):
            before, now = now, _snapshot(path)


def _write_once(path: str, first: "Snapshot", interval_seconds: float) -> None:
    from rich.console import Group  # noqa: PLC0415 - as above

    from sidecard.cli.status.top_view import lines, rates_between  # noqa: PLC0415 - as above

    sleep(interval_seconds)
    now, before = first, None
    with contextlib.suppress(DaemonUnavailable, RequestRefused):
        now, before = _snapshot(path), first

    symbols = symbols_for(sys.stdout.encoding)
    write(render(Group(*lines(now, rates_between(before, now), (), PIPE_COLUMNS, ALL_LINES, symbols))))


def _show(path: str, now: "Snapshot", interval_seconds: float) -> None:
    """Refresh the view on the whole terminal until q is pressed, then restore the terminal. Raises `KeyboardInterrupt`."""
    from rich.console import Group  # noqa: PLC0415 - as above
    from rich.live import Live  # noqa: PLC0415 - as above

    from sidecard.cli.status.top_view import lines, rates_between  # noqa: PLC0415 - as above

    symbols = symbols_for(sys.stdout.encoding)
    history: deque[float] = deque(maxlen=HISTORY_SNAPSHOTS)
    before = None
    silence = ""
    with Live(screen=True, auto_refresh=False) as live, _keyboard() as wait_for_quit:
        while True:
            rates = rates_between(before, now)
            if before is not None and not silence:
                history.append(rates.calls)

            # The size is read each time: the user may resize the terminal.
            width, height = live.console.size
            shown = lines(now, rates, tuple(history), width, height, symbols, silence)
            live.update(Group(*shown), refresh=True)
            if wait_for_quit(interval_seconds):
                return

            try:
                before, now, silence = now, _snapshot(path), ""
            except (DaemonUnavailable, RequestRefused):
                silence = f"DAEMON DOES NOT ANSWER, since {seconds(max(1.0, monotonic() - now.at_seconds))}"


@contextmanager
def _keyboard() -> Iterator[WaitForQuit]:
    """Read single key presses if standard input is a terminal; yield a function that waits for q."""
    if not sys.stdin.isatty():
        yield _pause
        return

    keyboard = sys.stdin.fileno()
    before = termios.tcgetattr(keyboard)
    tty.setcbreak(keyboard)
    try:
        yield lambda wait_seconds: _quits(keyboard, wait_seconds)
    finally:
        termios.tcsetattr(keyboard, termios.TCSADRAIN, before)


def _pause(wait_seconds: float) -> bool:
    sleep(wait_seconds)
    return False


def _quits(keyboard: int, wait_seconds: float) -> bool:
    """Return whether q is pressed, or the terminal closes, within ``wait_seconds``."""
    deadline = monotonic() + wait_seconds
    while (left := deadline - monotonic()) > 0:
        readable, _, _ = select.select([keyboard], [], [], left)
        if readable and (not (keys := os.read(keyboard, 64)) or b"q" in keys.lower()):
            return True

    return False
