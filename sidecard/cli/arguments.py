"""Arguments that several commands share, and the settings they select."""

import argparse
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from sidecard.config.model import Config

Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"  # noqa: SLF001 - it has no public name
"""The action to which a command's parser is added."""


def add_command(
    commands: Commands,
    name: str,
    run: Callable[[argparse.Namespace], int],
    purpose: str,
    *,
    settings: bool = False,
    json: bool = True,
) -> argparse.ArgumentParser:
    """Add a command and return its parser, with ``--json`` and with the arguments of settings or ``--socket``."""
    parser = commands.add_parser(name, help=purpose, description=f"{purpose[0].upper()}{purpose[1:]}.")
    if settings:
        add_settings_arguments(parser)
    else:
        parser.add_argument("--socket", metavar="PATH", help="socket of the daemon")

    if json:
        parser.add_argument("--json", action="store_true", help="write JSON")

    parser.set_defaults(run=run)
    return parser


def add_settings_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments that `load_settings` reads."""
    parser.add_argument("--config", type=Path, metavar="FILE", help="TOML file (/etc/sidecard/sidecard.toml)")
    parser.add_argument("--socket", metavar="PATH", help="socket of the daemon")
    parser.add_argument("--log-level", metavar="LEVEL", help="debug, info, warning or error")
    parser.add_argument("--log-format", metavar="FORMAT", help="auto, console or json")
    parser.add_argument(
        "--set", action="append", default=[], metavar="SECTION.KEY=VALUE", help="any setting; may be repeated"
    )


def load_settings(arguments: argparse.Namespace, environ: Mapping[str, str]) -> "Config":
    """Load the settings from arguments, environment and file. Raises `sidecard.errors.ConfigError`."""
    from sidecard.config.load import load  # noqa: PLC0415 - most commands need no settings
    from sidecard.config.sources import Override  # noqa: PLC0415 - as above
    from sidecard.errors import ConfigError  # noqa: PLC0415 - as above

    overrides = []
    for pair in arguments.set:
        name, equals, text = pair.partition("=")
        if not equals:
            # The pair is not quoted: it may be a mistyped `--set store.password:SECRET`.
            raise ConfigError(
                ["flag --set: an argument has no = between name and value; write --set SECTION.KEY=VALUE"]
            )

        overrides.append(Override(name.strip(), text.strip(), "--set"))

    flags = {
        "socket.path": ("--socket", arguments.socket),
        "log.level": ("--log-level", arguments.log_level),
        "log.format": ("--log-format", arguments.log_format),
    }
    overrides += [Override(name, text, flag) for name, (flag, text) in flags.items() if text is not None]
    return load(arguments.config, environ, overrides)
