"""The command line of benches that consist of parts."""

import argparse

from sidecard.cli.bench.parts import Part
from sidecard.cli.bench.rows import Effort, draw


def run_parts(module: str, description: str, *parts: Part) -> None:
    """Measure some parts and print their rows."""
    parser = argparse.ArgumentParser(prog=f"python -m tests.bench.{module}", description=description)
    parser.add_argument("--rounds", type=int, default=7, metavar="N", help="rounds of each measurement (7)")
    effort = Effort(rounds=parser.parse_args().rounds)
    print(draw([row for part in parts for row in part.measure(effort)]))
