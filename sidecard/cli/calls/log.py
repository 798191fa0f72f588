"""Open the call log that the settings name, and parse the arguments that select calls."""

import argparse
import os
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import TYPE_CHECKING

from sidecard.cli.arguments import load_settings
from sidecard.cli.exit_codes import UnreachableError

if TYPE_CHECKING:
    from sidecard.observe.call_log.rows import CallReader, Filter

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}
_SPAN = re.compile(r"(\d+(?:\.\d+)?)\s*([smhdw])")
_SOURCES = ("upstream", "cache", "stale", "shared", "failed", "rejected", "timeout")

wall_clock = time.time  # noqa: TID251 - logged times must be valid in later runs, so they need the wall clock


@contextmanager
def open_log(arguments: argparse.Namespace) -> Iterator["CallReader"]:
    """Open the log that a daemon with these settings writes. Raises `SidecardError` and `UnreachableError`."""
    config = load_settings(arguments, os.environ)
    from sidecard.daemon.state import state_directory  # noqa: PLC0415 - as above
    from sidecard.observe.call_log.rows import CallLogError, NoCallLogError  # noqa: PLC0415 - as above
    from sidecard.observe.call_log.urls import open_reader  # noqa: PLC0415 - as above

    url = config.calls.url
    try:
        try:
            reader = open_reader(url, None if url else state_directory(os.environ))
        except NoCallLogError as error:
            if config.calls.enabled or url:
                raise

            raise NoCallLogError(f"{error}; calls are logged if calls.enabled is true") from error

        try:
            yield reader
        finally:
            reader.close()
    except CallLogError as error:
        raise UnreachableError(str(error)) from error


def add_filters(parser: argparse.ArgumentParser) -> None:
    """Add the arguments that `filter_of` reads."""
    for name in ("task", "model", "backend"):
        parser.add_argument(
            f"--{name}", action="append", default=[], metavar="NAME", help=f"calls of a {name}; may be repeated"
        )

    parser.add_argument(
        "--source", action="append", default=[], choices=_SOURCES, help="calls with this outcome; may be repeated"
    )
    when = "a span before now (90s, 2h, 7d) or a time (2026-01-31T09:30)"
    parser.add_argument("--since", type=parse_instant, metavar="WHEN", help=f"calls at or after {when}")
    parser.add_argument("--until", type=parse_instant, metavar="WHEN", help=f"calls before {when}")


def filter_of(arguments: argparse.Namespace, *, until_now: bool = False) -> "Filter":
    """Return the filter of the arguments, by default or ``until_now`` with an upper limit."""
    from sidecard.observe.call_log.rows import Filter  # noqa: PLC0415 - as above

    return Filter(
        tasks=tuple(arguments.task),
        models=tuple(arguments.model),
        sources=tuple(arguments.source),
        backends=tuple(arguments.backend),
        since_seconds=arguments.since,
        until_seconds=wall_clock() if until_now and arguments.until is None else arguments.until,
    )


def parse_instant(text: str) -> float:
    """Parse a span before now, or a time, into seconds since 1970. A time without a zone is local time."""
    span = _SPAN.fullmatch(text.strip())
    if span is not None:
        return wall_clock() - float(span[1]) * _UNITS[span[2]]

    try:
        return datetime.fromisoformat(text.strip()).timestamp()
    except (ValueError, OverflowError, OSError):
        raise argparse.ArgumentTypeError(
            f"{text!r} is neither a span such as 90s, 15m, 2h, 7d, 4w nor a time such as 2026-01-31T09:30"
        ) from None


def parse_count(text: str) -> int:
    """Parse a number of calls."""
    if not text.isdecimal() or not 0 < int(text) < 2**31:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of calls: write 1 or more")

    return int(text)


def parse_id(text: str) -> str:
    """Parse the beginning of a call's id."""
    if not re.fullmatch("[0-9a-fA-F]{1,32}", text):
        raise argparse.ArgumentTypeError(f"{text!r} is not the id of a call: `sidecard calls list` shows the ids")

    return text.lower()
