"""Hosts with scarce or touchy backends, and peers that hold a lease on one."""

from typing import Any

from sidecard.core.accounts.memory import MemoryAccounts
from sidecard.core.backends.backend import BackendParts
from sidecard.core.settings import BackendSettings, BreakerSettings
from tests.host import Actor, Host

PARTS = BackendParts(lambda: 0.5, MemoryAccounts(2**30).requests, lambda _backend, _seconds: None)
"""What backends outside an engine have in common."""

ONE = BackendSettings(max_concurrent=1)
TOUCHY = BackendSettings(breaker=BreakerSettings(min_calls=1))


def limited(**settings: Any) -> Host:
    """Return a host whose backend ``a`` takes one call at a time."""
    return Host(backends={"a": ONE}, **settings)


def touchy(**settings: Any) -> Host:
    """Return a host whose backends ``a`` and ``b`` open at the first failure, for ten seconds."""
    return Host(backends={"a": TOUCHY, "b": TOUCHY}, **settings)


def held(host: Host, *backends: str) -> tuple[Actor, str]:
    """Let a peer of its own hold a lease on one of ``backends``."""
    holder = host.peer()
    return holder, holder.calls(*backends).lease


def opened(host: Host, backend: str) -> None:
    """Let one call fail, which opens a touchy breaker."""
    caller, lease = held(host, backend)
    caller.fails(lease)
    caller.dies()
