"""One question to a daemon over a connection of its own, and the exit code of a command that has no answer.

Without what `sidecard_client.Client` has for many questions: its patience fits calls that can do without a daemon,
and a command cannot.
"""

import argparse
import sys
from collections.abc import Callable
from typing import TypeVar

from sidecard.cli import NOT_FINE, UNREACHABLE, USAGE
from sidecard_client import DaemonUnavailable, RequestRefused
from sidecard_client._sync.connection import BlockingConnection
from sidecard_client.protocol import wire
from sidecard_client.protocol.connection import ConnectionLost
from sidecard_client.protocol.socket_path import find_socket

ANSWER_SECONDS = 3.0
"""How long a daemon may take for an answer: below the 5 s that a container's health command gets."""

_Answer = TypeVar("_Answer", bound=wire.Reply)


class UsageError(Exception):
    """The command cannot be meant as it was written."""


def with_exit_code(run: Callable[[argparse.Namespace], int], arguments: argparse.Namespace) -> int:
    """Run a command; where it cannot be done, say why in a sentence and return the exit code of it."""
    try:
        return run(arguments)
    except UsageError as error:
        return _complain(error, USAGE)
    except DaemonUnavailable as error:
        return _complain(error, UNREACHABLE)
    except RequestRefused as error:
        return _complain(error, NOT_FINE)


def _complain(error: Exception, exit_code: int) -> int:
    sys.stderr.write(f"sidecard: {error}\n")
    return exit_code


def socket_of(arguments: argparse.Namespace) -> str:
    """Return the socket of the daemon that a command is to ask. Raises `UsageError`."""
    try:
        return find_socket(arguments.socket)
    except ValueError as error:
        raise UsageError(str(error)) from error


def ask(path: str, request: wire.AnyRequest, answer: type[_Answer], seconds: float = ANSWER_SECONDS) -> _Answer:
    """Return what the daemon at ``path`` answers. Raises `DaemonUnavailable` and `RequestRefused`."""
    try:
        connection = BlockingConnection(path, seconds)
        try:
            reply = connection.exchange(request)
        finally:
            connection.close()
    except ConnectionLost as error:
        raise DaemonUnavailable(path, str(error)) from error

    if isinstance(reply, wire.Error):
        raise RequestRefused(reply.code, reply.message)

    if not isinstance(reply, answer):
        raise DaemonUnavailable(path, f"what listens there answered {type(reply).__name__}")

    return reply
