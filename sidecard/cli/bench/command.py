"""``sidecard bench``: measure ratios to other software on this machine."""

import argparse
from pathlib import Path

import msgspec

from sidecard.cli.arguments import Commands
from sidecard.cli.exit_codes import INTERRUPTED, OK, PROBLEM
from sidecard.cli.output import note, warn, write, write_json


def add_parser(commands: Commands) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "bench",
        help="measure the speed on this machine",
        description="Measure sidecard against redis-py with hiredis and redis-server, cachetools, diskcache, a bare echo over a "
        "Unix socket, prometheus_client, and an empty Python interpreter, in interleaved rounds. Print each ratio with its target. "
        "Exit code 1 if a target is missed.",
    )
    parser.add_argument("--quick", action="store_true", help="few rounds: less precise, in a quarter of the time")
    parser.add_argument("--rounds", type=_rounds, metavar="N", help="rounds of each measurement (7)")
    parser.add_argument("--json", action="store_true", help="write JSON")
    parser.add_argument("--picture", type=Path, metavar="FILE", help="draw the times of hits to an SVG file")
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> int:
    from sidecard.cli.bench.parts import PARTS  # noqa: PLC0415 - `sidecard --help` imports this module
    from sidecard.cli.bench.rows import QUICK, Effort, draw  # noqa: PLC0415 - as above

    effort = QUICK if arguments.quick else Effort()
    rounds = arguments.rounds or effort.rounds
    effort = msgspec.structs.replace(effort, rounds=rounds)
    rows = []
    try:
        for part in PARTS:
            note(f"measuring {part.name} ...")
            rows += part.measure(effort)
    except KeyboardInterrupt:
        warn("interrupted; all processes of the bench have ended")
        return INTERRUPTED

    if arguments.picture is not None:
        from sidecard.cli.bench import picture  # noqa: PLC0415 - as above

        arguments.picture.write_text(picture.draw(rows))

    if arguments.json:
        write_json({"rounds": rounds, "rows": [msgspec.to_builtins(row) | {"verdict": row.verdict} for row in rows]})
    else:
        write(draw(rows))

    return PROBLEM if any(row.verdict == "missed" for row in rows) else OK


def _rounds(text: str) -> int:
    rounds = int(text)
    if rounds < 1:
        raise argparse.ArgumentTypeError("must be 1 or more")

    return rounds
