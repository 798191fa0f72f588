"""``sidecard serve``: the daemon in the foreground."""

import argparse
import gc
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sidecard.cli import FINE

if TYPE_CHECKING:
    from sidecard.config.model import Config


def add_parser(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command."""
    parser = commands.add_parser(
        "serve",
        help="run the daemon",
        description="Runs the daemon in the foreground until SIGTERM or SIGINT; a second signal stops it at once.",
    )
    add_config_arguments(parser)
    parser.add_argument(
        "--no-state",
        action="store_true",
        help="use no state directory, also where there is one: the ledger begins anew",
    )
    parser.add_argument("--check", action="store_true", help="tell what is wrong with the settings, and do not serve")
    parser.set_defaults(run=_run)


def add_config_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags from which `config_of` reads settings."""
    parser.add_argument("--config", type=Path, metavar="FILE", help="settings, as TOML (/etc/sidecard/sidecard.toml)")
    parser.add_argument("--socket", metavar="PATH", help="where to listen")
    parser.add_argument("--log-level", metavar="LEVEL", help="debug, info, warning or error")
    parser.add_argument("--log-format", metavar="FORMAT", help="auto, console or json")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="SECTION.KEY=VALUE",
        help="any setting; may be given several times",
    )


def config_of(arguments: argparse.Namespace, environ: Mapping[str, str]) -> "Config":
    """Load the settings that ``arguments`` and the environment say. Raises `sidecard.errors.ConfigError`."""
    from sidecard.config.load import load  # noqa: PLC0415 - other commands need no settings
    from sidecard.config.sources import Override  # noqa: PLC0415 - as above
    from sidecard.errors import ConfigError  # noqa: PLC0415 - with its only user

    flags: dict[str, Any] = {
        "socket.path": ("--socket", arguments.socket),
        "log.level": ("--log-level", arguments.log_level),
        "log.format": ("--log-format", arguments.log_format),
    }
    overrides = []
    for pair in arguments.set:
        name, equals, text = pair.partition("=")
        if not equals:
            # Not what it says: it may be `--set store.password:SECRET`.
            raise ConfigError(["flag --set: one has no = between name and value; write --set SECTION.KEY=VALUE"])

        overrides.append(Override(name.strip(), text.strip(), "--set"))

    overrides += [Override(name, text, flag) for name, (flag, text) in flags.items() if text is not None]
    return load(arguments.config, environ, overrides)


def servable(arguments: argparse.Namespace, environ: Mapping[str, str]) -> "Config":
    """Load the settings, and what they want that is optional: what is fine must not keep a daemon from starting.

    Raises as `config_of`.
    """
    config = config_of(arguments, environ)
    from sidecard.daemon import daemon  # noqa: PLC0415 - as in `_run`

    daemon.require(config)
    return config


def check(arguments: argparse.Namespace) -> int:
    """Tell people whether the settings are fine. Raises as `servable`."""
    for warning in servable(arguments, os.environ).warnings():
        sys.stderr.write(f"sidecard: {warning}\n")

    sys.stdout.write("The settings are fine.\n")
    return FINE


def _run(arguments: argparse.Namespace) -> int:
    if arguments.check:
        return check(arguments)

    # A tenth of the start would be the collector looking at modules; the daemon switches it on when it serves.
    gc.disable()
    config = config_of(arguments, os.environ)
    from sidecard.daemon import daemon  # noqa: PLC0415 - only after the settings are known to be right: it takes 0.1 s

    daemon.run(config, os.environ, reread=lambda: config_of(arguments, os.environ), state=not arguments.no_state)
    return FINE
