"""``sidecard config``: show, check and document the settings."""

import argparse
import os
from collections.abc import Mapping
from importlib import resources
from typing import Any

from sidecard.cli.arguments import Commands, add_command, load_settings
from sidecard.cli.exit_codes import BAD_CONFIG, OK
from sidecard.cli.output import write, write_json
from sidecard.cli.query import query, socket_of
from sidecard.cli.serve import check, load_servable, planned_state
from sidecard.errors import ConfigError
from sidecard_client.protocol import wire


def add_parser(commands: Commands) -> None:
    """Add the command."""
    config = commands.add_parser("config", help="show or check the settings", description="Show or check the settings.")
    actions = config.add_subparsers(metavar="ACTION", required=True)
    show = add_command(actions, "show", _show, "show every setting and its source", settings=True)
    show.add_argument("--running", action="store_true", help="of the running daemon (operators only)")
    add_command(actions, "check", _check, "report problems of the settings", settings=True)
    example = actions.add_parser(
        "example",
        help="write a settings file with all defaults, commented out and explained",
        description="Write an annotated settings file: sidecard config example > /etc/sidecard/sidecard.toml",
    )
    example.set_defaults(run=_example)


def _show(arguments: argparse.Namespace) -> int:
    if arguments.running:
        running = query(socket_of(arguments), wire.GetConfig(id=1), wire.Settings)
        settings, origins = running.settings, running.origins
    else:
        config = load_settings(arguments, os.environ)
        settings, origins = config.shown(), config.origins

    if arguments.json:
        write_json({"settings": settings, "origins": origins})
    else:
        write(settings_text(settings, origins))

    return OK


def _check(arguments: argparse.Namespace) -> int:
    if not arguments.json:
        return check(arguments)

    try:
        warnings = load_servable(arguments).warnings()
    except ConfigError as error:
        write_json({"fine": False, "problems": list(error.problems), "warnings": [], "state": None})
        return BAD_CONFIG

    place, state_warnings = planned_state(arguments)
    write_json({"fine": True, "problems": [], "warnings": warnings + state_warnings, "state": place})
    return OK


def _example(_: argparse.Namespace) -> int:
    write((resources.files("sidecard") / "example.toml").read_text(encoding="utf-8").rstrip("\n"))
    return OK


def settings_text(settings: Mapping[str, Any], origins: Mapping[str, str]) -> str:
    """Return every setting with its value and source, as a table."""
    from sidecard.cli.text.tables import render, table  # noqa: PLC0415 - not for JSON

    rows = [(name, _toml(value), origins.get(name, "")) for name, value in settings.items()]
    return render(table("", ("setting", "value", "from"), rows, align="lll"))


def _toml(value: Any) -> str:
    return "-" if value in (None, "", []) else str(value).lower() if isinstance(value, bool) else str(value)
