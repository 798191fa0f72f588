"""The interface of a connection to a Redis server, to one node or to a cluster."""

from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any, Never, Protocol

from msgspec import Struct

from sidecard.store.redis.scripts import Script

CLIENT_NAME = "sidecard"

CLOSE_SECONDS = 2.0
"""How long disconnecting may take, or at the daemon's stop writing pending changes."""

SCAN_COUNT = 500
"""Names that one step of `RedisConnection.scan` looks at."""


class ScriptCall(Struct, frozen=True):
    """One script to run on one key."""

    script: Script
    key: bytes
    arguments: tuple[str | bytes | int, ...] = ()


Command = ScriptCall | tuple[str | bytes | int, ...]
"""A script, or a plain command. A cluster sends a plain command to the node of its second part."""

ReplyHandler = Callable[[Any], None]
"""Receives a reply, which may be a `ResponseError`."""


class RedisConnection(Protocol):
    """A connection, which is not used again after a fault."""

    async def open(self) -> None:
        """Connect. Raises `FAULTS`."""

    def send(self, command: Command, on_reply: ReplyHandler) -> None:
        """Run a command; ``on_reply`` gets the reply later, unless the connection is lost."""

    async def run(self, commands: Sequence[Command]) -> list[Any]:
        """Run commands and return their replies. Raises `FAULTS`, possibly after some of them ran."""

    def scan(self, pattern: str) -> AsyncIterator[list[bytes]]:
        """Yield pages of the keys on all nodes that match a pattern. Raises `FAULTS`."""

    async def monitor(self) -> Never:
        """Check that the server replies, as long as the connection is used. Raises the fault that ended it."""

    async def close(self) -> None:
        """Disconnect, in any state."""
