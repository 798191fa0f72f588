"""``sidecard files``: write the monitoring files that ship with the package."""

import argparse
from importlib import resources

from sidecard.cli.arguments import Commands
from sidecard.cli.exit_codes import OK
from sidecard.cli.output import write

FILES = {
    "grafana": ("grafana.json", "a dashboard for Grafana 10 or newer"),
    "alerts": ("alerts.yml", "alert rules for Prometheus or vmalert"),
}
"""File and description by name."""


def add_parser(commands: Commands) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "files",
        help="write a Grafana dashboard, or alert rules",
        description="Write a file for another program, such as `sidecard files alerts > sidecard.yml`.",
    )
    described = "; ".join(f"{name}: {purpose}" for name, (_, purpose) in FILES.items())
    parser.add_argument("name", choices=FILES, help=described)
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> int:
    name, _ = FILES[arguments.name]
    write((resources.files("sidecard.observe") / "files" / name).read_text(encoding="utf-8").rstrip("\n"))
    return OK
