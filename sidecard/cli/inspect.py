"""The commands that ask a running daemon, from ``ping`` to ``reload``; and ``config``."""

import argparse
import os
import sys
from collections.abc import Callable
from time import perf_counter
from typing import Any, TypeVar, get_args

import msgspec

from sidecard.cli import BAD_CONFIG, FINE, NOT_FINE
from sidecard.cli.asking import UsageError, ask, socket_of, with_exit_code
from sidecard.cli.serve import add_config_arguments, check, config_of, servable
from sidecard.errors import ConfigError
from sidecard_client.protocol import wire

_Answer = TypeVar("_Answer", bound=wire.Reply)


def add_parser(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the commands of this module."""
    _add(commands, "ping", _ping, "tell whether a daemon answers")
    _add(commands, "stats", _stats, "show the daemon's gauges and counters")
    _add(commands, "report", _report, "show rates, savings and spending")
    metrics = _add(commands, "metrics", _metrics, "write all metrics, the apps' too, as scrapers read them")
    metrics.add_argument(
        "--format",
        choices=("text", "openmetrics"),
        default="text",
        help="Prometheus' text (the default), or OpenMetrics, which has exemplars",
    )
    breakers = _add(
        commands,
        "breakers",
        _breakers,
        "show the backends and their breakers, or set one; exit code 1 where one has tripped",
    )
    breakers.add_argument(
        "action",
        nargs="?",
        choices=get_args(wire.BreakerAction),
        help="open: no calls; close: calls again, at once; auto: by itself again; disable: measured, never trips "
        "(all for operators)",
    )
    breakers.add_argument("backend", nargs="?", metavar="BACKEND", help="whose breaker is set")
    purge = _add(commands, "purge", _purge, "remove entries; for operators")
    purge.add_argument("--namespace", metavar="NAME", help="those of a namespace (of every uid, or UID:NAME)")
    purge.add_argument("--tag", metavar="TAG", help="those with a tag")
    purge.add_argument("--task", metavar="NAME", help="those of a task")
    purge.add_argument("--all", action="store_true", help="all there are")

    level = _add(
        commands, "log-level", _log_level, "set what the daemon's log says, until it is set again; for operators"
    )
    level.add_argument("level", choices=get_args(wire.LogLevel), help="debug: each answer is a line")

    _add(commands, "reload", _reload, "let the daemon read its settings again; for operators")
    config = commands.add_parser("config", help="show or check the settings", description="Shows or checks settings.")
    actions = config.add_subparsers(metavar="ACTION", required=True)
    shown = _add(actions, "show", _config_show, "show every setting and where its value came from", settings=True)
    shown.add_argument("--running", action="store_true", help="ask the running daemon instead; for operators")
    _add(actions, "check", _config_check, "tell what is wrong with the settings", settings=True)
    example = actions.add_parser(
        "example",
        help="write a file with every setting, commented out, with its default and what it means",
        description="Writes an annotated settings file: sidecard config example > /etc/sidecard/sidecard.toml",
    )
    example.set_defaults(run=_config_example)


def _add(
    commands: "argparse._SubParsersAction[argparse.ArgumentParser]",
    name: str,
    run: Callable[[argparse.Namespace], int],
    purpose: str,
    *,
    settings: bool = False,
) -> argparse.ArgumentParser:
    parser = commands.add_parser(name, help=purpose, description=f"{purpose[0].upper()}{purpose[1:]}.")
    if settings:
        add_config_arguments(parser)
    else:
        parser.add_argument("--socket", metavar="PATH", help="where the daemon listens")

    parser.add_argument("--json", action="store_true", help="write JSON, for programs")
    parser.set_defaults(run=lambda arguments: with_exit_code(run, arguments))
    return parser


# What is asked -----------------------------------------------------------------------------------------------------
# rich, and what needs it, is imported where a person is to read: a health command runs every few seconds.


def _ping(arguments: argparse.Namespace) -> int:
    began = perf_counter()
    path, pong = _ask(arguments, wire.Ping(id=1), wire.Pong)
    took = perf_counter() - began
    if arguments.json:
        return _write_json(_fields(pong) | {"socket": path, "answered_in_seconds": took})

    from sidecard.cli.tables import seconds  # noqa: PLC0415 - see above

    return _write(
        f"sidecard {pong.version} answered at {path} within {seconds(took)}, up for {seconds(pong.uptime_seconds)}"
    )


def _stats(arguments: argparse.Namespace) -> int:
    _, stats = _ask(arguments, wire.GetStats(id=1), wire.Stats)
    if arguments.json:
        return _write_json(_fields(stats))

    from sidecard.cli import overviews  # noqa: PLC0415 - see above

    return _write(overviews.of_stats(stats))


def _report(arguments: argparse.Namespace) -> int:
    _, report = _ask(arguments, wire.GetReport(id=1), wire.Report)
    if arguments.json:
        return _write_json(_fields(report))

    from sidecard.cli import overviews  # noqa: PLC0415 - see above

    return _write(overviews.of_report(report))


def _metrics(arguments: argparse.Namespace) -> int:
    _, metrics = _ask(arguments, wire.GetMetrics(id=1), wire.Metrics)
    if arguments.json:
        return _write_json(_fields(metrics))

    from sidecard.observe import exposition  # noqa: PLC0415 - see above

    written = exposition.openmetrics if arguments.format == "openmetrics" else exposition.text
    return _write(written(metrics.families).decode().rstrip("\n"))


def _log_level(arguments: argparse.Namespace) -> int:
    _, done = _ask(arguments, wire.SetLog(arguments.level, id=1), wire.Ok)
    if arguments.json:
        return _write_json(_fields(done))

    return _write(f"the log says what is of level {arguments.level} and above")


def _reload(arguments: argparse.Namespace) -> int:
    _, reloaded = _ask(arguments, wire.Reload(id=1), wire.Reloaded)
    if arguments.json:
        _write_json(_fields(reloaded))
    elif reloaded.problems:
        for problem in reloaded.problems:
            sys.stderr.write(f"sidecard: {problem}\n")
    else:
        changes = [
            f"{name} = {msgspec.json.encode(value).decode()}" for name, value in sorted(reloaded.changed.items())
        ]
        _write("\n".join(changes or ["No setting has changed."]))
        if reloaded.needs_restart:
            sys.stderr.write(f"sidecard: these need a restart: {', '.join(reloaded.needs_restart)}\n")

    return BAD_CONFIG if reloaded.problems else FINE


def _breakers(arguments: argparse.Namespace) -> int:
    if arguments.action is not None:
        if arguments.backend is None:
            raise UsageError(f"say whose breaker: sidecard breakers {arguments.action} BACKEND")

        _, done = _ask(arguments, wire.SetBreaker(arguments.backend, arguments.action, id=1), wire.Ok)
        if arguments.json:
            return _write_json(_fields(done))

        return _write(f"{arguments.backend}: {_DONE[arguments.action]}")

    _, breakers = _ask(arguments, wire.GetBreakers(id=1), wire.Breakers)
    # Half-open is not fine either: it means that the backend was not, and nobody knows yet.
    tripped = any(state.state in {"open", "half_open"} for state in breakers.backends.values())
    if arguments.json:
        _write_json(_fields(breakers))
    else:
        from sidecard.cli import overviews  # noqa: PLC0415 - see above

        _write(overviews.of_breakers(breakers))

    return NOT_FINE if tripped else FINE


_DONE = {
    "open": "open until `close` or `auto`; it gets no calls",
    "close": "closed, and what was counted is forgotten",
    "auto": "decides by itself again",
    "disable": "measured, and never trips",
}


def _purge(arguments: argparse.Namespace) -> int:
    chosen = {"namespace": arguments.namespace, "tag": arguments.tag, "task": arguments.task}
    if arguments.all == any(choice is not None for choice in chosen.values()):
        raise UsageError(
            "say which entries: --namespace NAME, --tag TAG, --task NAME or several of these, or else --all"
        )

    _, deleted = _ask(arguments, wire.Purge(id=1, **chosen), wire.Deleted)
    if arguments.json:
        return _write_json(_fields(deleted))

    return _write(f"{deleted.count:,} {'entry' if deleted.count == 1 else 'entries'} removed")


def _config_show(arguments: argparse.Namespace) -> int:
    if arguments.running:
        _, running = _ask(arguments, wire.GetConfig(id=1), wire.Settings)
        settings, origins = running.settings, running.origins
    else:
        config = config_of(arguments, os.environ)
        settings, origins = config.shown(), config.origins

    if arguments.json:
        return _write_json({"settings": settings, "origins": origins})

    from sidecard.cli import overviews  # noqa: PLC0415 - see above

    return _write(overviews.of_settings(settings, origins))


def _config_example(_: argparse.Namespace) -> int:
    from importlib import resources  # noqa: PLC0415 - for this one command

    return _write((resources.files("sidecard") / "example.toml").read_text(encoding="utf-8").rstrip("\n"))


def _config_check(arguments: argparse.Namespace) -> int:
    if not arguments.json:
        return check(arguments)

    try:
        warnings = servable(arguments, os.environ).warnings()
    except ConfigError as error:
        _write_json({"fine": False, "problems": list(error.problems), "warnings": []})
        return BAD_CONFIG

    return _write_json({"fine": True, "problems": [], "warnings": warnings})


# How it is asked, and told ------------------------------------------------------------------------------------------


def _ask(arguments: argparse.Namespace, request: wire.AnyRequest, answer: type[_Answer]) -> tuple[str, _Answer]:
    """Return the socket's path and what the daemon answers. Raises as `ask` does."""
    path = socket_of(arguments)
    return path, ask(path, request, answer)


def _fields(reply: wire.Reply) -> dict[str, Any]:
    """Return a reply's documented fields; ``type`` and ``id`` belong to the conversation."""
    fields: dict[str, Any] = msgspec.to_builtins(reply)
    return {name: value for name, value in fields.items() if name not in {"type", "id"}}


def _write_json(fields: dict[str, Any]) -> int:
    return _write(msgspec.json.format(msgspec.json.encode(fields)).decode())


def _write(text: str) -> int:
    sys.stdout.write(f"{text}\n")
    # Now, and not at exit: `main` knows what to do where the reader went away.
    sys.stdout.flush()
    return FINE
