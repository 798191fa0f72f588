"""One question to a daemon over a connection of its own.

Without what `sidecard_client.Client` has for many questions: its patience fits calls that can do without a daemon,
and a command cannot.
"""

from typing import TypeVar

from sidecard_client import DaemonUnavailable, RequestRefused, wire
from sidecard_client.channel import Channel, ChannelError

ANSWER_SECONDS = 3.0
"""How long a daemon may take for an answer: below the 5 s that a container's health command gets."""

_Answer = TypeVar("_Answer", bound=wire.Reply)


def ask(path: str, request: wire.AnyRequest, answer: type[_Answer], seconds: float = ANSWER_SECONDS) -> _Answer:
    """Return what the daemon at ``path`` answers. Raises `DaemonUnavailable` and `RequestRefused`."""
    try:
        channel = Channel(path, seconds)
        try:
            reply = channel.exchange(request)
        finally:
            channel.close()
    except ChannelError as error:
        raise DaemonUnavailable(path, str(error)) from error

    if isinstance(reply, wire.Error):
        raise RequestRefused(reply.code, reply.message)

    if not isinstance(reply, answer):
        raise DaemonUnavailable(path, f"what listens there answered {type(reply).__name__}")

    return reply
