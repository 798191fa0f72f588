"""Calls as they end, for the call log: gathered while an event is handled, handed out at its end.

Off unless the operator wants it: a hit pays for one look at `CallRecorder.enabled`.
"""

import re
from typing import Any

from sidecard.core.effects import CallRecord, CallSource, Effect, LogCall
from sidecard.core.events import Peer
from sidecard.core.flights.flights import HeldLease
from sidecard.core.notes import Outcome
from sidecard.core.records import NO_USAGE
from sidecard_client.protocol import wire

_EXCEPTION = re.compile(r"[A-Za-z_]\w{0,79}(?:\.[A-Za-z_]\w{0,79}){0,7}", re.ASCII)
"""What the name of an exception's type looks like."""


class CallRecorder:
    """Writes records of calls. With ``prompts`` they have what was said, where the app sent it along."""

    def __init__(self, *, enabled: bool, prompts: bool) -> None:
        self.enabled = enabled
        self.prompts = enabled and prompts
        self.pending: list[Effect] = []

    def drain(self) -> list[Effect]:
        """Hand out what was gathered."""
        pending, self.pending = self.pending, []
        return pending

    def served(self, peer: Peer, request: wire.Begin, reply: wire.Hit | wire.Shared, waited_seconds: float) -> None:
        """A begin ended with somebody else's answer."""
        self._write(
            peer,
            request,
            "stale" if reply.stale else "cache" if isinstance(reply, wire.Hit) else "shared",
            reply.backend,
            reply.meta,
            saved_dollars=reply.saved_dollars,
            seconds=waited_seconds,
            age_seconds=reply.age_seconds,
        )

    def made(
        self,
        lease: HeldLease,
        seconds: float,
        usage: wire.Usage,
        spoken: wire.Transcript | None = None,
    ) -> None:
        """A backend has answered."""
        if not self.enabled:
            return

        kept = spoken if self.prompts else None
        self._write(
            lease.peer,
            lease.request,
            "upstream",
            lease.backend,
            usage,
            billed_dollars=usage.cost_dollars or 0.0,
            seconds=seconds,
            prompt=None if kept is None else bytes(kept.prompt),
            answer=None if kept is None else bytes(kept.answer),
        )

    def failed(self, lease: HeldLease, outcome: Outcome, message: str, seconds: float) -> None:
        """A backend was asked and has not answered."""
        if self.enabled:
            self._write(
                lease.peer,
                lease.request,
                "failed",
                lease.backend,
                seconds=seconds,
                reason=outcome,
                error=exception_of(message),
            )

    def refused(self, peer: Peer, request: wire.Begin, reason: wire.RejectionReason) -> None:
        """A begin ended in a rejection."""
        if self.enabled:
            self._write(peer, request, "rejected", reason=reason)

    def timed_out(self, peer: Peer, request: wire.Begin, waited_seconds: float) -> None:
        """A begin ended by its own deadline."""
        if self.enabled:
            self._write(peer, request, "timeout", seconds=waited_seconds)

    def _write(
        self,
        peer: Peer,
        request: wire.Begin,
        source: CallSource,
        backend: str = "",
        usage: wire.Usage = NO_USAGE,
        **fields: Any,
    ) -> None:
        record = CallRecord(
            source,
            request.task,
            request.namespace if ":" in request.namespace else f"{peer.uid}:{request.namespace}",
            peer.uid,
            peer.pid,
            request.key,
            backend,
            usage.model or "",
            usage.prompt_tokens or 0,
            usage.completion_tokens or 0,
            trace=request.trace,
            **fields,
        )
        self.pending.append(LogCall(record))


def exception_of(message: str) -> str:
    """Return the exception's type that a failure's message begins with, or nothing.

    The rest is the text of an exception of another process, and exceptions quote what they were given: the prompt.
    """
    exception = message.partition(":")[0]
    return exception if _EXCEPTION.fullmatch(exception) else ""
