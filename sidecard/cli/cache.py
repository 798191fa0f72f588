"""``sidecard cache``: the store on disk, looked after by hand."""

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, BinaryIO, TypeVar

from sidecard.cli import FINE, NOT_FINE
from sidecard.cli.serve import add_config_arguments, config_of
from sidecard.errors import SidecardError

if TYPE_CHECKING:
    from sidecard.config.model import Config

PROGRESS_SECONDS = 2.0
"""Between two lines that say how far a long command is."""

STANDARD = "-"
"""The name of standard input and output."""

_clock = time.time  # noqa: TID251 - entries outlive the run that made them, and no other clock does

_Step = TypeVar("_Step")


def add_parser(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command."""
    cache = commands.add_parser(
        "cache", help="look after the store on disk", description="Looks after the store on disk."
    )
    actions = cache.add_subparsers(metavar="ACTION", required=True)
    verify = _add(actions, "verify", _verify, "tell whether the store is whole; a daemon may use it meanwhile")
    verify.add_argument("--json", action="store_true", help="write JSON, for programs")
    export = _add(actions, "export", _export, "write its entries down as JSON lines; a daemon may use it meanwhile")
    export.add_argument("file", metavar="FILE", help="where to; - is standard output")
    import_ = _add(actions, "import", _import, "take in what was exported; no daemon may use the store meanwhile")
    import_.add_argument("file", metavar="FILE", help="from where; - is standard input")
    _add(actions, "compact", _compact, "give unused space back to the disk; no daemon may use the store meanwhile")


def _add(
    actions: "argparse._SubParsersAction[argparse.ArgumentParser]",
    name: str,
    run: Callable[[argparse.Namespace], int],
    purpose: str,
) -> argparse.ArgumentParser:
    parser = actions.add_parser(name, help=purpose, description=f"{purpose[0].upper()}{purpose[1:]}.")
    parser.add_argument("--store", type=Path, metavar="PATH", help="the store's file, where not that of the settings")
    add_config_arguments(parser)
    parser.set_defaults(run=run)
    return parser


def _verify(arguments: argparse.Namespace) -> int:
    import msgspec  # noqa: PLC0415 - what a command needs is imported by that command

    from sidecard.cli.tables import count, size  # noqa: PLC0415 - as above
    from sidecard.store.sqlite.maintenance import verify  # noqa: PLC0415 - as above

    path = _store_of(arguments)
    verdict = verify(path, _clock)
    fine = not verdict.problems
    if arguments.json:
        shown = {"fine": fine, "store": str(path)} | msgspec.structs.asdict(verdict)
        print(msgspec.json.format(msgspec.json.encode(shown)).decode(), flush=True)
    elif fine:
        notes = [f"{count(verdict.expired)} expired"] if verdict.expired else []
        notes += [f"{count(verdict.foreign)} of another version"] if verdict.foreign else []
        among = f" ({', '.join(notes)})" if notes else ""
        print(
            f"{path} is fine: {_entries(verdict.entries)}{among} of {size(verdict.bytes)},"
            f" {size(verdict.file_bytes)} on the disk",
            flush=True,
        )
    else:
        print(*(f"sidecard: {path}: {problem}" for problem in verdict.problems), sep="\n", file=sys.stderr)

    return FINE if fine else NOT_FINE


def _export(arguments: argparse.Namespace) -> int:
    from sidecard.store.sqlite.export_import import Exported, export  # noqa: PLC0415 - as above
    from sidecard.store.sqlite.maintenance import size_on_disk  # noqa: PLC0415 - as above

    path = _store_of(arguments)
    size_on_disk(path)  # before a file is made for what is not there
    done = Exported()
    with _written(arguments.file, path) as file:
        done = _last(
            export(path, file.write, _clock), done, lambda so_far: f"{_entries(so_far.entries)} exported so far"
        )

    left = f"; {_entries(done.foreign)} of another version left out" if done.foreign else ""
    left += f"; {_entries(done.damaged)} left out that are not what was written" if done.damaged else ""
    print(f"{_entries(done.entries)} exported{left}", file=sys.stderr)
    return FINE


def _import(arguments: argparse.Namespace) -> int:
    from sidecard.store.sqlite.export_import import Imported, check, import_into  # noqa: PLC0415 - as above

    path = _store_of(arguments)
    max_bytes = config_of(arguments, os.environ).store.max_bytes
    done = Imported()
    with _read(arguments.file) as file:
        # Twice, so that of a file with a wrong line nothing is taken.
        _last(check(file), 0, lambda number: f"{number:,} lines checked so far")
        file.seek(0)
        steps = import_into(path, file, max_bytes, _clock)
        done = _last(steps, done, lambda so_far: f"{_entries(so_far.entries)} imported so far")

    counts = {"expired": done.expired, "not newer than what is there": done.older, "too large": done.refused}
    passed = [f"{number:,} {why}" for why, number in counts.items() if number]
    left = f"; left out: {', '.join(passed)}" if passed else ""
    evicted = f"; {_entries(done.evicted)} evicted for them" if done.evicted else ""
    print(f"{_entries(done.entries)} imported{left}{evicted}", file=sys.stderr)
    return FINE


def _compact(arguments: argparse.Namespace) -> int:
    from sidecard.cli.tables import size  # noqa: PLC0415 - as above
    from sidecard.store.sqlite.maintenance import compact  # noqa: PLC0415 - as above

    path = _store_of(arguments)
    done = compact(path, _clock)
    print(
        f"{path}: {size(done.bytes_before)} before, {size(done.bytes_after)} after;"
        f" {_entries(done.expired)} had expired"
    )
    return FINE


# Which store, which file -------------------------------------------------------------------------------------------


def _store_of(arguments: argparse.Namespace) -> Path:
    """Return the store's file: what ``--store`` says, else what a daemon with these settings uses. Raises `SidecardError`."""
    if arguments.store is not None:
        named: Path = arguments.store
        return named

    config: Config = config_of(arguments, os.environ)
    from sidecard.config.store_url import SqliteAddress, parse  # noqa: PLC0415 - as above
    from sidecard.daemon.state import state_directory  # noqa: PLC0415 - as above
    from sidecard.daemon.stores import DEFAULT_NAME  # noqa: PLC0415 - as above

    if config.store.url is None:
        directory = state_directory(os.environ)
        if directory is None:
            raise SidecardError(
                "there is no state directory, and store.url says nothing: name a store with --store, "
                "or give STATE_DIRECTORY as the daemon has it"
            )

        return directory / DEFAULT_NAME

    address = parse(config.store.url)
    if isinstance(address, SqliteAddress):
        return address.path

    what = "no store" if address is None else "a Redis server, which has tools of its own"
    raise SidecardError(f"store.url means {what}: name a store on disk with --store")


@contextmanager
def _written(name: str, store: Path) -> Iterator[IO[bytes]]:
    """Open a file to be written, or standard output. Raises `SidecardError` where it cannot be, or can no longer.

    A file that is there already is replaced only by a whole one: it may be the last export of a store that is now damaged.
    """
    if name == STANDARD:
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()
        return

    target = Path(name)
    try:
        if target.exists() and target.samefile(store):
            raise SidecardError(f"{name} is the store itself: choose another file")

        in_place = target.exists() and not target.is_file()  # a pipe, a device
        new = target if in_place else target.with_name(f"{target.name}.new")
        # Answers may be confidential: as the store itself.
        flags = os.O_WRONLY | (0 if in_place else os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW)
        with open(os.open(new, flags, 0o600), "wb") as file:  # noqa: PTH123 - a descriptor, for the mode
            try:
                yield file
                file.flush()
                if not in_place:
                    os.fsync(file.fileno())
                    new.replace(target)
            except BaseException:
                if not in_place:
                    new.unlink(missing_ok=True)

                raise
    except BrokenPipeError:
        raise  # who reads the pipe has had enough
    except OSError as error:
        raise SidecardError(f"{name} cannot be written ({error.strerror})") from error


@contextmanager
def _read(name: str) -> Iterator[BinaryIO]:
    """Open a file that can be read twice, or standard input. Raises `SidecardError` where it cannot be read."""
    try:
        if name != STANDARD:
            with open(name, "rb") as file:  # noqa: PTH123 - a name as it was given
                if file.seekable():
                    yield file
                    return

                with _spooled(file) as spooled:
                    yield spooled
        else:
            with _spooled(sys.stdin.buffer) as spooled:
                yield spooled
    except OSError as error:
        raise SidecardError(f"{name} cannot be read ({error.strerror})") from error


@contextmanager
def _spooled(stream: Iterable[bytes]) -> Iterator[BinaryIO]:
    with tempfile.TemporaryFile() as file:
        file.writelines(stream)
        file.seek(0)
        yield file


def _last(steps: Iterable[_Step], last: _Step, sentence: Callable[[_Step], str]) -> _Step:
    """Return the last of the steps, or ``last`` where there is none; say from time to time how far they are."""
    said_at = time.monotonic()
    for last in steps:  # noqa: PLR1704 - the parameter is what it is before the first step
        now = time.monotonic()
        if now - said_at >= PROGRESS_SECONDS:
            said_at = now
            print(sentence(last), file=sys.stderr)

    return last


def _entries(number: int) -> str:
    return f"{number:,} {'entry' if number == 1 else 'entries'}"
