"""``sidecard watch``: what the daemon notes, line by line, as it happens."""

import argparse
import sys
from time import localtime, strftime
from typing import Any

import msgspec

from sidecard.cli import FINE
from sidecard.cli.asking import ANSWER_SECONDS, socket_of, with_exit_code
from sidecard.core.operations.watch import NAMES
from sidecard_client import DaemonUnavailable, RequestRefused
from sidecard_client._sync.connection import BlockingConnection
from sidecard_client.protocol import wire
from sidecard_client.protocol.connection import ConnectionLost, DaemonUnresponsive

_REQUEST_ID = 1


def add_parser(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command."""
    parser = commands.add_parser(
        "watch",
        help="show what the daemon notes, as it happens; for operators",
        description="Shows what the daemon notes (failed leases, breakers, evictions), a line each, until Ctrl-C.",
    )
    parser.add_argument("--socket", metavar="PATH", help="where the daemon listens")
    parser.add_argument(
        "--note",
        action="append",
        default=[],
        choices=sorted(NAMES),
        metavar="NAME",
        help=f"only notes of this name; may be given several times: {', '.join(sorted(NAMES))}",
    )
    parser.add_argument("--json", action="store_true", help="write JSON, an object a line, for programs")
    parser.set_defaults(run=lambda arguments: with_exit_code(_watch, arguments))


_BEGUN = "watching; each note is a line as it is made, Ctrl-C ends it"


def _watch(arguments: argparse.Namespace) -> int:
    path = socket_of(arguments)
    try:
        connection = BlockingConnection(path, ANSWER_SECONDS)
        try:
            reply = connection.exchange(wire.Watch(tuple(arguments.note), id=_REQUEST_ID))
            if isinstance(reply, wire.Error):
                raise RequestRefused(reply.code, reply.message)

            print(_BEGUN, file=sys.stderr, flush=True)
            while True:
                note = _next(connection)
                sys.stdout.write(
                    f"{msgspec.json.encode(_fields(note)).decode() if arguments.json else line_of(note)}\n"
                )
                # Each as it comes: who pipes this into something else waits for none.
                sys.stdout.flush()
        finally:
            connection.close()
    except KeyboardInterrupt:
        return FINE
    except ConnectionLost as error:
        raise DaemonUnavailable(path, str(error)) from error


def _next(connection: BlockingConnection) -> wire.Note:
    while True:
        try:
            note = connection.receive(_REQUEST_ID)
        except DaemonUnresponsive:
            continue  # nothing has happened

        if not isinstance(note, wire.Note):
            raise ConnectionLost(f"it answered a watch by {type(note).__name__}")

        return note


def _fields(note: wire.Note) -> dict[str, Any]:
    return {"at_seconds": note.at_seconds, "note": note.note, "fields": note.fields}


def line_of(note: wire.Note) -> str:
    """Return a note as a line of a log: ``14:03:22  breaker opened  backend=cloud cause=failures seconds=10``."""
    said = (f"{name}={_word(value)}" for name, value in note.fields.items() if value is not None and value != "")
    time = strftime("%H:%M:%S", localtime(note.at_seconds))
    return "  ".join([time, f"{note.note.replace('_', ' '):<20}", " ".join(said)]).rstrip()


def _word(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"

    text = str(value)
    # What peers name themselves (backends) is written so that no line can be made to look like two.
    return text if text.isascii() and text.isprintable() and " " not in text else msgspec.json.encode(text).decode()
