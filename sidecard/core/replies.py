"""Error replies that several parts of the engine send."""

from sidecard.core.effects import SendReply
from sidecard.core.events import Peer
from sidecard_client.protocol import wire


def error(peer: Peer, request: wire.Request, code: wire.ErrorCode, message: str) -> SendReply:
    """Reply to a request with an error."""
    return SendReply(peer.id, wire.Error(request.id, code, message))


def for_operators(peer: Peer, request: wire.Request, op: str) -> SendReply:
    """Deny an operation that only operators may use."""
    return error(peer, request, "denied", f"{op} is for operators: root, the daemon's own uid, or [operators]")


def not_yours(peer: Peer, request: wire.Request, namespace: str) -> SendReply:
    """Deny a namespace that belongs to another uid."""
    text = f"namespace {namespace!r} belongs to another uid: leave the part before the colon out"
    return error(peer, request, "denied", text)


def id_in_use(peer: Peer, request: wire.Request) -> SendReply:
    """Reject a request whose id an unanswered request of the same connection uses."""
    text = f"id {request.id} is already waiting on this connection: use an id once, or cancel it first"
    return error(peer, request, "bad_request", text)


def reject_value(peer: Peer, request: wire.Request, problem: str) -> SendReply:
    """Reject a value that must not be stored or shared, for a `problem` found by `nesting_problem`."""
    op = type(request).__name__.lower()
    text = f"{op}: the value cannot be stored or shared: {problem}. Send a flatter value, or its text"
    return error(peer, request, "bad_request", text)
