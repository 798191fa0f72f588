"""Fail if a ratio is clearly worse than the recorded one: ``python -m tests.bench.gate``, CI's bench step.

A ratio fails if it is more than 25 % worse than the recorded value in each of three repetitions. Noise makes single
measurements worse, but rarely three that are minutes apart: a repetition measures all remaining sources before the next one
begins. A source is measured again only while one of its ratios has been worse in every repetition so far.

A time is no ratio: it differs between machines by more than 25 %. It is not recorded, and fails if it misses its target.
"""

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Protocol

import msgspec
from msgspec import Struct

from sidecard.cli.bench.rows import Effort, Row, draw

RECORDED = Path(__file__).with_name("recorded.json")
RECORD_COMMAND = "python -m tests.bench.record"
REPETITIONS = 3
TOLERANCE = 0.25


class Source(Protocol):
    """A set of measurements; `sidecard.cli.bench.parts.Part` is one."""

    @property
    def name(self) -> str:
        """The name, for progress lines."""

    def measure(self, effort: Effort) -> list[Row]:
        """Return the rows of one repetition."""


class Recorded(Struct, frozen=True):
    """A recorded value; ``at_least`` if larger values are better."""

    value: float
    at_least: bool = False


class Recording(Struct, frozen=True):
    """The content of ``recorded.json``."""

    command: str
    """How to record again."""
    machine: str
    ratios: dict[str, Recorded]


def read_recording(path: Path = RECORDED) -> Recording:
    """Read the recorded ratios."""
    return msgspec.json.decode(path.read_bytes(), type=Recording)


def is_time(row: Row) -> bool:
    """Return whether a row is a time instead of a ratio or a size: no other machine can be compared by it."""
    return row.unit == "s"


def is_worse(row: Row, recorded: Recorded | None) -> bool:
    """Return whether a row is incorrect, a time above its target, or more than `TOLERANCE` worse than the recorded value."""
    if row.measured is None:
        return False

    if row.fault or is_time(row):
        return row.verdict == "missed"

    if recorded is None:
        return False

    if recorded.at_least:
        return row.measured < recorded.value * (1 - TOLERANCE)

    return row.measured > recorded.value * (1 + TOLERANCE)


def check(
    sources: Sequence[Source],
    recorded: Mapping[str, Recorded],
    effort: Effort,
    report: Callable[[str], object] = lambda _: None,
) -> list[str]:
    """Return one sentence per failure: ratios that are worse in all repetitions, and recorded ratios that have disappeared."""
    worse: dict[str, list[float | None]] = {}
    """Measured values of the ratios that were worse in every repetition so far."""
    seen: set[str] = set()
    remaining = list(sources)
    for repetition in range(REPETITIONS):
        suspicious = []
        for source in remaining:
            report(f"measuring {source.name}, repetition {repetition + 1} ...")
            rows = source.measure(effort)
            report(draw(rows))
            seen |= {row.what for row in rows}
            for row in rows:
                known = recorded.get(row.what)
                if known is None and not is_time(row):
                    report(f"not recorded: {row.what}; record it with `{RECORD_COMMAND}`")
                elif not is_worse(row, known):
                    worse.pop(row.what, None)
                elif repetition == 0 or row.what in worse:
                    worse.setdefault(row.what, []).append(row.measured)

            if any(row.what in worse for row in rows):
                suspicious.append(source)

        remaining = suspicious

    disappeared = [f"{name}: recorded, but no longer measured" for name in recorded if name not in seen]
    return disappeared + [_sentence(name, values, recorded.get(name)) for name, values in worse.items()]


def _sentence(name: str, values: Sequence[float | None], recorded: Recorded | None) -> str:
    measured = ", ".join("-" if value is None else f"{value:.4g}" for value in values)
    bound = "above its target" if recorded is None else f"recorded {recorded.value:.4g}"
    return f"{name}: {measured} in {len(values)} repetitions; {bound}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure all sources, print the tables, and return 1 if a ratio fails."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.bench.gate",
        description=f"Measures all ratios and compares them with {RECORDED.name}. Exit code 1 if a ratio is more than "
        f"{TOLERANCE:.0%} worse in all of {REPETITIONS} repetitions. Record new values with `{RECORD_COMMAND}`.",
    )
    parser.add_argument("--rounds", type=int, default=5, metavar="N", help="rounds of each measurement (5)")
    parsed = parser.parse_args(arguments)
    from tests.bench.sources import SOURCES  # noqa: PLC0415 - imports SDKs, which `--help` and tests do not need

    effort = Effort(rounds=parsed.rounds)
    failures = check(SOURCES, read_recording().ratios, effort, lambda text: print(text, flush=True))
    for failure in failures:
        print(f"WORSE: {failure}", file=sys.stderr)

    return 1 if failures else 0


if __name__ == "__main__":
    raise SystemExit(main())
