"""What a batch's conversation asks of its client, beside `commands.WaitLocal`."""

from collections.abc import Callable, Sequence
from typing import Any, Literal

from msgspec import Struct

from sidecard_client.call.call import Call
from sidecard_client.call.commands import WaitLocal
from sidecard_client.protocol.wire import AnyRequest, Lease

Wait = Literal["reply", "pending", "nothing"]


class SendAll(Struct, frozen=True):
    """Send ``reports``, whose replies do not matter, then ``requests``: the result is the ids of these, or `ConnectionLost`.

    ``again``: these begins repeat begins whose connection ended.
    """

    reports: Sequence[AnyRequest]
    requests: Sequence[AnyRequest]
    again: bool = False


class Receive(Struct, frozen=True):
    """Take the replies that have arrived: the result is a list, or `ConnectionLost`.

    ``wait``: for a ``reply``, which the daemon owes within its time limit; for one to requests that are ``pending``, until
    ``late_at`` at most (then the list is empty); or for ``nothing``.
    """

    wait: Wait
    late_at: float | None = None


class LetOthersRun(Struct, frozen=True):
    """Let other tasks run: views may answer many inputs without waiting."""


class RunEach(Struct, frozen=True):
    """Run ``function`` with the arguments of ``call``, renewing ``leases`` meanwhile: the result is `Returned` or `Raised`."""

    function: Callable[..., Any]
    call: Call
    leases: Sequence[Lease]


BatchCommand = SendAll | Receive | LetOthersRun | RunEach | WaitLocal
