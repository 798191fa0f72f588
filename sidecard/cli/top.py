"""``sidecard top``: the daemon as it works, refreshed each second."""

import argparse
import contextlib
import os
import select
import sys
import termios
import tty
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from time import monotonic, sleep
from typing import TYPE_CHECKING

import msgspec

from sidecard.cli import FINE
from sidecard.cli.asking import ask, socket_of, with_exit_code
from sidecard.cli.charts import marks_of
from sidecard.cli.tables import PIPE_COLUMNS, seconds
from sidecard_client import DaemonUnavailable, RequestRefused
from sidecard_client.protocol import wire

if TYPE_CHECKING:
    from rich.console import RenderableType

    from sidecard.cli.top_views import Look

Pressed = Callable[[float], bool]
"""Waits so many seconds, and tells whether to quit."""

INTERVAL_SECONDS = 1.0
TRAIL_LOOKS = 600
"""Ten minutes of them; a terminal shows what fits."""

ALL_LINES = 10_000

ANSWER_SECONDS = 1.0
"""How long a look may take: whoever watches wants to be told that there is no answer."""


def add_parser(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command."""
    parser = commands.add_parser(
        "top",
        help="watch the daemon work",
        description="Shows rates, savings, backends, budgets and tasks, again and again. q or Ctrl-C ends it.",
    )
    parser.add_argument("--socket", metavar="PATH", help="where the daemon listens")
    parser.add_argument(
        "--interval",
        type=_interval,
        default=INTERVAL_SECONDS,
        metavar="SECONDS",
        help="between two looks (1), over which rates are",
    )
    parser.add_argument(
        "--once", action="store_true", help="show one picture; the way where standard output is no terminal"
    )
    parser.add_argument("--json", action="store_true", help="write a line of JSON for each look, for programs")
    parser.set_defaults(run=lambda arguments: with_exit_code(_run, arguments))


def _interval(text: str) -> float:
    try:
        interval_seconds = float(text)
    except ValueError:
        interval_seconds = 0.0

    if not 0.1 <= interval_seconds <= 3600:  # noqa: PLR2004 - said in the error
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds from 0.1 to 3600")

    return interval_seconds


def _run(arguments: argparse.Namespace) -> int:
    path = socket_of(arguments)
    first = _look(path)
    with contextlib.suppress(KeyboardInterrupt):
        if arguments.json:
            _write_json(path, first, arguments)
        elif arguments.once or not sys.stdout.isatty():
            _write_once(path, first, arguments.interval)
        else:
            _watch(path, first, arguments.interval)

    return FINE


def _look(path: str) -> "Look":
    """Ask for all there is to see. Raises `DaemonUnavailable` and `RequestRefused`."""
    from sidecard.cli.top_views import Look  # noqa: PLC0415 - `sidecard --help` imports this module

    return Look(
        monotonic(),
        ask(path, wire.GetStats(id=1), wire.Stats, ANSWER_SECONDS),
        ask(path, wire.GetReport(id=1), wire.Report, ANSWER_SECONDS),
        ask(path, wire.GetBreakers(id=1), wire.Breakers, ANSWER_SECONDS),
    )


def _write_json(path: str, look: "Look", arguments: argparse.Namespace) -> None:
    from sidecard.cli.top_views import rates_of  # noqa: PLC0415 - as above

    before = None
    while True:
        fields = {
            name: {key: value for key, value in msgspec.to_builtins(reply).items() if key not in {"type", "id"}}
            for name, reply in (("stats", look.stats), ("report", look.report), ("breakers", look.breakers))
        }
        told = {"per_second": msgspec.to_builtins(rates_of(before, look))} | fields
        sys.stdout.write(msgspec.json.encode(told).decode() + "\n")
        sys.stdout.flush()
        if arguments.once:
            return

        sleep(arguments.interval)
        with contextlib.suppress(DaemonUnavailable, RequestRefused):
            before, look = look, _look(path)


def _write_once(path: str, first: "Look", interval_seconds: float) -> None:
    from sidecard.cli.tables import drawn  # noqa: PLC0415 - as above
    from sidecard.cli.top_views import lines, rates_of  # noqa: PLC0415 - as above

    sleep(interval_seconds)
    look, before = first, None
    with contextlib.suppress(DaemonUnavailable, RequestRefused):
        look, before = _look(path), first

    told = lines(look, rates_of(before, look), (), PIPE_COLUMNS, ALL_LINES, marks_of(sys.stdout.encoding))
    sys.stdout.write(drawn(_below(told)) + "\n")
    sys.stdout.flush()


def _below(told: "Sequence[RenderableType]") -> "RenderableType":
    from rich.console import Group  # noqa: PLC0415 - as above

    return Group(*told)


def _watch(path: str, look: "Look", interval_seconds: float) -> None:
    """Show looks on the whole terminal, which is as before at the end, until q is pressed. Raises `KeyboardInterrupt`."""
    from rich.live import Live  # noqa: PLC0415 - as above

    from sidecard.cli.top_views import lines, rates_of  # noqa: PLC0415 - as above

    marks = marks_of(sys.stdout.encoding)
    trail: deque[float] = deque(maxlen=TRAIL_LOOKS)
    before = None
    silence = ""
    with Live(screen=True, auto_refresh=False) as live, _keys() as pressed:
        while True:
            rates = rates_of(before, look)
            if before is not None and not silence:
                trail.append(rates.calls)

            # Asked for each time: a terminal may have another size now.
            told = lines(look, rates, tuple(trail), live.console.width, live.console.height, marks, silence)
            live.update(_below(told), refresh=True)
            if pressed(interval_seconds):
                return

            try:
                before, look, silence = look, _look(path), ""
            except (DaemonUnavailable, RequestRefused):
                silence = f"DAEMON DOES NOT ANSWER, since {seconds(max(1.0, monotonic() - look.at_seconds))}"


@contextmanager
def _keys() -> "Iterator[Pressed]":
    """Let keys be read as they are pressed, where there is a keyboard; yield what waits, and tells whether to quit."""
    if not sys.stdin.isatty():
        yield _pass_time
        return

    keyboard = sys.stdin.fileno()
    before = termios.tcgetattr(keyboard)
    tty.setcbreak(keyboard)
    try:
        yield lambda wait_seconds: _quits(keyboard, wait_seconds)
    finally:
        termios.tcsetattr(keyboard, termios.TCSADRAIN, before)


def _pass_time(wait_seconds: float) -> bool:
    sleep(wait_seconds)
    return False


def _quits(keyboard: int, wait_seconds: float) -> bool:
    deadline = monotonic() + wait_seconds
    while (left := deadline - monotonic()) > 0:
        readable, _, _ = select.select([keyboard], [], [], left)
        if readable and _is_quit(os.read(keyboard, 64)):
            return True

    return False


def _is_quit(keys: bytes) -> bool:
    """Tell whether q is among the keys, or the terminal is gone."""
    return not keys or b"q" in keys.lower()
