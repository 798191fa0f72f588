"""Replies that more than one part of the engine gives."""

from sidecard.core.effects import Send
from sidecard.core.events import Peer
from sidecard_client.protocol import wire


def error(peer: Peer, request: wire.Request, code: wire.ErrorCode, message: str) -> Send:
    """Refuse a request."""
    return Send(peer.id, wire.Error(request.id, code, message))


def for_operators(peer: Peer, request: wire.Request, op: str) -> Send:
    """Refuse what only operators may do."""
    return error(peer, request, "denied", f"{op} is for operators: root, the daemon's own uid, or [operators]")


def not_yours(peer: Peer, request: wire.Request, namespace: str) -> Send:
    """Refuse a namespace."""
    return error(
        peer, request, "denied", f"namespace {namespace!r} is not yours to name: leave the part before the colon out"
    )
