"""Record the ratios that the bench gate compares with: ``python -m tests.bench.record``, on an idle machine."""

import argparse
import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median

import msgspec

from sidecard.cli.bench import picture
from sidecard.cli.bench.rows import Effort, Row, draw
from tests.bench.gate import RECORD_COMMAND, RECORDED, REPETITIONS, Recorded, Recording, Source, is_time


def record(sources: Sequence[Source], effort: Effort, machine: str, show: Callable[[list[Row]], object]) -> Recording:
    """Measure all sources in interleaved repetitions, and return the median of each ratio; ``show`` the rows of the last one."""
    measured: dict[str, list[Row]] = {}
    for repetition in range(REPETITIONS):
        for source in sources:
            print(f"measuring {source.name}, repetition {repetition + 1} ...", flush=True)
            rows = source.measure(effort)
            print(draw(rows), flush=True)
            for row in rows:
                if row.measured is not None and not row.fault and not is_time(row):
                    measured.setdefault(row.what, []).append(row)

    show([rows[-1] for rows in measured.values()])
    ratios = {
        name: Recorded(float(f"{median(row.measured or 0.0 for row in rows):.4g}"), rows[0].at_least)
        for name, rows in sorted(measured.items())
    }
    return Recording(RECORD_COMMAND, machine, ratios)


def machine() -> str:
    """Describe this machine: its processors."""
    model = re.search(r"^model name\s*: (.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    return f"{len(os.sched_getaffinity(0))} x {model[1] if model else os.uname().machine}"


def main() -> None:
    """Measure, and write the recording."""
    parser = argparse.ArgumentParser(
        prog=RECORD_COMMAND,
        description=f"Measures all ratios {REPETITIONS} times on this machine, which should be idle, and writes the medians to "
        f"{RECORDED.name}, with which the bench gate compares.",
    )
    parser.add_argument("--rounds", type=int, default=7, metavar="N", help="rounds of each measurement (7)")
    parser.add_argument("--picture", type=Path, metavar="FILE", help="draw the times of hits to an SVG file")
    parsed = parser.parse_args()

    def show(rows: list[Row]) -> None:
        if parsed.picture is not None:
            parsed.picture.write_text(picture.draw(rows))

    from tests.bench.sources import SOURCES  # noqa: PLC0415 - imports SDKs, which `--help` and tests do not need

    recording = record(SOURCES, Effort(rounds=parsed.rounds), machine(), show)
    RECORDED.write_bytes(msgspec.json.format(msgspec.json.encode(recording)) + b"\n")


if __name__ == "__main__":
    main()
