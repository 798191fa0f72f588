"""What a conversation asks of its client, and the results: the client executes them, blocking or awaiting."""

from collections.abc import Callable
from typing import Any, Literal

from msgspec import Struct

from sidecard_client.call.call import Call
from sidecard_client.call.local_flights import LocalWaiter
from sidecard_client.protocol import wire
from sidecard_client.protocol.connection import ConnectionLost

AfterGive = Literal["more", "left", "unread", "full"]
"""What the caller of a stream does after a piece: it wants more; it has left; it has not read for `wire.Lease.idle_seconds`; or
it has so many pieces to read yet that no more can be kept for it."""


class BeginCall(Struct, frozen=True):
    """Begin ``call``: the result is the final reply or `ConnectionLost`. ``again``: this repeats a begin whose connection ended."""

    call: Call
    wait_seconds: float | None = None
    again: bool = False


class Ask(Struct, frozen=True):
    """Send ``message`` and wait for the final reply: the result is that, or `ConnectionLost`."""

    message: wire.Complete | wire.Fail | wire.Renew
    wait_seconds: float | None = None


class Send(Struct, frozen=True):
    """Send ``message`` without waiting for a reply."""

    message: wire.Fail | wire.Append | wire.Started


class Run(Struct, frozen=True):
    """Run ``function`` with the arguments of ``call``, renewing ``lease`` meanwhile: the result is `Returned` or `Raised`."""

    function: Callable[..., Any]
    call: Call
    lease: wire.Lease | None = None


class Hold(Struct, frozen=True):
    """Renew ``lease`` until `Release`."""

    lease: wire.Lease


class Release(Struct, frozen=True):
    """Stop renewing ``lease``."""

    lease: wire.Lease


class Abandon(Struct, frozen=True):
    """Give back everything that the daemon granted this call: stop renewing, and void the begin."""


class WaitLocal(Struct, frozen=True):
    """Wait until ``waiter.event`` is set, ``seconds`` at most."""

    waiter: LocalWaiter
    seconds: float


class Embed(Struct, frozen=True):
    """Run the embedder: the result is the call with its vector."""

    call: Call


class Open(Struct, frozen=True):
    """Call ``function``, which returns a stream: the result is its first piece `Returned`, or `Raised`.

    ``lease`` is renewed from then on, until `Release`, or until the function raises.
    """

    function: Callable[..., Any]
    call: Call
    lease: wire.Lease | None = None


class Pull(Struct, frozen=True):
    """Take the next piece of the opened stream: `Returned`, or `Raised`.

    ``complete``: the caller has the whole answer, so it need not wait for this if it leaves.
    """

    complete: bool = False


class NextReply(Struct, frozen=True):
    """Wait for the next reply to the begin of a followed stream: the result is that, or `ConnectionLost`."""


class Give(Struct, frozen=True):
    """Hand ``piece`` to the caller: the result is an `AfterGive`.

    ``shared``: other callers may get the answer. Otherwise no piece is to be made before the caller wants it.
    """

    piece: Any
    shared: bool = False


class GoOn(Struct, frozen=True):
    """Go on without the caller, for the waiters: the result is whether that is possible."""


class Returned(Struct, frozen=True):
    """The function returned ``value``."""

    value: Any


class Raised(Struct, frozen=True):
    """The function raised ``error``, a cancellation included."""

    error: BaseException


Command = (
    BeginCall | Ask | Send | Run | Hold | Release | Abandon | WaitLocal | Embed | Open | Pull | NextReply | Give | GoOn
)

FinalReply = wire.AnyReply | ConnectionLost
