"""``sidecard cache``: maintain the store on disk."""

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, TypeVar

from sidecard.cli.arguments import Commands, add_command, load_settings
from sidecard.cli.exit_codes import OK, PROBLEM
from sidecard.cli.output import STANDARD, note, replaced_file, shown_json, warn, write, write_json
from sidecard.cli.text.numbers import count, plural, size
from sidecard.errors import SidecardError

PROGRESS_SECONDS = 2.0
"""Interval between progress lines of a long command."""

_clock = time.time  # noqa: TID251 - stored times must be valid in later runs, so they need the wall clock

_Step = TypeVar("_Step")


def add_parser(commands: Commands) -> None:
    """Add the command."""
    cache = commands.add_parser("cache", help="maintain the store on disk", description="Maintain the store on disk.")
    actions = cache.add_subparsers(metavar="ACTION", required=True)
    in_use, unused = "; a daemon may be using the store", "; no daemon may be using the store"
    for name, run, purpose in (
        ("verify", _verify, f"check the store's integrity{in_use}"),
        ("export", _export, f"export all entries as JSON lines{in_use}"),
        ("import", _import, f"import exported entries{unused}"),
        ("compact", _compact, f"return unused space to the disk{unused}"),
    ):
        parser = add_command(actions, name, run, purpose, settings=True, json=name == "verify")
        parser.add_argument("--store", type=Path, metavar="PATH", help="store file, instead of the settings' store")
        if name in {"export", "import"}:
            parser.add_argument(
                "file", metavar="FILE", help=f"file to write or read; {STANDARD} is standard output or input"
            )


def _verify(arguments: argparse.Namespace) -> int:
    import msgspec  # noqa: PLC0415 - each action imports what it needs

    from sidecard.store.sqlite.maintenance import verify  # noqa: PLC0415 - as above

    path = _store_path(arguments)
    result = verify(path, _clock)
    valid = not result.problems
    if arguments.json:
        write_json({"fine": valid, "store": str(path)} | msgspec.structs.asdict(result))
    elif valid:
        notes = [f"{count(result.expired)} expired"] if result.expired else []
        notes += [f"{count(result.foreign)} of another version"] if result.foreign else []
        among = f" ({', '.join(notes)})" if notes else ""
        write(
            f"{path} is valid: {_entries(result.entries)}{among} of {size(result.bytes)},"
            f" {size(result.file_bytes)} on disk"
        )
    else:
        for problem in result.problems:
            warn(f"{path}: {problem}")

    return OK if valid else PROBLEM


def _export(arguments: argparse.Namespace) -> int:
    from sidecard.store.sqlite.export_import import Exported, export  # noqa: PLC0415 - as above
    from sidecard.store.sqlite.maintenance import size_on_disk  # noqa: PLC0415 - as above

    path = _store_path(arguments)
    size_on_disk(path)  # raises if there is no store, before an output file is created
    target = Path(arguments.file)
    if arguments.file != STANDARD and target.exists() and target.samefile(path):
        raise SidecardError(f"{arguments.file} is the store itself: choose another file")

    with replaced_file(arguments.file) as file:
        shown = arguments.file == STANDARD
        steps = export(path, (lambda line: file.write(shown_json(line))) if shown else file.write, _clock)
        done = _last(steps, Exported(), lambda step: f"{_entries(step.entries)} exported so far")

    omitted = f"; {_entries(done.foreign)} of another version omitted" if done.foreign else ""
    omitted += f"; {_entries(done.damaged)} omitted because damaged" if done.damaged else ""
    note(f"{_entries(done.entries)} exported{omitted}")
    return OK


def _import(arguments: argparse.Namespace) -> int:
    from sidecard.store.sqlite.export_import import Imported, check, import_into  # noqa: PLC0415 - as above

    path = _store_path(arguments)
    max_bytes = load_settings(arguments, os.environ).store.max_bytes
    with _read_twice(arguments.file) as file:
        # Checked as a whole first, so that a file with an invalid line changes nothing.
        _last(check(file), 0, lambda number: f"{number:,} lines checked so far")
        file.seek(0)
        steps = import_into(path, file, max_bytes, _clock)
        done = _last(steps, Imported(), lambda step: f"{_entries(step.entries)} imported so far")

    counts = {"expired": done.expired, "not newer than the stored entry": done.older, "too large": done.refused}
    reasons = [f"{number:,} {why}" for why, number in counts.items() if number]
    omitted = f"; omitted: {', '.join(reasons)}" if reasons else ""
    evicted = f"; {_entries(done.evicted)} evicted to make room" if done.evicted else ""
    note(f"{_entries(done.entries)} imported{omitted}{evicted}")
    return OK


def _compact(arguments: argparse.Namespace) -> int:
    from sidecard.store.sqlite.maintenance import compact  # noqa: PLC0415 - as above

    path = _store_path(arguments)
    done = compact(path, _clock)
    write(
        f"{path}: {size(done.bytes_before)} before, {size(done.bytes_after)} after;"
        f" {_entries(done.expired)} had expired"
    )
    return OK


def _store_path(arguments: argparse.Namespace) -> Path:
    """Return ``--store``, or the file that a daemon with these settings uses. Raises `SidecardError` if there is none."""
    if arguments.store is not None:
        named: Path = arguments.store
        return named

    from sidecard.config.store_url import SqliteAddress, parse  # noqa: PLC0415 - as above
    from sidecard.daemon.state import state_directory  # noqa: PLC0415 - as above
    from sidecard.daemon.stores import DEFAULT_NAME  # noqa: PLC0415 - as above

    url = load_settings(arguments, os.environ).store.url
    if url is None:
        directory = state_directory(os.environ)
        if directory is None:
            raise SidecardError(
                "there is no state directory, and store.url is not set: name a store with --store, "
                "or set STATE_DIRECTORY as the daemon has it"
            )

        return directory / DEFAULT_NAME

    address = parse(url)
    if isinstance(address, SqliteAddress):
        return address.path

    what = "no store" if address is None else "a Redis server, which has its own tools"
    raise SidecardError(f"store.url means {what}: name a store on disk with --store")


@contextmanager
def _read_twice(name: str) -> Iterator[BinaryIO]:
    """Open a file, or standard input, such that it can be read twice. Raises `SidecardError` if it cannot be read."""
    try:
        if name == STANDARD:
            with _copied(sys.stdin.buffer) as copy:
                yield copy

            return

        with open(name, "rb") as file:  # noqa: PTH123 - the name as given
            if file.seekable():
                yield file
                return

            with _copied(file) as copy:
                yield copy
    except OSError as error:
        raise SidecardError(f"cannot read {name}: {error.strerror}") from error


@contextmanager
def _copied(stream: Iterable[bytes]) -> Iterator[BinaryIO]:
    with tempfile.TemporaryFile() as file:
        file.writelines(stream)
        file.seek(0)
        yield file


def _last(steps: Iterable[_Step], last: _Step, sentence: Callable[[_Step], str]) -> _Step:
    """Return the last step, or ``last`` if there are none; report progress every `PROGRESS_SECONDS`."""
    reported_at = time.monotonic()
    for last in steps:  # noqa: PLR1704 - the parameter is the value before the first step
        now = time.monotonic()
        if now - reported_at >= PROGRESS_SECONDS:
            reported_at = now
            note(sentence(last))

    return last


def _entries(number: int) -> str:
    return plural(number, "entry", "entries")
