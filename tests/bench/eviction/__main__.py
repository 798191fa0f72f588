"""``python -m tests.bench.eviction [TRACE...]``: how good eviction is, compared with libraries and published policies."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import msgspec

from sidecard.errors import SidecardError
from tests.bench.eviction import comparison, picture, traces


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print the tables, and return 1 if a library beats ours by more than the tolerance."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.bench.eviction",
        description="Compares eviction policies on a generated workload and on TRACE files. Takes minutes. "
        "Exit code 1 if a library beats sidecard by more than the tolerance.",
    )
    parser.add_argument(
        "traces",
        nargs="*",
        type=Path,
        metavar="TRACE",
        help="JSON lines in Mooncake's format, or CSV with a column key, obj_id or lbn and optionally bytes and dollars; "
        "also .gz",
    )
    parser.add_argument("--picture", type=Path, metavar="FILE", help="write the results as SVG")
    parser.add_argument("--json", action="store_true", help="write JSON")
    parsed = parser.parse_args(arguments)
    try:
        workloads = [traces.generate(), *(workload for path in parsed.traces for workload in traces.read(path))]
        results = comparison.measure(
            workloads,
            comparison.all_policies(),
            report_progress=lambda what: print(f"measuring {what}", file=sys.stderr),
        )
    except SidecardError as error:
        print(error, file=sys.stderr)
        return 1

    if parsed.picture:
        parsed.picture.write_text(picture.draw(results), encoding="utf-8")

    missed = comparison.missed(results)
    if parsed.json:
        print(msgspec.json.format(msgspec.json.encode({"results": results, "missed": missed})).decode())
    else:
        print(comparison.draw(results), *(f"missed: {sentence}" for sentence in missed), sep="\n")

    return 1 if missed else 0


if __name__ == "__main__":
    raise SystemExit(main())
