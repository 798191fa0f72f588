"""What a call is, and what each of the daemon's answers means for it: the part that all clients share.

Pure but for the user's own hooks (``usage``, ``classify``); sending, waiting and running functions are the shells'.
A shell does this, and nothing else:

1. `prepare` (or `prepare_bound`) makes a `Call` of function and arguments; `begin` makes its request.
2. `resolve` turns the final reply into an `Outcome`, a `wire.Lease`, `OWN_CALL` or `WITHOUT_DAEMON`, or raises.
3. With a lease it runs `Call.function_of` the lease's backend and sends `complete` of the value,
   or `failures.fail` of the exception; `next_lease_wanted` says whether another backend is left.
4. `OWN_CALL` and `WITHOUT_DAEMON` run the function here: the latter shares it within the process (`local`).
"""

import warnings
from collections.abc import Callable, Mapping
from typing import Any, Final, Generic, Literal, TypeVar

import msgspec
from msgspec import UNSET, Raw, Struct

from sidecard_client import options as policies
from sidecard_client import wire
from sidecard_client.errors import (
    CallFailed,
    CallRejected,
    CallTimeout,
    ProtocolError,
    SidecardWarning,
    UnshareableValue,
)
from sidecard_client.keys import fingerprint, name_of
from sidecard_client.options import Options
from sidecard_client.values import pack_value

T = TypeVar("T")

Source = Literal["upstream", "cache", "stale", "shared", "fallback"]

Functions = Callable[..., T] | Mapping[str, Callable[..., T]]

MAX_VALUE_BYTES = wire.MAX_FRAME_BYTES - 64 * 1024
"""Largest packed value that is sent; the rest of the frame is for lease, usage and tags."""


class Outcome(Struct, Generic[T], frozen=True):
    """A call's value and where it came from.

    ``source`` is ``upstream`` (this caller made the call), ``cache``, ``stale``, ``shared`` (somebody else's call),
    or ``fallback`` (made without the daemon, or shared within the process without it).
    ``saved_seconds`` and ``saved_dollars`` are what the value's own call took; 0 where this caller made it.
    ``waited_seconds`` is the time from asking until the value, or the permission to call, was there.
    """

    value: T
    source: Source
    age_seconds: float = 0.0
    backend: str = wire.DEFAULT_BACKEND
    saved_seconds: float = 0.0
    saved_dollars: float = 0.0
    waited_seconds: float = 0.0


class Verdict(Struct, frozen=True):
    """A reply that leaves the call to this process."""

    name: str


OWN_CALL: Final = Verdict("own_call")
"""The holder's answer could not be shared: every waiter makes its own call, all at once."""

WITHOUT_DAEMON: Final = Verdict("without_daemon")
"""The daemon takes no more, or made no sense: go on as if it were not there."""


class Call(Struct):
    """A function (or one for each backend) with its arguments, its policy and its key.

    ``backends`` is empty for a single function. ``key`` is None where nothing may be shared.
    """

    functions: tuple[Callable[..., Any], ...]
    backends: tuple[str, ...]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    options: Options
    key: str | None

    def function_of(self, backend: str) -> Callable[..., Any]:
        """Return the function of ``backend``; a single function answers for every name."""
        if len(self.functions) > 1 and backend in self.backends:
            return self.functions[self.backends.index(backend)]

        return self.functions[0]

    def begin(self, request_id: int, wait_seconds: float | None = None) -> wire.Begin:
        """Build the request; ``wait_seconds`` replaces the policy's where part of it has passed already."""
        options = self.options
        return wire.Begin(
            id=request_id,
            key=self.key,
            namespace=options.namespace,
            task=options.task,
            backends=self.backends,
            wait_seconds=options.wait_seconds if wait_seconds is None else wait_seconds,
            ttl_seconds=options.ttl_seconds,
            mode=options.mode,
        )


