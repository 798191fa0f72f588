"""``sidecard watch``: print the daemon's notes as they happen, one per line."""

import argparse
from time import localtime, strftime
from typing import Any, NoReturn

import msgspec

from sidecard.cli.arguments import Commands, add_command
from sidecard.cli.exit_codes import OK
from sidecard.cli.output import note as inform
from sidecard.cli.output import write, write_json_line
from sidecard.cli.query import REPLY_SECONDS, explained, raise_refusal, socket_of
from sidecard.core.operations.watch import NAMES
from sidecard_client._sync.connection import BlockingConnection
from sidecard_client.protocol import wire
from sidecard_client.protocol.connection import DaemonUnresponsive, InvalidReply

_REQUEST_ID = 1


def add_parser(commands: Commands) -> None:
    """Add the command."""
    parser = add_command(
        commands, "watch", _run, "print notes (failed leases, breakers, evictions) until Ctrl-C (operators only)"
    )
    parser.add_argument(
        "--note",
        action="append",
        default=[],
        choices=sorted(NAMES),
        metavar="NAME",
        help=f"only notes of this kind; may be repeated: {', '.join(sorted(NAMES))}",
    )


def _run(arguments: argparse.Namespace) -> int:
    path = socket_of(arguments)
    try:
        with explained(path, REPLY_SECONDS):
            _watch(path, arguments)
    except KeyboardInterrupt:
        return OK


def _watch(path: str, arguments: argparse.Namespace) -> NoReturn:
    connection = BlockingConnection(path, REPLY_SECONDS)
    try:
        raise_refusal(connection.exchange(wire.Watch(tuple(arguments.note), id=_REQUEST_ID)))
        inform("watching: one line per note, Ctrl-C ends")
        while True:
            note = _next(connection)
            if arguments.json:
                write_json_line(_fields(note))
            else:
                write(line_of(note))

    finally:
        connection.close()


def _next(connection: BlockingConnection) -> wire.Note:
    while True:
        try:
            note = connection.receive(_REQUEST_ID)
        except DaemonUnresponsive:
            continue  # no note within the time limit

        if not isinstance(note, wire.Note):
            raise InvalidReply(f"unexpected reply {type(note).__name__} to a watch")

        return note


def _fields(note: wire.Note) -> dict[str, Any]:
    return {"at_seconds": note.at_seconds, "note": note.note, "fields": note.fields}


def line_of(note: wire.Note) -> str:
    """Return a note as a log line: ``14:03:22  breaker opened  backend=cloud cause=failures seconds=10``."""
    fields = (f"{name}={_word(value)}" for name, value in note.fields.items() if value is not None and value != "")
    time = strftime("%H:%M:%S", localtime(note.at_seconds))
    return "  ".join([time, f"{note.note.replace('_', ' '):<20}", " ".join(fields)]).rstrip()


def _word(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"

    text = str(value)
    # Peers choose names of backends; JSON quoting keeps one note on one line.
    return text if text.isascii() and text.isprintable() and " " not in text else msgspec.json.encode(text).decode()
