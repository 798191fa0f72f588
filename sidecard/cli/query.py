"""Send one request to a daemon over a new connection.

Commands do not use `sidecard_client.Client`: its timeouts and fallbacks suit calls that can proceed without a daemon.
"""

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypeVar

from sidecard.cli.exit_codes import UsageError
from sidecard_client import DaemonUnavailable, RequestRefused
from sidecard_client._sync.connection import BlockingConnection
from sidecard_client.protocol import wire
from sidecard_client.protocol.connection import ConnectionLost, DaemonUnresponsive, InvalidReply
from sidecard_client.protocol.socket_path import find_socket

REPLY_SECONDS = 3.0
"""Default time limit for a reply: below the 5 s of a container's health check."""

_Reply = TypeVar("_Reply", bound=wire.Reply)


def socket_of(arguments: argparse.Namespace) -> str:
    """Return the path of the daemon's socket. Raises `UsageError` if the path is invalid."""
    try:
        return find_socket(arguments.socket)
    except ValueError as error:
        raise UsageError(str(error)) from error


def query(path: str, request: wire.AnyRequest, reply_type: type[_Reply], seconds: float = REPLY_SECONDS) -> _Reply:
    """Return the daemon's reply. Raises `DaemonUnavailable` and `RequestRefused`."""
    with explained(path, seconds):
        connection = BlockingConnection(path, seconds)
        try:
            reply = connection.exchange(request)
        finally:
            connection.close()

        raise_refusal(reply)
        if not isinstance(reply, reply_type):
            raise InvalidReply(f"unexpected reply {type(reply).__name__}")

    return reply


def raise_refusal(reply: wire.AnyReply) -> None:
    """Raise `RequestRefused` if the reply is an error, or `InvalidReply` if the daemon does not know the request."""
    if isinstance(reply, wire.Error):
        if reply.code == "unknown_op":
            raise InvalidReply(reply.message)

        raise RequestRefused(reply.code, reply.message)


@contextmanager
def explained(path: str, seconds: float) -> Iterator[None]:
    """Turn the loss of a connection to ``path`` into a `DaemonUnavailable` that says why and what to do."""
    try:
        yield
    except (DaemonUnresponsive, InvalidReply) as error:
        from sidecard.cli.diagnosis import mismatched, unresponsive  # noqa: PLC0415 - for failures only

        silent = isinstance(error, DaemonUnresponsive)
        raise (unresponsive(path, seconds) if silent else mismatched(path, str(error))) from error
    except ConnectionLost as error:
        raise DaemonUnavailable(path, str(error)) from error
