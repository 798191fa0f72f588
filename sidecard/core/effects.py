"""What to do: the only way for the engine to act on the world. The counterpart of `sidecard.core.events`."""

from msgspec import Struct

from sidecard.core.notes import Note
from sidecard_client.wire import AnyReply


class Send(Struct, frozen=True):
    """Deliver ``reply`` to the peer of id ``peer``; never addressed to a lost peer."""

    peer: int
    reply: AnyReply


class Tell(Struct, frozen=True):
    """Let the listeners of notes know a fact."""

    note: Note


Effect = Send | Tell
