"""One input of a batch on its way: its call, its conversation, and what that waits for."""

from typing import TYPE_CHECKING, Any

from msgspec.structs import replace

from sidecard_client.call.call import Call
from sidecard_client.call.options import Options

if TYPE_CHECKING:
    from sidecard_client.call import commands
    from sidecard_client.call.conversation import Conversation
    from sidecard_client.call.outcome import Outcome
    from sidecard_client.protocol import wire


class Member:
    """One input on its way."""

    __slots__ = (
        "begin",
        "begin_id",
        "call",
        "conversation",
        "outcome",
        "restarts",
        "run",
        "started",
        "usage",
        "waits_until",
    )

    def __init__(self, call: Call) -> None:
        self.call = call
        self.conversation: Conversation | None = None
        self.outcome: Outcome[Any] | None = None
        self.run: commands.Run | None = None
        self.usage: wire.Usage | None = None
        self.begin: commands.BeginCall | None = None
        """The begin that awaits its reply."""
        self.begin_id = 0
        """Of the last begin over the present connection; 0 if there was none."""
        self.started = 0.0
        self.waits_until = 0.0
        """When it stops waiting for another call of this process."""
        self.restarts = 0

    def set_options(self, options: Options) -> None:
        """Set the policy; each input reports its own share of the usage."""
        if options.usage is not None:
            options = replace(options, usage=lambda _: self.usage)

        self.call.options = options
