"""Commands that send one request to a running daemon: ``ping``, ``metrics``, ``purge``, ``log-level``, ``reload``."""

import argparse
from time import perf_counter
from typing import get_args

import msgspec

from sidecard.cli.arguments import Commands, add_command
from sidecard.cli.exit_codes import BAD_CONFIG, OK, UsageError
from sidecard.cli.output import Verbatim, fields_of, warn, write, write_json, write_reply
from sidecard.cli.query import query, socket_of
from sidecard.cli.text.numbers import plural, seconds
from sidecard.printable import printable_exposition
from sidecard_client.protocol import wire


def add_parser(commands: Commands) -> None:
    """Add the commands."""
    add_command(commands, "ping", _ping, "check whether a daemon answers")
    metrics = add_command(commands, "metrics", _metrics, "write all metrics, including the apps', in a scrape format")
    metrics.add_argument(
        "--format",
        choices=("text", "openmetrics"),
        default="text",
        help="Prometheus text (default), or OpenMetrics, which includes exemplars",
    )
    purge = add_command(commands, "purge", _purge, "remove entries (operators only)")
    purge.add_argument("--namespace", metavar="NAME", help="entries of a namespace (of all uids, or UID:NAME)")
    purge.add_argument("--tag", metavar="TAG", help="entries with a tag")
    purge.add_argument("--task", metavar="NAME", help="entries of a task")
    purge.add_argument("--all", action="store_true", help="all entries")
    level = add_command(commands, "log-level", _log_level, "set the daemon's log level (operators only)")
    level.add_argument("level", choices=get_args(wire.LogLevel), help="debug logs one line per reply")
    add_command(commands, "reload", _reload, "make the daemon reload its settings (operators only)")


def _ping(arguments: argparse.Namespace) -> int:
    path = socket_of(arguments)
    began = perf_counter()
    pong = query(path, wire.Ping(id=1), wire.Pong)
    took = perf_counter() - began
    if arguments.json:
        write_json(fields_of(pong) | {"socket": path, "answered_in_seconds": took})
    else:
        write(
            f"sidecard {pong.version} answered at {path} within {seconds(took)}, up for {seconds(pong.uptime_seconds)}"
        )

    return OK


def _metrics(arguments: argparse.Namespace) -> int:
    metrics = query(socket_of(arguments), wire.GetMetrics(id=1), wire.Metrics)

    def exposition() -> str:
        """Return a format for programs that is safe for a terminal too: people pipe it into `grep`."""
        from sidecard.observe.exposition import OPENMETRICS, TEXT  # noqa: PLC0415 - imports prometheus_client

        form = OPENMETRICS if arguments.format == "openmetrics" else TEXT
        return Verbatim(printable_exposition(form.text(metrics.families).decode().rstrip("\n")))

    write_reply(metrics, exposition, as_json=arguments.json)
    return OK


def _purge(arguments: argparse.Namespace) -> int:
    chosen = {"namespace": arguments.namespace, "tag": arguments.tag, "task": arguments.task}
    if arguments.all == any(choice is not None for choice in chosen.values()):
        raise UsageError("choose entries: --namespace NAME, --tag TAG, --task NAME or several of these, or else --all")

    deleted = query(socket_of(arguments), wire.Purge(id=1, **chosen), wire.Deleted)
    rest = "; the others are hidden, and being removed" if deleted.in_progress else ""
    write_reply(deleted, lambda: f"{plural(deleted.count, 'entry', 'entries')} removed{rest}", as_json=arguments.json)
    if arguments.task is not None and not deleted.count:
        _advise_on_task(arguments)

    return OK


def _advise_on_task(arguments: argparse.Namespace) -> None:
    """Warn if the daemon knows no calls of a task, whose name may be misspelled."""
    known = query(socket_of(arguments), wire.GetReport(id=1), wire.Report).tasks
    if arguments.task not in known:
        from sidecard.nearest import advice  # noqa: PLC0415 - for mistakes only

        warn(f"there has been no call of a task {arguments.task!r}; {advice(arguments.task, known)}")


def _log_level(arguments: argparse.Namespace) -> int:
    done = query(socket_of(arguments), wire.SetLog(arguments.level, id=1), wire.Ok)
    write_reply(done, lambda: f"log level set to {arguments.level}", as_json=arguments.json)
    return OK


def _reload(arguments: argparse.Namespace) -> int:
    reloaded = query(socket_of(arguments), wire.Reload(id=1), wire.Reloaded)
    if arguments.json:
        write_json(fields_of(reloaded))
    elif reloaded.problems:
        for problem in reloaded.problems:
            warn(problem)
    else:
        changes = [
            f"{name} = {msgspec.json.encode(value).decode()}" for name, value in sorted(reloaded.changed.items())
        ]
        write("\n".join(changes or ["No setting has changed."]))
        if reloaded.needs_restart:
            warn(f"settings that need a restart: {', '.join(reloaded.needs_restart)}")

    return BAD_CONFIG if reloaded.problems else OK
