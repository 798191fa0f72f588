"""``sidecard bench``: how fast it is here, as ratios to other software doing the same work."""

import argparse
import sys
from typing import TYPE_CHECKING

from sidecard.cli import FINE, NOT_FINE, USAGE
from sidecard.errors import SidecardError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from sidecard.cli.bench.hosts import Hosts
    from sidecard.cli.bench.rows import Effort, Row

INTERRUPTED = 130
"""As shells have it: 128 and the number of SIGINT."""


def add_parser(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command."""
    parser = commands.add_parser(
        "bench",
        help="measure the speed on this machine",
        description="Measures this machine's ratios to Redis over redis-py, to a bare echo, and to an empty interpreter, "
        "in interleaved rounds. Exit code 1 where a target is missed.",
    )
    parser.add_argument("--quick", action="store_true", help="few rounds: a first impression, in a quarter of the time")
    parser.add_argument("--full", action="store_true", help="also 1,000,000 entries and churn, which take minutes")
    parser.add_argument(
        "--cost",
        action="store_true",
        help="instead, what a mixed workload costs: always remote, with sidecard, and at least",
    )
    parser.add_argument(
        "--eviction",
        nargs="*",
        metavar="TRACE",
        help="instead, how good eviction is, beside libraries, in minutes: on a workload that is made here, and on traces in files "
        "(JSON lines as Mooncake's, or CSV with a column key, obj_id or lbn, and perhaps bytes and dollars; also .gz)",
    )
    parser.add_argument("--picture", metavar="FILE", help="with --eviction: draw what was found, as SVG")
    parser.add_argument("--rounds", type=_rounds, metavar="N", help="rounds of each measurement (7)")
    parser.add_argument("--json", action="store_true", help="write JSON, for programs")
    parser.set_defaults(run=_run)


def measure(effort: "Effort") -> "list[Row]":
    """Measure everything that ``effort`` asks for, and say on standard error what is being measured."""
    from sidecard.cli.bench import compression as bench_compression  # noqa: PLC0415 - see `_run`
    from sidecard.cli.bench import crowd as bench_crowd  # noqa: PLC0415 - see `_run`
    from sidecard.cli.bench import daemon as bench_daemon  # noqa: PLC0415 - see `_run`
    from sidecard.cli.bench import metrics as bench_metrics  # noqa: PLC0415 - see `_run`
    from sidecard.cli.bench import single as bench_single  # noqa: PLC0415 - see `_run`
    from sidecard.cli.bench import stores as bench_stores  # noqa: PLC0415 - see `_run`

    parts = [
        bench_single.hits_and_misses,
        bench_crowd.rates,
        bench_crowd.waiters,
        bench_single.idle_peers,
        bench_stores.stores,
        bench_metrics.metrics,
        bench_compression.compression,
        bench_daemon.memory,
        bench_daemon.starts,
    ]
    if effort.full:
        parts += [bench_daemon.many_entries, bench_daemon.churn]

    rows = []
    for part in parts:
        # Servers of its own for each part: what one left behind must not slow the next.
        with hosts_of(part) as hosts:
            sys.stderr.write(f"measuring {part.__name__.replace('_', ' ')} ...\n")
            rows += part(hosts, effort)

    return rows


def hosts_of(part: "Callable[[Hosts, Effort], list[Row]]") -> "Hosts":
    """Return the servers that a part of the bench measures, not yet started."""
    from sidecard.cli.bench import compression as bench_compression  # noqa: PLC0415 - see `_run`
    from sidecard.cli.bench import daemon as bench_daemon  # noqa: PLC0415 - see `_run`
    from sidecard.cli.bench import metrics as bench_metrics  # noqa: PLC0415 - see `_run`
    from sidecard.cli.bench import single as bench_single  # noqa: PLC0415 - see `_run`
    from sidecard.cli.bench import stores as bench_stores  # noqa: PLC0415 - see `_run`
    from sidecard.cli.bench.hosts import Hosts  # noqa: PLC0415 - see `_run`

    of_one_caller = {
        bench_single.hits_and_misses,
        bench_single.idle_peers,
        bench_stores.stores,
        bench_metrics.metrics,
        bench_compression.compression,
        bench_daemon.many_entries,
    }
    return Hosts(one_cpu=part in of_one_caller)


def _run(arguments: argparse.Namespace) -> int:
    # Here and not above: `sidecard --help` imports this module.
    import msgspec  # noqa: PLC0415 - see above

    from sidecard.cli.bench.rows import QUICK, Effort, draw  # noqa: PLC0415 - see above

    if arguments.picture and arguments.eviction is None:
        sys.stderr.write("sidecard: --picture is of what --eviction finds: give both\n")
        return USAGE

    if arguments.cost:
        return _run_cost(as_json=arguments.json)

    if arguments.eviction is not None:
        return _run_eviction(arguments.eviction, arguments.picture, as_json=arguments.json)

    effort = QUICK if arguments.quick else Effort()
    rounds = arguments.rounds or effort.rounds
    try:
        rows = measure(msgspec.structs.replace(effort, rounds=rounds, full=arguments.full))
    except KeyboardInterrupt:
        sys.stderr.write("sidecard: interrupted; all processes of the bench have ended\n")
        return INTERRUPTED

    if arguments.json:
        described = [msgspec.to_builtins(row) | {"verdict": row.verdict} for row in rows]
        text = msgspec.json.format(msgspec.json.encode({"rounds": rounds, "rows": described})).decode()
    else:
        text = draw(rows)

    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()
    return NOT_FINE if any(row.verdict == "missed" for row in rows) else FINE


def _run_cost(*, as_json: bool) -> int:
    import msgspec  # noqa: PLC0415 - see `_run`

    from sidecard.cli.bench import cost as bench_cost  # noqa: PLC0415 - see `_run`

    sys.stderr.write("serving one workload in three ways ...\n")
    try:
        ways = bench_cost.measure(bench_cost.workload())
    except KeyboardInterrupt:
        sys.stderr.write("sidecard: interrupted; all processes of the bench have ended\n")
        return INTERRUPTED

    text = msgspec.json.format(msgspec.json.encode(ways)).decode() if as_json else bench_cost.draw(ways)
    sys.stdout.write(f"{text}\n")
    return FINE


def _run_eviction(traces: "Sequence[str]", picture: str | None, *, as_json: bool) -> int:
    from pathlib import Path  # noqa: PLC0415 - see `_run`

    import msgspec  # noqa: PLC0415 - see `_run`

    from sidecard.cli.bench import eviction as bench_eviction  # noqa: PLC0415 - see `_run`
    from sidecard.cli.bench import eviction_picture as bench_eviction_picture  # noqa: PLC0415 - see `_run`
    from sidecard.cli.bench import eviction_traces as bench_eviction_traces  # noqa: PLC0415 - see `_run`
    from sidecard.cli.bench.rows import INSTALL  # noqa: PLC0415 - see `_run`

    try:
        policies = bench_eviction.peers()
    except ImportError as error:
        raise SidecardError(f"The bench of eviction compares with {error.name}: {INSTALL}") from error

    workloads = [bench_eviction_traces.made()]
    for trace in traces:
        workloads += bench_eviction_traces.read(Path(trace))

    try:
        found = bench_eviction.measure(
            workloads, policies, say=lambda what: sys.stderr.write(f"measuring {what} ...\n")
        )
    except KeyboardInterrupt:
        sys.stderr.write("sidecard: interrupted\n")
        return INTERRUPTED

    if picture:
        try:
            Path(picture).write_text(bench_eviction_picture.picture(found), encoding="utf-8")
        except OSError as error:
            raise SidecardError(f"The picture cannot be written: {error}") from error

    missed = bench_eviction.missed(found)
    if as_json:
        text = msgspec.json.format(msgspec.json.encode({"found": found, "missed": missed})).decode()
    else:
        text = "\n".join([bench_eviction.draw(found), *(f"missed: {sentence}" for sentence in missed)])

    sys.stdout.write(f"{text}\n")
    return NOT_FINE if missed else FINE


def _rounds(text: str) -> int:
    rounds = int(text)
    if rounds < 1:
        raise argparse.ArgumentTypeError("must be 1 or more")

    return rounds
