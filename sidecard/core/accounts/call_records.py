"""Records of ended calls for the call log: collected while an event is handled, returned as effects at its end.

Off by default: a hit then costs one check of `CallRecorder.enabled`.
"""

import re
from typing import Any, Protocol

from sidecard.core.backends.backend import Permit
from sidecard.core.cache.view.publication import Publication
from sidecard.core.effects import CallRecord, CallSource, Effect, LogCall
from sidecard.core.events import Peer
from sidecard.core.notes import Outcome
from sidecard.core.records import NO_USAGE
from sidecard_client.protocol import wire

_EXCEPTION = re.compile(r"[A-Za-z_]\w{0,79}(?:\.[A-Za-z_]\w{0,79}){0,7}", re.ASCII)
"""The form of an exception type's name."""


class LeasedCall(Protocol):
    """The facts about a lease (`sidecard.core.flights`) that accounts need."""

    peer: Peer
    request: wire.Begin
    backend: str
    permit: Permit


class CallRecorder:
    """Collect call records. ``prompts`` adds the texts, if the app sent them."""

    def __init__(self, *, enabled: bool, prompts: bool) -> None:
        self.enabled = enabled
        self.prompts = enabled and prompts
        self.pending: list[Effect] = []

    def drain(self) -> list[Effect]:
        """Return the collected records and start a new collection."""
        pending, self.pending = self.pending, []
        return pending

    def record_served(
        self, peer: Peer, request: wire.Begin, reply: wire.Hit | wire.Shared, waited_seconds: float
    ) -> None:
        """Record a begin that ended with an answer from the cache or from another caller."""
        similarity = reply.similarity if isinstance(reply, wire.Hit) else None
        self._record(
            peer,
            request,
            "stale" if reply.stale else "cache" if isinstance(reply, wire.Hit) else "shared",
            reply.backend,
            reply.meta,
            saved_dollars=reply.saved_dollars,
            seconds=waited_seconds,
            age_seconds=reply.age_seconds,
            reason="" if similarity is None else f"similar {similarity:.4f}",
        )

    def record_read(self, peer: Peer, namespace: str, publication: Publication, at: float, now: float) -> None:
        """Record a hit that a client read from a view at the earlier instant ``at``."""
        entry = publication.entry
        request = wire.Begin(publication.key, namespace=namespace, task=publication.task)
        self._record(
            peer,
            request,
            "cache",
            entry.terms.backend,
            entry.terms.usage,
            saved_dollars=entry.dollars,
            age_seconds=at - entry.stored_at,
            ago_seconds=now - at,
        )

    def record_answer(
        self, lease: LeasedCall, seconds: float, usage: wire.Usage, transcript: wire.Transcript | None = None
    ) -> None:
        """Record a call that its backend answered."""
        kept = transcript if self.prompts else None
        self._record(
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

    def record_failure(self, lease: LeasedCall, outcome: Outcome, message: str, seconds: float) -> None:
        """Record a call that its backend did not answer."""
        if self.enabled:
            error = exception_of(message)
            self._record(
                lease.peer, lease.request, "failed", lease.backend, seconds=seconds, reason=outcome, error=error
            )

    def record_rejection(self, peer: Peer, request: wire.Begin, reason: wire.RejectionReason) -> None:
        """Record a begin that was rejected."""
        if self.enabled:
            self._record(peer, request, "rejected", reason=reason)

    def record_timeout(self, peer: Peer, request: wire.Begin, waited_seconds: float) -> None:
        """Record a begin that reached its own deadline."""
        if self.enabled:
            self._record(peer, request, "timeout", seconds=waited_seconds)

    def _record(
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
    """Return the exception type with which a failure's message begins, or an empty text.

    The rest is the text of another process's exception, and such texts quote their input: the prompt.
    """
    exception = message.partition(":")[0]
    return exception if _EXCEPTION.fullmatch(exception) else ""
