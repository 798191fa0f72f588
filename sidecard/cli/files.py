"""``sidecard files``: what other programs are given to watch the daemon, as it ships in the package."""

import argparse
import sys
from importlib import resources

from sidecard.cli import FINE

FILES = {
    "grafana": ("grafana.json", "a dashboard to be imported into Grafana, version 10 or newer"),
    "alerts": ("alerts.yml", "alert rules for Prometheus or vmalert"),
}
"""By name: the file, and what it is."""


def add_parser(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command."""
    parser = commands.add_parser(
        "files",
        help="write a Grafana dashboard, or alert rules",
        description="Writes a file that other programs take, such as `sidecard files alerts > sidecard.yml`.",
    )
    described = "; ".join(f"{name}: {purpose}" for name, (_, purpose) in FILES.items())
    parser.add_argument("name", choices=FILES, help=described)
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> int:
    name, _ = FILES[arguments.name]
    sys.stdout.write((resources.files("sidecard.observe") / "files" / name).read_text(encoding="utf-8"))
    sys.stdout.flush()
    return FINE
