"""Prompts by readable names, backends that keep them, and callers that send them."""

from typing import Any, Literal

from sidecard.core.settings import BackendSettings
from sidecard_client.protocol import wire
from tests.host import Actor, Host, packed

LONG = 40_000
"""Bytes of a prefix: 10,000 tokens."""


def digest(name: str) -> str:
    """Return the digest of a prefix, by a readable name."""
    return name.encode().hex().ljust(32, "0")


def prompt(*names: str, step: int = LONG) -> dict[str, Any]:
    """Return the fields of a begin whose prompt has these prefixes, each ``step`` bytes longer than the one before."""
    return {
        "prefix": tuple(map(digest, names)),
        "prefix_bytes": tuple(step * (place + 1) for place in range(len(names))),
    }


def provider(**settings: Any) -> Host:
    """Return a host whose backend ``a`` is a provider with a prompt cache."""
    return Host(backends={"a": BackendSettings(prefix_affinity="provider", **settings)})


def server(max_concurrent: int, **settings: Any) -> Host:
    """Return a host whose backend ``a`` is a model server with that many slots."""
    return Host(backends={"a": BackendSettings(prefix_affinity="slots", max_concurrent=max_concurrent, **settings)})


Ending = wire.FailureKind | Literal["completed", "withdrawn", "lost", "expired"]


class Caller:
    """A process that makes one call."""

    def __init__(self, host: Host, *names: str, step: int = LONG, uid: int = 1000, **fields: Any) -> None:
        self.actor: Actor = host.peer(uid)
        self.actor.asks(wire.Begin(None, id=1, backends=("a",), **prompt(*names, step=step), **fields))
        self._seen: list[wire.AnyReply] = []

    @property
    def lease(self) -> wire.Lease | None:
        """Its lease, once it has one."""
        self._seen += self.actor.receives()
        return next((reply for reply in self._seen if isinstance(reply, wire.Lease)), None)

    @property
    def waits(self) -> bool:
        """Whether it has neither a lease nor any other end."""
        return self.lease is None and all(isinstance(reply, wire.Pending) for reply in self._seen)

    def granted(self) -> wire.Lease:
        """Expect a lease, and return it."""
        assert self.lease is not None, self._seen
        return self.lease

    def starts(self) -> None:
        """Report the first output."""
        self.actor.asks(wire.Started(self.granted().lease, id=7))

    def completes(self, **usage: Any) -> None:
        """Complete the call."""
        self.actor.asks(wire.Complete(self.granted().lease, packed("x"), wire.Usage(**usage), id=8))

    def ends(self, how: Ending) -> None:
        """End the call."""
        lease = self.granted().lease
        match how:
            case "completed":
                self.completes()
            case "transient" | "fatal" | "ignored" | "cancelled":
                self.actor.fails(lease, how)
            case "withdrawn":
                self.actor.asks(wire.Cancel(1, id=9))
            case "lost":
                self.actor.dies()
            case "expired":
                self.actor.host.passes(15.0)
