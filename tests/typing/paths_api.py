"""The public import paths of 0.1.0. Checked by mypy, never run."""

from sidecard_client.errors import CallFailed, CallRejected, SidecardError
from sidecard_client.wire import PROTOCOL_VERSION, AnyReply, Begin, Hit, Spoken, Stats, Usage, pack, unpack_reply


def uses_messages(reply: AnyReply) -> int | str | Stats:
    """Name messages, unions, values and codecs."""
    begin = Begin(key="k")
    answer = unpack_reply(pack(begin))
    if isinstance(answer, Hit) and isinstance(reply, Stats):
        return reply

    return PROTOCOL_VERSION + len(Usage.__struct_fields__) + len(Spoken.__struct_fields__)


def uses_errors(error: SidecardError) -> str:
    """Name errors, and read their attributes."""
    if isinstance(error, CallFailed):
        return error.kind

    return error.reason if isinstance(error, CallRejected) else ""
