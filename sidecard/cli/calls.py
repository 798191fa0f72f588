"""``sidecard calls``: the call log, read where the daemon writes it; no daemon is asked."""

import argparse
import contextlib
import os
import re
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import datetime
from itertools import islice
from pathlib import Path
from typing import IO, TYPE_CHECKING

from sidecard.cli import FINE, NOT_FINE, UNREACHABLE
from sidecard.cli.serve import add_config_arguments, config_of
from sidecard.errors import SidecardError

if TYPE_CHECKING:
    from sidecard.observe.call_log.rows import CallReader, Filter, Row

SHOWN_ROWS = 50
STANDARD = "-"
"""The name of standard output."""

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}
_SPAN = re.compile(r"(\d+(?:\.\d+)?)\s*([smhdw])")
_SOURCES = ("upstream", "cache", "stale", "shared", "failed", "rejected", "timeout")

_clock = time.time  # noqa: TID251 - rows outlive the run that made them, and no other clock does


def add_parser(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command."""
    calls = commands.add_parser("calls", help="look at the call log", description="Looks at the call log.")
    actions = calls.add_subparsers(metavar="ACTION", required=True)
    listed = _add(actions, "list", _list, "list calls, the newest first, without what was said")
    listed.add_argument("--json", action="store_true", help="write JSON lines, for programs")
    listed.add_argument("--limit", type=_count, default=SHOWN_ROWS, metavar="N", help=f"at most so many ({SHOWN_ROWS})")
    _add_filters(listed)
    shown = _add(actions, "show", _show, "show one call, with what was said where that is kept")
    shown.add_argument("id", metavar="ID", type=_id, help="as `list` has it; its beginning will do")
    shown.add_argument("--json", action="store_true", help="write JSON, for programs")
    export = _add(actions, "export", _export, "write calls down as JSON lines")
    export.add_argument(
        "--format",
        choices=("jsonl", "openai-chat"),
        default="jsonl",
        help="jsonl: all that is kept, the oldest first (the default); openai-chat: conversations for fine-tuning, the newest "
        "first, of each key one",
    )
    export.add_argument(
        "--output", metavar="FILE", default=STANDARD, help="where to; - is standard output (the default)"
    )
    export.add_argument("--limit", type=_count, metavar="N", help="at most so many")
    _add_filters(export)


def _add(
    actions: "argparse._SubParsersAction[argparse.ArgumentParser]",
    name: str,
    run: Callable[[argparse.Namespace], int],
    purpose: str,
) -> argparse.ArgumentParser:
    parser = actions.add_parser(name, help=purpose, description=f"{purpose[0].upper()}{purpose[1:]}.")
    add_config_arguments(parser)
    parser.set_defaults(run=lambda arguments: _with_exit_code(run, arguments))
    return parser


def _add_filters(parser: argparse.ArgumentParser) -> None:
    for name, what in (("task", "of a task"), ("model", "of a model"), ("backend", "of a backend")):
        parser.add_argument(
            f"--{name}", action="append", default=[], metavar="NAME", help=f"those {what}; may be given several times"
        )

    parser.add_argument(
        "--source",
        action="append",
        default=[],
        choices=_SOURCES,
        help="those that ended so; may be given several times",
    )
    when = "a span before now such as 90s, 2h, 7d, or a time such as 2026-01-31T09:30"
    parser.add_argument("--since", type=_instant, metavar="WHEN", help=f"not before: {when}")
    parser.add_argument("--until", type=_instant, metavar="WHEN", help=f"before: {when}")


def _with_exit_code(run: Callable[[argparse.Namespace], int], arguments: argparse.Namespace) -> int:
    """Run a command; where the database does not answer, say so and return the exit code of it."""
    from sidecard.observe.call_log.rows import CallsError  # noqa: PLC0415 - what a command needs is imported by that command

    try:
        return run(arguments)
    except CallsError as error:
        print(f"sidecard: {error}", file=sys.stderr)
        return UNREACHABLE


# Arguments ----------------------------------------------------------------------------------------------------------


def _instant(text: str) -> float:
    """Read a span before now, or a time, as seconds since 1970. A time without a zone is this host's."""
    span = _SPAN.fullmatch(text.strip())
    if span is not None:
        return _clock() - float(span[1]) * _UNITS[span[2]]

    try:
        return datetime.fromisoformat(text.strip()).timestamp()
    except (ValueError, OverflowError, OSError):
        raise argparse.ArgumentTypeError(
            f"{text!r} is neither a span such as 90s, 15m, 2h, 7d, 4w nor a time such as 2026-01-31T09:30"
        ) from None


def _count(text: str) -> int:
    if not text.isdecimal() or not 0 < int(text) < 2**31:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of calls: write 1 or more")

    return int(text)


def _id(text: str) -> str:
    if not re.fullmatch("[0-9a-fA-F]{1,32}", text):
        raise argparse.ArgumentTypeError(f"{text!r} is not the id of a call: `sidecard calls list` shows them")

    return text.lower()


def _wanted(arguments: argparse.Namespace) -> "Filter":
    from sidecard.observe.call_log.rows import Filter  # noqa: PLC0415 - as above

    return Filter(
        tasks=tuple(arguments.task),
        models=tuple(arguments.model),
        sources=tuple(arguments.source),
        backends=tuple(arguments.backend),
        since_seconds=arguments.since,
        until_seconds=arguments.until,
    )


@contextmanager
def _opened(arguments: argparse.Namespace) -> Iterator["CallReader"]:
    """Open the log that a daemon with these settings writes. Raises `SidecardError`."""
    config = config_of(arguments, os.environ)
    from sidecard.config.redaction import redacted  # noqa: PLC0415 - as above
    from sidecard.daemon.state import state_directory  # noqa: PLC0415 - as above
    from sidecard.observe.call_log.places import open_reader  # noqa: PLC0415 - as above
    from sidecard.observe.call_log.rows import CallsAbsentError  # noqa: PLC0415 - as above

    url = config.calls.url
    try:
        reader = open_reader(url, None if url else state_directory(os.environ), shown_url=redacted(url))
    except CallsAbsentError as error:
        if config.calls.enabled or url:
            raise

        raise CallsAbsentError(f"{error}; calls are logged where calls.enabled is true") from error

    try:
        yield reader
    finally:
        reader.close()


# Commands -----------------------------------------------------------------------------------------------------------


def _list(arguments: argparse.Namespace) -> int:
    from sidecard.cli.call_views import fields, line, table_of  # noqa: PLC0415 - as above
    from sidecard.observe.call_log.rows import read  # noqa: PLC0415 - as above

    with _opened(arguments) as reader:
        rows = read(reader, _wanted(arguments), newest_first=True, limit=arguments.limit, texts=False)
        if arguments.json:
            return _write(sys.stdout.buffer, (line(fields(row, texts=False)) for row in rows))

        table = table_of(list(rows))

    if not table:
        print("no such calls", file=sys.stderr)
        return NOT_FINE

    print(table, flush=True)
    return FINE


def _show(arguments: argparse.Namespace) -> int:
    from sidecard.cli.call_views import described, fields, line  # noqa: PLC0415 - as above
    from sidecard.observe.call_log.rows import Filter, read  # noqa: PLC0415 - as above

    with _opened(arguments) as reader:
        rows = list(read(reader, Filter(id_prefix=arguments.id), newest_first=True, limit=2))

    if len(rows) != 1:
        raise SidecardError(
            f"more than one call's id begins with {arguments.id}: give more of it"
            if rows
            else f"no call's id begins with {arguments.id}: `sidecard calls list` shows them"
        )

    if arguments.json:
        return _write(sys.stdout.buffer, [line(fields(rows[0]))])

    print(described(rows[0]), flush=True)
    return FINE


def _export(arguments: argparse.Namespace) -> int:
    from msgspec import structs  # noqa: PLC0415 - as above

    from sidecard.cli.call_views import fields, line  # noqa: PLC0415 - as above
    from sidecard.observe.call_log.rows import read  # noqa: PLC0415 - as above

    # Up to now: an export of a log that goes on being written shall end.
    until = _clock() if arguments.until is None else arguments.until
    wanted = structs.replace(_wanted(arguments), until_seconds=until)
    left_out: Counter[str] = Counter()
    lines: Iterator[bytes]
    with _opened(arguments) as reader:
        if arguments.format == "openai-chat":
            lines = islice(_examples(read(reader, wanted, newest_first=True), left_out), arguments.limit)
        else:
            rows = read(reader, wanted, newest_first=False, limit=arguments.limit)
            lines = (line(fields(row)) for row in rows)

        exported = _Counted(lines)
        with _written(arguments.output) as file:
            code = _write(file, exported)

    reasons = [why if len(left_out) == 1 else f"{why} ({number:,})" for why, number in left_out.most_common()]
    left = f", left out {left_out.total():,}: {', '.join(reasons)}" if left_out else ""
    print(f"exported {exported.count:,}{left}", file=sys.stderr)
    return code


class _Counted:
    """Passes lines on, and counts them."""

    def __init__(self, lines: Iterable[bytes]) -> None:
        self._lines = lines
        self.count = 0

    def __iter__(self) -> Iterator[bytes]:
        for line in self._lines:
            self.count += 1
            yield line


def _examples(rows: Iterable["Row"], left_out: "Counter[str]") -> Iterator[bytes]:
    """Yield the conversations among calls, the newest of each key; count why others are none."""
    from sidecard.cli.call_views import line  # noqa: PLC0415 - as above
    from sidecard.observe.call_log.chat import LeftOutError, example  # noqa: PLC0415 - as above

    seen: set[int] = set()
    for row in rows:
        # Answers that were handed on are those of another row.
        if row.source != "upstream":
            continue

        # Their hashes: a million keys would be 100 MB.
        key = None if row.key is None else hash(row.key)
        if key in seen:
            left_out["an older call of the same key"] += 1
            continue

        try:
            conversation = line(example(row.prompt, row.answer))
        except LeftOutError as error:
            left_out[str(error)] += 1
            continue

        if key is not None:
            seen.add(key)

        yield conversation


# How it is written --------------------------------------------------------------------------------------------------


def _write(file: IO[bytes], lines: Iterable[bytes]) -> int:
    found = False
    for line in lines:
        found = True
        file.write(line)

    # Now, and not at exit: `main` knows what to do where the reader went away.
    file.flush()
    return FINE if found else NOT_FINE


@contextmanager
def _written(name: str) -> Iterator[IO[bytes]]:
    """Open a file to be written, or standard output. Raises `SidecardError` where it cannot be, or can no longer.

    A file that is there already is replaced only by a whole one.
    """
    if name == STANDARD:
        yield sys.stdout.buffer
        return

    target = Path(name)
    in_place = target.exists() and not target.is_file()  # a pipe, a device
    new = target if in_place else target.with_name(f"{target.name}.new")
    # What was said may be confidential: as the log itself.
    flags = os.O_WRONLY | (0 if in_place else os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW)
    try:
        with open(os.open(new, flags, 0o600), "wb") as file:  # noqa: PTH123 - a descriptor, for the mode
            yield file
            file.flush()
            if not in_place:
                os.fsync(file.fileno())

        if not in_place:
            new.replace(target)
    except BaseException as error:
        if not in_place:
            with contextlib.suppress(OSError):
                new.unlink()

        if isinstance(error, OSError) and not isinstance(error, BrokenPipeError):
            raise SidecardError(f"{name} cannot be written ({error.strerror})") from error

        raise
